"""The block cache: fetched pieces of TAR objects in local files, so that each is fetched once.

**Concurrency:** everything runs in one trio thread, but for: the GETs with their checks and writes
(`block_fetch`), the saving of records (`block_table`), giving space back (`block_space`). `read_cached`
waits for nothing: between its look at the states and its `pread` no other task runs, and a block's space is
given back only after its state says LEAVING. A GET is a task of the cache, not of its first reader: readers
come, wait for its event each with its own deadline, and go. Of many readers of a block, one causes a GET. A
GET that takes too long is left behind in its thread; its block is free to be fetched again at once, and the
thread can do no harm: what it writes was checked, its file stays its own, and nothing is recorded.

What is atomic: a block is written, then VERIFIED in memory, then, seconds later, recorded. **A crash**
loses the blocks since the last record (their space is given back by `Space.recover`) and leaves records of
blocks that were evicted since; those read as zeros and fail their CRC-32. After a restart every block
proves its CRC-32 at its first touch. Until a restart it is not checked again, unless `check_always` is set: who
damages a file under a running mount can make it serve wrong bytes.
"""

import copy
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from dasfs.cache.block_fetch import Fetch
from dasfs.cache.block_files import segment_name
from dasfs.cache.block_flights import Flights
from dasfs.cache.block_local import LocalBlocks
from dasfs.cache.block_memory import BlockMemory, ByteBudget
from dasfs.cache.block_space import Space
from dasfs.cache.block_storage import BlockStorage
from dasfs.cache.block_table import ABSENT, PRESENT, VERIFIED, CachedSegment
from dasfs.cache.directory import CacheDirectory
from dasfs.cache.plan import BLOCK_SIZE, block_length, block_span, even_share, plan_blocks
from dasfs.errors import DasfsError, DeadlineExceeded, InvalidInput, NoSpace
from dasfs.formats.segments import Segment
from dasfs.memory import Buffers
from dasfs.stores.base import MIB, Store

__all__ = ["BlockCache", "BlockCacheOptions", "CacheStatistics", "CachedSegment", "open_block_cache"]

log = logging.getLogger(__name__)

# Bytes that nobody changes any more.
Data = bytes | memoryview
# Buffers of the largest GETs that are kept for the next ones: as many as a reader in order gives back at once.
_SPARE_BUFFERS: Final = 2
# A read fetches so much at once: buffers are bounded also when somebody asks for gigabytes.
_WAVE_BLOCKS: Final = 32 * MIB // BLOCK_SIZE
# Times of use are worth less than blocks: they are saved every twelfth time.
_ROUNDS_TO_SAVE_ALL: Final = 12


