"""The GETs that are under way: one for a block, however many wait for it.

**Concurrency:** all in the trio thread but `Fetch.run`. A GET is a task in the cache's nursery with a time
limit of its own, so that it does not end with its first reader, and does not outlive its usefulness in a
store that hangs.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from dasfs.cache.block_fetch import Fetch, Fetched
from dasfs.cache.block_local import LocalBlocks
from dasfs.cache.block_memory import BlockMemory
from dasfs.cache.block_space import Space
from dasfs.cache.block_table import ABSENT, BlockTable, CachedSegment, stored_size
from dasfs.cache.plan import plan_blocks
from dasfs.errors import DasfsError, DeadlineExceeded, NoSpace, StoreUnavailable
from dasfs.memory import Buffers
from dasfs.stores.base import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Joined:
    """A GET to wait for. `own`: it was begun for whoever waits, who takes its error as the answer."""

    fetch: Fetch
    own: bool


class Flights:
    """Begins GETs and records what they brought. Prefetching has a limit of its own: readers go first."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: Store,
        table: BlockTable,
        local: LocalBlocks,
        space: Space,
        memory: BlockMemory,
        buffers: Buffers,
        *,
        connections: int,
        timeout_s: float,
        max_blocks: int,
    ) -> None:
        self.fetches = self.errors = self.failures = self.bytes_fetched = self.in_flight = 0
        self.max_blocks = max_blocks
        self._nursery = nursery
        self._store = store
        self._table = table
        self._local = local
        self._space = space
        self._memory = memory
        self._buffers = buffers
        self._timeout_s = timeout_s
        self._readers = trio.CapacityLimiter(connections)
        self._prefetchers = trio.CapacityLimiter(max(1, connections // 2))

    def cover(self, segment: CachedSegment, blocks: Sequence[int]) -> list[Joined]:
        """Return the GETs that bring `blocks` (ascending); begin those that nobody began."""
        known = dict.fromkeys(segment.in_flight[block] for block in blocks if block in segment.in_flight)
        for fetch in known:
            fetch.is_wanted = True
        joined = [Joined(fetch, own=False) for fetch in known]
        return joined + [Joined(fetch, own=True) for fetch in self.begin(segment, blocks, prefetch=False)]

    def begin(self, segment: CachedSegment, blocks: Sequence[int], *, prefetch: bool) -> list[Fetch]:
        """Begin the GETs of those `blocks` (ascending) that nobody began."""
        begun: list[Fetch] = []
        missing = [block for block in blocks if block not in segment.in_flight]
        for stretch in plan_blocks(missing, self.max_blocks):
            fetch = Fetch(segment, stretch, segment.tar_key, segment.offset)
            segment.in_flight.update(dict.fromkeys(stretch, fetch))
            self.in_flight += 1
            self._nursery.start_soon(self._fly, fetch, prefetch)
            begun.append(fetch)
        return begun

    async def _fly(self, fetch: Fetch, prefetch: bool) -> None:
        """Do one GET to its end. Whatever happens, who waits for it is told."""
        # What stands when the cache is closed meanwhile.
        fetch.error = StoreUnavailable("the block cache was closed")
        try:
            with trio.move_on_after(self._timeout_s) as limit:
                await self._get(fetch, prefetch)
                fetch.error = None
            if limit.cancelled_caught:
                fetch.error = DeadlineExceeded(f"{fetch.tar_key} was not read within {self._timeout_s:g} s")
        except DasfsError as error:
            fetch.error = error
        except Exception as error:
            log.exception("reading %s failed unexpectedly", fetch.tar_key)
            fetch.error = DasfsError(f"reading {fetch.tar_key} failed: {error!r}")
        finally:
            fetch.abandoned = fetch.result is None
            fetch.file = None
            self.errors += fetch.error is not None
            self.in_flight -= 1
            for block in fetch.blocks:
                del fetch.segment.in_flight[block]
            fetch.done.set()
            fetch.wake()

    async def _get(self, fetch: Fetch, prefetch: bool) -> None:
        segment = fetch.segment
        size = sum(stored_size(block, segment.length) for block in fetch.blocks)
        await self._memory.acquire(fetch.size)
        reserved = kept = False
        try:
            reserved = await self._space.reserve(size)
            if reserved:
                fetch.writable = frozenset(block for block in fetch.blocks if segment.states[block] == ABSENT)
                fetch.file = self._local.writable_file(segment) if fetch.writable else None
            if prefetch and fetch.file is None and not fetch.is_wanted:
                raise NoSpace("the block cache has no room to prefetch")
            fetch.generation = segment.generation
            self.fetches += 1
            self._memory.show(fetch)
            limiter = self._prefetchers if prefetch else self._readers
            token = trio.lowlevel.current_trio_token()
            result = await trio.to_thread.run_sync(self._run, fetch, token, abandon_on_cancel=True, limiter=limiter)
            self._record(fetch, result)
            fetch.result = result
            kept = not result.bad and fetch.generation == segment.generation
        finally:
            if not kept:
                self._memory.hide(fetch)
            if reserved:
                self._space.release(size)
            if not fetch.started:
                self._free(fetch)
        if kept:
            self._memory.keep(fetch)

    def _run(self, fetch: Fetch, token: trio.lowlevel.TrioToken) -> Fetched:
        """Do a GET in a thread. Also when nobody waits for it any more, its memory counts until it ends."""
        fetch.started = True

        def wake() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(fetch.wake)

        try:
            return fetch.run(self._store, self._buffers, wake)
        finally:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(self._free, fetch)

    def _free(self, fetch: Fetch) -> None:
        """Give a GET's memory back, once: one that is given up just as its thread begins is freed by both."""
        if not fetch.is_freed:
            fetch.is_freed = True
            self._memory.release(fetch.size)

    def _record(self, fetch: Fetch, result: Fetched) -> None:
        segment = fetch.segment
        self.bytes_fetched += fetch.size
        self.failures += result.failures
        if result.file_problem is not None:
            self._local.note_trouble(result.file_problem)
        if fetch.generation != segment.generation:
            return
        for block in result.written:
            if segment.states[block] == ABSENT:
                self._table.add(segment, block)
