"""What a mount looks like: names, inodes, attributes, listings. Knows nothing of FUSE.

    /                        the datasets, or one dataset's datapoints with `only`
    /.dasfs/status.json      not listed, found by name; metrics and top.json beside it
    /DATASET/%020d.ext       the datapoints, in number order

Names, sizes and times come from manifests, never from a request per file. A gap is `None`; a datapoint whose
manifest is missing or damaged raises `Corrupt`, and the others work.

**Concurrency:** one trio thread. Every method answers without waiting when what it needs is in the index
cache, and waits for the store, within the catalog's deadline, when it is not.
"""

import logging
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from dasfs.cache.catalog import Catalog, DatasetState
from dasfs.cache.index import IndexCache, ManifestView
from dasfs.cache.pages import PAGE_RECORDS
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import Corrupt, DasfsError, InvalidInput, NotFound, ObjectChanged, StoreUnavailable
from dasfs.formats.manifest import RECORD_SIZE, Record
from dasfs.fuse.inodes import (
    CONTROL_DIRECTORY,
    METRICS_FILE,
    ROOT,
    STATUS_FILE,
    TOP_FILE,
    DatapointPlace,
    Inode,
    InodeTable,
    Lives,
)
from dasfs.names import DatapointName, DatapointNumber

log = logging.getLogger(__name__)

CONTROL_NAME: Final = ".dasfs"
OWN_FILES: Final = {"status.json": STATUS_FILE, "metrics": METRICS_FILE, "top.json": TOP_FILE}
# How often one answer follows a datarange to where newer revisions put it: more would need somebody who aggregates and
# collects, without any grace, faster than a manifest is read.
MAX_MOVES: Final = 5
# As many as readers that may be between their lookup and their open.
MAX_LOOKED_UP: Final = 256


@dataclass(frozen=True, slots=True)
class Attributes:
    """What `stat` shows of a node, but for owner and mode. `mtime` is seconds since 1970."""

    inode: Inode
    is_directory: bool
    size: int
    mtime: int
    links: int = 1


@dataclass(frozen=True, slots=True)
class Located:
    """A datapoint and all that is needed to read it: pinned, so that it stays readable."""

    inode: Inode
    number: DatapointNumber
    snapshot: Snapshot
    datarange: Datarange
    view: ManifestView
    record: Record

    @property
    def name(self) -> str:
        return str(DatapointName(self.number, self.record.extension))


@dataclass(frozen=True, slots=True)
class _Holder:
    """Where a datapoint is: a datarange of a snapshot, with the page of its records that has the datapoint."""

    snapshot: Snapshot
    datarange: Datarange
    view: ManifestView
    page: bytes