@dataclass(frozen=True, slots=True)
class BlockCacheOptions:
    """How a block cache behaves. Sizes are bytes."""

    capacity: int
    # Eight of them in parallel carry three times what one does; larger ones make the first reader wait
    # longer.
    max_get_size: int = 8 * MIB
    # What GETs may hold in memory: those under way, and as long as there is room, those that came lately. Half of it is
    # for prefetching, so that readers find room.
    memory: int = 128 * MIB
    # Whether what came lately is read from there.
    keep_recent: bool = True
    # A GET that has not come by then is given up. The store's own deadline should be no longer.
    get_timeout_s: float = 60.0
    # GETs at once for readers; prefetching has half as many of its own.
    connections: int = 32
    open_files: int = 256
    # What a crash may lose. Times of use are saved twelve times as seldom.
    save_interval_s: float = 5.0
    # Check each block at each read, for disks that are not to be trusted: a hit costs a CRC-32 of 256 KiB then.
    check_always: bool = False


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What a block cache did since it was opened, and what it holds. Sizes are bytes.

    `hits` and `misses` count reads, all others what they say.
    """

    hits: int
    misses: int
    bytes_served: int
    # Of those, what was in the cache when it was asked for: no reader waited for the store.
    bytes_saved: int
    bytes_fetched: int
    bytes_used: int
    capacity: int
    blocks: int
    evictions: int
    verification_failures: int
    fetches: int
    fetch_errors: int
    in_flight: int
    # True for a while after a mount that was killed: it may use more of the disk than `capacity` until then.
    recovering: bool


class BlockCache:
    """The block cache of one mount. Made by `open_block_cache`."""

    def __init__(self, nursery: trio.Nursery, store: Store, storage: BlockStorage, options: BlockCacheOptions) -> None:
        self._nursery = nursery
        self._storage = storage
        self._table = storage.table
        self._options = options
        self._space = Space(storage.table, storage.files, options.capacity, recovering=not storage.clean)
        self._local = LocalBlocks(storage.table, storage.files, self._space, always=options.check_always)
        spare = _SPARE_BUFFERS if options.memory >= 4 * _SPARE_BUFFERS * options.max_get_size else 0
        buffers = Buffers(options.max_get_size, spare=spare)
        self._memory = BlockMemory(options.memory - spare * options.max_get_size, keep=options.keep_recent)
        self._flights = Flights(
            nursery,
            store,
            storage.table,
            self._local,
            self._space,
            self._memory,
            buffers,
            connections=options.connections,
            timeout_s=options.get_timeout_s,
            max_blocks=max(1, options.max_get_size // BLOCK_SIZE),
        )
        self._prefetching = ByteBudget(options.memory // 2)
        self._hits = self._misses = self._bytes_served = self._bytes_waited = 0

    def segment(self, dataset_id: str, tar_key: str, segment: Segment) -> CachedSegment:
        """Return the handle to read a segment with. Cheap: some microseconds, and perhaps a point lookup.

        The newest call says where the segment is: when aggregation moved it, call this again with the new
        object, and all handles that are out there read from it.
        """
        identity = _identity(dataset_id, segment)
        cached = self._table.obtain(segment_name(identity), identity, segment.length)
        cached.tar_key, cached.offset = tar_key, segment.offset
        if cached.block_crcs is not segment.block_crcs:
            if cached.block_crcs not in (b"", segment.block_crcs):
                self._table.distrust(cached)
                self._memory.forget(cached)
            cached.block_crcs = segment.block_crcs
        return cached

    def read_cached(self, segment: CachedSegment, start: int, end: int) -> Data | None:
        """Return the bytes `[start, end)` of a segment if all of them are in the cache and right, else None.

        Waits for nothing but the local disk: 5 µs for 64 KiB that the kernel has in memory.
        """
        if not 0 <= start < end <= segment.length:
            _check_range(segment, start, end)
            return b""
        data: Data | None = self._memory.find(segment, start, end)
        if data is None:
            data = self._local.read(segment, start, end)
        else:
            self._local.use(segment, start, end)
        if data is not None:
            self._hits += 1
            self._bytes_served += end - start
        return data

    async def read(self, segment: CachedSegment, start: int, end: int, deadline: float) -> Data:
        """Return the bytes `[start, end)` of a segment, from the cache or the store.

        `deadline` is on trio's clock. Raises `DeadlineExceeded` then, `NotFound` when the object is gone
        (it was moved or deleted: see `segment`), `Corrupt` when bytes are wrong also at the second try, and
        what the store raises.
        """
        data = self.read_cached(segment, start, end)
        if data is not None:
            return data
        self._misses += 1
        window = _Window(segment, start, bytearray(end - start))
        missing = [block for block in block_span(start, end) if not self._copy_local(window, block)]
        for place in range(0, len(missing), _WAVE_BLOCKS):
            await self._copy_fetched(window, missing[place : place + _WAVE_BLOCKS], deadline)
        self._bytes_served += end - start
        self._bytes_waited += sum(last - first for first, last in map(window.overlap, missing))
        return memoryview(window.out)

    async def prefetch(self, segment: CachedSegment, start: int, end: int) -> int:
        """Fetch what is missing of `[start, end)`, in parallel, within the budget; return when it is there.

        Returns how many bytes its own GETs brought. What can't be had is left, without an error. Takes no more than
        half of the cache, so that it does not push out what it brought. When cancelled it begins no more GETs; those
        in flight end by themselves.
        """
        half = self._space.limit // 2 // BLOCK_SIZE * BLOCK_SIZE
        end = min(end, segment.length, start + half)
        begun: list[Fetch] = []
        missing = self._missing(segment, block_span(start, end))
        for stretch in plan_blocks(missing, even_share(len(missing), self._flights.max_blocks)):
            size = len(stretch) * BLOCK_SIZE
            await self._prefetching.acquire(size)
            # Others may have begun some of it while this waited for the budget.
            fetches = self._flights.begin(segment, self._missing(segment, stretch), prefetch=True)
            self._nursery.start_soon(self._release_after, fetches, size)
            begun += fetches
        flying = [segment.in_flight[block] for block in block_span(start, end) if block in segment.in_flight]
        for fetch in dict.fromkeys((*begun, *flying)):
            await fetch.done.wait()
            if fetch.error is not None:
                log.debug("prefetching from %s failed: %s", fetch.tar_key, fetch.error)
        return sum(fetch.size for fetch in begun if fetch.error is None)

    def touch(self, segment: CachedSegment, start: int, end: int) -> int:
        """Count what is here of `[start, end)` as used now; return the bytes of its blocks that are not here."""
        missing, tick = 0, self._table.tick
        for block in block_span(start, end):
            if segment.states[block] in (PRESENT, VERIFIED):
                segment.last_used[block] = tick
            else:
                missing += block_length(block, segment.length)
        if segment.touched != tick:
            self._table.touch(segment)
        return missing

    async def drop(self, dataset_id: str, segment: Segment) -> None:
        """Forget a segment that no dataset needs any more, and free its space. A reader fetches it again."""
        cached = self._table.load(segment_name(_identity(dataset_id, segment)))
        if cached is not None:
            self._memory.forget(cached)
            await self._space.drop(cached)

    @property
    def capacity(self) -> int:
        """How many bytes of blocks there is room for; less than was asked for once the disk was full."""
        return self._space.limit

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            hits=self._hits,
            misses=self._misses,
            bytes_served=self._bytes_served,
            bytes_saved=self._bytes_served - self._bytes_waited,
            bytes_fetched=self._flights.bytes_fetched,
            bytes_used=self._table.used,
            capacity=self._space.limit,
            blocks=-(-self._table.used // BLOCK_SIZE),
            evictions=self._space.evictions,
            verification_failures=self._local.failures + self._flights.failures,
            fetches=self._flights.fetches,
            fetch_errors=self._flights.errors,
            in_flight=self._flights.in_flight,
            recovering=self._space.recovering,
        )

    async def save(self) -> None:
        """Record now what the cache holds. Done regularly and at the end; what fails is tried again then."""
        await self._save(everything=True)

    def _missing(self, segment: CachedSegment, blocks: range) -> list[int]:
        """Return those of `blocks` that are worth a GET: neither here nor in flight, and can be written."""
        return [block for block in blocks if segment.states[block] == ABSENT and block not in segment.in_flight]

    def _copy_local(self, window: "_Window", block: int) -> bool:
        start, end = window.overlap(block)
        data = self._local.read(window.segment, start, end)
        if data is None:
            return False
        window.out[start - window.start : end - window.start] = data
        return True

    async def _copy_fetched(self, window: "_Window", blocks: list[int], deadline: float, *, again: bool = True) -> None:
        """Fetch `blocks` and copy them. A GET that others began and that failed is no answer: try again."""
        failed: list[int] = []
        for joined in self._flights.cover(window.segment, blocks):
            fetch = joined.fetch
            mine = [block for block in blocks if block in fetch.blocks]
            with trio.move_on_at(deadline):
                await fetch.wait_for(mine[-1])
            if not fetch.has(mine[-1]):
                if not fetch.done.is_set():
                    raise DeadlineExceeded(f"{fetch.tar_key} was not read within the deadline")
                if fetch.error is not None and again and not joined.own:
                    failed += mine
                    continue
            for block in mine:
                window.copy_from(fetch, block)
        if failed:
            await self._copy_fetched(window, sorted(failed), deadline, again=False)

    async def _release_after(self, fetches: list[Fetch], size: int) -> None:
        for fetch in fetches:
            await fetch.done.wait()
        self._prefetching.release(size)

    async def run(self) -> None:
        """Do what has to be done in the background, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._space.run)
            nursery.start_soon(self._save_regularly)
            directory = self._storage.directory
            await trio.to_thread.run_sync(directory.remove_discarded, abandon_on_cancel=True)
            if self._space.recovering:
                await self._space.recover()

    async def _save_regularly(self) -> None:
        rounds = 0
        while True:
            await trio.sleep(self._options.save_interval_s)
            rounds += 1
            await self._save(everything=rounds % _ROUNDS_TO_SAVE_ALL == 0)

    async def _save(self, *, everything: bool) -> None:
        try:
            await self._table.flush(everything=everything)
        except NoSpace:
            self._space.note_full_disk()
        except DasfsError as error:
            self._table.note_failure(error)


