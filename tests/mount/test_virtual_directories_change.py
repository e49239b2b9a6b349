"""Virtual directories while datasets change under them, mounts are killed, and indexes are built."""

import errno
import os
import re
import signal
from pathlib import Path

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.fuse.order import SeededOrder
from dasfs.names import Revision
from dasfs.stores import Store
from tests import datasets
from tests.mounts import Mount, Mounter, errno_of, wait_until
from tests.parts import aggregate, replace


def name(number: int, extension: str = "bin") -> str:
    return f"{number:020d}.{extension}"


def tree_of(directory: Path) -> dict[str, bytes]:
    """Return the files below a directory: relative path and content."""
    return {
        os.path.relpath(os.path.join(at, each), directory): Path(at, each).read_bytes()
        for at, _, names in os.walk(directory)
        for each in names
    }


def revision(mount: Mount, dataset: str) -> int:
    return int(os.getxattr(mount.path / dataset, "user.dasfs.revision"))


def collect_now(store: Store, dataset: str) -> None:
    """Delete what no live revision needs, without any grace."""
    opened = Dataset(store, dataset)
    live = {each.id for each in opened.snapshot().dataranges}
    keys = [info.key for info in store.list(opened.keys.dataranges)]
    store.delete([key for key in keys if (parsed := opened.keys.parse_datarange(key)) and parsed[0] not in live])


def test_new_revisions_appear_in_the_tree_of_names(mounted: Mounter, local_store: Store, local_url: str) -> None:
    """What is added, written anew and deleted shows in the tree soon, directories with it; the rest stays."""
    datasets.add_named(local_store, "photos", 0, {"a/x.jpg": b"1", "b/c/y.jpg": b"2"})
    mount = mounted(local_url)
    tree = mount.path / "photos@names"
    assert tree_of(tree) == {"a/x.jpg": b"1", "b/c/y.jpg": b"2"}
    datasets.add_named(local_store, "photos", 10, {"a/z.jpg": b"3", "d/e/f.jpg": b"4"})
    added = {"a/x.jpg": b"1", "b/c/y.jpg": b"2", "a/z.jpg": b"3", "d/e/f.jpg": b"4"}
    wait_until(lambda: tree_of(tree) == added)
    datasets.add_named(local_store, "photos", 20, {"a/x.jpg": b"newer"})
    wait_until(lambda: tree_of(tree) == added | {"a/x.jpg": b"newer", "a/x~0.jpg": b"1"})
    Dataset(local_store, "photos").delete_datarange(0, 1)
    left = {"a/x.jpg": b"newer", "a/z.jpg": b"3", "d/e/f.jpg": b"4"}
    wait_until(lambda: errno_of(os.stat, tree / "a/x~0.jpg") == errno.ENOENT)
    wait_until(lambda: tree_of(tree) == left)
    assert sorted(os.listdir(tree)) == ["a", "d"]
    wait_until(lambda: errno_of(os.stat, tree / "b" / "c") == errno.ENOENT)
    Dataset(local_store, "photos").delete()
    wait_until(lambda: errno_of(os.stat, tree) == errno.ENOENT)


