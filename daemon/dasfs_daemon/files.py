"""One file of a write directory: what it is, whether somebody still writes to it, and removing exactly it.

Paths are bytes below the write directory, as the kernel has them; `show` makes a line of one for people.

**The kernel's word on writers.** A read lease (`fcntl F_SETLEASE`) is granted only while nobody on this host has the
file open for writing, so asking for one and giving it back at once tells more than any event. Where it can't be had
(another owner without `CAP_LEASE`, NFS and the like) None is answered, and the events decide; see `watcher`.
"""

import errno
import fcntl
import fnmatch
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum, auto
from typing import Final

from dasfs.dataset.local import Source
from dasfs.dataset.sources import extension_of
from dasfs.names import DatapointName
from dasfs_daemon.rows import FileRow, Stamp

# Rejected files are moved there, below the write directory. Never looked into, whatever `ignore` says.
REJECTED: Final = b".rejected"
_NO_LEASE: Final = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)


class Removal(Enum):
    """How `remove` ended."""

    REMOVED = auto()
    GONE = auto()  # somebody else removed or moved it
    CHANGED = auto()  # another file, or other content, is there now
    BUSY = auto()  # somebody has it open for writing


def show(path: bytes) -> str:
    """Return a path for a message: one line, also for a name with newlines or of no encoding."""
    text = os.fsdecode(path)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what tells this file from another one."""
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


class Ignore:
    """Decides by its name whether a file or a directory is none of ours."""

    def __init__(self, patterns: Iterable[str]) -> None:
        expression = "|".join(fnmatch.translate(each) for each in patterns)
        self._pattern = re.compile(os.fsencode(expression), re.DOTALL) if expression else None

    def name(self, name: bytes) -> bool:
        """Return whether a single name is ignored."""
        return name == REJECTED or (self._pattern is not None and self._pattern.match(name) is not None)

    def path(self, path: bytes) -> bool:
        """Return whether a path below the write directory is ignored, by itself or by a directory in it."""
        return any(map(self.name, path.split(b"/")))


def unsettled_s(status: os.stat_result, now_ns: int, settle_s: float) -> float:
    """Return how many seconds a file still has to stay as it is; 0 or less when it is settled.

    By its ctime, which no program can set: it moves with every write, rename, and change of mtime.
    """
    return settle_s - (now_ns - status.st_ctime_ns) / 1e9


def is_open_for_writing(path: bytes) -> bool | None:
    """Return whether somebody on this host has a file open for writing; None where the kernel can't tell.

    Raises `OSError` where it can't be opened for reading.
    """
    descriptor = _open(path)
    try:
        return _has_writer(descriptor)
    finally:
        os.close(descriptor)


def remove(path: bytes, stamp: Stamp, has_content: Callable[[], bool]) -> Removal:
    """Remove the file at `path` if it still is the one with this stamp and nobody writes to it.

    `has_content` is asked whether it has the content that may go, where its ctime says that it could have another.
    Raises `OSError` where it can't be removed, and what `has_content` raises.
    """
    try:
        found = stamp_of(os.lstat(path))
        if found != stamp:
            return Removal.CHANGED
        with suppress(PermissionError):
            if is_open_for_writing(path):
                return Removal.BUSY
        if found.ctime_ns != stamp.ctime_ns and not (
            has_content() and stamp_of(os.lstat(path)).ctime_ns == found.ctime_ns
        ):
            return Removal.CHANGED
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return Removal.GONE
    return Removal.REMOVED


def make_source(directory: str, row: FileRow) -> Source:
    """Return a file of the journal as what is packed. Raises `InvalidInput` for a name that can't be."""
    original = os.fsdecode(row.path)
    name = original.rpartition("/")[2]
    parsed = DatapointName.parse(name)
    return Source(
        path=os.path.join(directory, original),
        original=original,
        number=None if parsed is None else parsed.number,
        extension=extension_of(name) if parsed is None else parsed.extension,
        size=row.stamp.size,
        mtime=row.stamp.mtime_ns // 1_000_000_000,
        offset=0,
        file_size=row.stamp.size,
        file_mtime_ns=row.stamp.mtime_ns,
    )


def _open(path: bytes) -> int:
    # NONBLOCK: should a FIFO have taken the file's place, opening it must not wait for a writer.
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def _has_writer(descriptor: int) -> bool | None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in _NO_LEASE:
            return None
        raise
    return False
