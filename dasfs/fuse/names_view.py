"""`DATASET@names`: the tree of the original paths, with real directories.

A file in it is a datapoint, with the inode that it has in the dataset's own directory. The tree follows new revisions;
while one is brought into the index, for a moment, what both revisions have in common goes on being served.

Directories have inodes in a space of their own: generation of the index times 2^40, plus the number in the index.
A position in a listing is the number of a directory, or 2^48 plus how many datapoints of the dataset precede a file.

**Concurrency:** one trio thread. `peek_name` never waits; the others wait for the index, within the operation's
deadline.
"""

import os
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from dasfs.cache.catalog import Catalog
from dasfs.cache.names_index import NamedDirectory, NamedFile, NamesIndex
from dasfs.cache.names_keeper import KeptNames, NamesKeeper
from dasfs.cache.names_schema import ROOT_DIRECTORY
from dasfs.dataset.model import Snapshot
from dasfs.errors import Corrupt, DasfsError, NotFound, NotReady, StoreUnavailable
from dasfs.fuse.datapoints import Datapoints
from dasfs.fuse.inodes import DatapointPlace, InodeTable, Lives, life_of
from dasfs.fuse.nodes import Attributes, Entries, Entry, Located, datapoint_attributes
from dasfs.names import DatapointNumber

# A path may mean another datapoint, or none, with the next revision.
NAME_KEPT_S: Final = 1
# How long an answer waits for a new revision to be brought in, when it can be had from the old one.
PATIENCE_S: Final = 2.0
# Entries that are made at once: more than one answer to the kernel holds.
CHUNK: Final = 256

_GENERATION_BITS: Final = 40
_GENERATIONS: Final = 1 << 8
_FILES: Final = 1 << 48


@dataclass(frozen=True, slots=True)
class _Shown:
    """An index that can be asked: what it holds, and the lives of the dataset's numbers then."""

    kept: KeptNames
    snapshot: Snapshot
    lives: Lives

    @property
    def index(self) -> NamesIndex:
        return self.kept.index


