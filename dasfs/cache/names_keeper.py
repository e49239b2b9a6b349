"""Keeps the names indexes of a mount's datasets: builds one when it is first asked for, and follows new revisions.

Until an index is whole nobody sees it. What was built is kept, datarange by datarange, whatever ends the building; a
later revision is brought in by one transaction, and only what it changes.

**Concurrency:** one trio thread; an index is written in a thread of its own, one at a time for all datasets, and one
task does it for all that wait. Whoever stops waiting does not stop the work.
"""

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import trio

from dasfs.cache.catalog import Catalog
from dasfs.cache.index import IndexCache, ManifestView
from dasfs.cache.names_index import NamePage, NamesIndex, NameSource
from dasfs.cache.remote import SingleFlight
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import Corrupt, DasfsError, NotFound, NotReady, ObjectChanged, StoreUnavailable

log = logging.getLogger(__name__)

# How much of the time that an operation has it may wait for an index; the rest is for saying that it is not ready.
SHARE_OF_WAIT: Final = 0.9
# How often building begins again because what it reads was replaced meanwhile.
MAX_STARTS: Final = 20
# Dataranges that are brought into an index that nobody sees yet in one transaction.
BATCH: Final = 16


@dataclass(slots=True)
class KeptNames:
    """The index of one dataset. `snapshot` is what it holds, None until it is whole.

    `generation` is another one when it was begun anew: numbers of directories mean something else then. `problem` is
    why the names of some datapoints are not known. `done` of `total` datapoints are there while it is built.
    """

    index: NamesIndex
    generation: int
    snapshot: Snapshot | None = None
    problem: DasfsError | None = None
    done: int = 0
    total: int = 0


class _IndexCacheDamaged(DasfsError):
    """Names can't be read from the index cache, which must be built anew: not the index of the names."""


