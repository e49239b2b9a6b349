"""The handlers of a mount, without a kernel: what they refuse, and that nothing but `FUSEError` leaves them."""

import errno
import inspect
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

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
from dasfs.fuse.inodes import CONTROL_DIRECTORY, ROOT, STATUS_FILE
from dasfs.fuse.operations import Operations
from dasfs.stores import Store, open_store
from tests import datasets
from tests.parts import Parts, opened_parts

CONTEXT: Any = SimpleNamespace(pid=os.getpid(), uid=os.getuid())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"file://{tmp_path}/store") as opened:
        opened.create()
        datasets.add(opened, "set", 0, [b"hello", b""])
        yield opened


class Raising:
    """Stands for a part of the mount of which every method raises, or waits for ever."""

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._know_nothing if name.startswith(("peek", "opened", "dataset_of")) else self._fail

    def _know_nothing(self, *_: object) -> None:
        return None

    async def _fail(self, *_: object, **__: object) -> Any:
        if self._error is not None:
            raise self._error
        await trio.sleep_forever()


def operations_over(part: Any, *, deadline_s: float = 5.0) -> Operations:
    """Return handlers over parts that all are `part`."""
    return Operations(part, part, part, part, Ownership(0, 0, 0), deadline_s=deadline_s)


async def errno_of(call: Any) -> int | None:
    """Return the errno that a handler answers with."""
    try:
        await call
    except pyfuse3.FUSEError as error:
        return error.errno
    return None


def waiting_calls(operations: Operations) -> dict[str, Any]:
    """Return a call of each handler that may have to wait for the store."""
    return {
        "lookup": operations.lookup(ROOT, b"name", CONTEXT),
        "getattr": operations.getattr(99, CONTEXT),
        "open": operations.open(99, os.O_RDONLY, CONTEXT),
        "opendir": operations.opendir(ROOT, CONTEXT),
        "listxattr": operations.listxattr(99, CONTEXT),
        "getxattr": operations.getxattr(99, b"user.dasfs.size", CONTEXT),
    }


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
    """Every exception in a handler becomes an errno: any other would end the mount. Those of ours have their own."""

    async def main() -> None:
        calls = waiting_calls(operations_over(Raising(error)))
        assert {name: await errno_of(call) for name, call in calls.items()} == dict.fromkeys(calls, number)

    trio.run(main)


@pytest.mark.parametrize(("error", "logged"), [(NotFound("gone"), 0), (ObjectChanged("stale"), 0), (Corrupt("bad"), 1)])
def test_what_is_usual_is_not_logged(error: Exception, logged: int, caplog: pytest.LogCaptureFixture) -> None:
    """That something is not there is an answer and no warning; damage is one."""

    async def main() -> None:
        await errno_of(operations_over(Raising(error)).lookup(ROOT, b"name", CONTEXT))

    trio.run(main)
    assert len(caplog.records) == logged


def test_a_defect_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody expected is an ERROR in the log, and says where it came from."""

    async def main() -> None:
        await errno_of(operations_over(Raising(ZeroDivisionError("oops"))).lookup(ROOT, b"name", CONTEXT))

    trio.run(main)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "ZeroDivisionError" in caplog.text


def test_an_outage_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of operations that fail for the same reason are told by a few lines, not by thousands."""

    async def main() -> None:
        operations = operations_over(Raising(StoreUnavailable("the store is away")))
        for _ in range(2000):
            assert await errno_of(operations.lookup(ROOT, b"name", CONTEXT)) == errno.EIO

    trio.run(main)
    assert 1 <= len(caplog.records) <= 50


def test_every_handler_that_waits_has_a_deadline() -> None:
    """When the store does not answer, each operation ends with `ETIMEDOUT` at the deadline."""

    async def main() -> None:
        calls = waiting_calls(operations_over(Raising(None), deadline_s=0.02))
        with trio.fail_after(10):
            assert {name: await errno_of(call) for name, call in calls.items()} == dict.fromkeys(calls, errno.ETIMEDOUT)

    trio.run(main)