def test_a_pinned_revision_stays(mounted: Mounter, local_store: Store, local_url: str) -> None:
    """Whatever is added, replaced, aggregated or deleted later, a revision shows what it had, also in its order."""
    datasets.add(local_store, "set", 0, [b"old 0", b"old 1"])
    datasets.add(local_store, "set", 2, [b"old 2"])
    mount = mounted(local_url)
    pinned, shuffled = mount.path / "set@3", mount.path / "set@shuffle=5"
    old = {name(k): b"old %d" % k for k in range(3)}
    order = SeededOrder(3, 5)
    in_order = {f"{place:08d}.bin": b"old %d" % order[place] for place in range(3)}
    assert tree_of(shuffled) == in_order
    replace(local_store, "set", 0, [b"new, longer", b"new"])
    datasets.add(local_store, "set", 3, [b"added"])
    wait_until(lambda: revision(mount, "set") == 5)
    wait_until(lambda: (mount.path / "set" / name(0)).read_bytes() == b"new, longer")
    assert tree_of(pinned) == old
    assert tree_of(shuffled) == in_order
    assert tree_of(mount.path / "set@3@shuffle=5") == in_order
    assert len(os.listdir(mount.path / "set@shuffle=6")) == 4
    Dataset(local_store, "set").clear()
    wait_until(lambda: os.listdir(mount.path / "set") == [])
    assert tree_of(pinned) == old
    Dataset(local_store, "set").delete()
    wait_until(lambda: errno_of(os.stat, mount.path / "set") == errno.ENOENT)
    assert tree_of(pinned) == old
    assert tree_of(shuffled) == in_order


def test_a_pinned_revision_outlives_aggregation_and_collection(
    mounted: Mounter, local_store: Store, local_url: str
) -> None:
    """Where the objects of a revision were aggregated and collected, it is read from what replaced them."""
    for k in range(4):
        datasets.add(local_store, "set", 3 * k, [b"%d" % number for number in range(3 * k, 3 * k + 3)])
    expected = {name(number): b"%d" % number for number in range(12)}
    mount = mounted(local_url)
    assert tree_of(mount.path / "set@5") == expected
    with (mount.path / "set@5" / name(4)).open("rb") as opened:
        aggregate(local_store, "set")
        collect_now(local_store, "set")
        wait_until(lambda: revision(mount, "set") == 6)
        assert opened.read() == b"4"
    assert tree_of(mount.path / "set@5") == expected
    assert tree_of(mount.path / "set@3") == {name(number): b"%d" % number for number in range(6)}
    mount.stop()
    again = mounted(local_url)
    assert tree_of(again.path / "set@4") == {name(number): b"%d" % number for number in range(9)}
    assert len(tree_of(again.path / "set@4@shuffle=1")) == 9


def test_what_was_collected_is_estale(mounted: Mounter, local_store: Store, local_url: str) -> None:
    """Datapoints that were deleted and collected are `ESTALE`, said once in the log; the revision's others work."""
    datasets.add(local_store, "set", 0, [b"gone"])
    datasets.add(local_store, "set", 1, [b"stays"])
    Dataset(local_store, "set").delete_datarange(0, 0)
    collect_now(local_store, "set")
    mount = mounted(local_url, warnings=["datapoints 0-0 of set@3 were collected", "readdir: .* were collected"])
    pinned = mount.path / "set@3"
    for _ in range(3):
        assert errno_of(os.stat, pinned / name(0)) == errno.ESTALE
    assert (pinned / name(1)).read_bytes() == b"stays"
    assert errno_of(os.listdir, pinned) == errno.ESTALE
    assert mount.log.count("WARNING: datapoints 0-0 of set@3 were collected") == 1


def test_a_revision_whose_log_was_collected_is_estale(mounted: Mounter, local_store: Store, local_url: str) -> None:
    """A revision that the log no longer tells of is `ESTALE`, one that never was `ENOENT`."""
    for k in range(4):
        datasets.add(local_store, "set", k, [b"x"])
    opened = Dataset(local_store, "set")
    opened.log.write_checkpoint(opened.snapshot())
    local_store.delete([opened.keys.commit(Revision(each)) for each in range(1, 5)])
    mount = mounted(local_url, warnings=["revision 3 of set is no longer kept"])
    assert errno_of(os.stat, mount.path / "set@3") == errno.ESTALE
    assert errno_of(os.stat, mount.path / "set@3") == errno.ESTALE
    assert errno_of(os.stat, mount.path / "set@6") == errno.ENOENT
    assert len(os.listdir(mount.path / "set@5")) == 4
    assert mount.log.count("no longer kept") == 1


