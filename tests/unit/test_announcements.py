"""Announcements of a mount, without a kernel: what is fetched, replaced, paused and forgotten."""

import random
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Change, Operation
from dasfs.errors import Conflict, InvalidInput, NotFound
from dasfs.fuse import announcements as module
from dasfs.fuse.announced import ListOrder
from dasfs.fuse.announcement import IDLE_S, Announcement, State
from dasfs.fuse.announcements import EXPIRY_S, Announcements, Numbers
from dasfs.fuse.order import SnapshotOrder
from dasfs.stores import open_store
from tests import datasets
from tests.faulty import Fault, FaultyStore, during, healthy
from tests.parts import Parts, aggregate, opened_parts, wait_until

COUNT = 120
SIZES = [random.Random(number).randint(40_000, 160_000) for number in range(COUNT)]
CONTENTS = [random.Random(number).randbytes(size) for number, size in enumerate(SIZES)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyStore]:
    """A store with a dataset of three dataranges, which can be made to fail."""
    with open_store(f"file://{tmp_path}/store") as inner:
        inner.create()
        for first in range(0, COUNT, 40):
            datasets.add(inner, "set", first, CONTENTS[first : first + 40])
        faulty = FaultyStore(inner)
        yield faulty
        faulty.release()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is tried again soon."""
    monkeypatch.setattr("dasfs.fuse.announcement_fetch.RETRY_S", 0.02)


@dataclass
class Scene:
    """The parts of a mount with its announcements."""

    parts: Parts
    announcements: Announcements
    store: FaultyStore

    @property
    def fetched(self) -> int:
        return self.parts.blocks.statistics().bytes_fetched

    async def read(self, number: int, dataset: str = "set") -> None:
        assert await self.parts.read(await self.parts.inode(dataset, f"{number:020d}.bin")) == CONTENTS[number]


@asynccontextmanager
async def scene(store: FaultyStore, directory: Path) -> AsyncIterator[Scene]:
    async with opened_parts(store, directory) as parts, trio.open_nursery() as nursery:
        announcements = Announcements(nursery, parts.catalog, parts.index, parts.blocks)
        parts.content.note = announcements.note
        yield Scene(parts, announcements, store)
        nursery.cancel_scope.cancel()


def run(
    store: FaultyStore, directory: Path, work: Callable[[Scene], Awaitable[None]], clock: MockClock | None = None
) -> None:
    async def main() -> None:
        async with scene(store, directory) as opened:
            await work(opened)

    trio.run(main, clock=clock)


async def done(announcement: Announcement) -> None:
    await wait_until(lambda: announcement.state is State.DONE)


def listed(*numbers: int) -> "array[int]":
    return array("q", numbers)


def test_all_of_a_dataset_comes_once(store: FaultyStore, tmp_path: Path) -> None:
    """A whole dataset is fetched without any read, each byte once, and then nothing needs the store."""

    async def work(scene: Scene) -> None:
        announcement = await scene.announcements.announce("set", Numbers())
        await done(announcement)
        assert sum(SIZES) < scene.fetched < sum(SIZES) * 1.05
        assert announcement.counts.fetched == scene.fetched
        reads = store.count("read_into")
        for number in range(COUNT):
            await scene.read(number)
        assert store.count("read_into") == reads
        assert announcement.counts.hits == announcement.counts.reads == COUNT

    run(store, tmp_path, work)


@pytest.mark.parametrize("aggregated", [False, True])
def test_a_list_needs_its_blocks_only(store: FaultyStore, tmp_path: Path, aggregated: bool) -> None:
    """Of a few datapoints here and there the blocks that hold them come, also across segments."""

    async def work(scene: Scene) -> None:
        numbers = (100, 3, 60, 4, 119, 0)
        announcement = await scene.announcements.announce("set", listed(*numbers))
        await done(announcement)
        assert scene.fetched < 12 << 18
        assert announcement.ready == 6
        reads = store.count("read_into")
        parts = scene.parts
        for number in numbers:
            located = await parts.tree.locate(await parts.inode("set", f"{number:020d}.bin"))
            file = parts.content.open(located)
            assert parts.content.read_cached(file, 0, 1000) == CONTENTS[number][:1000]
        assert announcement.counts.hits == 6
        assert store.count("read_into") == reads or scene.fetched < 30 << 18

    if aggregated:
        aggregate(store.inner, "set")
    run(store, tmp_path, work)


def test_gaps_are_skipped_and_counted(store: FaultyStore, tmp_path: Path) -> None:
    """Numbers that do not exist cost nothing; where none exists that is said at once."""

    async def work(scene: Scene) -> None:
        announcement = await scene.announcements.announce("set", listed(5, COUNT, 7, 10**15))
        await done(announcement)
        assert (announcement.counts.gaps, announcement.counts.failed, announcement.ready) == (2, 0, 4)
        ranged = await scene.announcements.announce("set", Numbers(COUNT - 1, 10**15))
        await done(ranged)
        assert (ranged.counts.places, ranged.counts.gaps) == (1, 10**15 - COUNT + 1)
        for wanted in (listed(COUNT), Numbers(COUNT, COUNT)):
            with pytest.raises(NotFound, match="none of the datapoints"):
                await scene.announcements.announce("set", wanted)
        assert scene.announcements.live == (ranged,)

    run(store, tmp_path, work)


def test_what_can_not_be_announced(store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset that is not there, a name that is none, and more than a mount takes are refused; what was stays."""
    monkeypatch.setattr(module, "MAX_NUMBERS", 10)
    monkeypatch.setattr(module, "MAX_ANNOUNCEMENTS", 2)

    async def work(scene: Scene) -> None:
        announce = scene.announcements.announce
        with pytest.raises(NotFound, match="shows no dataset none"):
            await announce("none", Numbers())
        for name in ("x" * 65, "a\nb"):
            with pytest.raises(InvalidInput, match="can't be a name"):
                await announce("set", Numbers(), name)
        first = await announce("set", listed(*range(6)))
        with pytest.raises(Conflict, match="takes 10"):
            await announce("set", listed(*range(5)), "second")
        assert scene.announcements.live == (first,)
        second = await announce("set", listed(*range(9)))  # in the place of the first
        assert scene.announcements.live == (second,)
        await announce("set", Numbers(), "second")
        with pytest.raises(Conflict, match="2 announcements are live"):
            await announce("set", Numbers(), "third")

    run(store, tmp_path, work)


