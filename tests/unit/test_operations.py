"""The handlers of a mount behind a session, with a test for a kernel: what they answer, and that they always do."""

import errno
import json
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from dasfs.dataset.dataset import Dataset
from dasfs.errors import (
    AccessDenied,
    Corrupt,
    DasfsError,
    DeadlineExceeded,
    NotFound,
    ObjectChanged,
    StoreUnavailable,
)
from dasfs.fuse.attributes import Ownership
from dasfs.fuse.inodes import CONTROL_DIRECTORY, ROOT
from dasfs.fuse.operations import Operations
from dasfs.fuse.protocol import CHANGES, Opcode
from dasfs.fuse.recorder import Recorder
from dasfs.stores import Store, open_store
from tests import datasets
from tests.kernel import Kernel, read_body, served, xattr_body
from tests.parts import Parts, opened_parts

NAME = f"{0:020d}.bin".encode()

# A request of each kind that may have to wait for the store.
WAITING = {
    Opcode.LOOKUP: (ROOT, b"name\0"),
    Opcode.GETATTR: (99, bytes(16)),
    Opcode.READ: (99, read_body(0, 0, 4096)),
    Opcode.OPENDIR: (ROOT, bytes(8)),
    Opcode.LISTXATTR: (99, xattr_body(100)),
    Opcode.GETXATTR: (99, xattr_body(100, b"user.dasfs.size")),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"file://{tmp_path}/store") as opened:
        opened.create()
        datasets.add(opened, "set", 0, [b"hello", b""])
        yield opened


class Raising:
    """Stands for a part of the mount that knows nothing at once, and whose other methods raise, or wait for ever."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "recorder":
            return Recorder()
        return self._know_nothing if name.startswith(("peek", "find", "dataset_of")) else self._fail

    def _know_nothing(self, *_: object) -> None:
        return None

    async def _fail(self, *_: object, **__: object) -> Any:
        if self._error is not None:
            raise self._error
        await trio.sleep_forever()


def operations_over(part: Any) -> Operations:
    """Return handlers over parts that all are `part`."""
    return Operations(part, part, part, part, Ownership(0, 0, 0))


async def errnos(error: Exception | None, *, deadline_s: float = 5.0) -> dict[Opcode, int]:
    """Return what each request that may wait is answered with when everything raises `error`."""
    async with served(operations_over(Raising(error)), deadline_s=deadline_s) as kernel:
        return {opcode: await kernel.errno(opcode, *request) for opcode, request in WAITING.items()}


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (Corrupt("damaged"), errno.EIO),
        (StoreUnavailable("away"), errno.EIO),
        (DeadlineExceeded("late"), errno.ETIMEDOUT),
        (AccessDenied("keys"), errno.EACCES),
        (DasfsError("other"), errno.EIO),
        (OSError(errno.EEXIST, "odd"), errno.EIO),
        (ValueError("a defect"), errno.EIO),
        (KeyError("a defect"), errno.EIO),
        (RecursionError("a defect"), errno.EIO),
        (AssertionError("a defect"), errno.EIO),
    ],
)
def test_whatever_is_raised_is_answered(error: Exception, number: int) -> None:
    """Every exception in a handler becomes an errno, and the mount goes on. Those of ours have their own."""

    async def main() -> None:
        assert await errnos(error) == dict.fromkeys(WAITING, number)

    trio.run(main)


@pytest.mark.parametrize(("error", "logged"), [(NotFound("gone"), 0), (ObjectChanged("stale"), 0), (Corrupt("bad"), 1)])
def test_what_is_usual_is_not_logged(error: Exception, logged: int, caplog: pytest.LogCaptureFixture) -> None:
    """That something is not there is an answer and no warning; damage is one."""

    async def main() -> None:
        async with served(operations_over(Raising(error))) as kernel:
            await kernel.errno(Opcode.LOOKUP, ROOT, b"name\0")

    trio.run(main)
    assert len(caplog.records) == logged


def test_a_defect_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody expected is an ERROR in the log, and says where it came from."""

    async def main() -> None:
        async with served(operations_over(Raising(ZeroDivisionError("oops")))) as kernel:
            await kernel.errno(Opcode.LOOKUP, ROOT, b"name\0")

    trio.run(main)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "ZeroDivisionError" in caplog.text


