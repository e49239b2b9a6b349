"""A local file that is to become a datapoint, and its bytes.

A file must not change between the moment it was found and the moment its last byte was read: size and time
are compared after each read that finishes it, and a difference is an error, never a mixture of two contents.
"""

import errno
import os
from io import RawIOBase
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, cast

from isal import isal_zlib

from dasfs.errors import (
    AccessDenied,
    AlreadyExists,
    DasfsError,
    InvalidInput,
    NoSpace,
    NotFound,
    ObjectChanged,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# One read of this size costs 30 us, its system call 1.
READ_SIZE: Final = 1 << 20
_MAX_READ: Final = 1 << 30


class Source(NamedTuple):
    """One datapoint to be. Sizes and offsets in bytes, `mtime` in whole seconds.

    A tuple, because a `put` has a million of them: each is made in 0.3 us, a frozen dataclass of as many fields in 1.9.

    `path` is the local file that is opened; `offset` is where the content starts in it: 0, but for members of
    a TAR. `file_size` and `file_mtime_ns` are of that file. `number` is None where one must be given;
    `original` is the path that the datapoint is known by then.
    """

    path: str
    original: str
    number: int | None
    extension: str
    size: int
    mtime: int
    offset: int
    file_size: int
    file_mtime_ns: int

    def __str__(self) -> str:
        """Return how a message names this source."""
        return f"{self.path}: {self.original}" if self.offset else self.path


def read(source: Source) -> bytes:
    """Return the content of one source, which is at most `READ_SIZE`.

    Raises `ObjectChanged` when the file is not the one that was found any more, `NotFound`, `AccessDenied`.
    """
    data = bytearray(source.size)
    read_into(source, memoryview(data))
    return bytes(data)


def read_into(source: Source, room: memoryview) -> None:
    """Read the content of one source, which is at most `READ_SIZE`, to where it belongs; raises as `read` does."""
    try:
        descriptor = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.preadv(descriptor, (room,), source.offset)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise local_error(error, source.path) from error
    if size != source.size or _changed(source, status):
        raise _change(source)


def open_source(source: Source) -> BinaryIO:
    """Return a file object with the content of one source, to be read in order; raises as `read` does."""
    return cast("BinaryIO", _SourceFile(source))


def checksum(source: Source) -> int:
    """Return the CRC-32 of the content of one source. Raises what `read` raises."""
    if source.size <= READ_SIZE:
        return isal_zlib.crc32(read(source))
    crc = 0
    with open_source(source) as file:
        while chunk := file.read(READ_SIZE):
            crc = isal_zlib.crc32(chunk, crc)
    return crc


class _SourceFile(RawIOBase):
    """The content of one source. `_left` counts down to its end, where the file is looked at again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = source.size
        try:
            self._descriptor = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise local_error(error, source.path) from error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        source = self._source
        room = memoryview(buffer).cast("B")[: min(self._left, _MAX_READ)]
        try:
            # A regular file gives as much as is asked for, up to 2 GiB less a page; fewer: it was cut.
            size = os.preadv(self._descriptor, (room,), source.offset + source.size - self._left)
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise local_error(error, source.path) from error
        self._left -= size
        if size != len(room) or (not self._left and _changed(source, status)):
            raise _change(source)
        return size

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _changed(source: Source, status: os.stat_result) -> bool:
    return status.st_mtime_ns != source.file_mtime_ns or status.st_size != source.file_size


def _change(source: Source) -> ObjectChanged:
    return ObjectChanged(f"{source.path} changed while it was put", hint="repeat the command when nobody writes to it")


def local_error(error: OSError, path: str) -> DasfsError:
    """Return what an error of the local file system means: the one door of `put` and `get`."""
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{path}: {'a link to nothing' if os.path.islink(path) else reason}")
    if isinstance(error, FileExistsError):
        return AlreadyExists(f"{path}: {reason}")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return AccessDenied(f"{path}: {reason}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path}: {reason}", hint="make room and repeat the command")
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return InvalidInput(f"{path}: {reason}")
    return DasfsError(f"{path}: {reason}")
