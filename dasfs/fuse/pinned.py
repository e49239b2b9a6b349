"""Datasets as they were at one revision: which datapoints there were, and where their bytes lie now.

A pinned revision goes on being readable for as long as its datapoints are kept anywhere: aggregation, which moves
datapoints without changing them, is followed through the log to the newest snapshot; what was deleted is read where it
was, until `collect` takes it away. What can't be had any more is `ObjectChanged` (`ESTALE`), with a line in the log.

A revision has a *space* of inodes of its own, named `DATASET@REVISION`, since its contents may differ from the newest.

**Concurrency:** one trio thread. `peek*` never wait; the others wait for the store, within the catalog's deadline, when
the log or a manifest has to be read.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import trio

from dasfs.cache.catalog import Catalog
from dasfs.cache.newest import read_past, read_removed
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import NoLongerKept, NotFound, ObjectChanged, StoreUnavailable
from dasfs.fuse.datapoints import MAX_MOVES, Datapoints
from dasfs.fuse.inodes import InodeTable
from dasfs.fuse.nodes import Holder, Located
from dasfs.names import DatapointNumber, Revision

log = logging.getLogger(__name__)

# Snapshots that are kept in memory; of a dataset of a thousand dataranges one takes some 300 KB.
MAX_PINS: Final = 64
# Revisions of which it was told that they are gone.
MAX_TOLD: Final = 1024


@dataclass(slots=True)
class Pin:
    """One revision of a dataset, and what became of its datapoints up to revision `traced_to`.

    `removed` are the spans of numbers, ascending, that lost their datapoints since; None where the log no longer tells.
    """

    snapshot: Snapshot
    space: str
    traced_to: Revision
    removed: list[tuple[int, int]] | None = field(default_factory=list)

    def has_lost(self, datarange: Datarange) -> bool:
        """Return whether a datarange of the snapshot lost its datapoints; it always loses all of them at once."""
        if self.removed is None:
            return True
        return any(first <= datarange.last and last >= datarange.first for first, last in self.removed)


@dataclass(frozen=True, slots=True)
class _Home:
    """Where the datapoints of a pinned datarange lie now."""

    snapshot: Snapshot
    datarange: Datarange


class Past:
    """The pinned revisions of one mount."""

    def __init__(self, catalog: Catalog, datapoints: Datapoints, inodes: InodeTable) -> None:
        self._catalog = catalog
        self._datapoints = datapoints
        self._inodes = inodes
        self._pins: OrderedDict[str, Pin] = OrderedDict()
        self._reading = trio.Lock()
        self._told: set[str] = set()

    def keep(self, snapshot: Snapshot) -> str:
        """Pin a snapshot that is at hand; return its space."""
        space = _space(snapshot.dataset, snapshot.revision)
        number = 0
        # Without a log there are no revisions: what was pinned may be another snapshot, and can't be read again.
        while snapshot.revision == 0 and space in self._pins and self._pins[space].snapshot is not snapshot:
            number += 1
            space = f"{_space(snapshot.dataset, snapshot.revision)}.{number}"
        if space not in self._pins:
            self._pins[space] = Pin(snapshot, space, snapshot.revision)
            self._forget_oldest()
        return space

    def peek(self, space: str) -> Pin | None:
        """Return a pinned revision that is in memory."""
        pin = self._pins.get(space)
        if pin is not None:
            self._pins.move_to_end(space)
        return pin

    async def pin(self, space: str) -> Pin | None:
        """Return a revision, which is read from the log where it is not in memory; None for one that never was.

        Raises `NoLongerKept` for one that the log no longer tells of.
        """
        pin = self.peek(space)
        if pin is not None:
            return pin
        dataset, _, revision = space.partition("@")
        state = self._catalog.fresh(dataset)
        if state is not None and f"{state.snapshot.revision}" == revision != "0":
            self.keep(state.snapshot)
            return self.peek(space)
        async with self._reading:
            if space not in self._pins and revision.isdecimal():
                await self._read(space, dataset, int(revision))
        return self.peek(space)

    def peek_datapoint(self, space: str, number: DatapointNumber) -> Located | None:
        """Return what `locate` would, if everything needed is in memory; else None."""
        pin = self.peek(space)
        datarange = None if pin is None else pin.snapshot.find(number)
        home = None if pin is None or datarange is None else self._home(pin, datarange)
        if pin is None or home is None:
            return None
        view = self._catalog.view_in_memory(home.snapshot.dataset_id, home.datarange.id)
        record = None if view is None else self._datapoints.peek_record(view, number - home.datarange.first)
        if view is None or record is None:
            return None
        inode = self._inodes.datapoint(space, number)
        return Located(inode, number, home.snapshot, home.datarange, view, record, pin.snapshot)

    async def locate(self, space: str, number: DatapointNumber) -> Located | None:
        """Return where a datapoint of a pinned revision lies now; None where that has none.

        Raises `ObjectChanged` for what was collected, and what `Datapoints.locate` raises.
        """
        pin = await self.pin(space)
        datarange = None if pin is None else pin.snapshot.find(number)
        if pin is None or datarange is None:
            return None
        holder = await self.hold(space, pin.snapshot, datarange, number)
        record = self._datapoints.record(holder, number)
        inode = self._inodes.datapoint(space, number)
        return Located(inode, number, holder.snapshot, holder.datarange, holder.view, record, pin.snapshot)

    async def hold(self, space: str, snapshot: Snapshot, datarange: Datarange, number: int) -> Holder:
        """Return where the datapoint `number` of a pinned datarange is. Raises as `locate` does."""
        pin = self.peek(space) or Pin(snapshot, space, snapshot.revision)
        for _ in range(MAX_MOVES):
            home = self._home(pin, datarange) or await self._trace(pin, datarange)
            try:
                return await self._datapoints.hold(home.snapshot, home.datarange, number)
            except ObjectChanged:
                await self._catalog.refresh_now(snapshot.dataset)
                now = self._home(pin, datarange)
                if now is not None and now.datarange.id == home.datarange.id:
                    break
        self._tell(
            f"{space} {datarange.id}", f"datapoints {datarange.first}-{datarange.last} of {space} were collected"
        )
        raise ObjectChanged(f"datapoints {datarange.first}-{datarange.last} of {space} were collected")

    def _home(self, pin: Pin, datarange: Datarange) -> _Home | None:
        """Return where a pinned datarange lies, as far as is known; None where the log has to be asked first."""
        state = self._catalog.known(pin.snapshot.dataset)
        newest = None if state is None else state.snapshot
        if newest is None or newest.dataset_id != pin.snapshot.dataset_id:
            return _Home(pin.snapshot, datarange)
        now = newest.find(datarange.first)
        if now is None:
            return _Home(pin.snapshot, datarange)
        if now.id == datarange.id:
            return _Home(newest, now)
        if pin.removed is not None and pin.traced_to < newest.revision:
            return None
        return _Home(pin.snapshot, datarange) if pin.has_lost(datarange) else _Home(newest, now)

    async def _trace(self, pin: Pin, datarange: Datarange) -> _Home:
        """Learn from the log what became of a pinned revision, and return where one of its dataranges lies."""
        state = self._catalog.known(pin.snapshot.dataset)
        if state is not None and pin.removed is not None:
            newest = state.snapshot.revision
            removed = await self._catalog.ask(read_removed, pin.snapshot.dataset, pin.traced_to, newest)
            pin.removed = None if removed is None else [*pin.removed, *removed]
            pin.traced_to = max(pin.traced_to, newest)
        return self._home(pin, datarange) or _Home(pin.snapshot, datarange)

    async def _read(self, space: str, dataset: str, revision: int) -> None:
        try:
            snapshot = await self._catalog.ask(read_past, dataset, revision)
        except NoLongerKept as error:
            self._tell(space, str(error))
            raise
        except StoreUnavailable:
            raise
        except NotFound:
            return
        if not snapshot.deleted:
            self.keep(snapshot)

    def _tell(self, what: str, problem: str) -> None:
        """Log once that something is gone: who reads it hears only `ESTALE`, with each try."""
        if what not in self._told:
            if len(self._told) >= MAX_TOLD:
                self._told.clear()
            self._told.add(what)
            log.warning("%s", problem)

    def _forget_oldest(self) -> None:
        """Keep the memory for pinned revisions within bounds; what is in the log can be read again."""
        if len(self._pins) <= MAX_PINS:
            return
        for space, pin in self._pins.items():
            if pin.snapshot.revision > 0:
                del self._pins[space]
                return


def _space(dataset: str, revision: int) -> str:
    return f"{dataset}@{revision}"
