"""Where a TAR is packed before it is sent: in memory as long as there is room for it, else in an anonymous local file.

The file has no name, so nothing is left behind when the process dies.

**Concurrency:** a spool is for one thread at a time; what all spools keep in memory is counted for all threads.
"""

import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from dasfs.errors import AccessDenied, DasfsError, NoSpace, NotFound
from dasfs.formats.segments import CHECKSUM_BLOCK_SIZE, BlockChecksums
from dasfs.formats.tar import BLOCK_SIZE
from dasfs.memory import Buffers
from dasfs.stores.base import MIB

# 100 files of 10 kB for each system call.
CHUNK_SIZE: Final = MIB
# What is read back at once: a part of an S3 upload, which is sent from where it stands.
PIECE_SIZE: Final = 16 * MIB
# What the spools of a process may keep in memory: the six dataranges of 64 MiB that a `put` with 4 jobs has at once.
# Through a file, and back, each GB costs 0.35 s of CPU more.
MEMORY_LIMIT: Final = 6 * 64 * MIB
# Not /tmp, which is often memory.
DEFAULT_DIRECTORY: Final = "/var/tmp"

# A chunk with its header and its padding, and what stands before it.
_SMALLEST_WINDOW: Final = 2 * CHUNK_SIZE
# Windows that hold everything have multiples of this, so that the next datarange finds one of its size.
_WINDOW_STEP: Final = 16 * MIB
_SPARE_WINDOWS: Final = 2


class _Memory:
    """What spools may keep in memory, and memory that one has given back for the next."""

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._limit = self._left = limit
        self._buffers = Buffers(_WINDOW_STEP, spare=_SPARE_WINDOWS)

    def take(self, size: int) -> memoryview | None:
        """Return `size` bytes or a little more, if that is left."""
        size = -(-size // _WINDOW_STEP) * _WINDOW_STEP
        with self._lock:
            if size > self._left:
                return None
            self._left -= size
        return self._buffers.take(size)

    def give_back(self, size: int) -> None:
        """Note that a window of `size` bytes is not needed any more. With the last one, all memory is given back."""
        with self._lock:
            self._left += size
            if self._left == self._limit:
                self._buffers.clear()


_memory = _Memory(MEMORY_LIMIT)


class Spool:
    """Bytes that are written once from start to end, then read; computes their block checksums.

    They pass through a window. Where that is as large as everything (`expected_size`) they stay in it; else it is
    written to the file whenever it is full. What needs the file raises `NoSpace` when `directory` is full, `NotFound`
    and `AccessDenied` where no file can be made in it.
    """

    def __init__(self, directory: str = DEFAULT_DIRECTORY, expected_size: int = 0) -> None:
        self._directory = directory
        self._checksums = BlockChecksums()
        window = _memory.take(expected_size) if expected_size > _SMALLEST_WINDOW else None
        self._taken = 0 if window is None else len(window)
        self._window = memoryview(bytearray(_SMALLEST_WINDOW)) if window is None else window
        self._filled = 0  # bytes in the window
        self._summed = 0  # bytes of these that the checksums have seen
        self._flushed = 0  # bytes in the file
        self._file: BinaryIO | None = None

    @property
    def size(self) -> int:
        return self._flushed + self._filled

    def room(self, size: int) -> memoryview:
        """Return where the next bytes go, at most `CHUNK_SIZE` and two blocks; `advance` says that they are there."""
        assert size <= CHUNK_SIZE + 2 * BLOCK_SIZE
        if self._filled + size > len(self._window):
            self._flush()
        return self._window[self._filled : self._filled + size]

    def advance(self, size: int) -> None:
        """Note that `size` bytes were put where `room` said."""
        self._filled += size
        if self._filled - self._summed >= CHECKSUM_BLOCK_SIZE:
            self._sum()

    def write(self, *pieces: bytes | memoryview) -> None:
        """Append the pieces."""
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(view), CHUNK_SIZE):
                part = view[start : start + CHUNK_SIZE]
                self.room(len(part))[:] = part
                self.advance(len(part))

    def finish(self, trailer: bytes) -> bytes:
        """Append `trailer` and return the checksums of all blocks before it. Nothing can follow."""
        block_crcs = self.cut()
        self.write(trailer)
        if self._file is not None:
            self._flush()
        return block_crcs

    def cut(self) -> bytes:
        """Return the checksums of the blocks since the last cut, or since the start; the next begin here."""
        self._sum()
        block_crcs = self._checksums.finish()
        self._checksums = BlockChecksums()
        return block_crcs

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, after `finish`."""
        if self._file is None:
            return bytes(self._window[offset : min(offset + size, self._filled)])
        parts = []
        with self._translated():
            while size and (part := os.pread(self._file.fileno(), size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield what was written from its start, in pieces of 16 MiB."""
        for offset in range(0, self.size, PIECE_SIZE):
            if self._file is None:
                yield self._window[offset : min(offset + PIECE_SIZE, self._filled)]
            else:
                yield self.read(offset, PIECE_SIZE)

    def spill(self) -> None:
        """Move what was written to the file, after `finish`; raises what that raises, and it stays in memory then."""
        if self._file is None:
            self._flush()
            self._free_memory()

    def close(self) -> None:
        self._free_memory()
        if self._file is not None:
            self._file.close()

    def _free_memory(self) -> None:
        # Not released: an upload that was cancelled may still look at it.
        self._window = memoryview(b"")
        _memory.give_back(self._taken)
        self._taken = 0

    def _sum(self) -> None:
        self._checksums.update(self._window[self._summed : self._filled])
        self._summed = self._filled

    def _flush(self) -> None:
        """Write the window to the file."""
        self._sum()
        with self._translated():
            file = self._file or tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
            try:
                left = self._window[: self._filled]
                while left:
                    left = left[file.write(left) :]
            except OSError:
                if file is not self._file:
                    file.close()
                raise
        self._file = file
        self._flushed += self._filled
        self._filled = self._summed = 0

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
