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

import pyfuse3
import trio

from dasfs.cache.catalog import Catalog
from dasfs.cache.index import IndexCache
from dasfs.cache.pages import PAGE_RECORDS
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import DasfsError, StoreUnavailable
from dasfs.formats.manifest import RECORD
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

    datarange: Datarange
    first: int
    last: int


def replaced(before: Snapshot, after: Snapshot) -> tuple[Datarange, ...]:
    """Return the dataranges of `before` that are not live in `after`. Pure."""
    if before.dataset_id != after.dataset_id:
        return before.dataranges
    live = {datarange.id for datarange in after.dataranges}
    return tuple(datarange for datarange in before.dataranges if datarange.id not in live)


class Invalidator:
    """Finds out what a new snapshot makes untrue. `prepare` is the catalog's listener."""

    def __init__(self, tree: Tree, content: Content, catalog: Catalog, index: IndexCache) -> None:
        self.tree = tree
        self.content = content
        self._catalog = catalog
        self._index = index

    async def prepare(self, before: Snapshot, after: Snapshot) -> "Invalidation":
        """Return what has to be done when `after` is shown instead of `before`.

        Fetches the manifests of what stands where something else stood. Raises `StoreUnavailable`.
        """
        stretches = []
        for datarange in replaced(before, after):
            if self._catalog.known_view(before.dataset_id, datarange.id) is not None:
                stretch = await self._compare(before, after, datarange)
                if stretch is not None:
                    stretches.append(stretch)
        return Invalidation(self, before, after, tuple(stretches))

    async def names(self, snapshot: Snapshot, stretch: Stretch, lives: Lives) -> list[list[Gone]]:
        """Return the names of a stretch with the inodes that they had, in pages."""
        pages = []
        for first in range(stretch.first, stretch.last + 1, PAGE_RECORDS):
            known = await self._contents(snapshot, first, min(first + PAGE_RECORDS - 1, stretch.last))
            pages.append([self._gone(snapshot.dataset, number, each[-1], lives) for number, each in known.items()])
        return pages

    async def _compare(self, before: Snapshot, after: Snapshot, datarange: Datarange) -> Stretch | None:
        """Return the datapoints of `datarange` from the first to the last that `after` has not, or not the same."""
        same = before.dataset_id == after.dataset_id
        if not same or not after.overlapping(datarange.first, datarange.last):
            return Stretch(datarange, datarange.first, datarange.last)
        changed: list[int] = []
        for first in range(datarange.first, datarange.last + 1, PAGE_RECORDS):
            last = min(first + PAGE_RECORDS - 1, datarange.last)
            old, new = await self._contents(before, first, last), await self._contents(after, first, last)
            different = [number for number, content in old.items() if new.get(number) != content]
            changed = changed[:1] + different[:1] + different[-1:]
            await trio.lowlevel.checkpoint()
        return Stretch(datarange, changed[0], changed[-1]) if changed else None
