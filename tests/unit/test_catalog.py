"""What a mount knows of its store: how it learns what is new, and what it does while the store is away."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from dasfs.cache.catalog import PATIENCE_S as CATALOG_PATIENCE_S
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Snapshot
from dasfs.errors import Corrupt, DasfsError, DeadlineExceeded, InvalidInput, StoreUnavailable
from dasfs.names import DatasetKeys, Revision
from dasfs.stores import open_store
from tests import datasets
from tests.faulty import Fault, FaultyStore, during, healthy
from tests.parts import Parts, eventually, opened_parts, wait_until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyStore]:
    """A store with two datasets, which can be made to fail."""
    with open_store(f"file://{tmp_path}/store") as inner:
        inner.create()
        datasets.add(inner, "first", 0, [b"a", b"b"])
        datasets.add(inner, "second", 0, [b"c"])
        faulty = FaultyStore(inner)
        yield faulty
        faulty.release()


@dataclass
class Watcher:
    """A listener that notes what it is told, and may fail."""

    told: list[tuple[str, Snapshot, Snapshot]] = field(default_factory=list)
    fail_before: Exception | None = None
    fail_after: Exception | None = None

    async def __call__(self, before: Snapshot, after: Snapshot) -> "Told":
        if self.fail_before is not None:
            raise self.fail_before
        self.told.append(("prepare", before, after))
        return Told(self, before, after)

    def stages(self) -> list[str]:
        return [stage for stage, _, _ in self.told]


@dataclass
class Told:
    """What a `Watcher` answers."""

    watcher: Watcher
    before: Snapshot
    after: Snapshot

    def switch(self) -> None:
        self.watcher.told.append(("switch", self.before, self.after))

    async def settle(self) -> None:
        self.watcher.told.append(("settle", self.before, self.after))
        if self.watcher.fail_after is not None:
            raise self.watcher.fail_after


async def revision(parts: Parts, name: str) -> int | None:
    state = await parts.catalog.dataset(name)
    return None if state is None else state.snapshot.revision


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_datasets_are_listed_and_found(store: FaultyStore, tmp_path: Path) -> None:
    """The catalog names the datasets of the store, and gives the newest snapshot of each; others are None."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            assert await parts.catalog.names() == ["first", "second"]
            state = await parts.catalog.dataset("first")
            assert state is not None
            assert (state.name, state.snapshot) == ("first", Dataset(store, "first").snapshot())
            assert await parts.catalog.dataset("third") is None
            assert parts.catalog.problem is None

    trio.run(main)


def test_what_is_known_is_not_asked_again(store: FaultyStore, tmp_path: Path) -> None:
    """Within the refresh interval names, snapshots and manifests cost no request, also what is not there."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            for _ in range(3):
                await parts.catalog.names()
                state = await parts.catalog.dataset("first")
                assert state is not None
                await parts.catalog.view(state.snapshot, state.snapshot.dataranges[0])
                await parts.catalog.dataset("third")
                if _ == 0:
                    begun = len(store.operations)
            assert len(store.operations) == begun

    trio.run(main)


def test_many_who_ask_cause_one_request(store: FaultyStore, tmp_path: Path) -> None:
    """Tasks that want the same manifest at the same time cause one GET of it."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            state = await parts.catalog.dataset("first")
            assert state is not None
            before = store.count("get")
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(parts.catalog.view, state.snapshot, state.snapshot.dataranges[0])
            assert store.count("get") == before + 1

    trio.run(main)