@dataclass(frozen=True, slots=True)
class _Window:
    """What one read collects: the bytes of `segment` from `start` on."""

    segment: CachedSegment
    start: int
    out: bytearray

    def overlap(self, block: int) -> tuple[int, int]:
        """Return the range in the segment that `block` and the window share."""
        block_start = block * BLOCK_SIZE
        end = min(self.start + len(self.out), block_start + block_length(block, self.segment.length))
        return max(self.start, block_start), end

    def copy_from(self, fetch: Fetch, block: int) -> None:
        """Copy a block that a GET brought; raise its error, or what is wrong with this block."""
        if not fetch.has(block):
            error = fetch.error if fetch.result is None else fetch.result.bad.get(block)
            if error is not None:
                # A new one: several tasks raise it, and each adds its own traceback.
                raise copy.copy(error) from error
        assert fetch.data is not None
        start, end = self.overlap(block)
        self.out[start - self.start : end - self.start] = fetch.data[start - fetch.start : end - fetch.start]


@asynccontextmanager
async def open_block_cache(
    directory: CacheDirectory, store: Store, options: BlockCacheOptions
) -> AsyncIterator[BlockCache]:
    """Open the block cache in `directory` over `store`, and keep it until the block ends.

    A database that is missing, damaged or of another version is built anew, and the files with it. Raises
    `NoSpace`, `AccessDenied`. An exception of the block comes out as it is, in no group.
    """
    storage = await trio.to_thread.run_sync(
        partial(BlockStorage.open, directory, capacity=options.capacity, open_files=options.open_files)
    )
    failure: Exception | None = None
    recovered = False
    try:
        async with trio.open_nursery() as nursery:
            cache = BlockCache(nursery, store, storage, options)
            nursery.start_soon(cache.run)
            try:
                yield cache
            except Exception as error:  # noqa: BLE001  # raised below
                failure = error
            recovered = not cache.statistics().recovering
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
    finally:
        with trio.CancelScope(shield=True):
            await storage.close(recovered=recovered)


def _identity(dataset_id: str, segment: Segment) -> str:
    """Return what names a segment for ever. The length tells two versions of foreign data apart."""
    return f"{dataset_id}/{segment.origin}/{segment.origin_offset}+{segment.length}"


def _check_range(segment: CachedSegment, start: int, end: int) -> None:
    if not 0 <= start <= end <= segment.length:
        raise InvalidInput(f"bytes {start} to {end} are not in a segment of {segment.length}")
