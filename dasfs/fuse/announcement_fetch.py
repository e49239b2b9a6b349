"""Fetching what was announced: looks up where it lies, and lets the block cache have it, as `announced` decides.

Two tasks an announcement. One walks through its order and fetches what its window lacks. Where it is fetched as a
whole, a second one goes through the dataset in the order of the store, in large pieces; a block that either has, or has
under way, the other leaves alone. Nothing is begun while the window is full, while the store is away, or while readers
that have begun do not go on; what is under way is finished.

**Concurrency:** all in the mount's trio thread; the walk lets others run after every `_PLACES_AT_ONCE` places.
"""

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

import trio

from dasfs.cache.blocks import BlockCache, CachedSegment
from dasfs.cache.catalog import Catalog
from dasfs.cache.index import IndexCache, ManifestView
from dasfs.cache.plan import BLOCK_SIZE, block_span
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import DasfsError, NotFound, ObjectChanged, StoreUnavailable
from dasfs.formats.manifest import Record
from dasfs.formats.segments import Segment
from dasfs.fuse.announced import MIB, Batch, ListOrder, SpanOrder
from dasfs.fuse.announcement import Announcement, Flight, State
from dasfs.names import DatasetKeys

log = logging.getLogger(__name__)

# Stretches under way of what is read next. The block cache bounds their bytes, with all else that is read ahead.
FETCHES: Final = 16
# Pieces under way of a dataset that is fetched as a whole: half of what the block cache reads ahead at once.
FILL_SIZE: Final = 16 * MIB
FILLS: Final = 2
# 1 ms in which nobody else runs.
_PLACES_AT_ONCE: Final = 64
# Of a dataset that is fetched as a whole, blocks come in fours: 1 MiB takes little longer than 256 KiB, and all of it
# is needed.
_WHOLE_GRAIN: Final = 4
# What the store did not give is tried again after this, and then after four times as long.
_TRIES: Final = 3
RETRY_S: Final = 1.0
# How soon it is noticed that readers stopped, or that the store is back.
_LOOK_S: Final = 0.5
# A list is searched for a lost reader so many places at a time: 0.5 ms.
_SEARCH: Final = 32768


