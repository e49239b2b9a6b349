"""The files that blocks are kept in: one sparse file a segment, block n at n * 256 KiB.

    blocks/<2 hex digits>/<32 hex digits>.blk

A file has the length of its segment from the start, so that one that somebody cut off or replaced is told
by its size or its inode. Space is given back by punching holes; where the file system can't, by deleting
whole files.

**Concurrency:** methods that take a `CachedSegment` are for the trio thread; `punch`, `remove`, `scan` are
for threads.
"""

import ctypes
import errno
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from dasfs.cache.plan import BLOCK_SIZE, plan_blocks

if TYPE_CHECKING:
    from dasfs.cache.block_table import CachedSegment

log = logging.getLogger(__name__)

_SUFFIX: Final = ".blk"
# fallocate(2)
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.fallocate.restype = ctypes.c_int


class OpenFile:
    """A file descriptor that is closed when nobody holds it any more.

    A thread that was left behind may still write into a file that the cache has closed since. If it held a
    bare number, that would be another file's by then.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class BlockFiles:
    """The block files below `root`, of which at most `max_open` are kept open."""

    def __init__(self, root: str, *, max_open: int = 256) -> None:
        os.makedirs(root, mode=0o700, exist_ok=True)
        self._root = root
        self._max_open = max_open
        self._open: OrderedDict[str, CachedSegment] = OrderedDict()
        self.can_punch = self._probe_punch()

    def open(self, segment: "CachedSegment") -> OpenFile | None:
        """Return the open file of a segment, or None where there is none that can be trusted.

        A file that is not the one that this process knew is taken, but its inode tells: see
        `CachedSegment.inode`. Raises `OSError`.
        """
        if segment.file is not None:
            return segment.file
        try:
            file = OpenFile(os.open(self._path(segment.name), os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            return None
        return self._adopt(segment, file) if os.fstat(file.fd).st_size == segment.length else None

    def create(self, segment: "CachedSegment") -> OpenFile:
        """Make an empty file for a segment, in place of one that may be there. Raises `OSError`."""
        path = self._path(segment.name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        self.close(segment)
        with suppress(FileNotFoundError):
            os.unlink(path)
        file = OpenFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.ftruncate(file.fd, segment.length)
        segment.inode = 0
        return self._adopt(segment, file)

    def close(self, segment: "CachedSegment") -> None:
        segment.file = None
        self._open.pop(segment.name, None)

    def close_all(self) -> None:
        for segment in list(self._open.values()):
            self.close(segment)

    def punch(self, name: str, blocks: Iterable[int]) -> None:
        """Give the space of `blocks` (ascending) back; they read as zeros then. Raises `OSError`."""
        try:
            file = OpenFile(os.open(self._path(name), os.O_WRONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return
        for stretch in plan_blocks(blocks, 1 << 20):
            _punch(file.fd, stretch.start * BLOCK_SIZE, len(stretch) * BLOCK_SIZE)

    def remove(self, name: str) -> None:
        """Delete a file. Raises `OSError`."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def scan(self) -> Iterator[list[str]]:
        """Yield the names of all segments that have a file, one directory after the other."""
        for directory in sorted(os.listdir(self._root)):
            with suppress(NotADirectoryError):
                files = os.listdir(os.path.join(self._root, directory))
                yield [file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX)]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}{_SUFFIX}"

    def _adopt(self, segment: "CachedSegment", file: OpenFile) -> OpenFile:
        segment.file = file
        self._open[segment.name] = segment
        if len(self._open) > self._max_open:
            # The one opened first, though it may be in use: opening it again is 10 µs, keeping a strict
            # order more.
            _, oldest = self._open.popitem(last=False)
            oldest.file = None
        return file

    def _probe_punch(self) -> bool:
        path = os.path.join(self._root, "probe")
        file = OpenFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        try:
            os.ftruncate(file.fd, BLOCK_SIZE)
            if can_punch(file.fd):
                return True
        finally:
            os.unlink(path)
        log.info("the file system of %s can't punch holes: whole segments are evicted", self._root)
        return False


def can_punch(fd: int) -> bool:
    """Return whether a file, of at least one block, can give space back; its first block is lost. Raises `OSError`."""
    try:
        _punch(fd, 0, BLOCK_SIZE)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return False
    return True


def segment_name(identity: str) -> str:
    """Return the name of the file that holds a segment's blocks: 32 hex digits, evenly spread."""
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`. Raises `OSError`."""
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _punch(fd: int, offset: int, length: int) -> None:
    if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