@dataclass(slots=True)
class Listing:
    """An open directory of datapoints: one snapshot, so that a listing is whole.

    `starts[i]` counts the datapoints that precede datarange i; `lives` are those of the dataset's numbers then;
    `source` is the snapshot whose manifests are read, a newer one once those are gone; `problem` is why some datapoints
    could not be listed.
    """

    snapshot: Snapshot
    source: Snapshot
    starts: tuple[int, ...]
    lives: Lives
    problem: DasfsError | None = None


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A stretch of a listing. `position` counts the datapoints of the directory that precede it.

    Not `live`: replaced since the listing began, so that the kernel must not keep it.
    `extensions` are encoded, by extension number; `records` are packed; inode and number of the k-th are the
    first's + k.
    """

    position: int
    first: DatapointNumber
    inode: Inode
    extensions: tuple[bytes, ...]
    records: bytes
    live: bool


class Tree:
    """The model of one mount. `only`: the dataset that stands at the root instead of all of them."""

    def __init__(self, catalog: Catalog, index: IndexCache, *, mounted_at: int, only: str | None = None) -> None:
        self._catalog = catalog
        self._index = index
        self._only = only
        self._inodes = InodeTable()
        self._mounted_at = mounted_at
        # What is looked up is opened next.
        self._looked_up: dict[int, Located] = {}

    def directory_inode(self, dataset: str) -> Inode:
        return ROOT if dataset == self._only else self._inodes.directory(dataset)

    def datapoint_inode(self, dataset: str, number: DatapointNumber, lives: Lives) -> Inode:
        return self._inodes.datapoint(dataset, number, lives)

    def lives(self, dataset: str) -> Lives:
        return self._inodes.lives(dataset)

    def renew(self, dataset: str, first: int, last: int) -> None:
        """Give datapoints whose content is no longer what it was other inodes from now on."""
        self._inodes.renew(dataset, first, last)

    def dataset_of(self, directory: int) -> str | None:
        """Return the dataset whose datapoints stand in `directory`, or None."""
        return self._only if directory == ROOT else self._inodes.find_directory(directory)

    def place_of(self, inode: int) -> DatapointPlace | None:
        """Return which datapoint an inode stands for, whether it is there or not. For any thread."""
        return self._inodes.find_datapoint(inode)

    def peek(self, inode: int) -> Located | None:
        """Return what `locate` would, if everything needed is in memory; else None. Never waits."""
        located = self._looked_up.get(inode)
        if located is not None and self._catalog.is_newest(located.snapshot):
            return located
        place = self._inodes.find_datapoint(inode)
        return self._peek(place) if place is not None and self._inodes.is_current(place) else None

    def peek_name(self, parent: int, name: str) -> Located | None:
        """Return the datapoint `name` of a directory, if everything needed is in memory; else None."""
        dataset = self.dataset_of(parent)
        parsed = None if dataset is None else _parse_name(name)
        if dataset is None or parsed is None:
            return None
        located = self._peek(DatapointPlace(dataset, parsed.number))
        if located is None or located.record.extension != parsed.extension:
            return None
        if len(self._looked_up) >= MAX_LOOKED_UP:
            self._looked_up.clear()
        self._looked_up[located.inode] = located
        return located

    async def lookup(self, parent: int, name: str) -> Attributes | None:
        """Return the attributes of `name` in the directory `parent`, or None where it is not."""
        if parent == CONTROL_DIRECTORY:
            return self.own_attributes(OWN_FILES[name]) if name in OWN_FILES else None
        if parent == ROOT and name == CONTROL_NAME:
            return self._control_attributes()
        dataset = self.dataset_of(parent)
        if dataset is not None:
            return await self._lookup_datapoint(dataset, name)
        return await self._lookup_dataset(name) if parent == ROOT else None

    async def attributes(self, inode: int) -> Attributes:
        """Return the attributes of an inode that was looked up. Raises `NotFound` when it is gone."""
        if inode == ROOT and self._only is None:
            names = await self._catalog.names()
            return Attributes(ROOT, is_directory=True, size=0, mtime=self._mounted_at, links=2 + len(names))
        if inode == CONTROL_DIRECTORY:
            return self._control_attributes()
        dataset = self.dataset_of(inode)
        if dataset is not None:
            state = await self._state(dataset)
            return self._directory_attributes(state)
        return datapoint_attributes(await self.locate(inode))

    async def locate(self, inode: int) -> Located:
        """Return where the datapoint `inode` lies now.

        Raises `NotFound` when it is gone, `ObjectChanged` when it is gone and another may have its number, which makes
        the kernel look its name up again, and `Corrupt` when it is damaged.
        """
        place = self._inodes.find_datapoint(inode)
        if place is not None and not self._inodes.is_current(place):
            raise ObjectChanged(f"datapoint {place.number} of {place.dataset} was deleted")
        located = None if place is None else await self._locate(place)
        if located is None:
            raise NotFound("no such datapoint")
        if located.inode != inode:
            raise ObjectChanged(f"datapoint {located.number} of {located.snapshot.dataset} was written anew")
        return located

    async def dataset_names(self) -> list[str]:
        """Return what the root lists, where it does not list one dataset's datapoints."""
        return await self._catalog.names()

    async def dataset_attributes(self, dataset: str) -> Attributes | None:
        """Return a dataset directory's attributes, or None where there is none (any more)."""
        return await self._lookup_dataset(dataset)

    async def open_listing(self, directory: int) -> Listing | None:
        """Pin what a directory of datapoints lists; None for other directories. Raises `NotFound`."""
        dataset = self.dataset_of(directory)
        if dataset is None:
            return None
        snapshot = (await self._state(dataset)).snapshot
        starts = (0, *accumulate(datarange.count for datarange in snapshot.dataranges))
        return Listing(snapshot, snapshot, starts, self._inodes.lives(dataset))

    async def list_page(self, listing: Listing, position: int) -> ListedPage | None:
        """Return the datapoints from `position` on, as many as stand in one page; None at the end.

        Dataranges whose manifest is missing or damaged are passed over; when all others were listed, the
        first such error is raised, so that no listing looks whole that is not.
        """
        snapshot = listing.snapshot
        for place in range(max(bisect_right(listing.starts, position) - 1, 0), len(snapshot.dataranges)):
            datarange = snapshot.dataranges[place]
            start = max(position - listing.starts[place], 0)
            first = DatapointNumber(datarange.first + start)
            try:
                holder = await self._find(listing.source, first)
            except StoreUnavailable:
                raise
            except DasfsError as error:
                log.warning("datapoints %d-%d of %s can't be listed: %s", *_range(datarange), snapshot.dataset, error)
                listing.problem = listing.problem or error
                continue
            if holder is None:
                continue  # it was deleted since the listing began
            listing.source = holder.snapshot
            skip = (first - holder.datarange.first) % PAGE_RECORDS
            room = min(self._inodes.room(first, listing.lives), datarange.last - first + 1)
            return ListedPage(
                position=listing.starts[place] + start,
                first=first,
                inode=self._inodes.datapoint(snapshot.dataset, first, listing.lives),
                extensions=tuple(each.encode("utf-8", "surrogateescape") for each in holder.view.extensions),
                records=holder.page[skip * RECORD_SIZE : (skip + room) * RECORD_SIZE],
                live=self._is_live(snapshot, datarange),
            )
        if listing.problem is not None:
            raise listing.problem
        return None

    def own_attributes(self, inode: Inode) -> Attributes:
        """Return the attributes of a file of the mount's own, but for its size, which differs from moment to moment."""
        return Attributes(inode, is_directory=False, size=0, mtime=self._mounted_at)

    def _control_attributes(self) -> Attributes:
        return Attributes(CONTROL_DIRECTORY, is_directory=True, size=0, mtime=self._mounted_at, links=2)

    def _directory_attributes(self, state: DatasetState) -> Attributes:
        mtime = int(state.snapshot.time.timestamp())
        return Attributes(self.directory_inode(state.name), is_directory=True, size=0, mtime=mtime, links=2)

    def _is_live(self, snapshot: Snapshot, datarange: Datarange) -> bool:
        state = self._catalog.known(snapshot.dataset)
        if state is None or state.snapshot.dataset_id != snapshot.dataset_id:
            return False
        now = state.snapshot.find(datarange.first)
        return now is not None and now.id == datarange.id

    async def _state(self, dataset: str) -> DatasetState:
        state = await self._catalog.dataset(dataset)
        if state is None:
            raise NotFound(f"no dataset {dataset}")
        return state

    async def _lookup_dataset(self, name: str) -> Attributes | None:
        try:
            state = await self._catalog.dataset(name)
        except InvalidInput:
            return None
        return None if state is None else self._directory_attributes(state)

    async def _lookup_datapoint(self, dataset: str, name: str) -> Attributes | None:
        parsed = _parse_name(name)
        if parsed is None:
            return None
        located = await self._locate(DatapointPlace(dataset, parsed.number))
        if located is None or located.record.extension != parsed.extension:
            return None
        return datapoint_attributes(located)

    def _peek(self, place: DatapointPlace) -> Located | None:
        state = self._catalog.fresh(place.dataset)
        if state is None:
            return None
        snapshot, number = state.snapshot, place.number
        datarange = snapshot.find(number)
        if datarange is None:
            return None
        view = self._catalog.view_in_memory(snapshot.dataset_id, datarange.id)
        if view is None:
            return None
        try:
            record = self._index.record(view, number - datarange.first)
        except (Corrupt, NotFound):
            return None  # `_page` mends the index cache
        return Located(self._inodes.datapoint(place.dataset, number), number, snapshot, datarange, view, record)

    async def _locate(self, place: DatapointPlace) -> Located | None:
        state = await self._catalog.dataset(place.dataset)
        if state is None:
            return None
        number = place.number
        holder = await self._find(state.snapshot, number)
        if holder is None:
            return None
        record = self._index.record(holder.view, number - holder.datarange.first)
        inode = self._inodes.datapoint(place.dataset, number)
        return Located(inode, number, holder.snapshot, holder.datarange, holder.view, record)

    async def _find(self, snapshot: Snapshot, number: int) -> _Holder | None:
        """Return where a datapoint of `snapshot` is; in the newest snapshot where that is gone from the store.

        None where there is no such datapoint.
        """
        moves = 0
        while (datarange := snapshot.find(number)) is not None:
            try:
                view, page = await self._page(snapshot, datarange, (number - datarange.first) // PAGE_RECORDS)
                return _Holder(snapshot, datarange, view, page)
            except ObjectChanged:
                moves += 1
                state = await self._catalog.refresh_now(snapshot.dataset)
                if state is None or state.snapshot.dataset_id != snapshot.dataset_id:
                    return None
                if moves == MAX_MOVES:
                    raise
                snapshot = state.snapshot
        return None

    async def _page(self, snapshot: Snapshot, datarange: Datarange, number: int) -> tuple[ManifestView, bytes]:
        """Return a page of a datarange's records, which is in memory then, and the view it belongs to.

        The index cache may lose both at any time: then it is built anew, and the manifest fetched once more.
        """
        for _ in range(3):
            try:
                view = await self._catalog.view(snapshot, datarange)
            except NotFound as error:
                raise Corrupt(f"{snapshot.dataset} {datarange.id}: {error}") from error
            try:
                return view, self._index.page(view, number)
            except NotFound:
                self._catalog.forget_view(snapshot.dataset_id, datarange.id)
            except Corrupt:
                self._catalog.rebuild()
        raise Corrupt(f"the index cache keeps losing the manifest of {snapshot.dataset} {datarange.id}")


def _parse_name(name: str) -> DatapointName | None:
    try:
        return DatapointName.parse(name)
    except InvalidInput:
        return None


def datapoint_attributes(located: Located) -> Attributes:
    """Return what `stat` shows of a datapoint."""
    return Attributes(located.inode, is_directory=False, size=located.record.true_size, mtime=located.record.mtime)


def _range(datarange: Datarange) -> tuple[int, int]:
    return datarange.first, datarange.last
