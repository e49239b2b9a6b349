"""The room of the block cache: how much it may hold, and what goes when there is no more.

The least recently used blocks go, about 5 % of the cache at once, so that looking at all times of use (a
second in the background for 1 TB) is paid once for many blocks. The order is approximate: see `plan.py`.

**Concurrency:** runs in the trio thread, with SQL and file operations in threads. One lock: at any time one
task evicts, drops or recovers. A block is LEAVING from the moment it is chosen until its space is back: it
is not read, and what is fetched meanwhile is not written. A kill between the two leaves a record whose
CRC-32 check fails.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from dasfs.cache.block_files import BlockFiles
from dasfs.cache.block_schema import SegmentRow
from dasfs.cache.block_table import ABSENT, BlockTable, CachedSegment, bytes_used
from dasfs.cache.plan import BLOCK_SIZE, Evictions, choose_evictions, count_ticks, find_victims, has_victims

log = logging.getLogger(__name__)

# Eviction begins before the cache is full, so that nobody waits for it: 256 MiB arrive in a quarter of a
# second.
_MAX_HEADROOM: Final = 256 << 20
# After the disk was full, hold less for a while: whoever filled it may be gone then.
_SHRUNK_S: Final = 300.0
_SEGMENTS_AT_ONCE: Final = 64


class Space:
    """The room of one cache of `capacity` bytes."""

    def __init__(self, table: BlockTable, files: BlockFiles, capacity: int, *, recovering: bool) -> None:
        self.capacity = capacity
        self.reserved = 0  # bytes that GETs in flight will write
        self.evictions = 0
        self.recovering = recovering
        self._table = table
        self._files = files
        self._lock = trio.Lock()
        self._pressure = trio.Event()
        self._shrunk_to = 0
        self._shrunk_until = float("-inf")

    @property
    def limit(self) -> int:
        """How many bytes the cache may hold now."""
        if trio.current_time() < self._shrunk_until:
            return min(self.capacity, self._shrunk_to)
        return self.capacity

    async def reserve(self, size: int) -> bool:
        """Make room for `size` bytes to be written; False if there can't be. `release` them afterwards."""
        if not self._fits(size) and size <= self.limit:
            async with self._lock:
                if not self._fits(size):
                    await self._evict(self._excess(size, self.limit))
        if not self._fits(size):
            return False
        self.reserved += size
        self._check_pressure()
        return True

    def release(self, size: int) -> None:
        """End a reservation, after what was written was recorded."""
        self.reserved -= size
        self._check_pressure()

    def note_full_disk(self) -> None:
        """Hold at most half of what there is now, for a while."""
        shrunk = trio.current_time() < self._shrunk_until
        if shrunk and self._table.used > self._shrunk_to:
            return  # the eviction is under way
        if not shrunk:
            log.warning("the cache's disk is full: the block cache holds at most %d MiB now", self._table.used >> 21)
        self._shrunk_to = self._table.used // 2
        self._shrunk_until = trio.current_time() + _SHRUNK_S
        self._pressure.set()

    async def run(self) -> None:
        """Keep some room free, until cancelled."""
        self._check_pressure()
        while True:
            await self._pressure.wait()
            self._pressure = trio.Event()
            async with self._lock:
                limit = self.limit
                await self._evict(self._excess(0, limit - _headroom(limit)))

    async def drop(self, segment: CachedSegment) -> None:
        """Give up all of a segment."""
        async with self._lock:
            await self._give_up([(segment, range(len(segment.states)))], drop=True)

    async def recover(self) -> None:
        """Give back the space of what no record knows, after the last mount was killed."""
        scan = self._files.scan()
        try:
            while (names := await trio.to_thread.run_sync(next, scan, None)) is not None:
                for name in names:
                    async with self._lock:
                        await self._recover_file(name)
        except OSError as error:
            log.warning("what a killed mount left in the block cache was not all found: %s", error)
        self.recovering = False

    async def _recover_file(self, name: str) -> None:
        segment = self._table.load(name)
        if segment is None:
            self._files.remove(name)  # inline: nobody can begin to use it meanwhile
            return
        absent = [block for block, state in enumerate(segment.states) if state == ABSENT]
        unknown = [block for block in absent if block not in segment.in_flight]
        if unknown and self._files.can_punch:
            await self._give_up([(segment, unknown)])

    def _fits(self, size: int) -> bool:
        return self._table.used + self.reserved + size <= self.limit

    def _excess(self, size: int, limit: int) -> int:
        """Return the bytes that have to go so that there is room for `size`, and some more."""
        return self._table.used + self.reserved + size - (limit - limit // 20)

    def _check_pressure(self) -> None:
        if self._table.used + self.reserved > self.limit - _headroom(self.limit):
            self._pressure.set()

    async def _evict(self, wanted: int) -> None:
        """Give up the `wanted` bytes that were used longest ago, or what there is. Needs the lock."""
        if wanted <= 0:
            return
        whole = not self._files.can_punch
        recent = self._table.unrecorded()
        skip = frozenset(segment.name for segment in recent)
        ticks: Counter[int] = Counter()
        for segment in recent:
            ticks.update(count_ticks(segment.states, segment.last_used, whole=whole))
        counts = self._table.pages(partial(_count_page, skip=skip, whole=whole))
        while (counted := await self._table.advance(counts)) is not None:
            ticks.update(counted)
        choice = choose_evictions(ticks, -(-wanted // BLOCK_SIZE))
        goal = self._table.used - wanted
        choice = await self._evict_from(recent, choice)
        pages = self._table.pages(partial(_find_names, skip=skip, choice=choice))
        while self._table.used > goal and (names := await self._table.advance(pages)) is not None:
            known = [self._table.load(name) for name in names]
            choice = await self._evict_from([each for each in known if each is not None], choice)

    async def _evict_from(self, segments: Sequence[CachedSegment], choice: Evictions) -> Evictions:
        """Give up what `choice` says of `segments`; return what is left to choose."""
        whole = not self._files.can_punch
        for start in range(0, len(segments), _SEGMENTS_AT_ONCE):
            batch: list[tuple[CachedSegment, Sequence[int]]] = []
            for segment in segments[start : start + _SEGMENTS_AT_ONCE]:
                blocks, ties = find_victims(segment.states, segment.last_used, choice, whole=whole)
                choice = Evictions(choice.before, max(0, choice.ties - ties))
                self.evictions += len(blocks)
                if blocks:
                    batch.append((segment, blocks))
            await self._give_up(batch)
        return choice

    async def _give_up(self, batch: Iterable[tuple[CachedSegment, Sequence[int]]], *, drop: bool = False) -> None:
        """Give blocks and their space back, and the file with the last of them. Needs the lock.

        With `drop` the file goes in any case, and what is in flight will not be written or recorded.
        """
        leaving: list[_Leaving] = []
        for segment, blocks in batch:
            size = self._table.begin_leaving(segment, blocks)
            remove = drop or not (bytes_used(segment) or (segment.in_flight and self._files.can_punch))
            if remove:
                blocks = range(len(segment.states))
                self._table.begin_leaving(segment, blocks)
                segment.generation += 1
                self._files.close(segment)
            leaving.append(_Leaving(segment, blocks, size, remove))
        # Shielded: blocks that stay LEAVING would never be cached again. It is bounded by the batch.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._free, leaving)
        for each in leaving:
            self._table.end_leaving(each.segment, each.blocks, each.size)

    def _free(self, batch: Sequence["_Leaving"]) -> None:
        for each in batch:
            try:
                if each.remove:
                    self._files.remove(each.segment.name)
                else:
                    self._files.punch(each.segment.name, each.blocks)
            except OSError as error:
                log.warning("the space of segment %s can't be given back: %s", each.segment.identity, error.strerror)


@dataclass(frozen=True, slots=True)
class _Leaving:
    """Blocks whose space is given back: `size` bytes. `remove`: the whole file goes."""

    segment: CachedSegment
    blocks: Sequence[int]
    size: int
    remove: bool


def _headroom(limit: int) -> int:
    return min(limit // 32, _MAX_HEADROOM)


def _count_page(page: list[SegmentRow], *, skip: frozenset[str], whole: bool) -> Counter[int]:
    ticks: Counter[int] = Counter()
    for row in page:
        if row.name not in skip:
            ticks.update(count_ticks(row.states, memoryview(row.last_used).cast("I"), whole=whole))
    return ticks


def _find_names(page: list[SegmentRow], *, skip: frozenset[str], choice: Evictions) -> list[str]:
    """Return the segments of a page that may have anything that has to go."""
    return [
        row.name
        for row in page
        if row.name not in skip and has_victims(row.states, memoryview(row.last_used).cast("I"), choice)
    ]
