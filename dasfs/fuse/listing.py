"""Listing the datapoints of a snapshot in number order, a page of packed records at a time.

**Concurrency:** one trio thread; a page waits for the store, within the catalog's deadline, where its manifest is not
in the index cache.
"""

import logging
from bisect import bisect_right
from itertools import accumulate

from dasfs.cache.catalog import Catalog
from dasfs.cache.pages import PAGE_RECORDS
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import DasfsError, StoreUnavailable
from dasfs.formats.manifest import RECORD_SIZE
from dasfs.fuse.datapoints import Datapoints
from dasfs.fuse.inodes import InodeTable
from dasfs.fuse.nodes import Holder, ListedPage, Listing
from dasfs.fuse.pinned import Past
from dasfs.names import DatapointNumber

log = logging.getLogger(__name__)


class Lister:
    """Lists the datapoints of the newest snapshots and of pinned ones."""

    def __init__(self, catalog: Catalog, datapoints: Datapoints, past: Past, inodes: InodeTable) -> None:
        self._catalog = catalog
        self._datapoints = datapoints
        self._past = past
        self._inodes = inodes

    def open(self, snapshot: Snapshot, space: str) -> Listing:
        """Pin what a directory lists. `space` is what its inodes belong to."""
        starts = (0, *accumulate(datarange.count for datarange in snapshot.dataranges))
        return Listing(snapshot, snapshot, starts, self._inodes.lives(space), space)

    async def page(self, listing: Listing, position: int) -> ListedPage | None:
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
                holder = await self._find(listing, datarange, first)
            except StoreUnavailable:
                raise
            except DasfsError as error:
                log.warning(
                    "datapoints %d-%d of %s can't be listed: %s", datarange.first, datarange.last, listing.space, error
                )
                listing.problem = listing.problem or error
                continue
            if holder is None:
                continue  # it was deleted since the listing began
            skip = (first - holder.datarange.first) % PAGE_RECORDS
            room = min(self._inodes.room(first, listing.lives), datarange.last - first + 1)
            return ListedPage(
                position=listing.starts[place] + start,
                first=first,
                inode=self._inodes.datapoint(listing.space, first, listing.lives),
                extensions=tuple(each.encode("utf-8", "surrogateescape") for each in holder.view.extensions),
                records=holder.page[skip * RECORD_SIZE : (skip + room) * RECORD_SIZE],
                live=listing.is_pinned or self._is_live(snapshot, datarange),
            )
        if listing.problem is not None:
            raise listing.problem
        return None

    async def _find(self, listing: Listing, datarange: Datarange, first: DatapointNumber) -> Holder | None:
        if listing.is_pinned:
            return await self._past.hold(listing.space, listing.snapshot, datarange, first)
        holder = await self._datapoints.find(listing.source, first)
        if holder is not None:
            listing.source = holder.snapshot
        return holder

    def _is_live(self, snapshot: Snapshot, datarange: Datarange) -> bool:
        state = self._catalog.known(snapshot.dataset)
        if state is None or state.snapshot.dataset_id != snapshot.dataset_id:
            return False
        now = state.snapshot.find(datarange.first)
        return now is not None and now.id == datarange.id