@pytest.mark.parametrize("name", ["a/b", "", ".git", "ä", "x" * 129, "a b"])
def test_impossible_names_are_no_problem_of_the_store(
    store: FaultyStore, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that no dataset can have is `InvalidInput`: no request, no warning, and the store is not blamed."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            with pytest.raises(InvalidInput):
                await parts.catalog.dataset(name)
            assert parts.catalog.problem is None

    trio.run(main)
    assert store.operations == []
    assert warnings(caplog) == []


def test_news_come_by_themselves(store: FaultyStore, tmp_path: Path) -> None:
    """A dataset in use is refreshed in the background; a listener is told before, at and after the change."""

    async def main() -> None:
        watcher = Watcher()
        async with opened_parts(store, tmp_path, refresh_s=0.02) as parts, trio.open_nursery() as nursery:
            parts.catalog.subscribe(watcher)
            nursery.start_soon(parts.catalog.run)
            assert await revision(parts, "first") == 2
            datasets.add(store.inner, "first", 2, [b"new"])
            await wait_until(lambda: watcher.stages() == ["prepare", "switch", "settle"])
            assert await revision(parts, "first") == 3
            assert [(before.revision, after.revision) for _, before, after in watcher.told] == [(2, 3)] * 3
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_deleted_dataset_is_forgotten(store: FaultyStore, tmp_path: Path) -> None:
    """A listener is told of a deletion by an empty snapshot; then there is no such dataset, also after a restart."""

    async def main() -> None:
        watcher = Watcher()
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(watcher)
            assert await revision(parts, "first") == 2
            Dataset(store.inner, "first").delete()
            assert await parts.catalog.refresh_now("first") is None
            await wait_until(lambda: watcher.stages() == ["prepare", "switch", "settle"])
            after = watcher.told[0][2]
            assert (after.deleted, after.dataranges) == (True, ())
            await wait_until(lambda: parts.index.load_snapshot(store.url, "first") is None)
        async with opened_parts(store, tmp_path) as parts:
            assert await revision(parts, "first") is None

    trio.run(main)


def test_useless_manifests_are_dropped(store: FaultyStore, tmp_path: Path) -> None:
    """When a change has settled, manifests of dataranges that are no longer live are gone from the index cache."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            state = await parts.catalog.dataset("first")
            assert state is not None
            old = state.snapshot.dataranges[0]
            await parts.catalog.view(state.snapshot, old)
            datasets.add(store.inner, "first", 2, [b"new"])
            Dataset(store.inner, "first").delete_datarange(0, 1)
            await parts.catalog.refresh_now("first")
            identity = state.snapshot.dataset_id
            await wait_until(lambda: parts.index.find_manifest(identity, old.id) is None)
            await wait_until(lambda: parts.catalog.view_in_memory(identity, old.id) is None)

    trio.run(main)


def test_a_store_that_was_begun_anew_is_noticed_after_a_restart(store: FaultyStore, tmp_path: Path) -> None:
    """A dataset of the same name and as many revisions as an earlier mount saw is still another dataset."""

    async def look() -> Snapshot:
        async with opened_parts(store, tmp_path) as parts:
            state = await parts.catalog.dataset("first")
            assert state is not None
            return state.snapshot

    before = trio.run(look)
    inner = store.inner
    inner.delete([info.key for info in list(inner.list("datas3t/first/"))])
    datasets.add(inner, "first", 0, [b"other"])
    after = trio.run(look)
    assert after.revision == before.revision
    assert after.dataset_id != before.dataset_id


def test_the_last_snapshot_is_served_in_an_outage(
    store: FaultyStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the store is away, what is known is served and said once; when it is back, that ends by itself."""

    async def main() -> None:
        async with opened_parts(store, tmp_path, refresh_s=0.02) as parts, trio.open_nursery() as nursery:
            assert await revision(parts, "first") == 2
            assert await parts.catalog.names() == ["first", "second"]
            nursery.start_soon(parts.catalog.run)
            store.plan = during(Fault.FAIL)
            await wait_until(lambda: parts.catalog.problem is not None)
            for _ in range(5):
                await trio.sleep(0.03)
                assert await revision(parts, "first") == 2
                assert await parts.catalog.names() == ["first", "second"]
            state = parts.catalog.known("first")
            assert state is not None
            assert state.problem
            with pytest.raises(StoreUnavailable):
                await parts.catalog.dataset("second")
            assert len(warnings(caplog)) == 1
            store.plan = healthy
            await wait_until(lambda: parts.catalog.problem is None and state.problem is None)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.HANG])
def test_a_restart_in_an_outage(store: FaultyStore, tmp_path: Path, fault: Fault) -> None:
    """What an earlier mount knew is served by the next though the store fails or hangs, after a short patience."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            await parts.catalog.names()
            state = await parts.catalog.dataset("first")
            assert state is not None
            await parts.catalog.view(state.snapshot, state.snapshot.dataranges[0])
            await wait_until(lambda: parts.index.load_snapshot(store.url, "first") is not None)
        store.plan = during(fault)
        async with opened_parts(store, tmp_path, deadline_s=30) as parts:
            begun = trio.current_time()
            state = await parts.catalog.dataset("first")
            assert state is not None
            view = await parts.catalog.view(state.snapshot, state.snapshot.dataranges[0])
            assert view.count == 2
            assert trio.current_time() - begun < 2 * CATALOG_PATIENCE_S
            store.release()

    trio.run(main)


def test_what_is_known_is_served_within_a_short_deadline(store: FaultyStore, tmp_path: Path) -> None:
    """While a store hangs and nobody has noticed yet, what is known comes before the deadline of who asks."""
    deadline_s = CATALOG_PATIENCE_S / 4

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            assert await parts.catalog.names() == ["first", "second"]
            assert await revision(parts, "first") is not None
        store.plan = during(Fault.HANG)
        async with opened_parts(store, tmp_path, deadline_s=deadline_s) as parts:
            with trio.fail_after(deadline_s):
                assert await parts.catalog.names() == ["first"]
            with trio.fail_after(deadline_s):
                assert await revision(parts, "first") is not None
            store.release()

    trio.run(main)


def test_a_store_that_hangs_is_waited_for_within_the_deadline(store: FaultyStore, tmp_path: Path) -> None:
    """What is not known can't be served: that is `DeadlineExceeded`, and in time."""

    async def main() -> None:
        async with opened_parts(store, tmp_path, deadline_s=0.1) as parts:
            store.plan = during(Fault.HANG)
            with trio.fail_after(5), pytest.raises(DeadlineExceeded):
                await parts.catalog.dataset("first")
            with trio.fail_after(5), pytest.raises(DasfsError):
                await parts.catalog.names()
            store.release()

    trio.run(main)


