"""One GET of neighbouring blocks: fetch, check, write. What a thread does for the block cache.

**Concurrency:** `Fetch.run` runs in a thread that may be left behind; what it found comes back as a value,
so a thread that nobody waits for any more changes nothing but the file, and there it writes only bytes that
were checked. While it runs, `checked` alone tells the trio thread how far its bytes may be read.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import trio
from isal import isal_zlib

from dasfs.cache.block_files import OpenFile, write_all
from dasfs.cache.block_table import CachedSegment
from dasfs.cache.plan import BLOCK_SIZE, plan_blocks
from dasfs.errors import Corrupt, DasfsError
from dasfs.memory import Buffers
from dasfs.stores.base import Store


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a GET brought, and what became of it."""

    bad: Mapping[int, DasfsError]
    written: tuple[int, ...]
    failures: int  # checks that failed, also those that the second try made good
    file_problem: OSError | None  # why not all was written


@dataclass(slots=True, eq=False)
class Fetch:
    """A GET of `blocks` that is under way. `done` is set when there is a `result` or an `error`.

    What has come is read at once, before the rest is there: `data` begins at the start of the first block, and is right
    up to `checked`, a place in the segment, which the thread moves on.
    """

    segment: CachedSegment
    blocks: range
    # Copies: the segment may move to another object meanwhile.
    tar_key: str
    offset: int
    generation: int = 0
    # The blocks that may be written to the file, and the file.
    writable: frozenset[int] = frozenset()
    file: OpenFile | None = None
    is_wanted: bool = False  # a reader waits for it: also one that can't be kept is worth it then
    started: bool = False  # the thread is at work, or was
    is_freed: bool = False  # its memory does not count any more
    abandoned: bool = False
    data: memoryview | None = None
    checked: int = 0
    result: Fetched | None = None
    error: DasfsError | None = None
    done: trio.Event = field(default_factory=trio.Event)
    _arrivals: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _awaited: int = 0  # how many wait in `_arrivals`
    _seen: int = 0  # blocks that have come
    _suspects: list[int] = field(default_factory=list)

    @property
    def start(self) -> int:
        return self.blocks.start * BLOCK_SIZE

    @property
    def size(self) -> int:
        return self.end_of(self.blocks[-1]) - self.start

    def has(self, block: int) -> bool:
        """Whether a block can be read from `data`."""
        return self.end_of(block) <= self.checked

    def end_of(self, block: int) -> int:
        """Return where a block ends in the segment."""
        return min((block + 1) * BLOCK_SIZE, self.segment.length)

    async def wait_for(self, block: int) -> None:
        """Return once a block can be read, or the GET has ended.

        The last block has to be in the file, too: what one reads as a whole is kept then, whatever comes next.
        """
        if block == self.blocks[-1]:
            await self.done.wait()
            return
        self._awaited += 1  # before the look at `checked`: whoever moves that on looks here afterwards
        try:
            while not self.done.is_set() and not self.has(block):
                await self._arrivals.park()
        finally:
            self._awaited -= 1

    def wake(self) -> None:
        """Let all that wait for a block look again."""
        self._arrivals.unpark_all()

    def run(self, store: Store, buffers: Buffers, wake: Callable[[], None]) -> Fetched:
        """Do it. Blocks. Raises what the store raises.

        A block that is wrong twice does not spoil its neighbours. `wake` is called when blocks have come while somebody
        waits for one.
        """
        data = self.data = buffers.take(self.size)
        # An object that is too short may have some blocks that are whole.
        with suppress(Corrupt):
            store.read_arriving(self.tar_key, self.offset + self.start, data, partial(self.arrive, data, wake))
        suspects = self._suspects + list(self.blocks[self._seen :])
        bad: dict[int, DasfsError] = {}
        for block in suspects:
            problem = self._fetch_again(store, block, data)
            if problem is not None:
                bad[block] = problem
        if not bad:
            self.checked = self.start + self.size
        written, file_problem = self._write(data, bad)
        return Fetched(bad, written, len(suspects), file_problem)

    def arrive(self, data: memoryview, wake: Callable[[], None], size: int) -> None:
        """Check the blocks that are whole now that `size` bytes have come."""
        before = self.checked
        while self._seen < len(self.blocks):
            block = self.blocks[self._seen]
            end = self.end_of(block)
            if end - self.start > size:
                break
            self._seen += 1
            if not self._is_right(block, data):
                self._suspects.append(block)
            elif not self._suspects:
                self.checked = end
        if self.checked != before and self._awaited:
            wake()

    def piece(self, block: int, data: memoryview) -> memoryview:
        """Return the bytes of one block."""
        return data[block * BLOCK_SIZE - self.start : self.end_of(block) - self.start]

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
                end = self.end_of(stretch[-1]) - self.start
                write_all(file.fd, data[first:end], stretch.start * BLOCK_SIZE)
                written += stretch
        except OSError as error:
            return tuple(written), error.with_traceback(None)  # which would keep the file open
        return tuple(written), None