def test_saying_it_again_changes_nothing(store: FaultyStore, tmp_path: Path) -> None:
    """The same list or range under the same name is the announcement that is there; another one takes its place."""

    async def work(scene: Scene) -> None:
        announce = scene.announcements.announce
        first = await announce("set", listed(1, 2, 3))
        assert await announce("set", listed(1, 2, 3)) is first
        assert await announce("set", listed(1, 2, 3), "else") is not first
        other = await announce("set", listed(1, 2))
        assert other is not first
        assert first.scope.cancel_called
        assert [each.name for each in scene.announcements.live] == ["else", ""]
        assert scene.announcements.totals.places == 3 + 3 + 2

    run(store, tmp_path, work)


def test_cancelling(store: FaultyStore, tmp_path: Path) -> None:
    """All of a dataset, one name or one id can be cancelled; nobody else's is."""

    async def work(scene: Scene) -> None:
        announcements = scene.announcements
        every = [await announcements.announce("set", Numbers(0, 9), name) for name in "abcd"]
        assert announcements.cancel("other") == 0
        assert announcements.cancel("set", "a") == 1
        assert announcements.cancel("set", number=every[0].id) == 0
        assert announcements.cancel("set", number=every[2].id) == 1
        assert [each.name for each in announcements.live] == ["b", "d"]
        assert announcements.look("set", every[1].id) is every[1]
        with pytest.raises(NotFound, match="replaced or cancelled"):
            announcements.look("set", every[0].id)
        assert announcements.cancel("set") == 2
        announcements.note("set", 1)

    run(store, tmp_path, work)