class NamesView:
    """The tree of one dataset's original paths. `space` is that of its directories' inodes."""

    def __init__(
        self,
        keeper: NamesKeeper,
        catalog: Catalog,
        datapoints: Datapoints,
        inodes: InodeTable,
        dataset: str,
        space: str,
    ) -> None:
        self._keeper = keeper
        self._catalog = catalog
        self._datapoints = datapoints
        self._inodes = inodes
        self._dataset = dataset
        self._space = space
        self._shown: _Shown | None = None
        self._waited_for: Snapshot | None = None

    def directory(self, number: int) -> "NamesDirectory":
        """Return the directory that an inode's number stands for, which may be gone."""
        return NamesDirectory(self, number)

    def peek_name(self, directory: int, name: str) -> Located | None:
        """Return the datapoint that a name stands for, if everything needed is in memory; else None."""
        kept = self._keeper.fresh(self._dataset)
        if kept is None:
            return None
        try:
            found = _find(self._show(kept), directory, os.fsencode(name))
        except DasfsError:
            return None  # `lookup` mends the index
        if not isinstance(found, NamedFile):
            return None
        located = self._datapoints.peek(self._dataset, found.number)
        return None if located is None else _named(located)

    async def lookup(self, directory: int, name: str) -> Attributes | None:
        """Return the attributes of `name` in a directory, or None where it is not.

        Raises what is wrong with a manifest that could not be read, where the name may be in it.
        """
        shown = await self._current()
        try:
            found = _find(shown, directory, os.fsencode(name))
        except Corrupt:
            raise self._damaged() from None
        if isinstance(found, NamedDirectory):
            return self._directory(shown, found.directory)
        attributes = None if found is None else await self.file_attributes(shown, found.number)
        if attributes is None and shown.kept.problem is not None:
            raise shown.kept.problem
        return attributes

    async def attributes(self, directory: int) -> Attributes:
        """Return the attributes of a directory. Raises `NotFound` when it is gone."""
        shown = await self._current()
        return self._directory(shown, self._checked(shown, directory))

    async def open(self, directory: int) -> "_NamedEntries":
        """Return what a directory lists. Raises `NotFound` when it is gone."""
        shown = await self._current()
        return _NamedEntries(self, shown, self._checked(shown, directory))

    async def describe(self) -> dict[str, object]:
        """Return what the extended attributes of the directories tell."""
        snapshot = (await self._current()).snapshot
        return {"dataset": snapshot.dataset, "revision": snapshot.revision, "datapoints": snapshot.count}

    def directory_entries(self, shown: _Shown, parent: int, start: int) -> list[Entry]:
        """Return some directories in a directory, from number `start` on."""
        try:
            found = shown.index.list_directories(parent, start, CHUNK)
        except Corrupt:
            raise self._damaged() from None
        return [Entry(each.name, self._directory(shown, each.directory), each.directory + 1) for each in found]

    def files(self, shown: _Shown, parent: int, first: int) -> list[NamedFile]:
        """Return some datapoints in a directory, from the number `first` on."""
        try:
            return shown.index.list_files(parent, first, CHUNK)
        except Corrupt:
            raise self._damaged() from None

    async def file_attributes(self, shown: _Shown, number: DatapointNumber) -> Attributes | None:
        """Return the attributes of a datapoint; None where it is not what the index knows any more."""
        lives = self._inodes.lives(self._dataset)
        if lives is not shown.lives and life_of(lives, number) != life_of(shown.lives, number):
            return None
        located = self._datapoints.peek(self._dataset, number)
        if located is None:
            located = await self._datapoints.locate(DatapointPlace(self._dataset, number))
        return None if located is None else datapoint_attributes(_named(located))

    async def _current(self) -> _Shown:
        """Return an index to ask: that of the newest revision, or the one before while that is being made."""
        kept = self._keeper.fresh(self._dataset)
        if kept is None:
            old, shown = self._keeper.peek(self._dataset), self._shown
            usable = shown is not None and old is shown.kept and old.snapshot is shown.snapshot
            try:
                kept = await self._keeper.bring(self._dataset, patience_s=self._patience_s() if usable else None)
            except (NotReady, StoreUnavailable):
                if not usable or shown is None:
                    raise
                return shown
        return self._show(kept)

    def _patience_s(self) -> float:
        """Return how long to wait for the newest revision: once for each, so that a long wait is not repeated."""
        state = self._catalog.known(self._dataset)
        newest = None if state is None else state.snapshot
        waited, self._waited_for = self._waited_for, newest
        return 0.0 if newest is not None and waited is newest else PATIENCE_S

    def _show(self, kept: KeptNames) -> _Shown:
        """Remember what an index of the newest revision shows, and which numbers have which content now."""
        shown, lives = self._shown, self._inodes.lives(self._dataset)
        if shown is None or shown.kept is not kept or shown.snapshot is not kept.snapshot or shown.lives is not lives:
            if kept.snapshot is None:
                raise NotReady(f"the index of the original paths of {self._dataset} is being built")
            shown = self._shown = _Shown(kept, kept.snapshot, lives)
        return shown

    def _directory(self, shown: _Shown, directory: int) -> Attributes:
        number = directory
        if directory != ROOT_DIRECTORY:
            number += shown.kept.generation % _GENERATIONS << _GENERATION_BITS
        inode = self._inodes.datapoint(self._space, DatapointNumber(number))
        mtime = int(shown.snapshot.time.timestamp())
        # One link: programs that count a directory's links to know how many it has in it then look themselves.
        return Attributes(inode, is_directory=True, size=0, mtime=mtime, links=1)

    def _checked(self, shown: _Shown, directory: int) -> int:
        number = _number(shown, directory)
        try:
            if number is None or not shown.index.has_directory(number):
                raise NotFound(f"there is no such directory in {self._space}")
        except Corrupt:
            raise self._damaged() from None
        return number

    def _damaged(self) -> NotReady:
        self._keeper.discard(self._dataset)
        return NotReady(f"the index of the original paths of {self._dataset} has to be built anew", hint="try again")