def test_a_read_has_a_deadline(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read and a listing that wait too long end with `ETIMEDOUT` as well."""

    async def never(*_: object) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        async with opened_parts(store, tmp_path, deadline_s=0.05) as parts:
            inode = await parts.inode("set", f"{0:020d}.bin")
            opened = await parts.operations.open(inode, os.O_RDONLY, CONTEXT)
            monkeypatch.setattr(parts.content, "read", never)
            with trio.fail_after(10):
                assert await errno_of(parts.operations.read(opened.fh, 0, 5)) == errno.ETIMEDOUT
            directory = await parts.operations.opendir(parts.tree.directory_inode("set"), CONTEXT)
            monkeypatch.setattr(parts.tree, "list_page", never)
            with trio.fail_after(10):
                assert await errno_of(parts.operations.readdir(directory, 0, CONTEXT)) == errno.ETIMEDOUT

    trio.run(main)


READING = {"access", "flush", "forget", "fsync", "fsyncdir", "getattr", "getxattr", "init", "listxattr", "lookup"} | {
    "open", "opendir", "read", "readdir", "readlink", "release", "releasedir", "stacktrace", "statfs", "syncfs", "poll"
}  # fmt: skip


def test_every_change_is_refused() -> None:
    """Each handler of pyfuse3 that would change something answers `EROFS`, whatever it is called with."""

    async def main() -> None:
        operations = operations_over(Raising(AssertionError("it must not be asked")))
        changes = {
            name
            for name, member in inspect.getmembers(pyfuse3.Operations, inspect.isfunction)
            if not name.startswith("_") and name not in READING
        }
        assert {"create", "mkdir", "unlink", "rename", "setattr", "write", "setxattr"} <= changes
        for name in sorted(changes):
            arguments = [None] * (len(inspect.signature(getattr(pyfuse3.Operations, name)).parameters) - 1)
            assert await errno_of(getattr(operations, name)(*arguments)) == errno.EROFS, name

    trio.run(main)


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_TRUNC, os.O_APPEND, os.O_WRONLY | os.O_CREAT])
def test_opening_to_write_is_refused(store: Store, tmp_path: Path, flags: int) -> None:
    """Files are opened to be read, the mount's own ones too."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            inode = await parts.inode("set", f"{0:020d}.bin")
            for each in (inode, STATUS_FILE):
                assert await errno_of(parts.operations.open(each, flags, CONTEXT)) == errno.EROFS

    trio.run(main)


@asynccontextmanager
async def opened_status(parts: Parts) -> AsyncIterator[int]:
    opened = await parts.operations.open(STATUS_FILE, os.O_RDONLY, CONTEXT)
    yield opened.fh
    await parts.operations.release(opened.fh)


def test_files_are_read(store: Store, tmp_path: Path) -> None:
    """Open, read in pieces and release: the bytes come, and the mount counts them."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            operations = parts.operations
            inode = await parts.inode("set", f"{0:020d}.bin")
            opened = await operations.open(inode, os.O_RDONLY, CONTEXT)
            assert [await operations.read(opened.fh, offset, 2) for offset in (0, 2, 4, 5, 9)] == [
                b"he", b"ll", b"o", b"", b""
            ]  # fmt: skip
            await operations.release(opened.fh)
            assert await errno_of(operations.read(opened.fh, 0, 1)) == errno.EIO
            async with opened_status(parts) as handle:
                document = json.loads(await operations.read(handle, 0, 1 << 20))
            assert (document["reads"], document["bytes_read"]) == (5, 5)

    trio.run(main)


def test_the_status_stays_as_it_was_opened(store: Store, tmp_path: Path) -> None:
    """Who reads the status in pieces reads one document, though the mount goes on meanwhile."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts, opened_status(parts) as handle:
            first = await parts.operations.read(handle, 0, 50)
            await parts.read(await parts.inode("set", f"{0:020d}.bin"))
            rest = await parts.operations.read(handle, 50, 1 << 20)
            assert json.loads(first + rest)["block_cache"]["misses"] == 0

    trio.run(main)


def test_attributes_follow_the_owner(store: Store, tmp_path: Path) -> None:
    """Owner and rights are those that the mount was given; nothing is writable."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            inode = await parts.inode("set", f"{0:020d}.bin")
            entries = {
                each: await parts.operations.getattr(each, CONTEXT)
                for each in (ROOT, CONTROL_DIRECTORY, STATUS_FILE, parts.tree.directory_inode("set"), inode)
            }
            assert {(entry.st_uid, entry.st_gid) for entry in entries.values()} == {(1, 2)}
            assert not any(entry.st_mode & 0o222 for entry in entries.values())
            assert stat.filemode(entries[inode].st_mode) == "-r--r--r--"
            assert stat.filemode(entries[ROOT].st_mode) == "dr-xr-xr-x"
            assert entries[inode].attr_timeout > 1000 > 10 > entries[ROOT].attr_timeout
            assert entries[STATUS_FILE].st_size > 100

    trio.run(main)


def test_what_is_not_there_is_remembered_for_a_moment(store: Store, tmp_path: Path) -> None:
    """A name that is not there is answered with an entry without an inode, which the kernel keeps for a second."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            for parent, name in ((ROOT, b"missing"), (ROOT, b"not a name"), (ROOT, b"\xff\xfe")):
                entry = await parts.operations.lookup(parent, name, CONTEXT)
                assert (entry.st_ino, entry.entry_timeout) == (0, 1.0)

    trio.run(main)