def test_the_window_follows_the_readers(store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit waits until what comes before was read, and then comes by itself."""
    monkeypatch.setattr(module, "FITS", 0.01)
    monkeypatch.setattr(module, "MAX_PLACES", 40)

    async def work(scene: Scene) -> None:
        order = random.Random(3).sample(range(COUNT), COUNT)
        announcement = await scene.announcements.announce("set", listed(*order))
        await wait_until(lambda: announcement.state is State.WAITING)
        assert announcement.ready == 40
        for place, number in enumerate(order):
            await wait_until(lambda place=place: announcement.ready > place)
            await scene.read(number)
        assert announcement.counts.hits == COUNT
        await done(announcement)

    run(store, tmp_path, work)


def test_a_job_that_stops_reading(store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while without a read nothing more is begun, though there is room; the next read, or somebody who waits,
    sets it going; and after a longer while it is forgotten."""
    clock = MockClock(rate=1.0)

    async def work(scene: Scene) -> None:
        store.plan = lambda operation, key, number: Fault.HANG if operation == "read_into" else None
        store.deadline_s = 60
        order = random.Random(3).sample(range(COUNT), 50)
        announcement = await scene.announcements.announce("set", listed(*order))
        await wait_until(lambda: scene.parts.blocks.statistics().in_flight > 0)
        scene.announcements.note("set", order[0])
        clock.jump(IDLE_S + 1)
        await wait_until(lambda: announcement.state is State.IDLE)
        store.plan = healthy
        store.release()
        await wait_until(lambda: scene.parts.blocks.statistics().in_flight == 0)
        reads = store.count("read_into")
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert store.count("read_into") == reads
        assert announcement.ready < 50
        scene.announcements.look("set", announcement.id)
        await done(announcement)
        clock.jump(EXPIRY_S + 1)
        await wait_until(lambda: not scene.announcements.live)
        assert scene.announcements.totals.reads == 1

    run(store, tmp_path, work, clock)


def test_a_store_that_fails_for_a_moment(store: FaultyStore, tmp_path: Path, quick_retries: None) -> None:
    """What was not given is asked for again, and nothing is missing in the end."""

    async def work(scene: Scene) -> None:
        store.plan = during(Fault.FAIL, "read_into")
        announcement = await scene.announcements.announce("set", listed(*range(0, COUNT, 7)))
        await wait_until(lambda: scene.parts.blocks.statistics().fetch_errors > 0)
        store.plan = healthy
        await done(announcement)
        assert announcement.counts.failed == 0
        assert announcement.ready == len(announcement.order)

    run(store, tmp_path, work)


def test_a_store_that_gives_nothing(store: FaultyStore, tmp_path: Path, quick_retries: None) -> None:
    """What can't be had after some tries is counted, and the announcement comes to its end."""

    async def work(scene: Scene) -> None:
        store.plan = during(Fault.FLIP, "read_into")
        announcement = await scene.announcements.announce("set", listed(*range(0, COUNT, 7)))
        await done(announcement)
        assert announcement.counts.failed > 0
        assert announcement.counts.fetched == scene.fetched

    run(store, tmp_path, work)


def test_a_dataset_that_is_deleted(store: FaultyStore, tmp_path: Path) -> None:
    """The announcement of a dataset that is gone harms nobody, and none can be made."""
    datasets.add(store.inner, "val", 0, CONTENTS[:1])

    async def work(scene: Scene) -> None:
        await scene.announcements.announce("set", listed(*range(COUNT)))
        await scene.announcements.announce("set", Numbers(), "other")
        dataset = Dataset(store.inner, "set")
        dataset.log.commit(Change(Operation.DELETE, delete_dataset=True), dataset.snapshot())
        await scene.parts.catalog.refresh_now("set")
        with pytest.raises(NotFound):
            await scene.announcements.announce("set", Numbers())
        await scene.read(0, "val")

    run(store, tmp_path, work)


def test_aggregation_under_an_announcement(store: FaultyStore, tmp_path: Path) -> None:
    """What moved into another object meanwhile is fetched from there."""

    async def work(scene: Scene) -> None:
        await scene.read(0)
        before = scene.parts.catalog.known("set")
        assert before is not None
        old = before.snapshot
        aggregate(store.inner, "set")
        for each in old.dataranges:
            store.inner.delete([f"datas3t/set/dataranges/{each.id}{suffix}" for suffix in (".tar", ".manifest")])
        announcement = await scene.announcements.announce("set", Numbers())
        await done(announcement)
        await scene.parts.catalog.refresh_now("set")
        for number in range(COUNT):
            await scene.read(number)

    run(store, tmp_path, work)


def test_a_lost_reader_is_found_again(store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that goes on far away in its list is searched for in all of it."""
    monkeypatch.setattr("dasfs.fuse.announced.REACH", 1000)

    async def work(scene: Scene) -> None:
        numbers = [*[1, 2, 3, 4] * 2000, *range(10, 110)]
        announcement = await scene.announcements.announce("set", listed(*numbers))
        assert isinstance(announcement.order, ListOrder)
        for number in range(20, 60):
            await scene.read(number)
        await wait_until(lambda: announcement.window.position >= 8000)

    run(store, tmp_path, work)


def test_who_reads_in_an_order_is_followed(store: FaultyStore, tmp_path: Path) -> None:
    """An order that nobody announced is fetched ahead as far as it was read, not because it was looked at."""

    async def work(scene: Scene) -> None:
        state = await scene.announcements.find("set")
        order = SnapshotOrder.of(state.snapshot, 7)
        scene.announcements.follow(state.snapshot, order, "shuffle=7")
        (announcement,) = scene.announcements.live
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert announcement.window.planned == 0
        for place in range(60):
            await scene.read(order.number_at(place))
            scene.announcements.follow(state.snapshot, order, "shuffle=7")
        assert scene.announcements.live == (announcement,)
        await done(announcement)

    run(store, tmp_path, work)
