"""What a mount looks like: names, inodes, attributes, listings. Knows nothing of FUSE.

    /                        the datasets, or one dataset's datapoints with `only`
    /.dasfs                  not listed, found by name
    /DATASET/%020d.ext       the datapoints, in number order
    /DATASET@...             virtual directories, not listed either: see views.py

A gap is `None`; a datapoint whose manifest is missing or damaged raises `Corrupt`, and the others work.

**Concurrency:** one trio thread. Every method answers without waiting when what it needs is in the index
cache, and waits for the store, within the catalog's deadline, when it is not.
"""

import os
from typing import Final

from dasfs.cache.catalog import Catalog, DatasetState
from dasfs.cache.index import IndexCache
from dasfs.cache.names_keeper import NamesKeeper
from dasfs.dataset.model import Snapshot
from dasfs.errors import InvalidInput, NotFound, ObjectChanged
from dasfs.fuse.datapoints import MAX_MOVES, Datapoints, parse_name
from dasfs.fuse.deleted import Deleted
from dasfs.fuse.inodes import (
    CONTROL_DIRECTORY,
    ROOT,
    DatapointPlace,
    Inode,
    InodeTable,
    Lives,
)
from dasfs.fuse.listing import Lister
from dasfs.fuse.nodes import (
    Attributes,
    Entries,
    Entry,
    ListedPage,
    Listing,
    Located,
    datapoint_attributes,
)
from dasfs.fuse.pinned import Past
from dasfs.fuse.views import Views
from dasfs.names import DatapointNumber

__all__ = [
    "MAX_MOVES",
    "Attributes",
    "Entries",
    "Entry",
    "ListedPage",
    "Listing",
    "Located",
    "Tree",
    "datapoint_attributes",
]

CONTROL_NAME: Final = ".dasfs"
# As many as readers that may be between their lookup and their first read.
MAX_LOOKED_UP: Final = 256


