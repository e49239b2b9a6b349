"""The block cache: fetched pieces of TAR objects in local files, so that each is fetched once.

**Concurrency:** everything runs in one trio thread, but for: the GETs with their checks and writes (`block_fetch`), the
saving of records (`block_table`), giving space back (`block_space`). `read_cached` waits for nothing: between its look at
the states and its `pread` no other task runs, and a block's space is given back only after its state says LEAVING. A GET
is a task of the cache, not of its first reader: readers come, wait for its event each with its own deadline, and go. Of
many readers of a block, one causes a GET. A GET that takes too long is left behind in its thread; its block is free
to be fetched again at once, and the thread can do no harm: what it writes was checked, its file stays its own, and nothing
is recorded.

What is atomic: a block is written, then VERIFIED in memory, then, seconds later, recorded. **A crash** loses the blocks
since the last record (their space is given back by `Space.recover`) and leaves records of blocks that were evicted since;
those read as zeros and fail their CRC-32. After a restart every block proves its CRC-32 at its first touch. Until a
restart it is not checked again: who damages a file under a running mount can make it serve wrong bytes.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import trio

from dasfs.cache.block_fetch import ByteBudget, Fetch, Fetched
from dasfs.cache.block_files import BlockFiles, segment_name
from dasfs.cache.block_schema import BlockDatabase, StartValues
from dasfs.cache.block_space import Space
from dasfs.cache.block_table import ABSENT, PRESENT, VERIFIED, BlockTable, CachedSegment
from dasfs.cache.database import remove_database
from dasfs.cache.directory import CacheDirectory
from dasfs.cache.plan import BLOCK_SIZE, block_length, block_span, plan_blocks
from dasfs.errors import Corrupt, DasfsError, DeadlineExceeded, InvalidInput, NoSpace
from dasfs.formats.segments import Segment
from dasfs.stores.base import MIB, Store

__all__ = ["BlockCache", "BlockCacheOptions", "CacheStatistics", "CachedSegment", "open_block_cache"]

log = logging.getLogger(__name__)

_DATABASE: Final = "blocks.db"
_FILES: Final = "blocks"
# A read fetches so much at once: buffers are bounded also when somebody asks for gigabytes.
_WAVE_BLOCKS: Final = 32 * MIB // BLOCK_SIZE
# How long the last save may hold up an unmount.
_CLOSE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class BlockCacheOptions:
    """How a block cache behaves. Sizes are bytes."""

    capacity: int
    # Eight of them in parallel carry three times what one does; larger ones make the first reader wait longer.
    max_get_size: int = 8 * MIB
    prefetch_budget: int = 64 * MIB
    # A GET that has not come by then is given up. The store's own deadline should be no longer.
    get_timeout_s: float = 60.0
    # GETs at once for readers; prefetching has half as many of its own.
    connections: int = 32
    open_files: int = 256
    # What a crash may lose. Times of use are saved twelve times as seldom.
    save_interval_s: float = 5.0


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What a block cache did since it was opened, and what it holds. Sizes are bytes.

    `hits` and `misses` count reads, all others what they say.
    """

    hits: int
    misses: int
    bytes_served: int
    bytes_fetched: int
    bytes_used: int
    capacity: int
    blocks: int
    evictions: int
    verification_failures: int
    fetches: int
    fetch_errors: int
    in_flight: int


