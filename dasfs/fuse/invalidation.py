"""Telling the kernel what is no longer true: names of datapoints that were deleted or written anew.

The kernel keeps names, attributes and pages for an hour, since contents never change under a number. When a
new snapshot lacks datapoints of the old one, or has others under their numbers, what the kernel holds is
dropped. Aggregation changes no datapoint, so it drops nothing. Datapoints whose manifest this mount never
fetched can't be known to the kernel.

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
from dasfs.errors import Corrupt, DasfsError, NotFound
from dasfs.formats.manifest import RECORD
from dasfs.fuse.content import Content
from dasfs.fuse.inodes import ROOT, Inode
from dasfs.fuse.tree import Tree
from dasfs.names import DatapointName, DatapointNumber

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gone:
    """A name that the kernel may hold and that no longer means what it did."""

    inode: Inode
    name: bytes


def replaced(before: Snapshot, after: Snapshot) -> tuple[Datarange, ...]:
    """Return the dataranges of `before` that are not live in `after`. Pure."""
    if before.dataset_id != after.dataset_id:
        return before.dataranges
    live = {datarange.id for datarange in after.dataranges}
    return tuple(datarange for datarange in before.dataranges if datarange.id not in live)


class Invalidator:
    """Drops what the kernel and the content hold of datapoints that a new snapshot lacks."""

    def __init__(self, tree: Tree, content: Content, catalog: Catalog, index: IndexCache) -> None:
        self._tree = tree
        self._content = content
        self._catalog = catalog
        self._index = index

    async def on_change(self, before: Snapshot, after: Snapshot) -> None:
        """Bring the kernel from `before` to `after`. A listener of the catalog."""
        directory = self._tree.directory_inode(before.dataset)
        for datarange in replaced(before, after):
            if self._catalog.known_view(before.dataset_id, datarange.id) is None:
                continue
            await self._learn_successors(before, after, datarange)
            for number in range(0, datarange.count, PAGE_RECORDS):
                gone = list(self._gone(before, after, datarange, number))
                if gone:
                    await trio.to_thread.run_sync(_invalidate, directory, gone)
                await trio.lowlevel.checkpoint()
        if after.deleted and directory != ROOT:
            await trio.to_thread.run_sync(_invalidate_name, ROOT, before.dataset.encode())

    async def _learn_successors(self, before: Snapshot, after: Snapshot, datarange: Datarange) -> None:
        """Fetch the manifests of what stands where `datarange` stood: they tell what is still the same."""
        if before.dataset_id != after.dataset_id:
            return
        for successor in after.overlapping(datarange.first, datarange.last):
            try:
                await self._catalog.view(after, successor)
            except DasfsError as error:
                log.debug("the manifest of %s %s: %s", after.dataset, successor.id, error)

    def _gone(self, before: Snapshot, after: Snapshot, datarange: Datarange, start: int) -> Iterator[Gone]:
        """Yield what is gone of the page of `datarange` that starts at record `start`."""
        for number, record, extension in self._records(before, datarange, start):
            successor = after.find(number) if before.dataset_id == after.dataset_id else None
            if successor is not None and self._same(after, successor, number, record, extension):
                continue
            inode = self._tree.datapoint_inode(before.dataset, number)
            self._content.forget(inode)
            name = str(DatapointName(number, extension)).encode("utf-8", "surrogateescape")
            yield Gone(inode, name)

    def _records(
        self, snapshot: Snapshot, datarange: Datarange, start: int
    ) -> Iterator[tuple[DatapointNumber, tuple[int, ...], str]]:
        view = self._catalog.known_view(snapshot.dataset_id, datarange.id)
        if view is None:
            return
        try:
            page = self._index.page(view, start // PAGE_RECORDS)
        except (Corrupt, NotFound) as error:
            log.debug("nothing to invalidate: %s", error)
            return
        for k, record in enumerate(RECORD.iter_unpack(page)):
            yield DatapointNumber(datarange.first + start + k), record, view.extensions[record[5]]

    def _same(
        self, snapshot: Snapshot, datarange: Datarange, number: int, record: tuple[int, ...], extension: str
    ) -> bool:
        """Return whether `number` has the same bytes as before, which only its new manifest can tell."""
        view = self._catalog.known_view(snapshot.dataset_id, datarange.id)
        if view is None:
            return False
        now = self._index.record(view, number - datarange.first)
        return (now.true_size, now.crc32, now.extension) == (record[2], record[4], extension)


def _invalidate(directory: Inode, gone: list[Gone]) -> None:
    for each in gone:
        _invalidate_name(directory, each.name)
        try:
            pyfuse3.invalidate_inode(pyfuse3.InodeT(each.inode))
        except FileNotFoundError:
            continue  # the usual case: the kernel does not hold it


def _invalidate_name(directory: Inode, name: bytes) -> None:
    try:
        pyfuse3.invalidate_entry(pyfuse3.InodeT(directory), pyfuse3.FileNameT(name))
    except FileNotFoundError:
        return  # the usual case: the kernel does not hold it
