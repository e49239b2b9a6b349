"""Where the datapoints of a mount lie: a dataset and a number lead to a datarange and a record of its manifest.

Names, sizes and times come from manifests, never from a request per file. A gap is `None`; a datapoint whose
manifest is missing or damaged raises `Corrupt`, and the others work.

**Concurrency:** one trio thread. `peek` never waits; the others answer without waiting when what they need is in the
index cache, and wait for the store, within the catalog's deadline, when it is not.
"""

from typing import Final

from dasfs.cache.catalog import Catalog
from dasfs.cache.index import IndexCache, ManifestView
from dasfs.cache.pages import PAGE_RECORDS
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import Corrupt, InvalidInput, NotFound, ObjectChanged
from dasfs.formats.manifest import Record
from dasfs.fuse.inodes import DatapointPlace, InodeTable
from dasfs.fuse.nodes import Holder, Located
from dasfs.names import DatapointName, DatapointNumber

# How often one answer follows a datarange to where newer revisions put it: more would need somebody who aggregates and
# collects, without any grace, faster than a manifest is read.
MAX_MOVES: Final = 5


class Datapoints:
    """Finds the datapoints of the newest snapshots, as the catalog knows them."""

    def __init__(self, catalog: Catalog, index: IndexCache, inodes: InodeTable) -> None:
        self._catalog = catalog
        self._index = index
        self._inodes = inodes

    def peek(self, dataset: str, number: DatapointNumber) -> Located | None:
        """Return what `locate` would, if everything needed is in memory; else None."""
        state = self._catalog.fresh(dataset)
        if state is None:
            return None
        snapshot = state.snapshot
        datarange = snapshot.find(number)
        if datarange is None:
            return None
        view = self._catalog.view_in_memory(snapshot.dataset_id, datarange.id)
        if view is None:
            return None
        record = self.peek_record(view, number - datarange.first)
        if record is None:
            return None
        return Located(self._inodes.datapoint(dataset, number), number, snapshot, datarange, view, record)

    def peek_record(self, view: ManifestView, place: int) -> Record | None:
        """Return a record of a manifest; None where the index cache must be mended first, which `page` does."""
        try:
            return self._index.record(view, place)
        except (Corrupt, NotFound):
            return None

    async def locate(self, place: DatapointPlace) -> Located | None:
        """Return where a datapoint of the newest snapshot is; None where there is none, or no such dataset."""
        state = await self._catalog.dataset(place.dataset)
        if state is None:
            return None
        number = place.number
        holder = await self.find(state.snapshot, number)
        if holder is None:
            return None
        record = self._index.record(holder.view, number - holder.datarange.first)
        inode = self._inodes.datapoint(place.dataset, number)
        return Located(inode, number, holder.snapshot, holder.datarange, holder.view, record)

    async def find(self, snapshot: Snapshot, number: int) -> Holder | None:
        """Return where a datapoint of `snapshot` is; in the newest snapshot where that is gone from the store.

        None where there is no such datapoint.
        """
        moves = 0
        while (datarange := snapshot.find(number)) is not None:
            try:
                return await self.hold(snapshot, datarange, number)
            except ObjectChanged:
                moves += 1
                state = await self._catalog.refresh_now(snapshot.dataset)
                if state is None or state.snapshot.dataset_id != snapshot.dataset_id:
                    return None
                if moves == MAX_MOVES:
                    raise
                snapshot = state.snapshot
        return None

    async def hold(self, snapshot: Snapshot, datarange: Datarange, number: int) -> Holder:
        """Return a datarange with the page of its records that has `number`, which is in memory then.

        The index cache may lose both at any time: then it is built anew, and the manifest fetched once more. Raises
        what `Catalog.view` raises, with `Corrupt` for a manifest that is not there.
        """
        for _ in range(3):
            try:
                view = await self._catalog.view(snapshot, datarange)
            except NotFound as error:
                raise Corrupt(f"{snapshot.dataset} {datarange.id}: {error}") from error
            try:
                page = self._index.page(view, (number - datarange.first) // PAGE_RECORDS)
                return Holder(snapshot, datarange, view, page)
            except NotFound:
                self._catalog.forget_view(snapshot.dataset_id, datarange.id)
            except Corrupt:
                self._catalog.rebuild()
        raise Corrupt(f"the index cache keeps losing the manifest of {snapshot.dataset} {datarange.id}")

    def record(self, holder: Holder, number: int) -> Record:
        """Return the record of a datapoint of what was just found."""
        return self._index.record(holder.view, number - holder.datarange.first)


def parse_name(name: str) -> DatapointName | None:
    """Return the parts of a datapoint's name, or None where no datapoint can have this name."""
    try:
        return DatapointName.parse(name)
    except InvalidInput:
        return None
