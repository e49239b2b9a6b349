"""When the daemon aggregates, what it tells of it meanwhile, and what it makes of trouble."""

import random
import threading
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dasfs.dataset.aggregate import aggregate
from dasfs.dataset.aggregation_plan import plan_aggregation
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.verify import verify
from dasfs.stores import open_store
from dasfs_daemon.config import AggregationConfig, CollectionConfig
from dasfs_daemon.known import KnownPaths
from dasfs_daemon.problems import Problems
from tests import datasets
from tests.blocks import wait_until
from tests.daemons import make_store, write
from tests.faulty import Fault, FaultyStore, at_random
from tests.lives import live, make_config, opened_life

SMALL = AggregationConfig(1 << 20, 4, 1.0)


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch):
    """Let the aggregator plan again at once, and try again soon."""
    for name, seconds in (("PLAN_PAUSE_S", 0.01), ("FIRST_PAUSE_S", 0.01), ("FIRST_CONFLICT_S", 0.01)):
        monkeypatch.setattr(f"dasfs_daemon.aggregator.{name}", seconds)
    monkeypatch.setattr("dasfs_daemon.aggregator.LULL_PAUSE_S", 0.01)


@pytest.fixture
def store(file_url):
    """A store that can fail, with ten small dataranges of ten datapoints in a dataset `d`."""
    content = random.Random(4)
    with open_store(file_url) as inner:
        for first in range(0, 100, 10):
            datasets.add(inner, "d", first, [content.randbytes(2000) for _ in range(10)])
        yield FaultyStore(inner)


def is_whole(store):
    """Return whether ten dataranges became one, and every byte is as it was."""
    snapshot = Dataset(store.inner, "d").snapshot()
    return len(snapshot.dataranges) == 1 and list(verify(store.inner, "d", snapshot)) == []


async def work(home, store, test, problems=None, **shared):
    """Run the aggregator alone while `test`, which gets its life, runs."""
    config = make_config(home)
    shared = {"aggregation": SMALL, **shared}
    async with opened_life(home, store, config, problems, **shared) as life, trio.open_nursery() as nursery:
        nursery.start_soon(life.aggregator.run)
        await test(life)
        nursery.cancel_scope.cancel()


def hold(store, operation):
    """Let `operation` wait; return what is set when one has begun, and what lets it go on."""
    begun, go_on = threading.Event(), threading.Event()

    def plan(name, _key, _number):
        if name == operation:
            begun.set()
            assert go_on.wait(30)

    store.plan = plan
    return begun, go_on


def test_the_step_under_way_is_told(store, tmp_path):
    """The state has the step that is under way, its bytes, and how many dataranges wait; and then what was done."""
    begun, go_on = hold(store, "put")

    async def test(life):
        await wait_until(begun.is_set)
        state = life.aggregator.state()
        assert (state.step.first, state.step.last, state.step.dataranges) == (0, 99, 10)
        assert state.step.done == state.step.size > 200_000
        assert (state.due, state.steps) == (10, 0)
        go_on.set()
        await wait_until(lambda: life.aggregator.state().steps == 1)
        state = life.aggregator.state()
        assert (state.step, state.due, state.joined_dataranges, state.conflicts) == (None, 0, 10, 0)
        assert state.copied_bytes + state.fetched_bytes > 200_000

    trio.run(work, tmp_path, store, test)
    assert is_whole(store)


def test_uploads_go_before_but_not_for_ever(store, tmp_path, monkeypatch):
    """No step begins while uploads use all that they may; after a quarter of an hour one does nevertheless."""

    async def patient(life):
        life.aggregator._is_full = lambda: True
        await wait_until(lambda: life.aggregator.state().due == 10)
        await wait_all_tasks_blocked(0.005)
        assert (life.aggregator.state().step, store.count("compose")) == (None, 0)

    trio.run(work, tmp_path, store, patient)
    monkeypatch.setattr("dasfs_daemon.aggregator.PATIENCE_S", 0.1)

    async def impatient(life):
        life._shared.uploads.total_tokens = 1
        async with life._shared.uploads:
            await wait_until(lambda: life.aggregator.state().steps == 1)

    trio.run(work, tmp_path, store, impatient)
    assert is_whole(store)


def test_one_step_at_a_time(store, tmp_path):
    """While a step of another dataset is under way, none begins."""

    async def main():
        config = make_config(tmp_path)
        async with opened_life(tmp_path, store, config, aggregation=SMALL) as life, trio.open_nursery() as nursery:
            async with life._shared.steps:
                nursery.start_soon(life.aggregator.run)
                await wait_until(lambda: life.aggregator.state().due == 10)
                await wait_all_tasks_blocked(0.05)
                assert (life.aggregator.state().step, store.count("compose")) == (None, 0)
            await wait_until(lambda: life.aggregator.state().steps == 1)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert is_whole(store)


def test_who_was_slower_plans_anew(store, tmp_path):
    """A step that another daemon was faster with is counted and is no problem; nothing of it is left."""
    problems, met = Problems("d"), []

    def meet(operation, key, _number):
        if operation == "compose" and not met:
            met.append(key)
            aggregate(Dataset(store.inner, "d"), Dataset(store.inner, "d").snapshot().dataranges[:5])

    store.plan = meet

    async def test(life):
        await wait_until(lambda: life.aggregator.state().steps == 1)
        assert life.aggregator.state().conflicts == 1

    trio.run(work, tmp_path, store, test, problems)
    assert is_whole(store)
    assert problems.all() == ()
    assert met[0] not in {info.key for info in store.inner.list("")}