class BlockCache:
    """The block cache of one mount. Made by `open_block_cache`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: Store,
        table: BlockTable,
        files: BlockFiles,
        options: BlockCacheOptions,
    ) -> None:
        self._nursery = nursery
        self._store = store
        self._table = table
        self._files = files
        self._options = options
        self._space = Space(table, files, options.capacity)
        self._readers = trio.CapacityLimiter(options.connections)
        self._prefetchers = trio.CapacityLimiter(max(1, options.connections // 2))
        self._budget = ByteBudget(options.prefetch_budget)
        self._file_trouble = False
        self._hits = self._misses = self._bytes_served = self._bytes_fetched = 0
        self._failures = self._fetches = self._fetch_errors = self._in_flight = 0

    def segment(self, dataset_id: str, tar_key: str, segment: Segment) -> CachedSegment:
        """Return the handle to read a segment with. Cheap: some microseconds, and no I/O if it was used lately.

        The newest call says where the segment is: when aggregation moved it, call this again with the new object, and all
        handles that are out there read from it.
        """
        identity = f"{dataset_id}/{segment.origin}/{segment.origin_offset}+{segment.length}"
        name = segment_name(identity)
        cached = self._table.obtain(name, identity, segment.length)
        cached.tar_key, cached.offset = tar_key, segment.offset
        if cached.block_crcs is not segment.block_crcs:
            if cached.block_crcs not in (b"", segment.block_crcs):
                self._table.distrust(cached)
            cached.block_crcs = segment.block_crcs
        return cached

    def read_cached(self, segment: CachedSegment, start: int, end: int) -> bytes | None:
        """Return the bytes `[start, end)` of a segment if all of them are in the cache and right, else None.

        Waits for nothing but the local disk: 5 µs for 64 KiB that the kernel has in memory.
        """
        if not 0 <= start < end <= segment.length:
            return _empty_range(segment, start, end)
        states, last_used, tick = segment.states, segment.last_used, self._table.tick
        for block in range(start // BLOCK_SIZE, (end - 1) // BLOCK_SIZE + 1):
            if states[block] != VERIFIED and not self._verify(segment, block):
                return None
            last_used[block] = tick
        if segment.touched != tick:
            self._table.touch(segment)
        data = self._pread(segment, start, end)
        if data is not None:
            self._hits += 1
            self._bytes_served += end - start
        return data

    async def read(self, segment: CachedSegment, start: int, end: int, deadline: float) -> bytes:
        """Return the bytes `[start, end)` of a segment, from the cache or the store.

        `deadline` is on trio's clock. Raises `DeadlineExceeded` then, `NotFound` when the object is gone (it was moved or
        deleted: see `segment`), `Corrupt` when bytes are wrong also at the second try, and what else the store raises.
        """
        data = self.read_cached(segment, start, end)
        if data is not None:
            return data
        self._misses += 1
        out = bytearray(end - start)
        missing = [block for block in block_span(start, end) if not self._copy_cached(segment, block, start, out)]
        for place in range(0, len(missing), _WAVE_BLOCKS):
            await self._read_missing(segment, missing[place : place + _WAVE_BLOCKS], start, out, deadline)
        self._bytes_served += end - start
        return bytes(out)

    async def prefetch(self, segment: CachedSegment, start: int, end: int) -> None:
        """Fetch what is missing of `[start, end)`, in parallel, within the budget; return when it is there.

        Never raises for the store's sake: what can't be had is left. Never takes more than half of the cache, so that it
        does not push out what it brought. Cancelled, it begins no more GETs; those in flight end by themselves.
        """
        end = min(end, segment.length, start + self._options.capacity // 2 // BLOCK_SIZE * BLOCK_SIZE)
        wanted = [block for block in block_span(start, end) if self._is_missing(segment, block)]
        begun: list[Fetch] = []
        for stretch in plan_blocks(wanted, self._max_blocks):
            size = len(stretch) * BLOCK_SIZE
            await self._budget.acquire(size)
            # Others may have begun some of it while this waited for the budget.
            still = [block for block in stretch if self._is_missing(segment, block)]
            gets = [self._begin(segment, each, self._prefetchers) for each in plan_blocks(still, self._max_blocks)]
            begun += gets
            self._nursery.start_soon(self._release_after, gets, size)
        for fetch in begun:
            await fetch.done.wait()
            if fetch.error is not None:
                log.debug("prefetching from %s failed: %s", fetch.tar_key, fetch.error)

    async def drop(self, dataset_id: str, segment: Segment) -> None:
        """Forget a segment that no dataset needs any more, and free its space. Readers of it would fetch it again."""
        name = segment_name(f"{dataset_id}/{segment.origin}/{segment.origin_offset}+{segment.length}")
        cached = self._table.load(name)
        if cached is not None:
            await self._space.drop(cached)

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            hits=self._hits,
            misses=self._misses,
            bytes_served=self._bytes_served,
            bytes_fetched=self._bytes_fetched,
            bytes_used=self._table.used,
            capacity=self._space.limit,
            blocks=-(-self._table.used // BLOCK_SIZE),
            evictions=self._space.evictions,
            verification_failures=self._failures,
            fetches=self._fetches,
            fetch_errors=self._fetch_errors,
            in_flight=self._in_flight,
        )

    @property
    def _max_blocks(self) -> int:
        return max(1, self._options.max_get_size // BLOCK_SIZE)