class Fetcher:
    """Fetches for all announcements of one mount."""

    def __init__(self, catalog: Catalog, index: IndexCache, blocks: BlockCache) -> None:
        self._catalog = catalog
        self._index = index
        self._blocks = blocks

    async def run(self, announcement: Announcement) -> None:
        """Fetch ahead of the readers of an announcement until cancelled. Raises `NotFound` when its dataset is gone."""
        slots = trio.Semaphore(FETCHES)
        async with trio.open_nursery() as nursery:
            if announcement.whole:
                nursery.start_soon(self._fill, announcement)
            while True:
                announcement.state = self._state(announcement)
                if announcement.is_lost:
                    await _search(announcement)
                elif announcement.state is State.FETCHING and announcement.has_room():
                    await self._plan(announcement, nursery, slots)
                else:
                    with trio.move_on_after(_LOOK_S):
                        await announcement.changed.wait()

    def _state(self, announcement: Announcement) -> State:
        window = announcement.window
        under_way = announcement.flights or (announcement.whole and announcement.filled is not None)
        if announcement.ready == window.count:
            return State.DONE
        if self._catalog.problem is not None:
            return State.AWAY
        if announcement.idle(trio.current_time()):
            return State.IDLE
        return State.FETCHING if under_way or announcement.has_room() else State.WAITING

    async def _plan(self, announcement: Announcement, nursery: trio.Nursery, slots: trio.Semaphore) -> None:
        """Plan the next batch, and begin to fetch it."""
        window, leaps = announcement.window, announcement.window.leaps
        batch: Batch[CachedSegment] = Batch(_WHOLE_GRAIN if announcement.whole else 1)
        with announcement.flight() as flight:
            size, goal, looked_at = 0, announcement.allowed.batch(window), 0
            while size < goal and announcement.allowed.allow(window):
                needs = await self._needs(announcement, announcement.order.number_at(window.planned))
                if window.leaps != leaps:
                    return
                new = sum(batch.add(segment, blocks, len(segment.states)) for segment, blocks in needs) * BLOCK_SIZE
                window.add(new)
                size += new
                looked_at += 1
                if looked_at % _PLACES_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
                    if window.leaps != leaps:
                        return
            for segment, blocks in batch.stretches():
                await slots.acquire()
                if window.leaps != leaps:
                    slots.release()
                    return
                flight.parts += 1
                nursery.start_soon(self._fetch_part, announcement, flight, slots, segment, blocks)
        await trio.lowlevel.checkpoint()

    async def _fetch_part(
        self, announcement: Announcement, flight: Flight, slots: trio.Semaphore, segment: CachedSegment, blocks: range
    ) -> None:
        try:
            await self._fetch(announcement, segment, blocks)
        finally:
            slots.release()
            announcement.land(flight)

    async def _fetch(self, announcement: Announcement, segment: CachedSegment, blocks: range) -> None:
        """Fetch the blocks of a stretch that are not there, and wait until they are."""
        start, end = blocks.start * BLOCK_SIZE, min(blocks.stop * BLOCK_SIZE, segment.length)
        missing = self._blocks.touch(segment, start, end)
        for tries in range(_TRIES):
            if not missing:
                break
            if tries:
                await trio.sleep(RETRY_S * 4 ** (tries - 1))
                await self._held_up(announcement)
            brought = await self._blocks.prefetch(segment, start, end)
            announcement.counts.fetched += brought
            missing = self._blocks.touch(segment, start, end)
        announcement.counts.failed += bool(missing)
        announcement.used = trio.current_time()

    async def _held_up(self, announcement: Announcement) -> None:
        """Return once the store can be read and the readers go on."""
        while self._catalog.problem is not None or announcement.idle(trio.current_time()):
            with trio.move_on_after(_LOOK_S):
                await announcement.changed.wait()

    async def _fill(self, announcement: Announcement) -> None:
        """Fetch all of an announcement in the order of the store."""
        slots = trio.Semaphore(FILLS)

        async def fetch(segment: CachedSegment, blocks: range) -> None:
            try:
                await self._fetch(announcement, segment, blocks)
            finally:
                slots.release()
                assert announcement.filled is not None
                announcement.filled += len(blocks) * BLOCK_SIZE

        order = announcement.order
        snapshot = self._snapshot(announcement)
        spans = order.spans if isinstance(order, SpanOrder) else ((0, snapshot.dataranges[-1].last),)
        async with trio.open_nursery() as nursery:
            for first, last in spans:
                for datarange in snapshot.overlapping(first, last):
                    for segment, blocks in await self._pieces(announcement, datarange, first, last):
                        await self._held_up(announcement)
                        await slots.acquire()
                        nursery.start_soon(fetch, segment, blocks)
        announcement.filled = None
        announcement.wake()

    async def _pieces(
        self, announcement: Announcement, datarange: Datarange, first: int, last: int
    ) -> list[tuple[CachedSegment, range]]:
        """Return the stretches of at most `FILL_SIZE` that hold the datapoints `first..last` of a datarange."""
        begin = await self._record(announcement, max(datarange.first, first))
        end = await self._record(announcement, min(datarange.last, last))
        if begin is None or end is None or begin[1].id != end[1].id:
            return []  # it was deleted meanwhile, or moved: the walk through the order finds it
        (snapshot, view, record), (_, _, final) = begin, end
        most = FILL_SIZE // BLOCK_SIZE
        return [
            (segment, range(start, min(start + most, blocks.stop)))
            for segment, blocks in self._stretches(
                snapshot, view, record.content_offset, final.content_offset + final.stored_size
            )
            for start in range(blocks.start, blocks.stop, most)
        ]

    async def _needs(self, announcement: Announcement, number: int) -> list[tuple[CachedSegment, range]]:
        """Return which blocks hold a datapoint; none where there is no such datapoint, or its manifest can't be had."""
        found = await self._record(announcement, number)
        if found is None:
            return []
        snapshot, view, record = found
        start = record.content_offset
        return list(self._stretches(snapshot, view, start, start + record.stored_size))

    async def _record(self, announcement: Announcement, number: int) -> tuple[Snapshot, ManifestView, Record] | None:
        """Return a datapoint's record with where it was found; None where there is none or it can't be had."""
        problem: DasfsError | None = None
        for tries in range(_TRIES):
            snapshot = self._snapshot(announcement)
            datarange = snapshot.find(number)
            if datarange is None:
                return None  # a gap, which was counted when it was announced, or deleted since
            try:
                view = self._catalog.view_in_memory(snapshot.dataset_id, datarange.id)
                if view is None:
                    view = await self._catalog.view(snapshot, datarange)
                return snapshot, view, self._index.record(view, number - datarange.first)
            except ObjectChanged as error:
                problem = error
                await self._catalog.refresh_now(announcement.dataset)
            except NotFound as error:
                problem = error
                self._catalog.forget_view(snapshot.dataset_id, datarange.id)
            except StoreUnavailable as error:
                problem = error
                await trio.sleep(RETRY_S * 4**tries)
                await self._held_up(announcement)
            except DasfsError as error:
                problem = error
                break
        log.debug("%d of %s can't be fetched ahead: %s", number, announcement.dataset, problem)
        announcement.counts.failed += 1
        return None

    def _snapshot(self, announcement: Announcement) -> Snapshot:
        state = self._catalog.known(announcement.dataset)
        if state is None or state.snapshot.dataset_id != announcement.dataset_id:
            raise NotFound(f"dataset {announcement.dataset} was deleted")
        return state.snapshot

    def _stretches(
        self, snapshot: Snapshot, view: ManifestView, start: int, end: int
    ) -> Iterator[tuple[CachedSegment, range]]:
        """Yield the blocks of each segment that hold `[start, end)` of a TAR object."""
        segments, tar_key = view.segments, DatasetKeys(snapshot.dataset).tar(view.id)
        first = max(bisect_right(segments, start, key=_offset) - 1, 0)
        for each in segments[first : bisect_left(segments, end, key=_offset)]:
            begin, stop = max(start, each.offset) - each.offset, min(end, each.offset + each.length) - each.offset
            if begin < stop:
                yield self._blocks.segment(snapshot.dataset_id, tar_key, each), block_span(begin, stop)


async def _search(announcement: Announcement) -> None:
    """Look for the number that was read last in all of a list, and go on there."""
    order, number = announcement.order, announcement.lost_number
    assert isinstance(order, ListOrder)
    announcement.give_up()
    begin, count = announcement.window.position, len(order)
    for start in (*range(begin, count, _SEARCH), *range(0, begin, _SEARCH)):
        place = order.find(number, start, start + _SEARCH)
        await trio.lowlevel.checkpoint()
        if place is not None:
            announcement.leap(place)
            return


def _offset(segment: Segment) -> int:
    return segment.offset
