"""`dasfs put` and `dasfs get` that run out of disk, and a store that goes away in the middle of a put.

Each is one line that says what to do; repeating the command when all is well again puts every file exactly once.
"""

import os
from contextlib import closing, suppress

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.put import PutOptions, put
from dasfs.dataset.sources import find_sources
from dasfs.dataset.spool import MEMORY_LIMIT, Spool
from dasfs.errors import StoreUnavailable
from dasfs.stores import open_store
from tests.blocks import mounted_disk
from tests.commands import dasfs, finish, start, succeed
from tests.faulty import Fault, FaultyStore, at_random, during, healthy
from tests.puts import Files, check_exactly_once, make_files, put_command


class Silent:
    """A report to nobody."""

    def planned(self, sources, skipped):
        pass

    def sent(self, size):
        pass

    def committed(self, datarange):
        pass


@pytest.fixture
def files(tmp_path):
    return make_files(tmp_path / "in")


@pytest.fixture
def url(tmp_path):
    """The URL of a directory store with a dataset `d`."""
    made = f"file://{tmp_path}/store"
    succeed("dataset", "create", "d", "--store", made)
    return made


def test_a_full_disk_while_packing_keeps_what_was_packed_before(url, files, tmp_path):
    """TMPDIR runs full: the dataranges before are committed, the error names the place, and a repeat puts the rest."""
    large = files.top / "z.bin"
    with large.open("wb") as file:
        file.truncate(MEMORY_LIMIT + 1)
    with mounted_disk("tmpfs", tmp_path / "disk", "size=1m") as disk:
        answer = dasfs(*put_command(url, "d", files), TMPDIR=str(disk))
    assert answer.code == 1
    assert f"can't keep a temporary file in {disk}: No space left on device; set TMPDIR" in answer.message
    with open_store(url) as store:
        assert Dataset(store, "d").snapshot().count == len(files.content)
    large.write_bytes(b"smaller now")
    files = Files(files.top, {**files.content, large.name: large.read_bytes()})
    succeed(*put_command(url, "d", files))
    check_exactly_once(url, "d", files)


def test_a_small_disk_for_packing_is_enough_for_one_datarange_after_another(url, tmp_path):
    """Where neither memory nor TMPDIR has room for as many dataranges as could be uploaded at once, fewer are."""
    size = 3 << 20  # more than passes through memory in any case
    content = {f"{number}.bin": os.urandom(size) for number in range(6)}
    files = Files(tmp_path / "large", content)
    files.top.mkdir()
    for name, data in content.items():
        (files.top / name).write_bytes(data)
    with (
        closing(Spool(str(tmp_path), MEMORY_LIMIT)),
        mounted_disk("tmpfs", tmp_path / "disk", "size=7m") as disk,
        open_store(url) as store,
    ):
        sources = find_sources([f"{files.top}/"], lambda _line: None)
        options = PutOptions(datarange_size=size, jobs=8, spool_dir=str(disk))
        assert put(Dataset(store, "d"), sources, options, Silent()).count == len(content)
    check_exactly_once(url, "d", files)


def test_a_full_disk_is_no_half_file_of_a_get(url, files, tmp_path):
    """A target that runs full holds only whole files, and no temporary ones."""
    succeed(*put_command(url, "d", files))
    with mounted_disk("tmpfs", tmp_path / "disk", "size=256k") as disk:
        answer = dasfs("get", "d", "0-99", "--allow-gaps", "--original-names", "--store", url, "-o", str(disk / "out"))
        assert answer.code == 1
        assert "no space left on device; make room" in answer.message
        got = {path.name: path.read_bytes() for path in (disk / "out").iterdir()}
        assert got
        assert got.items() <= files.content.items()
        answer = dasfs("get", "d", "0-99", "--allow-gaps", "--store", url, "-o", str(disk / "out.tar"))
        assert answer.code == 1
        assert "no space left on device; make room" in answer.message
        assert [path.name for path in disk.iterdir()] == ["out"]


def test_a_full_store_can_be_collected(files, tmp_path):
    """What frees space needs none: on a full disk `collect` deletes what was removed."""
    with mounted_disk("tmpfs", tmp_path / "disk", "size=2m") as disk:
        url = f"file://{disk}/store"
        succeed("dataset", "create", "d", "--store", url)
        succeed(*put_command(url, "d", files))
        succeed("dataset", "clear", "d", "--yes", "--store", url)
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(512))
        succeed("collect", "d", "--removed", "0", "--store", url)
        assert list((disk / "store").rglob("*.tar")) == []


def test_a_store_that_goes_away_ends_a_put_with_one_line(url, files, tmp_path):
    """The directory of a store disappears in the middle: one line, and later the rest is put."""
    process = start(*put_command(url, "d", files), "--jobs", "1")
    assert process.stderr.readline().startswith("put ")
    (tmp_path / "store").rename(tmp_path / "away")
    answer = finish(process)
    assert answer.code == 1, "the put was over before the store went away: it needs more files"
    assert answer.message
    assert not (tmp_path / "store").exists()
    (tmp_path / "away").rename(tmp_path / "store")
    succeed(*put_command(url, "d", files))
    check_exactly_once(url, "d", files)


def put_through(store, files):
    sources = find_sources([f"{files.top}/"], print)
    return put(Dataset(store, "d"), sources, PutOptions(datarange_size=1 << 16), Silent())


@pytest.mark.parametrize("operation", ["put_stream", "put", "list", "get"])
def test_an_outage_in_the_middle_of_a_put_is_raised_and_repeated(url, files, operation):
    """From some moment on one kind of operation fails: that is raised, and after a repeat nothing is there twice."""
    with open_store(url) as inner:
        store = FaultyStore(inner)
        outage = during(Fault.FAIL, operation)

        def plan(what, key, number):
            return outage(what, key, number) if store.count("put_stream") > 3 else None

        store.plan = plan
        with pytest.raises(StoreUnavailable):
            put_through(store, files)
        store.plan = healthy
        put_through(store, files)
    check_exactly_once(url, "d", files)


@pytest.mark.parametrize("seed", range(5))
def test_random_faults_put_nothing_twice(url, files, seed):
    """Failed operations and lost answers at random, and as many repeats as it takes: every file exactly once."""
    with open_store(url) as inner:
        store = FaultyStore(inner, at_random(seed, 0.03, Fault.FAIL, Fault.LOSE_ANSWER))
        for _ in range(100):
            try:
                put_through(store, files)
            except StoreUnavailable:
                continue
            break
        else:
            pytest.fail("no put in a hundred came to its end")
    check_exactly_once(url, "d", files)
