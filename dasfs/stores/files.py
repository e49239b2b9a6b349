"""What the directory store does with one file: whole reads and writes, copies, and the door for OSErrors."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from dasfs.errors import (
    AccessDenied,
    AlreadyExists,
    Corrupt,
    DasfsError,
    InvalidInput,
    NoSpace,
    NotFound,
    StoreUnavailable,
)
from dasfs.stores.base import ObjectInfo

_ACCESS: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ABSENT: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_NAME: Final = {errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EINVAL}
# What disks and network file systems say when they are in trouble.
_UNAVAILABLE: Final = {
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EMFILE,
    errno.ENFILE,
}
# Where the kernel or the file system can't copy between two files by itself.
_NO_COPY: Final = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF}


@contextlib.contextmanager
def map_errors(what: str) -> Iterator[None]:
    """Translate the OSErrors raised inside. `what` names the object or the store in the message."""
    try:
        yield
    except DasfsError:
        raise
    except OSError as error:
        raise from_os_error(what, error) from error


def from_os_error(what: str, error: OSError) -> DasfsError:
    """Return what an OSError means for the object or store `what`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _ABSENT:
        return NotFound(f"{what}: there is no such file or directory")
    if error.errno == errno.EEXIST:
        return AlreadyExists(f"{what}: exists already")
    if error.errno in _ACCESS:
        hint = "mount it for writing" if error.errno == errno.EROFS else "check the owner and the mode"
        return AccessDenied(f"{what}: {reason}", hint=hint)
    if error.errno in _FULL:
        return NoSpace(f"{what}: {reason}", hint="make room on its disk")
    if error.errno in _NAME:
        return InvalidInput(f"{what}: {reason}", hint="a key can't be a file and a directory at once")
    if error.errno in _UNAVAILABLE:
        return StoreUnavailable(f"{what}: {reason}")
    return DasfsError(f"{what}: {reason}")


@contextlib.contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    """Hand out the descriptor of a regular file. Raises the OSErrors of `open`; anything else is `ENOENT`."""
    # O_NONBLOCK: opening a FIFO would wait for its writer.
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _require_file(os.fstat(fd))
        yield fd
    finally:
        os.close(fd)


def describe(key: str, status: os.stat_result) -> ObjectInfo:
    """Return an object as its file's status tells it. Raises `FileNotFoundError` for anything but a file."""
    _require_file(status)
    # Every write makes a new file with a time of its own, see `set_unique_time`.
    etag = f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}"
    return ObjectInfo(key, status.st_size, etag, datetime.fromtimestamp(status.st_mtime, UTC))


def _require_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")


def set_unique_time(fd: int) -> None:
    """Set the file's times to this nanosecond: the kernel's clock ticks every 4 ms, and inodes come again."""
    now = time.time_ns()
    os.utime(fd, ns=(now, now))


def read_all(fd: int, offset: int, buffer: memoryview, what: str) -> None:
    """Fill `buffer` from `offset`. Raises `Corrupt` when the file ends before."""
    size = os.fstat(fd).st_size
    if offset + len(buffer) > size:  # an offset beyond 2**63 is no OSError to preadv
        raise Corrupt(f"{what}: the object ends at {size}, before {offset + len(buffer)}")
    filled = 0
    while filled < len(buffer):
        count = os.preadv(fd, [buffer[filled:]], offset + filled)
        if count == 0:
            raise Corrupt(f"{what}: the object ends at {offset + filled}, before {offset + len(buffer)}")
        filled += count


def write_all(fd: int, data: memoryview) -> None:
    """Write all of `data` where the file's position is."""
    while data:
        data = data[os.write(fd, data) :]


def copy_range(source: int, offset: int, target: int, length: int, what: str) -> None:
    """Append a range of `source` to `target` in the kernel. Raises `Corrupt` when `source` ends before."""
    copy = _copy_file_range
    while length:
        try:
            count = copy(source, offset, target, length)
        except OSError as error:
            if copy is _send_file or error.errno not in _NO_COPY:
                raise
            copy = _send_file
            continue
        if count == 0:
            raise Corrupt(f"{what}: the object ends at {offset}, before {offset + length}")
        offset, length = offset + count, length - count


def _copy_file_range(source: int, offset: int, target: int, length: int) -> int:
    return os.copy_file_range(source, target, length, offset_src=offset)


def _send_file(source: int, offset: int, target: int, length: int) -> int:
    return os.sendfile(target, source, offset, length)


def sync_directory(path: str) -> None:
    """Make names that were made in a directory survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