class Tree:
    """The model of one mount. `only`: the dataset that stands at the root instead of all of them."""

    def __init__(
        self,
        catalog: Catalog,
        index: IndexCache,
        *,
        mounted_at: int,
        only: str | None = None,
        names: NamesKeeper | None = None,
    ) -> None:
        self._catalog = catalog
        self._only = only
        self._inodes = InodeTable()
        self.mounted_at = mounted_at
        self._datapoints = Datapoints(catalog, index, self._inodes)
        self._past = Past(catalog, self._datapoints, self._inodes)
        self._deleted = Deleted(self._datapoints)
        self._lister = Lister(catalog, self._datapoints, self._past, self._inodes)
        self._views = Views(catalog, self._datapoints, self._past, self._lister, self._inodes, names=names, only=only)
        # What is looked up is read next.
        self._looked_up: dict[int, Located] = {}

    def directory_inode(self, dataset: str) -> Inode:
        return ROOT if dataset == self._only else self._inodes.directory(dataset)

    def datapoint_inode(self, dataset: str, number: DatapointNumber, lives: Lives) -> Inode:
        return self._inodes.datapoint(dataset, number, lives)

    def lives(self, dataset: str) -> Lives:
        return self._inodes.lives(dataset)

    def renew(self, before: Snapshot, first: int, last: int) -> None:
        """Give datapoints whose content is no longer what it was in `before` other inodes from now on."""
        self._deleted.add(before, first, last, self._inodes.lives(before.dataset))
        self._inodes.renew(before.dataset, first, last)

    def is_current(self, inode: int) -> bool:
        """Return whether the number that `inode` stands for was not taken away since."""
        place = self._inodes.find_datapoint(inode)
        return place is not None and self._inodes.is_current(place)

    def dataset_of(self, directory: int) -> str | None:
        """Return the dataset whose datapoints stand in `directory`, or None."""
        return self._only if directory == ROOT else self._inodes.find_directory(directory)

    def place_of(self, inode: int) -> DatapointPlace | None:
        """Return which datapoint an inode stands for, whether it is there or not. For any thread."""
        return self._inodes.find_datapoint(inode)

    def peek(self, inode: int) -> Located | None:
        """Return what `locate` would, if everything needed is in memory; else None. Never waits."""
        located = self._looked_up.get(inode)
        if located is not None and (self._catalog.is_newest(located.snapshot) or located.pin is not None):
            return located
        place = self._inodes.find_datapoint(inode)
        if place is None or not self._inodes.is_current(place):
            return None
        located = self._datapoints.peek(place.dataset, place.number)
        if located is None and "@" in place.dataset:
            return self._past.peek_datapoint(place.dataset, place.number)
        return located

    def peek_name(self, parent: int, name: str) -> Located | None:
        """Return the datapoint `name` of a directory, if everything needed is in memory; else None."""
        dataset = self.dataset_of(parent)
        if dataset is None:
            located = self._peek_view(parent, name)
        elif name[20:21] == "." and name.isascii() and name[:20].isdigit():
            located = self._datapoints.peek(dataset, DatapointNumber(int(name[:20])))
        else:
            return None
        if located is None or (dataset is not None and located.record.extension != name[21:]):
            return None
        if len(self._looked_up) >= MAX_LOOKED_UP:
            self._looked_up.clear()
        self._looked_up[located.inode] = located
        return located

    async def lookup(self, parent: int, name: str) -> Attributes | None:
        """Return the attributes of `name` in the directory `parent`, or None where it is not."""
        if parent == ROOT and name == CONTROL_NAME:
            return self._control_attributes()
        if parent == ROOT and "@" in name:
            found = await self._views.lookup(name)
            if found is not None:
                return found
        dataset = self.dataset_of(parent)
        if dataset is not None:
            return await self._lookup_datapoint(dataset, name)
        if parent == ROOT:
            return await self._lookup_dataset(name)
        directory = self._views.find(parent)
        return None if directory is None else await directory.lookup(name)

    async def attributes(self, inode: int) -> Attributes:
        """Return the attributes of an inode that was looked up. Raises `NotFound` when it is gone."""
        if inode == ROOT and self._only is None:
            names = await self._catalog.names()
            return Attributes(ROOT, is_directory=True, size=0, mtime=self.mounted_at, links=2 + len(names))
        if inode == CONTROL_DIRECTORY:
            return self._control_attributes()
        dataset = self.dataset_of(inode)
        if dataset is not None:
            state = await self._state(dataset)
            return self._directory_attributes(state)
        directory = self._views.find(inode)
        if directory is not None:
            return await directory.attributes()
        return datapoint_attributes(await self.locate(inode))

    async def locate(self, inode: int) -> Located:
        """Return where the datapoint `inode` lies now, or where it lay when it was deleted, for who has it open.

        Raises `NotFound` when it is gone, `ObjectChanged` when it is gone and another may have its number, which makes
        the kernel look its name up again, and `Corrupt` when it is damaged.
        """
        place = self._inodes.find_datapoint(inode)
        if place is not None and not self._inodes.is_current(place):
            return await self._deleted.locate(Inode(inode), place)
        if place is not None and "@" in place.dataset:
            located = await self._past.locate(place.dataset, place.number)
        else:
            located = None if place is None else await self._datapoints.locate(place)
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

    async def open_listing(self, directory: int) -> Listing | Entries:
        """Pin what a directory lists: a `Listing` of datapoints, or `Entries` of whatever kind. Raises `NotFound`."""
        dataset = self.dataset_of(directory)
        if dataset is not None:
            return self._lister.open((await self._state(dataset)).snapshot, dataset)
        found = self._views.find(directory)
        if found is not None:
            return await found.open()
        return _RootEntries(self, await self.dataset_names() if directory == ROOT else [])

    async def list_page(self, listing: Listing, position: int) -> ListedPage | None:
        """Return the datapoints from `position` on; see `Lister.page`."""
        return await self._lister.page(listing, position)

    async def describe_view(self, inode: int) -> dict[str, object] | None:
        """Return what the extended attributes of a virtual directory tell; None where `inode` is none."""
        directory = self._views.find(inode)
        return None if directory is None else await directory.describe()

    def _control_attributes(self) -> Attributes:
        return Attributes(CONTROL_DIRECTORY, is_directory=True, size=0, mtime=self.mounted_at, links=2)

    def _directory_attributes(self, state: DatasetState) -> Attributes:
        mtime = int(state.snapshot.time.timestamp())
        return Attributes(self.directory_inode(state.name), is_directory=True, size=0, mtime=mtime, links=2)

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
        parsed = parse_name(name)
        if parsed is None:
            return None
        located = await self._datapoints.locate(DatapointPlace(dataset, parsed.number))
        if located is None or located.record.extension != parsed.extension:
            return None
        return datapoint_attributes(located)

    def _peek_view(self, parent: int, name: str) -> Located | None:
        directory = self._views.find(parent)
        return None if directory is None else directory.peek_name(name)


class _RootEntries:
    """The open root, or another directory of the mount's own: datasets as they were when it was opened."""

    def __init__(self, tree: Tree, names: list[str]) -> None:
        self._tree = tree
        self._names = names

    async def read(self, position: int) -> list[Entry]:
        """Return the next dataset that is still there; see `Entries`."""
        for place in range(position, len(self._names)):
            found = await self._tree.dataset_attributes(self._names[place])
            if found is not None:
                return [Entry(os.fsencode(self._names[place]), found, place + 1)]
        return []
