"""One GET of neighbouring blocks: fetch, check, write. What a thread does for the block cache.

**Concurrency:** `Fetch.run` runs in a thread that may be left behind; what it found comes back as a value,
so a thread that nobody waits for any more changes nothing but the file, and there it writes only bytes that
were checked.
"""

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import trio
from isal import isal_zlib

from dasfs.cache.block_files import OpenFile, write_all
from dasfs.cache.block_table import CachedSegment
from dasfs.cache.plan import BLOCK_SIZE, block_length, plan_blocks
from dasfs.errors import Corrupt, DasfsError
from dasfs.stores.base import Store

_HUGE_PAGE: Final = 2 << 20  # where the kernel gives them, a buffer costs four page faults instead of 2,048


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a GET brought. `data` begins at the start of its first block."""

    data: memoryview
    bad: Mapping[int, DasfsError]
    written: tuple[int, ...]
    failures: int  # checks that failed, also those that the second try made good
    file_problem: OSError | None  # why not all was written


@dataclass(slots=True, eq=False)
class Fetch:
    """A GET of `blocks` that is under way. `done` is set when there is a `result` or an `error`."""

    segment: CachedSegment
    blocks: range
    # Copies: the segment may move to another object meanwhile.
    tar_key: str
    offset: int
    generation: int = 0
    # The blocks that may be written to the file, and the file.
    writable: frozenset[int] = frozenset()
    file: OpenFile | None = None
    started: bool = False  # the thread is at work, or was
    is_freed: bool = False  # its memory does not count any more
    abandoned: bool = False
    result: Fetched | None = None
    error: DasfsError | None = None
    done: trio.Event = field(default_factory=trio.Event)

    @property
    def start(self) -> int:
        return self.blocks.start * BLOCK_SIZE

    @property
    def size(self) -> int:
        return min(self.blocks.stop * BLOCK_SIZE, self.segment.length) - self.start

    def run(self, store: Store) -> Fetched:
        """Do it. Blocks. Raises what the store raises.

        A block that is wrong twice does not spoil its neighbours.
        """
        data = _buffer(self.size)
        try:
            store.read_into(self.tar_key, self.offset + self.start, data)
            suspects = [block for block in self.blocks if not self._is_right(block, data)]
        except Corrupt:
            suspects = list(self.blocks)  # the object is too short: some blocks may be whole
        bad: dict[int, DasfsError] = {}
        for block in suspects:
            problem = self._fetch_again(store, block, data)
            if problem is not None:
                bad[block] = problem
        written, file_problem = self._write(data, bad)
        return Fetched(data, bad, written, len(suspects), file_problem)

    def piece(self, block: int, data: memoryview) -> memoryview:
        """Return the bytes of one block."""
        place = block * BLOCK_SIZE - self.start
        return data[place : place + block_length(block, self.segment.length)]

    def _is_right(self, block: int, data: memoryview) -> bool:
        return isal_zlib.crc32(self.piece(block, data)) == self.segment.crc(block)

    def _fetch_again(self, store: Store, block: int, data: memoryview) -> DasfsError | None:
        try:
            store.read_into(self.tar_key, self.offset + block * BLOCK_SIZE, self.piece(block, data))
        except DasfsError as error:
            return error
        if self._is_right(block, data):
            return None
        start = self.offset + block * BLOCK_SIZE
        return Corrupt(f"{self.tar_key}: the bytes from {start} on do not match their checksum")

    def _write(self, data: memoryview, bad: Mapping[int, DasfsError]) -> tuple[tuple[int, ...], OSError | None]:
        written: list[int] = []
        file = self.file
        if file is None or self.abandoned:
            return (), None
        try:
            if os.fstat(file.fd).st_size != self.segment.length:
                return (), None
            good = [block for block in self.blocks if block in self.writable and block not in bad]
            for stretch in plan_blocks(good, len(self.blocks)):
                first = stretch.start * BLOCK_SIZE - self.start
                last = self.piece(stretch[-1], data)
                end = stretch[-1] * BLOCK_SIZE - self.start + len(last)
                write_all(file.fd, data[first:end], stretch.start * BLOCK_SIZE)
                written += stretch
        except OSError as error:
            return tuple(written), error.with_traceback(None)  # which would keep the file open
        return tuple(written), None


def _buffer(size: int) -> memoryview:
    """Return a buffer whose pages come when they are written to: clearing 8 MiB first would hold up other threads."""
    pages = mmap.mmap(-1, size)
    if size >= _HUGE_PAGE:
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)
