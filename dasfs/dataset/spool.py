"""The anonymous local file that a TAR is packed into before it is sent.

It has no name, so nothing is left behind when the process dies.

**Concurrency:** for one thread at a time.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from dasfs.errors import AccessDenied, DasfsError, NoSpace, NotFound
from dasfs.formats.segments import BlockChecksums
from dasfs.stores.base import MIB

# 100 files of 10 kB for each system call.
CHUNK_SIZE: Final = MIB
# Copying more than this into the buffer costs more than a system call for it.
DIRECT_SIZE: Final = CHUNK_SIZE // 4
# Not /tmp, which is often memory.
DEFAULT_DIRECTORY: Final = "/var/tmp"


class Spool:
    """A file that is written once from start to end, then read; computes its block checksums.

    Raises `NoSpace` when `directory` is full, `NotFound` and `AccessDenied` where no file can be made in it.
    """

    def __init__(self, directory: str = DEFAULT_DIRECTORY) -> None:
        self._directory = directory
        self._checksums = BlockChecksums()
        self._buffer = bytearray()
        self._flushed = 0
        with self._translated():
            self._file: BinaryIO = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115

    @property
    def size(self) -> int:
        return self._flushed + len(self._buffer)

    def write(self, *pieces: bytes | memoryview) -> None:
        """Append the pieces."""
        buffer = self._buffer
        for piece in pieces:
            if len(piece) < DIRECT_SIZE:
                buffer += piece
            else:
                self._flush()
                self._checksums.update(piece)
                self._write_out(piece)
        if len(buffer) >= CHUNK_SIZE:
            self._flush()

    def finish(self, trailer: bytes) -> bytes:
        """Append `trailer` and return the checksums of all blocks before it. Nothing can follow."""
        self._flush()
        block_crcs = self._checksums.finish()
        self._write_out(trailer)
        return block_crcs

    def cut(self) -> bytes:
        """Return the checksums of the blocks since the last cut, or since the start; the next begin here."""
        self._flush()
        block_crcs = self._checksums.finish()
        self._checksums = BlockChecksums()
        return block_crcs

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, after `finish`."""
        parts = []
        with self._translated():
            while size and (part := os.pread(self._file.fileno(), size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """Yield what was written from its start, in pieces of 1 MiB."""
        offset = 0
        with self._translated():
            while chunk := os.pread(self._file.fileno(), CHUNK_SIZE, offset):
                yield chunk
                offset += len(chunk)

    def close(self) -> None:
        self._file.close()

    def _flush(self) -> None:
        self._checksums.update(self._buffer)
        self._write_out(self._buffer)
        self._buffer.clear()

    def _write_out(self, data: bytes | bytearray | memoryview) -> None:
        with self._translated(), memoryview(data) as left:
            written = 0
            while written < len(left):
                written += self._file.write(left[written:])
        self._flushed += len(data)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The door for errors of the local file system."""
        try:
            yield
        except OSError as error:
            kind = _SPOOL_ERRORS.get(error.errno or 0, DasfsError)
            reason = f"can't keep a temporary file in {self._directory}: {error.strerror or error}"
            better = "with more room" if kind is NoSpace else "that exists and can be written to"
            raise kind(reason, hint=f"set TMPDIR to a directory {better}") from error


_SPOOL_ERRORS: Final[dict[int, type[DasfsError]]] = {
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EFBIG: NoSpace,
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.EACCES: AccessDenied,
    errno.EROFS: AccessDenied,
}
