"""`DATASET@shuffle=SEED`: a revision of a dataset in a seeded order, as files `00000000.jpg`, `00000001.jpg`, ...

The file at a place is the datapoint of the pinned revision that stands there, with the same inode: what the kernel
has of it in memory serves every seed. Nothing grows with the dataset.

**Concurrency:** one trio thread. `peek_name` never waits.
"""

import re
from dataclasses import dataclass
from typing import Final

from dasfs.errors import DasfsError, NotFound, StoreUnavailable
from dasfs.fuse.inodes import Inode
from dasfs.fuse.nodes import Attributes, Entries, Entry, Located, datapoint_attributes
from dasfs.fuse.order import PlacedIn, SnapshotOrder
from dasfs.fuse.pinned import Past, Pin

# 10^8 names of equal length sort as numbers do; larger datasets have longer ones.
MIN_DIGITS: Final = 8
# The kernel must ask for a name each time that somebody opens it: that tells at which place a reader is.
NAME_KEPT_S: Final = 0
# Entries that are made at once: more than one answer to the kernel holds.
CHUNK: Final = 256

_NAME: Final = re.compile(r"([0-9]{8,19})\.([^/\0]*)", re.ASCII | re.DOTALL)


class ShuffledView:
    """One seeded order of one pinned revision. `inode` is the directory's."""

    def __init__(self, past: Past, space: str, seed: int, inode: Inode) -> None:
        self.inode = inode
        self._past = past
        self._space = space
        self._seed = seed
        self._order: SnapshotOrder | None = None

    def peek_name(self, name: str) -> Located | None:
        """Return the datapoint that a name stands for, if everything needed is in memory; else None."""
        pin = self._past.peek(self._space)
        parsed = None if pin is None else self._parse(self._order_of(pin), name)
        if parsed is None:
            return None
        located = self._past.peek_datapoint(self._space, parsed.placed.order.number_at(parsed.placed.place))
        return None if located is None else parsed.check(located)

    async def lookup(self, name: str) -> Attributes | None:
        """Return the attributes of the file `name`, or None where there is none."""
        parsed = self._parse(self._order_of(await self._pin()), name)
        located = None if parsed is None else await self._locate(parsed.placed)
        found = None if parsed is None or located is None else parsed.check(located)
        return None if found is None else datapoint_attributes(found)

    async def attributes(self) -> Attributes:
        """Return the attributes of the directory."""
        mtime = int((await self._pin()).snapshot.time.timestamp())
        return Attributes(self.inode, is_directory=True, size=0, mtime=mtime, links=2)

    async def open(self) -> Entries:
        """Return what the directory lists."""
        return _ShuffledEntries(self, self._order_of(await self._pin()))

    async def describe(self) -> dict[str, object]:
        """Return what the extended attributes of the directory tell."""
        snapshot = (await self._pin()).snapshot
        return {
            "dataset": snapshot.dataset,
            "revision": snapshot.revision,
            "datapoints": snapshot.count,
            "seed": self._seed,
        }

    async def entry(self, order: SnapshotOrder, place: int) -> Entry:
        """Return what the directory lists at a place. Raises what finding the datapoint raises."""
        located = self._past.peek_datapoint(self._space, order.number_at(place)) or await self._locate(
            PlacedIn(order, place)
        )
        if located is None:
            raise NotFound(f"there is nothing at place {place} of {self._space}")
        extension = located.record.extension.encode("utf-8", "surrogateescape")
        record = located.record
        attributes = Attributes(located.inode, False, record.true_size, record.mtime, 1, NAME_KEPT_S)
        return Entry(b"%0*d.%b" % (_digits(order), place, extension), attributes, place + 1)

    def _parse(self, order: SnapshotOrder, name: str) -> "_Name | None":
        match = _NAME.fullmatch(name)
        if match is None or len(match[1]) != _digits(order) or int(match[1]) >= len(order):
            return None
        return _Name(PlacedIn(order, int(match[1])), match[2])

    async def _locate(self, placed: PlacedIn) -> Located | None:
        return await self._past.locate(self._space, placed.order.number_at(placed.place))

    async def _pin(self) -> Pin:
        pin = await self._past.pin(self._space)
        if pin is None:
            raise NotFound(f"there is no {self._space}")
        return pin

    def _order_of(self, pin: Pin) -> SnapshotOrder:
        order = self._order
        if order is None or order.snapshot is not pin.snapshot:
            order = self._order = SnapshotOrder.of(pin.snapshot, self._seed)
        return order


@dataclass(frozen=True, slots=True)
class _Name:
    """What a file's name says: a place, and the extension of what should stand there."""

    placed: PlacedIn
    extension: str

    def check(self, located: Located) -> Located | None:
        """Return `located` as what was found at this place, or None where it has another extension."""
        if located.record.extension != self.extension:
            return None
        return located._replace(order=self.placed, name_kept_s=NAME_KEPT_S)


class _ShuffledEntries:
    """An open shuffled directory. `problem` is why some files could not be listed."""

    def __init__(self, view: ShuffledView, order: SnapshotOrder) -> None:
        self._view = view
        self._order = order
        self._problem: DasfsError | None = None

    async def read(self, position: int) -> list[Entry]:
        """Return the entries from a place on; see `Entries`."""
        entries: list[Entry] = []
        while position < len(self._order) and len(entries) < CHUNK:
            try:
                entries.append(await self._view.entry(self._order, position))
            except StoreUnavailable:
                if not entries:
                    raise
                break
            except DasfsError as error:
                self._problem = self._problem or error
            position += 1
        if not entries and self._problem is not None:
            raise self._problem
        return entries


def _digits(order: SnapshotOrder) -> int:
    return max(MIN_DIGITS, len(str(len(order) - 1)))
