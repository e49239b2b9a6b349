"""What a mount knows of its store's datasets, and how it keeps that fresh.

The catalog serves snapshots and manifests from the index cache and asks the store only for what is new. While
the store is away it goes on serving what it knows, and says so once.

**Concurrency:** all methods run in the mount's trio thread. Store calls run in threads, at one place
(`Remote.call`), each with a deadline; a call that is stuck is left behind in its thread, and its token with
it. Of several tasks that want the same dataset or manifest, one asks the store and the others wait for its
answer.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import trio

from dasfs.cache.index import IndexCache, ManifestView
from dasfs.cache.newest import is_same, read_manifest, read_snapshot
from dasfs.cache.remote import Remote, SingleFlight
from dasfs.dataset.dataset import dataset_names
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import Corrupt, DasfsError, ObjectChanged, Unsupported
from dasfs.names import DatarangeId, check_dataset_name
from dasfs.stores.base import Store

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# A view costs a few hundred bytes and 4 bytes for each 256 KiB of its TAR object.
MAX_VIEWS = 4096
# A dataset that nobody used for so long is not refreshed in the background any more, but when it is used
# again.
IDLE_AFTER_S = 600.0
# How long somebody waits for news when there is something older to show. Not more than half of a shorter deadline, or
# he would get an error instead.
PATIENCE_S = 2.0
# How long the store is not asked again for a dataset that it does not have.
ABSENT_S = 1.0
MAX_ABSENT = 1024
# A snapshot that is overtaken while it is looked at is passed over for the next one: with the usual grace of a day that
# is never, and without any grace as often as somebody commits and collects in a few milliseconds.
MAX_OVERTAKEN = 5


class Update(Protocol):
    """What whoever shows a dataset has to do about one new snapshot."""

    def switch(self) -> None:
        """Show the new snapshot from this moment on. Waits for nothing."""

    async def settle(self) -> None:
        """Do what is left, when the new snapshot is shown already."""


# Is told of a change while the old snapshot is still shown, and may ask the store about it.
Listener = Callable[[Snapshot, Snapshot], Awaitable[Update]]


@dataclass(slots=True)
class DatasetState:
    """What is known of one dataset.

    `idle`: nobody used it for long, so that it is not kept fresh. `asked`: somebody did since `used`, which is on
    trio's clock; looking at that at each lookup of a file would cost a tenth of it. `problem` is why it could not be
    refreshed, and `refreshed_at` when it last was.
    """

    snapshot: Snapshot
    used: float
    idle: bool = False
    asked: bool = False
    refreshed_at: datetime | None = None
    problem: str | None = None

    @property
    def name(self) -> str:
        return self.snapshot.dataset


class Catalog:
    """The datasets of one store, as one mount sees them. `refresh_s` bounds how stale a snapshot may be."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: Store,
        index: IndexCache,
        remote: Remote,
        *,
        refresh_s: float,
        only: str | None = None,
    ) -> None:
        self._nursery = nursery
        self._store = store
        self._index = index
        self._remote = remote
        self._refresh_s = refresh_s
        self._patience_s = min(PATIENCE_S, remote.deadline_s / 2)
        self._only = None if only is None else check_dataset_name(only)
        self._states: dict[str, DatasetState] = {}
        self._names_checked = float("-inf")
        self._views: OrderedDict[tuple[str, DatarangeId], ManifestView] = OrderedDict()
        self._flights: SingleFlight[tuple[str, object]] = SingleFlight(nursery)
        self._listener: Listener | None = None
        self._absent: dict[str, float] = {}
        self.problem: str | None = None
        self._names = self._recall_names()

    @property
    def states(self) -> tuple[DatasetState, ...]:
        """The datasets that were used since the mount began."""
        return tuple(self._states.values())

    def known(self, name: str) -> DatasetState | None:
        """Return a dataset that was used before, without asking anybody."""
        return self._states.get(name)

    def subscribe(self, listener: Listener) -> None:
        """Await `listener(before, after)` whenever a dataset has a new snapshot, and do what it answers.

        The index cache keeps what it knows of `before` until that is settled.
        """
        self._listener = listener

    async def names(self) -> list[str]:
        """Return the names of all datasets, at most `refresh_s` old; older ones while the store is away.

        Among them may be names of deleted datasets, which `dataset` tells apart.
        """
        if self._only is not None:
            return [self._only]
        if trio.current_time() - self._names_checked < self._refresh_s:
            return self._names
        flight = self._flights.begin(("names", None), self._load_names)
        if self._names_checked == float("-inf") and not self._names:
            await flight.done.wait()
            if flight.error is not None:
                raise flight.error
        elif self.problem is None:
            with trio.move_on_after(self._patience_s):
                await flight.done.wait()
        return self._names

    async def dataset(self, name: str) -> DatasetState | None:
        """Return a dataset's state, at most `refresh_s` old; an older one while the store is away.

        None where there is no such dataset. Raises `InvalidInput` for a name that no dataset can have, and what the
        store raises when nothing is known yet.
        """
        state = self.fresh(name)
        if state is not None:
            return state
        check_dataset_name(name)
        state = self._states.get(name) or self._recall(name)
        now = trio.current_time()
        if state is None:
            if now - self._absent.get(name, float("-inf")) < min(self._refresh_s, ABSENT_S):
                return None
            return await self.refresh_now(name)
        state.used, state.idle = now, False
        if self.problem is None:
            with trio.move_on_after(self._patience_s):
                await self._flights.run(("dataset", name), lambda: self._refresh(name))
        return self._states.get(name)

    def fresh(self, name: str) -> DatasetState | None:
        """Return a dataset's state if it can be had without waiting: somebody used it lately."""
        state = self._states.get(name)
        if state is None or state.idle:
            return None
        state.asked = True
        return state

    def is_newest(self, snapshot: Snapshot) -> bool:
        """Return whether `snapshot` is what its dataset has now, as far as is known."""
        state = self._states.get(snapshot.dataset)
        return state is not None and state.snapshot is snapshot

    async def refresh_now(self, name: str) -> DatasetState | None:
        """Ask the store for a dataset's newest snapshot, whatever the age of the one that is known."""
        await self._flights.run(("dataset", name), lambda: self._refresh(name))
        return self._states.get(name)

    async def ask(self, function: Callable[Concatenate[Store, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(store, ...)`, run in a thread. Raises what it raises, or `DeadlineExceeded`."""
        return await self._remote.call(function, self._store, *args, **kwargs)

    async def run(self) -> None:
        """Refresh the datasets in use every `refresh_s`, until cancelled."""
        while True:
            await trio.sleep(self._refresh_s)
            now = trio.current_time()
            for state in self.states:
                if state.asked:
                    state.used, state.asked = now, False
                state.idle = now - state.used > IDLE_AFTER_S
                if not state.idle:
                    try:
                        await self.refresh_now(state.name)
                    except DasfsError as error:
                        log.debug("refreshing %s failed: %s", state.name, error)

    async def view(self, snapshot: Snapshot, datarange: Datarange) -> ManifestView:
        """Return the manifest of a datarange of `snapshot`; fetch it where it is not in the index cache.

        Raises `ObjectChanged` when it is gone because a newer revision has replaced the datarange (`refresh_now` gets
        that), `NotFound`, `Corrupt`, `StoreUnavailable`.
        """
        key = (snapshot.dataset_id, datarange.id)
        for _ in range(3):  # the index cache may turn out to be damaged just when it is read, and is built anew then
            view = self.known_view(*key)
            if view is None:
                await self._flights.run(("view", key), lambda: self._load_view(snapshot, datarange))
                view = self.known_view(*key)
            if view is not None:
                return view
        raise Corrupt(f"the manifest of {snapshot.dataset} {datarange.id} is not kept by the index cache")

    def known_view(self, dataset_id: str, datarange: DatarangeId) -> ManifestView | None:
        """Return a manifest that is in the index cache, without asking the store."""
        key = (dataset_id, datarange)
        view = self._views.get(key)
        if view is not None:
            return view
        try:
            view = self._index.find_manifest(dataset_id, datarange)
        except Corrupt:
            self.rebuild()
        if view is not None:
            self._views[key] = view
            if len(self._views) > MAX_VIEWS:
                self._views.popitem(last=False)
        return view

    def view_in_memory(self, dataset_id: str, datarange: DatarangeId) -> ManifestView | None:
        """Return a manifest that was used lately, with no I/O at all."""
        return self._views.get((dataset_id, datarange))

    def forget_view(self, dataset_id: str, datarange: DatarangeId) -> None:
        """Forget a view that the index cache no longer knows, so that the manifest is fetched again."""
        self._views.pop((dataset_id, datarange), None)

    def rebuild(self) -> None:
        """Start the index cache over after it was found damaged."""
        log.warning("the index cache is damaged; it is built anew")
        self._views.clear()
        self._index.rebuild()

    async def _load_names(self) -> None:
        try:
            self._names = await self._remote.call(lambda: list(dataset_names(self._store)))
        except DasfsError as error:
            if self._names_checked == float("-inf") and not self._names:
                raise
            self._note_problem(str(error))
        else:
            self._note_problem(None)
        self._names_checked = trio.current_time()

    async def _refresh(self, name: str) -> None:
        state = self._states.get(name)
        before = state.snapshot if state else None
        try:
            recalled = state is not None and state.refreshed_at is None
            after = await self._follow(name, before, confirm=recalled)
        except DasfsError as error:
            self._note_failure(name, state, error)
            if state is None:
                raise
            return
        self._note_problem(None)
        if after is None:
            if len(self._absent) >= MAX_ABSENT:
                self._absent.clear()
            self._absent[name] = trio.current_time()
            return
        if state is None:
            state = self._states[name] = DatasetState(after, used=trio.current_time())
            await self._keep(after)
        state.problem, state.refreshed_at = None, datetime.now(UTC)

    async def _follow(self, name: str, before: Snapshot | None, *, confirm: bool) -> Snapshot | None:
        """Read the newest snapshot of a dataset, and show it instead of `before`. None where there is none."""
        overtaken = 0
        while True:
            after = await self._remote.call(read_snapshot, self._store, name, before, confirm=confirm)
            if before is None or (after is not None and is_same(before, after)):
                return after
            try:
                await self._change(before, after or replace(before, dataranges=(), deleted=True))
            except ObjectChanged:
                overtaken += 1
                if overtaken == MAX_OVERTAKEN:
                    raise
            else:
                return after

    def _recall_names(self) -> list[str]:
        try:
            return self._index.list_snapshots(self._store.url)
        except Corrupt:
            self.rebuild()
            return []

    def _recall(self, name: str) -> DatasetState | None:
        """Begin with what an earlier mount knew of a dataset."""
        try:
            snapshot = self._index.load_snapshot(self._store.url, name)
        except Corrupt:
            self.rebuild()
            return None
        if snapshot is None:
            return None
        state = self._states[name] = DatasetState(snapshot, used=float("-inf"), idle=True)
        return state

    async def _change(self, before: Snapshot, after: Snapshot) -> None:
        """Show a new snapshot. Raises, and goes on with the old one, where its listener needs a store that is away."""
        update = None if self._listener is None else await self._listener(before, after)
        if after.deleted:
            self._states.pop(after.dataset, None)
        else:
            self._states[after.dataset].snapshot = after
        if update is not None:
            update.switch()
        self._nursery.start_soon(self._settle, before, after, update)
        await self._keep(after)

    async def _settle(self, before: Snapshot, after: Snapshot, update: Update | None) -> None:
        """Let the listener end what it began, then forget the manifests that the change made useless."""
        if update is not None:
            try:
                await update.settle()
            except DasfsError as error:
                log.warning("the kernel may still show what %s no longer has: %s", after.dataset, error)
            except Exception:  # a defect of ours must not end the mount
                log.exception("unexpected error after a change of %s", after.dataset)
        live = {each.id for each in after.dataranges} if after.dataset_id == before.dataset_id else set()
        await self._write(lambda: self._index.drop_manifests(before.dataset_id, keep=live))
        for key in [key for key in self._views if key[0] == before.dataset_id and key[1] not in live]:
            del self._views[key]

    async def _keep(self, snapshot: Snapshot) -> None:
        """Let the next mount begin with this snapshot."""
        if snapshot.deleted:
            await self._write(lambda: self._index.drop_snapshot(self._store.url, snapshot.dataset))
        else:
            await self._write(lambda: self._index.save_snapshot(self._store.url, snapshot))

    async def _write(self, work: Callable[[], None]) -> None:
        """Write to the index cache what can be had again: the mount goes on without."""
        try:
            await trio.to_thread.run_sync(work)
        except Corrupt:
            self.rebuild()
        except DasfsError as error:
            log.warning("%s", error)

    async def _load_view(self, snapshot: Snapshot, datarange: Datarange) -> None:
        manifest = await self._remote.call(read_manifest, self._store, snapshot, datarange)
        try:
            await trio.to_thread.run_sync(self._index.save_manifest, snapshot.dataset_id, manifest)
        except Corrupt:
            self.rebuild()
            await trio.to_thread.run_sync(self._index.save_manifest, snapshot.dataset_id, manifest)

    def _note_failure(self, name: str, state: DatasetState | None, error: DasfsError) -> None:
        """Tell what is wrong with one dataset from what is wrong with the store."""
        if not isinstance(error, (Corrupt, Unsupported)):
            self._note_problem(str(error))
        elif state is not None and state.problem is None:
            log.warning("dataset %s stays as it is: %s", name, error)
        if state is not None:
            state.problem = str(error)

    def _note_problem(self, problem: str | None) -> None:
        """Log the first failure and the recovery, not each failure between."""
        if problem is not None and self.problem is None:
            log.warning("the store can't be read, going on with what is known: %s", problem)
        elif problem is None and self.problem is not None:
            log.info("the store can be read again")
        self.problem = problem