def test_a_killed_mount_goes_on(mounted: Mounter, local_store: Store, local_url: str) -> None:
    """After `kill -9` the views of the next mount are the same; what was indexed needs no manifest again."""
    files = {f"c{k % 5}/f{k}.jpg": b"%d" % k for k in range(300)}
    datasets.add_named(local_store, "photos", 0, files)
    mount = mounted(local_url)
    assert tree_of(mount.path / "photos@names") == files
    shuffled = tree_of(mount.path / "photos@shuffle=9")
    mount.signal(signal.SIGKILL)
    mount.wait()
    again = mounted(local_url, "--replace")
    assert tree_of(again.path / "photos@names") == files
    assert tree_of(again.path / "photos@shuffle=9") == shuffled


def test_a_damaged_index_is_built_anew(mounted: Mounter, local_store: Store, local_url: str) -> None:
    """An index that was damaged while no mount used it is thrown away, with one warning, and nobody sees more of it."""
    files = {f"c{k % 5}/f{k}.jpg": b"%d" % k for k in range(300)}
    datasets.add_named(local_store, "photos", 0, files)
    mount = mounted(local_url)
    assert tree_of(mount.path / "photos@names") == files
    mount.stop()
    database = mount.cache / "dasfs-cache/names/photos.sqlite"
    size = database.stat().st_size
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    with database.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(size - 100))
    again = mounted(local_url, warnings=["photos.* is damaged"])
    wait_until(lambda: errno_of(os.listdir, again.path / "photos@names") is None)
    assert tree_of(again.path / "photos@names") == files


def test_while_an_index_is_built_readers_are_told(mounted: Mounter, local_store: Store, local_url: str) -> None:
    """An index that takes longer than the deadline: an error in time and a line in the log, and later tries find it."""
    for k in range(3):
        datasets.add_named(local_store, "photos", 30_000 * k, {f"d{j % 7}/f{k}-{j}": b"" for j in range(30_000)})
    warnings = ["is being built.* try again in a while", "not done within the deadline"]
    mount = mounted(local_url, options="deadline=0.3", warnings=warnings)
    tree = mount.path / "photos@names"
    assert errno_of(os.stat, tree) in (errno.EAGAIN, errno.ETIMEDOUT)
    assert re.search("|".join(warnings), mount.log)
    wait_until(lambda: errno_of(os.stat, tree) is None)
    wait_until(lambda: errno_of(os.listdir, tree) is None)
    assert sorted(os.listdir(tree)) == [f"d{k}" for k in range(7)]


def test_many_names(mounted: Mounter, local_store: Store, local_url: str) -> None:
    """A tree of 20,000 paths, of which neighbours in a directory are far apart in the store, is walked whole."""
    files = {f"class{k % 50:03d}/img{k}.jpg": b"" for k in range(20_000)}
    datasets.add_named(local_store, "photos", 0, files)
    tree = mounted(local_url).path / "photos@names"
    found = {os.path.relpath(os.path.join(at, each), tree) for at, _, names in os.walk(tree) for each in names}
    assert found == set(files)
    assert (tree / "class042/img19942.jpg").stat().st_size == 0


@pytest.mark.parametrize("view", ["set@names", "set@shuffle=1", "set@3"])
def test_a_large_view_is_listed_from_anywhere(mounted: Mounter, local_store: Store, local_url: str, view: str) -> None:
    """Two listings of one large directory that are read in turn are both whole, each name once."""
    for k in range(2):
        datasets.add(local_store, "set", 10_000 * k, [b""] * 5_000)
    directory = mounted(local_url).path / view
    with os.scandir(directory) as left, os.scandir(directory) as right:
        pairs = [(a.name, b.name, a.inode()) for a, b in zip(left, right, strict=True)]
    assert len({each[0] for each in pairs}) == len({each[2] for each in pairs}) == 10_000
    assert all(a == b for a, b, _ in pairs)
    assert [each[0] for each in pairs] == sorted(each[0] for each in pairs)
