"""The mount's own files: each lookup one state, kept until the kernel forgets it."""

from collections.abc import Callable
from itertools import count

from dasfs.fuse.inodes import FIRST_OWN_FILE
from dasfs.fuse.own_files import MAX_KEPT, OwnFiles


def counting() -> Callable[[], bytes]:
    numbers = count()
    return lambda: b"state %d" % next(numbers)


def test_each_lookup_is_one_state() -> None:
    """Who looked a file up reads what it was then, whoever looks it up later."""
    files = OwnFiles({"status": counting()})
    first, second = files.look_up("status"), files.look_up("status")
    assert first is not None
    assert second is not None
    assert first != second
    assert (files.content(first[0]), files.content(second[0])) == (b"state 0", b"state 1")
    assert first[1] == len(b"state 0")


def test_what_is_not_there() -> None:
    """Other names are None, and nothing is made for them; so is any inode that is none of a file's."""
    files = OwnFiles({"status": counting()})
    assert files.look_up("other") is files.look_up("") is None
    assert files.content(FIRST_OWN_FILE) is files.content(1) is files.content(2**63) is None


def test_what_is_forgotten_is_dropped() -> None:
    """A file that the kernel forgot is gone, and the others stay; forgetting it twice does no harm."""
    files = OwnFiles({"status": counting()})
    inodes = [found[0] for _ in range(3) if (found := files.look_up("status"))]
    files.forget(inodes[1])
    files.forget(inodes[1])
    files.forget(99)
    assert [files.content(inode) for inode in inodes] == [b"state 0", None, b"state 2"]


def test_it_does_not_grow() -> None:
    """Of files that the kernel never forgets the oldest go; no inode is given twice."""
    files = OwnFiles({"status": counting()})
    inodes = [found[0] for _ in range(MAX_KEPT + 5) if (found := files.look_up("status"))]
    assert len(set(inodes)) == MAX_KEPT + 5
    assert [files.content(inode) is None for inode in inodes] == [True] * 5 + [False] * MAX_KEPT