class NamesKeeper:
    """The names indexes below `directory`."""

    def __init__(self, nursery: trio.Nursery, catalog: Catalog, index: IndexCache, directory: str) -> None:
        self._catalog = catalog
        self._index = index
        self._directory = directory
        self._kept: dict[str, KeptNames] = {}
        self._flights: SingleFlight[str] = SingleFlight(nursery)
        self._thread = trio.CapacityLimiter(1)
        self._ended = threading.Event()
        self._generations = 0

    def close(self) -> None:
        """Close all indexes."""
        self._ended.set()
        for kept in self._kept.values():
            kept.index.close()
        self._kept.clear()

    def peek(self, dataset: str) -> KeptNames | None:
        """Return a whole index, maybe of an older revision, if there is one in this mount."""
        kept = self._kept.get(dataset)
        return kept if kept is not None and kept.snapshot is not None else None

    def fresh(self, dataset: str) -> KeptNames | None:
        """Return a whole index of the newest known revision, if it can be had without waiting."""
        kept, state = self._kept.get(dataset), self._catalog.fresh(dataset)
        return kept if kept is not None and state is not None and kept.snapshot is state.snapshot else None

    async def bring(self, dataset: str, *, patience_s: float | None = None) -> KeptNames:
        """Bring the index of a dataset up to date, and return it.

        Waits as long as the operation may, at most `patience_s`; then raises `NotReady`, and goes on. Raises `NotFound`
        where there is no such dataset, and what the store raises.
        """
        state = await self._catalog.dataset(dataset)
        if state is None:
            raise NotFound(f"no dataset {dataset}")
        left = (trio.current_effective_deadline() - trio.current_time()) * SHARE_OF_WAIT
        with trio.move_on_after(max(left if patience_s is None else min(left, patience_s), 0)):
            while (kept := self.fresh(dataset)) is None:
                await self._flights.run(dataset, lambda: self._bring(dataset))
            return kept
        raise self._not_ready(dataset)

    def discard(self, dataset: str) -> None:
        """Start an index over after it was found damaged."""
        kept = self._kept.pop(dataset, None)
        if kept is not None:
            log.warning("the index of the original paths of %s is damaged; it is built anew", dataset)
            kept.index.discard()

    def _not_ready(self, dataset: str) -> NotReady:
        kept = self._kept.get(dataset)
        progress = "" if kept is None or not kept.total else f" ({kept.done} of {kept.total} datapoints)"
        return NotReady(
            f"the index of the original paths of {dataset} is being built{progress}", hint="try again in a while"
        )

    async def _bring(self, dataset: str) -> None:
        for _ in range(MAX_STARTS):
            state = self._catalog.known(dataset)
            if state is None:
                raise NotFound(f"no dataset {dataset}")
            snapshot = state.snapshot
            try:
                kept = self._open(snapshot)
                await self._fill(kept, snapshot)
                kept.index.renew()
                kept.snapshot = snapshot
            except ObjectChanged:
                await self._catalog.refresh_now(dataset)
            except Corrupt:
                self.discard(dataset)
            else:
                return
        raise Corrupt(f"the index of the original paths of {dataset} can't be built")

    def _open(self, snapshot: Snapshot) -> KeptNames:
        kept = self._kept.get(snapshot.dataset)
        if kept is not None and kept.index.dataset_id == snapshot.dataset_id:
            return kept
        if kept is not None:
            kept.index.close()
            del self._kept[snapshot.dataset]
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        index = NamesIndex(os.path.join(self._directory, f"{snapshot.dataset}.sqlite"), snapshot.dataset_id)
        self._generations += 1
        kept = self._kept[snapshot.dataset] = KeptNames(index, self._generations)
        return kept

    async def _fill(self, kept: KeptNames, snapshot: Snapshot) -> None:
        """Bring an index to a snapshot."""
        there = kept.index.dataranges()
        missing = [datarange for datarange in snapshot.dataranges if str(datarange.id) not in there]
        kept.total = snapshot.count
        kept.done = kept.total - sum(datarange.count for datarange in missing)
        kept.problem = None
        is_new = not kept.index.is_complete
        if is_new:
            log.info("building the index of the original paths of %s: %d datapoints", snapshot.dataset, kept.total)
        elif not missing and len(there) == len(snapshot.dataranges):
            return
        views: list[ManifestView] = []
        for datarange in missing:
            view = await self._view(kept, snapshot, datarange)
            if view is not None:
                views.append(view)
            if is_new and len(views) == BATCH:
                await self._write(kept, snapshot, views, complete=False)
                views = []
        await self._write(kept, snapshot, views, complete=True)
        if is_new:
            log.info("the index of the original paths of %s is ready", snapshot.dataset)

    async def _view(self, kept: KeptNames, snapshot: Snapshot, datarange: Datarange) -> ManifestView | None:
        """Return a manifest; None, and take note of the problem, where it is missing or damaged."""
        try:
            return await self._catalog.view(snapshot, datarange)
        except (ObjectChanged, StoreUnavailable):
            raise
        except DasfsError as error:
            numbers = f"{datarange.first}-{datarange.last}"
            log.warning("the original paths of %s %s are not known: %s", snapshot.dataset, numbers, error)
            kept.problem = kept.problem or error
            return None

    async def _write(self, kept: KeptNames, snapshot: Snapshot, views: list[ManifestView], *, complete: bool) -> None:
        """Write what is new, in a thread. What the index cache loses meanwhile is fetched again then."""
        sources = [NameSource(view.id, self._pages(kept, view)) for view in views]

        def work() -> None:
            kept.index.update(snapshot, sources, complete=complete)

        try:
            await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._thread)
        except _IndexCacheDamaged as error:
            self._catalog.rebuild()
            raise ObjectChanged(str(error)) from error
        except NotFound as error:
            for view in views:
                self._catalog.forget_view(snapshot.dataset_id, view.id)
            raise ObjectChanged(str(error)) from error

    def _pages(self, kept: KeptNames, view: ManifestView) -> Iterator[NamePage]:
        """Yield the names of a datarange, in the thread that writes them."""
        first = int(view.id.first)
        try:
            for names, extensions in self._index.iter_names(view):
                if self._ended.is_set():
                    raise NotReady("the mount ends")
                yield NamePage(first, [os.fsencode(name) if name else b"" for name in names], extensions)
                first += len(names)
                kept.done += len(names)
        except Corrupt as error:
            raise _IndexCacheDamaged(str(error)) from error