def test_an_outage_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Many operations that fail for the same reason are told by a few lines."""

    async def main() -> None:
        async with served(operations_over(Raising(StoreUnavailable("the store is away")))) as kernel:
            for _ in range(200):
                assert await kernel.errno(Opcode.LOOKUP, ROOT, b"name\0") == errno.EIO

    trio.run(main)
    assert 1 <= len(caplog.records) <= 50


def test_every_request_that_waits_has_a_deadline() -> None:
    """When the store does not answer, each operation ends with `ETIMEDOUT` at the deadline."""

    async def main() -> None:
        with trio.fail_after(10):
            assert await errnos(None, deadline_s=0.02) == dict.fromkeys(WAITING, errno.ETIMEDOUT)

    trio.run(main)


def test_a_listing_has_a_deadline(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that waits too long ends with `ETIMEDOUT` as well, with attributes or without."""

    async def never(*_: object) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served(deadline_s=0.5) as kernel:
            directory = await directory_of(parts)
            (handle,) = struct.unpack_from("=Q", await kernel.payload(Opcode.OPENDIR, directory, bytes(8)))
            monkeypatch.setattr(parts.tree, "list_page", never)
            for opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
                assert await kernel.errno(opcode, directory, read_body(handle, 0, 4096)) == errno.ETIMEDOUT

    trio.run(main)


def test_every_change_is_refused() -> None:
    """Whatever would change something is answered with `EROFS`, and nobody is asked."""

    async def main() -> None:
        async with served(operations_over(Raising(AssertionError("it must not be asked")))) as kernel:
            assert {await kernel.errno(opcode, ROOT, bytes(64)) for opcode in CHANGES} == {errno.EROFS}

    trio.run(main)


@pytest.mark.parametrize("opcode", [Opcode.OPEN, Opcode.FLUSH, 5, 18, 20, 30, 34, 39, 40, 46, 48, 49, 50, 999])
def test_what_is_not_needed_is_not_asked_again(opcode: int) -> None:
    """There is no open, flush, access, lock or ioctl: `ENOSYS`, which the kernel takes once and for all."""

    async def main() -> None:
        async with served(operations_over(Raising(AssertionError("it must not be asked")))) as kernel:
            assert await kernel.errno(opcode, ROOT, bytes(64)) == errno.ENOSYS

    trio.run(main)


def test_files_are_read(store: Store, tmp_path: Path) -> None:
    """Looked up and read in pieces: the bytes come, and the mount counts them."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            inode = (await kernel.lookup((await kernel.lookup(ROOT, b"set")).inode, NAME)).inode
            assert [await kernel.read(inode, offset, 2) for offset in (0, 2, 4, 5, 9)] == [
                b"he", b"ll", b"o", b"", b""
            ]  # fmt: skip
            status = await kernel.lookup(CONTROL_DIRECTORY, b"status.json")
            document = json.loads(await kernel.read(status.inode, 0, 1 << 20))
            assert (document["reads"], document["bytes_read"]) == (5, 5)

    trio.run(main)


def test_what_is_cached_is_read_at_once(store: Store, tmp_path: Path) -> None:
    """A read and a lookup of what is cached need no task; one that needs the store, or is of no datapoint, does."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            operations, directory = parts.operations, await directory_of(parts)
            assert operations.lookup_now(directory, NAME) is None
            inode = await parts.inode("set", NAME.decode())
            assert operations.lookup_now(directory, NAME) is not None
            assert operations.read_now(inode, 0, 5, 0, 1) is None
            assert await parts.read(inode) == b"hello"
            assert operations.read_now(inode, 1, 3, 0, 1) == b"ell"
            assert operations.read_now(directory, 0, 5, 0, 1) is None
            assert operations.lookup_now(ROOT, b"set") is None

    trio.run(main)


async def directory_of(parts: Parts) -> int:
    found = await parts.tree.lookup(ROOT, "set")
    assert found is not None
    return found.inode


async def own_file(kernel: Kernel, name: bytes) -> int:
    control = await kernel.lookup(ROOT, b".dasfs")
    return (await kernel.lookup(control.inode, name)).inode


