"""Large directories: whole, in order, and begun again at any place."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dasfs.stores import open_store
from tests import datasets
from tests.mounts import Mount, mounting

COUNT: Final = 100_000
# In three dataranges, none of which ends where a page of 1,024 records does.
FIRSTS: Final = (0, 30_000, 77_777)

libc = ctypes.CDLL(None, use_errno=True)


class Entry(ctypes.Structure):
    """`struct dirent` of Linux."""

    _fields_ = [
        ("inode", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("length", ctypes.c_ushort),
        ("type", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    ]


libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long


class Directory:
    """An open directory, with what `os` does not have: telling a position and seeking it."""

    def __init__(self, path: Path) -> None:
        self._stream = ctypes.c_void_p(libc.opendir(os.fsencode(path)))
        assert self._stream

    def read(self) -> str | None:
        found = libc.readdir(self._stream)
        return os.fsdecode(Entry.from_address(found).name) if found else None

    def tell(self) -> int:
        position: int = libc.telldir(self._stream)
        return position

    def seek(self, position: int) -> None:
        libc.seekdir(self._stream, ctypes.c_long(position))

    def close(self) -> None:
        libc.closedir(self._stream)


def name(number: int) -> str:
    return f"{number:020d}.txt"


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    directory = tmp_path_factory.mktemp("listing")
    with open_store(f"file://{directory}/store") as store:
        store.create()
        for first, end in zip(FIRSTS, (*FIRSTS[1:], COUNT), strict=True):
            datasets.add(store, "many", first, [b""] * (end - first), extension="txt")
    with mounting(directory) as mounter:
        yield mounter(f"file://{directory}/store")


def test_a_large_directory_is_listed_whole(mount: Mount) -> None:
    """A directory of 100,000 names is listed completely, each once, in number order, with the inodes of `stat`."""
    with os.scandir(mount.path / "many") as entries:
        found = [(entry.name, entry.inode(), entry.is_file()) for entry in entries]
    assert [each[0] for each in found] == [name(number) for number in range(COUNT)]
    assert all(each[2] for each in found)
    for number in (0, 1023, 1024, 29_999, 30_000, 77_776, 77_777, COUNT - 1):
        assert (mount.path / "many" / name(number)).stat().st_ino == found[number][1]


def test_a_listing_starts_again_anywhere(mount: Mount) -> None:
    """`seekdir` to what `telldir` said goes on with the name that followed then, forwards and backwards."""
    directory = Directory(mount.path / "many")
    try:
        positions = {}
        for number in range(50_000):
            if number % 9_973 == 0:
                positions[number] = directory.tell()
            assert directory.read() == name(number)
        for number in (9_973, 49_865, 0, 29_919):
            directory.seek(positions[number])
            assert [directory.read() for _ in range(2_000)] == [name(k) for k in range(number, number + 2_000)]
    finally:
        directory.close()


def test_several_listings_at_once_do_not_meet(mount: Mount) -> None:
    """Two listings of one directory that are read in turn are both whole."""
    with os.scandir(mount.path / "many") as left, os.scandir(mount.path / "many") as right:
        pairs = [(a.name, b.name) for a, b in zip(left, right, strict=True)]
    assert pairs == [(name(number), name(number)) for number in range(COUNT)]
