"""`dasfs put` and `dasfs get` on each kind of store: what goes in comes out, once, and byte for byte."""

import json
import os
import shutil
import sysconfig

import pytest

from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.verify import verify
from dasfs.stores import open_store
from tests.commands import dasfs, finish, start, succeed

FILES = 5000
WRITERS = 8


def read_tree(top):
    """Return content and mtime (whole seconds) of every file below `top`, by relative path."""
    tree = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                tree[os.path.relpath(path, top)] = (file.read(), int(os.stat(path).st_mtime))
    return tree


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """5,000 real files: of the Python library and of what is installed beside it."""
    top = tmp_path_factory.mktemp("python") / "library"
    count = 0
    for kind in ("stdlib", "purelib"):
        source = sysconfig.get_path(kind)
        for directory, subdirectories, names in os.walk(source):
            subdirectories.sort()
            for name in sorted(names):
                path = os.path.join(directory, name)
                if count == FILES or os.path.islink(path) or os.path.getsize(path) > 200_000:
                    continue
                target = top / kind / os.path.relpath(path, source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
                count += 1
    assert count == FILES
    return top


@pytest.fixture
def small(tmp_path):
    """A directory with a few files of different sizes, among them an empty one."""
    top = tmp_path / "small"
    (top / "deep").mkdir(parents=True)
    for number in range(12):
        (top / "deep" / f"{number:02d}.txt").write_bytes(bytes([number]) * number * 100)
    (top / "none").write_bytes(b"")
    return top


@pytest.fixture
def dataset(store_url):
    """The URL of a store with a dataset `d`, as arguments of a command."""
    succeed("dataset", "create", "d", "--store", store_url)
    return ["--store", store_url]


def snapshot_of(url):
    with open_store(url) as store:
        return Dataset(store, "d").snapshot()


def check_clean(url):
    """Check that every byte in the store is right, and that `collect` leaves only what the log names."""
    with open_store(url) as store:
        target = Dataset(store, "d")
        snapshot = target.snapshot()
        assert list(verify(store, "d", snapshot)) == []
        grace = Grace(*[type(Grace().log)(0)] * 3)
        collect(store, "d", grace=grace)
        named = {key(each.id) for each in snapshot.dataranges for key in (target.keys.tar, target.keys.index)}
        named |= {target.keys.manifest(each.id) for each in snapshot.dataranges}
        assert {info.key for info in store.list(target.keys.dataranges)} == named


def test_5000_real_files_come_back_byte_for_byte(dataset, store_url, library, tmp_path):
    """Put, then get under the original names: the same files with the same content and time; again: all skipped."""
    out = succeed("put", "d", str(library), *dataset, "--datarange-size", "4MiB")
    assert out.startswith(f"put {FILES:,} files as 0..{FILES - 1} (")
    succeed("get", "d", f"0-{FILES - 1}", *dataset, "--original-names", "-o", str(tmp_path / "back"))
    assert read_tree(tmp_path / "back" / "library") == read_tree(library)
    revision = snapshot_of(store_url).revision
    assert succeed("put", "d", str(library), *dataset) == f"put nothing; {FILES:,} files were there already\n"
    assert snapshot_of(store_url).revision == revision
    check_clean(store_url)


def test_numbers_follow_the_sorted_paths_and_are_told(dataset, small):
    """`--json` says which number each file got; the order is that of the sorted original paths."""
    result = json.loads(succeed("put", "d", str(small), *dataset, "--json"))
    paths = [f"small/deep/{number:02d}.txt" for number in range(12)] + ["small/none"]
    assert result["files"] == [{"number": number, "path": path} for number, path in enumerate(paths)]
    assert (result["put"], result["skipped"], result["ranges"]) == (13, 0, [{"first": 0, "last": 12}])
    assert result["size"] == sum(number * 100 for number in range(12))


def test_a_put_goes_on_where_an_earlier_one_ended(dataset, store_url, small):
    """What is new is put behind what is there; what is there is skipped and counted."""
    succeed("put", "d", str(small), *dataset)
    (small / "deep" / "00a.txt").write_bytes(b"new")
    result = json.loads(succeed("put", "d", str(small), *dataset, "--json"))
    assert (result["put"], result["skipped"]) == (1, 13)
    assert result["files"] == [{"number": 13, "path": "small/deep/00a.txt"}]
    assert [(each.first, each.last) for each in snapshot_of(store_url).dataranges] == [(0, 12), (13, 13)]


def test_numbered_and_unnumbered_files_do_not_meet(dataset, tmp_path):
    """Files without numbers get those above all that have one, in the same put."""
    top = tmp_path / "mixed"
    top.mkdir()
    for number in (0, 1, 7):
        (top / f"{number:020d}.bin").write_bytes(bytes([number]))
    (top / "other.txt").write_bytes(b"other")
    result = json.loads(succeed("put", "d", str(top), *dataset, "--json"))
    assert [(each["first"], each["last"]) for each in result["dataranges"]] == [(0, 1), (7, 7), (8, 8)]
    assert dasfs("cat", "d", "7", *dataset).out == "\x07"
    assert dasfs("cat", "d", "8", *dataset).out == "other"


@pytest.mark.parametrize("change", ["content", "size", "extension", "path"])
def test_another_content_is_refused_before_anything_is_uploaded(dataset, store_url, tmp_path, change):
    """A taken number or original path with another content is named, and no other file is put either."""
    top = tmp_path / "in"
    top.mkdir()
    (top / f"{5:020d}.txt").write_bytes(b"five")
    (top / "named.txt").write_bytes(b"name")
    succeed("put", "d", str(top), *dataset)
    before = snapshot_of(store_url)
    (top / f"{2:020d}.txt").write_bytes(b"new")
    if change == "extension":
        (top / f"{5:020d}.txt").rename(top / f"{5:020d}.md")
    elif change == "path":
        (top / "named.txt").write_bytes(b"nams")
    else:
        (top / f"{5:020d}.txt").write_bytes(b"fivf" if change == "content" else b"fives")
    answer = dasfs("put", "d", str(top), *dataset)
    assert answer.code == 1
    assert ("'in/named.txt' was put before" if change == "path" else "datapoint 5 is there already") in answer.message
    assert "a datapoint never changes" in answer.message
    assert snapshot_of(store_url) == before
    with open_store(store_url) as store:
        keys = [info.key for info in store.list("datas3t/d/dataranges/")]
    assert len(keys) == 3 * len(before.dataranges)


def test_a_file_larger_than_a_datarange_is_put_and_got(dataset, store_url, tmp_path):
    """Neither a datarange's target size nor the window of a read limits a file; its neighbours are as ever."""
    top = tmp_path / "in"
    top.mkdir()
    (top / "a").write_bytes(b"before")
    (top / "b").write_bytes(os.urandom(1 << 20) * 20)
    (top / "c").write_bytes(b"after")
    succeed("put", "d", f"{top}/", *dataset, "--datarange-size", "1MiB")
    assert [each.count for each in snapshot_of(store_url).dataranges] == [1, 1, 1]
    succeed("get", "d", "0-2", *dataset, "--original-names", "-o", str(tmp_path / "back"))
    assert read_tree(tmp_path / "back") == read_tree(top)
    check_clean(store_url)


def test_compressed_datapoints_come_back_as_they_were(store_url, library, tmp_path):
    """Compression is not seen by who gets; a download has what is stored."""
    store = ["--store", store_url]
    succeed("dataset", "create", "d", *store, "--compression", "zstd")
    top = tmp_path / "text"
    top.mkdir()
    for path in sorted((library / "stdlib").glob("*.py"))[:50]:
        shutil.copy2(path, top)
    succeed("put", "d", f"{top}/", *store)
    succeed("get", "d", "0-49", *store, "--original-names", "-o", str(tmp_path / "back"))
    assert read_tree(tmp_path / "back") == read_tree(top)
    snapshot = snapshot_of(store_url)
    assert snapshot.tar_size < snapshot.data_size
    check_clean(store_url)


def test_eight_puts_at_once_lose_nothing(dataset, store_url, tmp_path):
    """Eight processes with files of their own: every file is there once, under a number of its own."""
    for writer in range(WRITERS):
        top = tmp_path / f"w{writer}"
        top.mkdir()
        for number in range(20):
            (top / f"{number}.txt").write_text(f"{writer}/{number}")
    running = [
        start("put", "d", str(tmp_path / f"w{writer}"), *dataset, "--datarange-size", "4KiB", "--json")
        for writer in range(WRITERS)
    ]
    answers = [finish(process) for process in running]
    assert [answer.code for answer in answers] == [0] * WRITERS, answers
    given = {each["number"]: each["path"] for answer in answers for each in json.loads(answer.out)["files"]}
    assert len(given) == WRITERS * 20
    succeed("get", "d", f"0-{WRITERS * 20 - 1}", *dataset, "--original-names", "-o", str(tmp_path / "back"))
    expected = {f"w{writer}/{number}.txt" for writer in range(WRITERS) for number in range(20)}
    assert set(given.values()) == set(read_tree(tmp_path / "back")) == expected
    check_clean(store_url)


def test_a_tar_is_uploaded_and_downloaded_unchanged(dataset, store_url, tmp_path):
    """A datarange downloads as the very bytes of its object; a part of it is what dasfs would write for that."""
    top = tmp_path / "in"
    top.mkdir()
    for number in range(10, 20):
        (top / f"{number:020d}.txt").write_text(f"content {number}" * number)
    shutil.make_archive(str(tmp_path / "in"), "tar", top)
    members = sorted(os.listdir(top))
    tar = tmp_path / "in.tar"
    import tarfile

    with tarfile.open(tar, "w") as archive:
        for name in members:
            archive.add(top / name, name)
    assert succeed("datarange", "upload-tar", "d", str(tar), *dataset).startswith("put 10 files as 10..19 (")
    assert succeed("datarange", "upload-tar", "d", str(tar), *dataset).startswith("put nothing; 10 files")
    (datarange,) = snapshot_of(store_url).dataranges
    succeed("datarange", "download-tar", "d", "10-19", *dataset, "-o", str(tmp_path / "whole.tar"))
    with open_store(store_url) as store:
        assert (tmp_path / "whole.tar").read_bytes() == store.get(Dataset(store, "d").keys.tar(datarange.id))
    succeed("datarange", "download-tar", "d", "12-14", *dataset, "-o", str(tmp_path / "part.tar"))
    with tarfile.open(tmp_path / "part.tar") as archive:
        contents = {member.name: archive.extractfile(member).read() for member in archive}
    assert contents == {f"{number:020d}.txt": f"content {number}".encode() * number for number in (12, 13, 14)}
    succeed("datarange", "delete", "d", "10-19", *dataset, "--yes")
    succeed("datarange", "upload-tar", "d", str(tmp_path / "part.tar"), *dataset)
    succeed("datarange", "download-tar", "d", "12-14", *dataset, "-o", str(tmp_path / "again.tar"))
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "part.tar").read_bytes()


