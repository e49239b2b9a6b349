"""The announcements of one mount: what is announced, replaced, cancelled and forgotten, and who may have how much.

- An announcement ends when another of the same dataset and name comes, when it is cancelled, and when for `EXPIRY_S`
  nothing was read or fetched for it. What was fetched stays in the block cache.
- All that was announced together may fill the block cache if it fits; if not, each has its share of half of it, so that
  what was fetched is not pushed out before it is read.

**Concurrency:** everything runs in the mount's trio thread. `note` waits for nothing; the tasks that fetch live in the
mount's nursery.
"""

import itertools
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from dasfs.cache.blocks import BlockCache
from dasfs.cache.catalog import Catalog, DatasetState
from dasfs.cache.index import IndexCache
from dasfs.cache.plan import BLOCK_SIZE
from dasfs.dataset.model import Snapshot
from dasfs.errors import Conflict, DasfsError, InvalidInput, NotFound
from dasfs.fuse.announced import Limits, ListOrder, Order, SpanOrder, count_gaps, covers
from dasfs.fuse.announcement import Announcement, Counts
from dasfs.fuse.announcement_fetch import Fetcher
from dasfs.fuse.order import SnapshotOrder
from dasfs.names import MAX_NUMBER

log = logging.getLogger(__name__)

# Longer than what most jobs do between two epochs.
EXPIRY_S: Final = 600.0
# As many as eight jobs of eight ranks have.
MAX_ANNOUNCEMENTS: Final = 64
MAX_NAME: Final = 64
# 8 bytes each, for all announcements together.
MAX_NUMBERS: Final = 8 << 20
# The window looks at each place, and remembers 8 bytes of it.
MAX_PLACES: Final = 256 << 10
# Of a dataset that is fetched as a whole, only what is read in the next seconds is fetched out of its turn.
WHOLE_PLACES: Final = 2048
# Of the block cache: the rest is what eviction keeps free, and room for what else is read.
FITS: Final = 0.9


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers `first..last` of a dataset, as many of them as there are."""

    first: int = 0
    last: int = MAX_NUMBER


class Announcements:
    """What was announced to one mount."""

    def __init__(
        self, nursery: trio.Nursery, catalog: Catalog, index: IndexCache, blocks: BlockCache, *, only: str | None = None
    ) -> None:
        self._only = only
        self._nursery = nursery
        self._catalog = catalog
        self._blocks = blocks
        self._fetcher = Fetcher(catalog, index, blocks)
        self._live: dict[tuple[str, str], Announcement] = {}
        self._of: dict[str, tuple[Announcement, ...]] = {}
        self._past = Counts()
        self._next_id = itertools.count(1)

    @property
    def live(self) -> Sequence[Announcement]:
        return tuple(self._live.values())

    @property
    def totals(self) -> Counts:
        """What came of all announcements since the mount began."""
        totals = Counts()
        for counts in (self._past, *(each.counts for each in self._live.values())):
            totals.add(counts)
        return totals

    def describe(self) -> list[dict[str, Any]]:
        """Return what the status shows."""
        return [each.describe() for each in self._live.values()]

    def note(self, dataset: str, number: int) -> None:
        """Take note that a datapoint is read. Costs a microsecond where its dataset was announced."""
        for each in self._of.get(dataset, ()):
            each.note(number, trio.current_time())

    async def announce(self, dataset: str, wanted: "Numbers | array[int]", name: str = "") -> Announcement:
        """Begin to fetch what will be read of a dataset, in the order of `wanted`.

        Saying the same again changes nothing. Raises `NotFound`, `InvalidInput` and `Conflict` (too much is announced
        already), and what the store raises.
        """
        state = await self.find(dataset)
        if len(name) > MAX_NAME or not name.isprintable():
            raise InvalidInput(
                f"{name[:MAX_NAME]!r} can't be a name", hint=f"give at most {MAX_NAME} printable characters"
            )
        snapshot = state.snapshot
        if isinstance(wanted, Numbers):
            order: Order = SpanOrder.of(snapshot, wanted.first, wanted.last)
            gaps = wanted.last - wanted.first + 1 - len(order) if wanted != Numbers() else 0
        else:
            self._check_room(len(wanted), self._live.get((dataset, name)))
            gaps = await trio.to_thread.run_sync(count_gaps, snapshot, wanted)
            order = ListOrder(wanted)
        if len(order) == (0 if isinstance(wanted, Numbers) else gaps):
            raise NotFound(f"{dataset} has none of the datapoints that were announced")
        return self._begin(snapshot, order, name, gaps=gaps)

    def follow(self, snapshot: Snapshot, order: Order, name: str) -> None:
        """Fetch ahead of readers who read in `order`, as far as their reads make it worth it.

        For those who read through a directory that has an order of its own. Costs nothing where it is known already.
        """
        known = self._live.get((snapshot.dataset, name))
        if known is None or known.order is not order:
            try:
                self._begin(snapshot, order, name, follows=True)
            except DasfsError as error:
                log.debug("%s is not fetched ahead: %s", snapshot.dataset, error)

    def follow_snapshot(self, order: SnapshotOrder) -> None:
        """Fetch ahead of those who read a snapshot in a seeded order; see `follow`."""
        self.follow(order.snapshot, order, f"revision {order.snapshot.revision}, seed {order.indexes.seed}")

    async def find(self, dataset: str) -> DatasetState:
        """Return a dataset that can be announced. Raises `NotFound`, `InvalidInput`, and what the store raises."""
        state = await self._catalog.dataset(dataset) if self._only in (None, dataset) else None
        if state is None:
            raise NotFound(f"this mount shows no dataset {dataset}")
        return state

    def look(self, dataset: str, number: int) -> Announcement:
        """Return an announcement by its id for somebody who waits for it, which keeps it going. Raises `NotFound`."""
        for each in self._live.values():
            if (each.dataset, each.id) == (dataset, number):
                each.asked_at = each.used = trio.current_time()
                return each
        raise NotFound(f"announcement {number} of {dataset} was replaced or cancelled, or has expired")

    def cancel(self, dataset: str, name: str | None = None, number: int | None = None) -> int:
        """Drop what was announced of a dataset, where given only that name and that id; return how many that were.

        No more is begun; what is under way is finished.
        """
        found = [
            each
            for each in self._live.values()
            if each.dataset == dataset and name in (None, each.name) and number in (None, each.id)
        ]
        for each in found:
            self._end(each)
        return len(found)

    def _begin(
        self, snapshot: Snapshot, order: Order, name: str, *, gaps: int = 0, follows: bool = False
    ) -> Announcement:
        key = (snapshot.dataset, name)
        known = self._live.get(key)
        if known is not None and known.dataset_id == snapshot.dataset_id and known.order == order:
            known.used = trio.current_time()
            return known
        self._check_room(len(order) if isinstance(order, ListOrder) else 0, known)
        if known is not None:
            self._end(known)
        expected = _expected(snapshot, order)
        announcement = Announcement(
            next(self._next_id),
            *(snapshot.dataset, snapshot.dataset_id, name, order),
            whole=self._fits(snapshot, expected) and (isinstance(order, SpanOrder) or covers(order, snapshot.count)),
            expected=expected,
            used=trio.current_time(),
            follows=follows,
        )
        announcement.counts.gaps = gaps
        self._live[key] = announcement
        self._share()
        self._nursery.start_soon(self._run, announcement)
        return announcement

    def _check_room(self, listed: int, known: Announcement | None) -> None:
        others = [each.order for each in self._live.values() if each is not known]
        if len(others) >= MAX_ANNOUNCEMENTS:
            raise Conflict(f"{len(others)} announcements are live", hint="cancel some, or let them share a name")
        listed += sum(len(each) for each in others if isinstance(each, ListOrder))
        if listed > MAX_NUMBERS:
            raise Conflict(
                f"{listed:,} numbers would be announced at once, and a mount takes {MAX_NUMBERS:,}",
                hint="announce the next ones later, or a range",
            )

    def _fits(self, snapshot: Snapshot, expected: int) -> bool:
        """Return whether a dataset fits the block cache beside what is announced already."""
        others = sum(each.expected for each in self._live.values() if each.dataset != snapshot.dataset)
        return expected + others <= self._blocks.capacity * FITS

    def _share(self) -> None:
        """Tell each announcement how far ahead of its readers it may be; and who has to be told of reads."""
        live = self._live.values()
        capacity = self._blocks.capacity
        fit = sum(each.expected for each in live) <= capacity * FITS
        size = max(capacity if fit else capacity // 2 // max(len(live), 1), BLOCK_SIZE)
        for each in live:
            each.limits = Limits(size, WHOLE_PLACES if each.whole else MAX_PLACES)
            each.wake()
        self._of = {name: tuple(e for e in live if e.dataset == name) for name in {each.dataset for each in live}}

    async def _run(self, announcement: Announcement) -> None:
        """Fetch until the announcement ends, and end it when nobody needs it any more."""
        try:
            with announcement.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._fetcher.run, announcement)
                    while True:
                        await trio.sleep_until(announcement.used + EXPIRY_S)
                        if trio.current_time() >= announcement.used + EXPIRY_S:
                            break
                    nursery.cancel_scope.cancel()
        except* DasfsError as group:
            log.info("%s is no longer fetched ahead: %s", announcement.dataset, group.exceptions[0])
        except* Exception:  # a defect of ours must not end the mount
            log.exception("fetching ahead in %s failed unexpectedly", announcement.dataset)
        self._end(announcement)

    def _end(self, announcement: Announcement) -> None:
        if self._live.get(announcement.key) is announcement:
            del self._live[announcement.key]
            self._past.add(announcement.counts)
            announcement.scope.cancel()
            self._share()


def _expected(snapshot: Snapshot, order: Order) -> int:
    """Return about how many bytes of blocks an order needs; never less for one that jumps about."""
    if isinstance(order, SpanOrder):
        return sum(
            each.tar_size * (min(each.last, last) - max(each.first, first) + 1) // each.count
            for first, last in order.spans
            for each in snapshot.overlapping(first, last)
        )
    average = snapshot.tar_size // max(snapshot.count, 1)
    return min(snapshot.tar_size, len(order) * (average + BLOCK_SIZE))