def test_what_is_damaged_is_left_alone(store, tmp_path, monkeypatch):
    """A step that meets bad bytes is told and left for a while; the others are done, and it is, too, once repaired."""
    monkeypatch.setattr("dasfs_daemon.aggregator.FIRST_ASIDE_S", 1.0)
    content = random.Random(5)
    for first in range(1000, 1100, 10):
        datasets.add(store.inner, "d", first, [content.randbytes(2000) for _ in range(10)])
    dataset, problems = Dataset(store.inner, "d"), Problems("d")
    key = dataset.keys.tar(dataset.snapshot().dataranges[3].id)
    whole = store.inner.get(key)
    store.inner.put(key, whole[:5000] + b"?" + whole[5001:])

    async def test(life):
        await wait_until(lambda: problems.all() and life.aggregator.state().steps == 1)
        assert [each.key for each in problems.all()] == ["aggregation"]
        assert "fail their checksums" in problems.all()[0].message
        await wait_all_tasks_blocked(0.1)
        assert store.operations.count(f"read_into {key}") == 1
        assert [(each.first, each.last) for each in dataset.snapshot().dataranges][-1] == (1000, 1099)
        store.inner.put(key, whole)
        await wait_until(lambda: life.aggregator.state().steps == 2)
        assert problems.all() == ()

    trio.run(work, tmp_path, store, test, problems)
    assert list(verify(store.inner, "d", dataset.snapshot())) == []


def test_a_disk_without_room(store, tmp_path):
    """What has to be fetched is not where the disk would run full; it is told, and done when there is room."""
    problems = Problems("d")

    async def test(life):
        life._shared.minimum_free_disk = 1 << 60
        await wait_until(lambda: bool(problems.all()))
        assert "nothing is aggregated until then" in problems.all()[0].message
        assert store.count("read_into") == 0
        life._shared.minimum_free_disk = 1
        await wait_until(lambda: life.aggregator.state().steps == 1)
        assert problems.all() == ()

    trio.run(work, tmp_path, store, test, problems)
    assert is_whole(store)


def test_paths_that_are_known_are_not_read_again(store, tmp_path):
    """What was joined of dataranges whose paths are known need not be read; of others it is."""
    known, dataset = KnownPaths(str(tmp_path / "paths.db")), Dataset(store, "d")
    for number in range(200, 204):
        datasets.add(store.inner, "d", number, [b"1"], names={number: f"f{number}"})
    before = dataset.snapshot()
    known.update(dataset, replace(before, dataranges=before.dataranges[:-1]))
    for sources in (before.dataranges[-4:-2], before.dataranges[-2:]):
        report = aggregate(dataset, sources)
        known.joined(before.dataset_id, sources, report.datarange)
    store.operations.clear()
    known.update(dataset, dataset.snapshot())
    read = [entry for entry in store.operations if entry.endswith(".manifest")]
    assert read == [f"get {dataset.keys.manifest(report.datarange.id)}"]
    found = known.candidates(before.dataset_id, [(b"f200", 1), (b"f203", 1), (b"f204", 1)])
    assert [[each.number for each in candidates] for candidates in found] == [[200], [203], []]
    known.close()


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_a_store_that_fails_a_third_of_its_requests(kind, tmp_path, monkeypatch):
    """With a third of all requests failing or losing their answers, all is aggregated and collected in the end."""
    monkeypatch.setattr("dasfs.stores.retry._JITTER", lambda _state: 0.005)
    monkeypatch.setattr("dasfs_daemon.collector.FIRST_PAUSE_S", 0.05)
    for name in ("attempts.LONGEST_PAUSE_S", "outlet.RETRY_S"):
        monkeypatch.setattr(f"dasfs_daemon.{name}", 0.05)
    content = random.Random(6)
    url = make_store(f"file://{tmp_path}/store" if kind == "file" else f"sqlite://{tmp_path}/store.db")
    config = make_config(tmp_path)
    made = {f"{k}": content.randbytes(content.randrange(9000)) for k in range(100)}
    write(tmp_path / "in", made)
    with open_store(url) as inner:
        store = FaultyStore(inner, at_random(2, 1 / 3, Fault.FAIL, Fault.LOSE_ANSWER))
        dataset = Dataset(inner, "d")

        def is_done(life):
            snapshot = dataset.snapshot()
            if life.record.tally.counters().committed_files < len(made):
                return False
            if life.collector.state().deleted_objects < 3:
                return False
            if life.backlog.now()[1] or plan_aggregation(snapshot.dataranges, SMALL.policy):
                return False
            keys = {dataset.keys.tar(gone) for commit in dataset.log.commits() for gone in commit.remove}
            return keys.isdisjoint(info.key for info in inner.list(dataset.keys.dataranges))

        collection = CollectionConfig(1.0, 0.0)
        record = live(tmp_path, store, config, is_done, aggregation=SMALL, collection=collection)
        assert list(verify(inner, "d", dataset.snapshot())) == []
        assert record.aggregation.steps >= 1
        assert record.collection.deleted_objects >= 3
        names = []
        for each in dataset.snapshot().dataranges:
            manifest = dataset.load_manifest(each)
            names += [manifest.original_name(k) for k in range(manifest.count)]
        assert sorted(names) == sorted(made)