def test_the_whole_life_of_a_dataset(store_url, small):
    """Create, list, show, log, verify, clear, delete: each does what it says on every kind of store."""
    store = ["--store", store_url]
    succeed("dataset", "create", "d", *store)
    succeed("put", "d", str(small), *store)
    assert succeed("dataset", "list", *store) == "d\t13\t6600\t1\t3\n"
    shown = json.loads(succeed("dataset", "show", "d", *store, "--json"))
    assert (shown["datapoints"], shown["ranges"], shown["gaps"]) == (13, [{"first": 0, "last": 12}], [])
    log = json.loads(succeed("dataset", "log", "d", *store, "--json"))
    assert [each["operation"] for each in log] == ["upload", "reserve", "create"]
    assert json.loads(succeed("dataset", "verify", "d", *store, "--json")) == []
    succeed("dataset", "clear", "d", *store, "--yes")
    assert snapshot_of(store_url).count == 0
    collected = json.loads(succeed("collect", "d", *store, "--removed", "0", "--uncommitted", "0", "--json"))
    assert [each["reason"] for each in collected["deleted"]] == ["removed"] * 3
    succeed("dataset", "delete", "d", *store, "--yes")
    assert succeed("dataset", "list", *store) == ""
    assert "was deleted on" in dasfs("dataset", "show", "d", *store).message
    succeed("dataset", "create", "d", *store)


def test_a_bucket_that_is_not_there_is_told(s3_environment):
    """A bucket that does not exist is one line that names it."""
    answer = dasfs("dataset", "list", "--store", "s3://no-such-bucket-here")
    assert answer.code == 1
    assert "no-such-bucket-here" in answer.message


def test_wrong_keys_are_told(s3_url):
    """Keys that the gateway refuses are one line."""
    answer = dasfs("dataset", "list", "--store", s3_url, AWS_SECRET_ACCESS_KEY="wrong")
    assert answer.code == 1
    assert answer.message


def test_no_network_is_told_within_the_deadline(tmp_path):
    """A gateway that nobody answers at is one line, after the deadline of the configuration and not later."""
    config = tmp_path / "config.toml"
    config.write_text('[stores.away]\nurl = "s3://bucket"\nendpoint_url = "http://127.0.0.1:9"\ndeadline = 2\n')
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    answer = dasfs("--config", str(config), "dataset", "list", "--store", "away", **keys)
    assert answer.code == 1
    assert answer.message