@dataclass(frozen=True, slots=True)
class NamesDirectory:
    """One directory of the tree: a `Directory`."""

    view: NamesView
    number: int

    def peek_name(self, name: str) -> Located | None:
        return self.view.peek_name(self.number, name)

    async def lookup(self, name: str) -> Attributes | None:
        return await self.view.lookup(self.number, name)

    async def attributes(self) -> Attributes:
        return await self.view.attributes(self.number)

    async def open(self) -> Entries:
        return await self.view.open(self.number)

    async def describe(self) -> dict[str, object]:
        return await self.view.describe()


class _NumberOrder:
    """The datapoints of a snapshot, counted in number order."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._starts = (0, *accumulate(datarange.count for datarange in snapshot.dataranges))

    def number_at(self, place: int) -> DatapointNumber | None:
        which = bisect_right(self._starts, place) - 1
        if which >= len(self._snapshot.dataranges):
            return None
        return DatapointNumber(self._snapshot.dataranges[which].first + place - self._starts[which])

    def place_behind(self, number: int) -> int:
        """Return how many datapoints have numbers up to `number`."""
        dataranges = self._snapshot.dataranges
        which = bisect_right(dataranges, number, key=lambda each: each.first) - 1
        if which < 0:
            return 0
        return self._starts[which] + min(number - dataranges[which].first + 1, dataranges[which].count)


class _NamedEntries:
    """An open directory of original names: directories, then datapoints in number order."""

    def __init__(self, view: NamesView, shown: _Shown, directory: int) -> None:
        self._view = view
        self._shown = shown
        self._directory = directory
        self._order = _NumberOrder(shown.snapshot)
        self._problem = shown.kept.problem

    async def read(self, position: int) -> list[Entry]:
        """Return the entries from a position on; see `Entries`."""
        if position < _FILES:
            directories = self._view.directory_entries(self._shown, self._directory, position)
            if directories:
                return directories
            position = _FILES
        entries = await self._read_files(position - _FILES)
        if not entries and self._problem is not None:
            raise self._problem
        return entries

    async def _read_files(self, place: int) -> list[Entry]:
        """Return some files from the datapoint on that `place` others precede."""
        entries: list[Entry] = []
        while not entries and (first := self._order.number_at(place)) is not None:
            files = self._view.files(self._shown, self._directory, first)
            if not files:
                break
            for file in files:
                place = self._order.place_behind(file.number)
                try:
                    attributes = await self._attributes(file.number)
                except StoreUnavailable:
                    if entries:
                        return entries
                    raise
                except DasfsError as error:
                    self._problem, attributes = self._problem or error, None
                if attributes is not None:
                    entries.append(Entry(file.name, attributes, _FILES + place))
        return entries

    async def _attributes(self, number: DatapointNumber) -> Attributes | None:
        if self._shown.snapshot.find(number) is None:
            return None  # it came after the listing began, and has no place in it
        return await self._view.file_attributes(self._shown, number)


def _number(shown: _Shown, directory: int) -> int | None:
    """Return the number in the index of a directory of ours; None for one of an index that is gone."""
    generation, number = divmod(directory, 1 << _GENERATION_BITS)
    if directory != ROOT_DIRECTORY and generation != shown.kept.generation % _GENERATIONS:
        return None
    return number


def _find(shown: _Shown, directory: int, name: bytes) -> NamedDirectory | NamedFile | None:
    parent = _number(shown, directory)
    return None if parent is None else shown.index.find(parent, name)


def _named(located: Located) -> Located:
    return located._replace(name_kept_s=NAME_KEPT_S)