def test_the_mounts_own_files(store: Store, tmp_path: Path) -> None:
    """`.dasfs` is not listed and found by name; so are its files, whose size is that of what they hold."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            assert [each.name for each in await kernel.list(ROOT)] == [b"set"]
            assert await kernel.list(CONTROL_DIRECTORY) == []
            assert (await kernel.lookup(CONTROL_DIRECTORY, b"other")).inode == 0
            for name in (b"status.json", b"metrics"):
                entry = await kernel.lookup(CONTROL_DIRECTORY, name)
                assert entry.name_valid_s == 0
                assert (await kernel.getattr(entry.inode))[0] == entry.stat
                assert len(await kernel.read(entry.inode, 0, 1 << 20)) == entry.stat.size > 100

    trio.run(main)


def test_the_status_stays_as_it_was_looked_up(store: Store, tmp_path: Path) -> None:
    """Who reads the status in pieces reads one document, though the mount goes on and others look it up."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            inode = await own_file(kernel, b"status.json")
            first = await kernel.read(inode, 0, 50)
            await parts.read(await parts.inode("set", NAME.decode()))
            assert await own_file(kernel, b"status.json") != inode
            rest = await kernel.read(inode, 50, 1 << 20)
            assert json.loads(first + rest)["block_cache"]["misses"] == 0

    trio.run(main)


@pytest.mark.parametrize("batch", [False, True])
def test_a_forgotten_status_is_gone(store: Store, tmp_path: Path, batch: bool) -> None:
    """What the kernel forgets, alone or with others, is not kept; forgetting datapoints changes nothing."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            inode = await own_file(kernel, b"status.json")
            datapoint = await parts.inode("set", NAME.decode())
            if batch:
                body = struct.pack("=IIQQQQ", 2, 0, inode, 1, datapoint, 5)
                kernel.send(Opcode.BATCH_FORGET, 0, body)
            else:
                kernel.send(Opcode.FORGET, inode, struct.pack("=Q", 1))
                kernel.send(Opcode.FORGET, datapoint, struct.pack("=Q", 1))
            assert await kernel.errno(Opcode.GETATTR, inode, bytes(16)) == errno.ENOENT
            assert await kernel.read(datapoint) == b"hello"

    trio.run(main)


def test_attributes_follow_the_owner(store: Store, tmp_path: Path) -> None:
    """Owner and rights are those that the mount was given; nothing is writable."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            inode, directory = await parts.inode("set", NAME.decode()), await directory_of(parts)
            status = await own_file(kernel, b"status.json")
            found = {each: await kernel.getattr(each) for each in (ROOT, CONTROL_DIRECTORY, status, directory, inode)}
            assert {(each.uid, each.gid) for each, _ in found.values()} == {(1, 2)}
            assert not any(each.mode & 0o222 for each, _ in found.values())
            assert stat.filemode(found[inode][0].mode) == "-r--r--r--"
            assert stat.filemode(found[ROOT][0].mode) == "dr-xr-xr-x"
            assert found[inode][1] > 1000 > 10 > found[ROOT][1]
            assert (found[inode][0].size, found[inode][0].blocks, found[ROOT][0].links) == (5, 1, 3)

    trio.run(main)


def test_what_is_not_there_is_remembered_for_a_moment(store: Store, tmp_path: Path) -> None:
    """A name that is not there is answered with an entry without an inode, which the kernel keeps for a second."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            for parent, name in ((ROOT, b"missing"), (ROOT, b"not a name"), (ROOT, b"\xff\xfe"), (99, NAME)):
                entry = await kernel.lookup(parent, name)
                assert (entry.inode, entry.name_valid_s) == (0, 1)

    trio.run(main)


@pytest.mark.parametrize("room", [200, 1000, 4096, 1 << 16])
def test_listings_say_what_lookups_say(store: Store, tmp_path: Path, room: int) -> None:
    """However little room the kernel has, a listing is whole, with the entries that a lookup gives, or names alone."""

    async def main() -> None:
        datasets.add(store, "set", 5, [b"x" * k for k in range(30)], extension="tar.gz")
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            directory = await directory_of(parts)
            listed = await kernel.list(directory, room=room)
            assert [int(each.name[:20]) for each in listed] == [0, 1, *range(5, 35)]
            assert [each.position for each in listed] == list(range(1, 33))
            for each in (listed[0], listed[2], listed[-1]):
                assert each.entry == await kernel.lookup(directory, each.name)
                assert each.entry.inode == each.inode
            names = await kernel.list(directory, attributes=False, room=room)
            assert [(each.name, each.inode) for each in names] == [(each.name, each.inode) for each in listed]
            (root,) = await kernel.list(ROOT, room=room)
            assert (root.name, root.entry) == (b"set", await kernel.lookup(ROOT, b"set"))

    trio.run(main)


def test_a_listing_without_room_for_one_name(store: Store, tmp_path: Path) -> None:
    """Nobody gets an empty listing for a directory that is not empty."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            directory = await directory_of(parts)
            (handle,) = struct.unpack_from("=Q", await kernel.payload(Opcode.OPENDIR, directory, bytes(8)))
            assert await kernel.errno(Opcode.READDIRPLUS, directory, read_body(handle, 0, 100)) == errno.EINVAL

    trio.run(main)


