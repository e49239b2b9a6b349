"""Telling the kernel what is no longer true: names of datapoints that were deleted or written anew.

The kernel keeps names, attributes and pages for an hour, since contents never change under a number. Datapoints
that a new snapshot lacks, or that have another content in it, get other inodes at the moment when it is shown;
what the kernel holds of them is dropped right after. Whoever opens a name between is told that its inode is
stale, and the kernel looks the name up again. Aggregation changes no datapoint, so it drops nothing. Datapoints
whose manifest this mount never fetched can't be known to the kernel.

**Concurrency:** runs in the trio thread, a page of 1,024 datapoints at a time; the kernel is told from a
worker thread, because it may wait for requests that this process has to answer.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import trio

from dasfs.cache.catalog import Catalog
from dasfs.cache.index import IndexCache
from dasfs.cache.pages import PAGE_RECORDS
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import DasfsError, ObjectChanged, StoreUnavailable
from dasfs.fuse.content import Content
from dasfs.fuse.inodes import ROOT, Inode, Lives
from dasfs.fuse.tree import Tree
from dasfs.names import MAX_NUMBER, DatapointName, DatapointNumber

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gone:
    """A name that the kernel may hold and that no longer means what it did."""

    inode: Inode
    name: bytes


@dataclass(frozen=True, slots=True)
class Stretch:
    """Datapoints `first..last` of one datarange: both ends, and some between, lost their content."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Content:
    """What two datapoints have in common that are the same: a checksum alone may meet another by chance."""

    true_size: int
    mtime: int
    crc32: int
    extension: str


def replaced(before: Snapshot, after: Snapshot) -> tuple[Datarange, ...]:
    """Return the dataranges of `before` that are not live in `after`. Pure."""
    if before.dataset_id != after.dataset_id:
        return before.dataranges
    live = {datarange.id for datarange in after.dataranges}
    return tuple(datarange for datarange in before.dataranges if datarange.id not in live)


def pages(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield `first..last` in pieces of at most a page, inclusive. Pure."""
    for start in range(first, last + 1, PAGE_RECORDS):
        yield start, min(start + PAGE_RECORDS - 1, last)


class Kernel(Protocol):
    """What is told. Both may block until requests are answered, and do nothing where the kernel holds nothing."""

    def drop_name(self, directory: Inode, name: bytes) -> None: ...

    def drop_inode(self, inode: Inode) -> None: ...


class Invalidator:
    """Finds out what a new snapshot makes untrue. `prepare` is the catalog's listener."""

    def __init__(self, tree: Tree, content: Content, catalog: Catalog, index: IndexCache, kernel: Kernel) -> None:
        self.tree = tree
        self.content = content
        self.kernel = kernel
        self._catalog = catalog
        self._index = index

    async def prepare(self, before: Snapshot, after: Snapshot) -> "Invalidation":
        """Return what has to be done when `after` is shown instead of `before`.

        Fetches the manifests of what stands where something else stood. Raises `StoreUnavailable`, and `ObjectChanged`
        when `after` is not the newest any more and its manifests are gone.
        """
        stretches = []
        for datarange in replaced(before, after):
            if self._catalog.known_view(before.dataset_id, datarange.id) is not None:
                stretch = await self._compare(before, after, datarange)
                if stretch is not None:
                    stretches.append(stretch)
        return Invalidation(self, before, after, stretches)

    async def page(self, snapshot: Snapshot, first: int, last: int, lives: Lives) -> list[Gone]:
        """Return the names of at most a page of datapoints, with the inodes that they had at the time of `lives`."""
        found = []
        for number, content in (await self._contents(snapshot, first, last)).items():
            datapoint = DatapointNumber(number)
            inode = self.tree.datapoint_inode(snapshot.dataset, datapoint, lives)
            name = str(DatapointName(datapoint, content.extension))
            found.append(Gone(inode, name.encode("utf-8", "surrogateescape")))
        return found

    async def _compare(self, before: Snapshot, after: Snapshot, datarange: Datarange) -> Stretch | None:
        """Return the datapoints of `datarange`, from the first to the last, that `after` lacks or has otherwise."""
        same = before.dataset_id == after.dataset_id
        if not same or not after.overlapping(datarange.first, datarange.last):
            return Stretch(datarange.first, datarange.last)
        ends: list[int] = []
        for first, last in pages(datarange.first, datarange.last):
            old, new = await self._contents(before, first, last), await self._contents(after, first, last)
            changed = [number for number, content in old.items() if new.get(number) != content]
            if changed:
                ends = [*(ends[:1] or changed[:1]), changed[-1]]
        return Stretch(ends[0], ends[1]) if ends else None

    async def _contents(self, snapshot: Snapshot, first: int, last: int) -> dict[int, _Content]:
        """Return what datapoints `first..last` hold, but for those whose manifest is damaged."""
        await trio.lowlevel.checkpoint()
        found: dict[int, _Content] = {}
        for datarange in snapshot.overlapping(first, last):
            try:
                view = await self._catalog.view(snapshot, datarange)
                for number in range(max(first, datarange.first), min(last, datarange.last) + 1):
                    record = self._index.record(view, number - datarange.first)
                    found[number] = _Content(record.true_size, record.mtime, record.crc32, record.extension)
            except (StoreUnavailable, ObjectChanged):
                raise
            except DasfsError as error:
                log.debug("the manifest of %s %s: %s", snapshot.dataset, datarange.id, error)
        return found


class Invalidation:
    """The way from one snapshot to the next for one mount. An `Update` of the catalog."""

    def __init__(self, invalidator: Invalidator, before: Snapshot, after: Snapshot, stretches: list[Stretch]) -> None:
        self._invalidator = invalidator
        self._before = before
        self._after = after
        self._stretches = stretches
        self._lives: Lives = ()

    def switch(self) -> None:
        """Give what is gone other inodes."""
        tree, dataset = self._invalidator.tree, self._before.dataset
        self._lives = tree.lives(dataset)
        if self._before.dataset_id != self._after.dataset_id or self._after.deleted:
            tree.renew(self._before, 0, MAX_NUMBER)
            return
        for stretch in self._stretches:
            tree.renew(self._before, stretch.first, stretch.last)

    async def settle(self) -> None:
        """Drop what the kernel and the content hold of what is gone."""
        kernel, directory = self._invalidator.kernel, self._invalidator.tree.directory_inode(self._before.dataset)
        for stretch in self._stretches:
            for first, last in pages(stretch.first, stretch.last):
                gone = await self._invalidator.page(self._before, first, last, self._lives)
                for each in gone:
                    self._invalidator.content.forget(each.inode)
                await trio.to_thread.run_sync(_drop, kernel, directory, gone)
        if self._after.deleted and directory != ROOT:
            await trio.to_thread.run_sync(kernel.drop_name, ROOT, self._before.dataset.encode())


def _drop(kernel: Kernel, directory: Inode, gone: list[Gone]) -> None:
    for each in gone:
        kernel.drop_name(directory, each.name)
        kernel.drop_inode(each.inode)