def test_a_damaged_log_concerns_its_dataset_alone(
    store: FaultyStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A dataset whose log got damaged stays as it was known, with one warning; the store is not blamed."""

    async def main() -> None:
        async with opened_parts(store, tmp_path, refresh_s=0.02) as parts, trio.open_nursery() as nursery:
            assert await revision(parts, "first") == 2
            assert await revision(parts, "second") == 2
            store.inner.put(DatasetKeys("first").commit(Revision(3)), b"{ not json")
            nursery.start_soon(parts.catalog.run)
            state = parts.catalog.known("first")
            assert state is not None
            await wait_until(lambda: state.problem is not None)
            datasets.add(store.inner, "second", 1, [b"new"])

            async def is_new() -> bool:
                return await revision(parts, "second") == 3

            await eventually(is_new)
            assert await revision(parts, "first") == 2
            assert parts.catalog.problem is None
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert len(warnings(caplog)) == 1
    assert "first" in warnings(caplog)[0]


def test_a_change_waits_for_what_it_needs(store: FaultyStore, tmp_path: Path) -> None:
    """When a listener can't prepare because the store is away, the old snapshot is shown on; the change comes later."""

    async def main() -> None:
        watcher = Watcher(fail_before=StoreUnavailable("away"))
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(watcher)
            assert await revision(parts, "first") == 2
            datasets.add(store.inner, "first", 2, [b"new"])
            await parts.catalog.refresh_now("first")
            assert await revision(parts, "first") == 2
            watcher.fail_before = None
            await parts.catalog.refresh_now("first")
            assert await revision(parts, "first") == 3

    trio.run(main)


@pytest.mark.parametrize("failure", [ZeroDivisionError("oops"), Corrupt("bad"), OSError(5, "odd")])
def test_a_listener_that_fails_does_not_end_the_mount(
    store: FaultyStore, tmp_path: Path, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a listener raises after a change is logged, and the catalog goes on."""

    async def main() -> None:
        watcher = Watcher(fail_after=failure)
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(watcher)
            assert await revision(parts, "first") == 2
            for number in (2, 3):
                datasets.add(store.inner, "first", number, [b"new"])
                await parts.catalog.refresh_now("first")
                await wait_until(lambda number=number: watcher.stages().count("settle") == number - 1)  # type: ignore[misc]
            assert await revision(parts, "first") == 4

    trio.run(main)
    assert warnings(caplog)


def test_only_one_dataset_is_named(store: FaultyStore, tmp_path: Path) -> None:
    """A catalog of one dataset names that one, without asking; one that can't exist is refused at once."""

    async def main() -> None:
        async with opened_parts(store, tmp_path, only="first") as parts:
            assert await parts.catalog.names() == ["first"]
        assert store.operations == []
        with pytest.RaisesGroup(InvalidInput, flatten_subgroups=True):
            async with opened_parts(store, tmp_path, only="a/b"):
                pass

    trio.run(main)


def overwrite_index(directory: Path) -> None:
    """Overwrite the index cache's files below a catalog that uses them."""
    for path in directory.rglob("index.sqlite*"):
        if not path.name.endswith("-shm"):
            path.write_bytes(b"garbage" * 10_000)


def test_a_damaged_index_cache_is_built_anew(
    store: FaultyStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When the index cache turns out to be damaged, manifests are fetched again, and the catalog goes on."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            assert await revision(parts, "first") == 2
            await parts.inode("second", f"{0:020d}.bin")
            overwrite_index(tmp_path)
            assert await parts.read(await parts.inode("first", f"{1:020d}.bin")) == b"b"
            assert await parts.read(await parts.inode("second", f"{0:020d}.bin")) == b"c"

    trio.run(main)
    assert any("damaged" in each for each in warnings(caplog))