def test_extended_attributes(store: Store, tmp_path: Path) -> None:
    """Names and values come whole: 0 asks for the size, too little room is `ERANGE`, unknown ones have their errno."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            inode = await parts.inode("set", NAME.decode())

            async def get(size: int, name: bytes) -> bytes:
                return await kernel.payload(Opcode.GETXATTR, inode, xattr_body(size, name))

            assert await get(100, b"user.dasfs.dataset") == await get(3, b"user.dasfs.dataset") == b"set"
            assert struct.unpack("=II", await get(0, b"user.dasfs.dataset")) == (3, 0)
            names = await kernel.payload(Opcode.LISTXATTR, inode, xattr_body(4096))
            assert b"user.dasfs.dataset" in names.split(b"\0")
            assert struct.unpack("=II", await kernel.payload(Opcode.LISTXATTR, inode, xattr_body(0))) == (len(names), 0)
            too_small = xattr_body(2, b"user.dasfs.dataset")
            assert await kernel.errno(Opcode.GETXATTR, inode, too_small) == errno.ERANGE
            assert await kernel.errno(Opcode.LISTXATTR, inode, xattr_body(5)) == errno.ERANGE
            for name, number in (
                (b"security.capability", errno.EOPNOTSUPP),
                (b"user.other", errno.ENODATA),
                (b"user.dasfs.other", errno.ENODATA),
            ):
                assert await kernel.errno(Opcode.GETXATTR, inode, xattr_body(100, name)) == number

    trio.run(main)


def test_the_size_of_all(store: Store, tmp_path: Path) -> None:
    """`df` shows the datapoints' size and count, and nothing free."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            await parts.inode("set", NAME.decode())
            blocks, free, available, files, free_files, size, length, fragment, _ = struct.unpack_from(
                "=QQQQQIIII", await kernel.payload(Opcode.STATFS)
            )
            assert (blocks * size >= 5, free, available, files, free_files) == (True, 0, 0, 2, 0)
            assert (size, length) == (fragment, 255)

    trio.run(main)


@pytest.mark.parametrize("known", [False, True])
def test_what_was_deleted_stays_readable(store: Store, tmp_path: Path, known: bool) -> None:
    """Who has a deleted file open reads and stats it on, whether it was read before or not; its name is gone."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            parts.catalog.subscribe(parts.invalidator.prepare)
            directory = await directory_of(parts)
            entry = await kernel.lookup(directory, NAME)
            if known:
                assert await kernel.read(entry.inode) == b"hello"
            Dataset(store, "set").delete_datarange(0, 1)
            await parts.catalog.refresh_now("set")
            assert (await kernel.lookup(directory, NAME)).inode == 0
            assert await kernel.read(entry.inode) == b"hello"
            assert (await kernel.getattr(entry.inode))[0] == entry.stat

    trio.run(main)


def test_an_unknown_inode(store: Store, tmp_path: Path) -> None:
    """An inode that the mount never gave is `ENOENT`, whatever is asked of it."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            for inode in (3, 99, 1 << 50, 2**64 - 1):
                assert await kernel.errno(Opcode.GETATTR, inode, bytes(16)) == errno.ENOENT
                assert await kernel.errno(Opcode.READ, inode, read_body(0, 0, 10)) == errno.ENOENT
                assert await kernel.list(inode) == []

    trio.run(main)


def test_names_that_are_no_text(store: Store, tmp_path: Path) -> None:
    """Names in any bytes are answered: not there."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, parts.served() as kernel:
            directory = await directory_of(parts)
            await kernel.lookup(directory, NAME)
            for name in (os.urandom(255).replace(b"\0", b"x"), b"\xff", "²".encode() * 20 + b".bin", b" " * 20 + b".b"):
                assert (await kernel.lookup(directory, name)).inode == 0

    trio.run(main)
