"""When the daemon collects, and what it makes of trouble; and the store as work in the background sees it."""

import os
import threading
import time
from datetime import UTC, datetime
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dasfs.dataset.dataset import Dataset
from dasfs.errors import AlreadyExists, NotFound
from dasfs.stores import CopyPiece, open_store
from dasfs_daemon.background import BackgroundStore
from dasfs_daemon.config import CollectionConfig
from dasfs_daemon.directory_lock import DirectoryLock
from dasfs_daemon.journal import Closed
from dasfs_daemon.problems import Problems
from dasfs_daemon.throttle import Throttle
from tests import datasets
from tests.blocks import wait_until
from tests.faulty import Fault, FaultyStore, during, healthy, nth
from tests.lives import make_config, opened_life
from tests.mounts import wait_until as wait_for


@pytest.fixture
def store(file_url):
    """A store that can fail, with a datarange that was removed from dataset `d`."""
    with open_store(file_url) as inner:
        datasets.add(inner, "d", 0, [b"removed"])
        Dataset(inner, "d").clear()
        yield FaultyStore(inner)


async def work(home, store, test, problems=None, **shared):
    """Run the collector alone while `test`, which gets its life, runs."""
    async with (
        opened_life(home, store, make_config(home), problems, **shared) as life,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(life.collector.run)
        await test(life)
        nursery.cancel_scope.cancel()


def in_s(state):
    """Return in how many seconds the next run is."""
    return (state.next_run - datetime.now(UTC)).total_seconds()


async def passes(clock, seconds, done):
    """Let so much time pass, then wait until a condition holds."""
    clock.jump(seconds)
    deadline = time.monotonic() + 30
    while True:
        await wait_all_tasks_blocked(0.005)
        if done():
            return
        assert time.monotonic() < deadline


def test_when_it_runs(store, tmp_path):
    """First some minutes after the start, then after each interval, at random; a new configuration counts at once."""
    clock = MockClock()

    async def test(life):
        def runs():
            return life.collector.state().runs

        await passes(clock, 0, lambda: life.collector.state().next_run is not None)
        assert 110 < in_s(life.collector.state()) < 610
        life._shared.collection = CollectionConfig(interval=60.0)
        life.look_again()
        await passes(clock, 0, lambda: in_s(life.collector.state()) < 70)
        for number in range(5):
            await passes(clock, 50, lambda: life.collector.state().running_since is None)
            assert runs() == number
            await passes(clock, 17, lambda: runs() > number)  # noqa: B023
            assert 50 < in_s(life.collector.state()) < 70

    trio.run(work, tmp_path, store, test, clock=clock)


def test_a_restart_begins_no_new_wait(store, tmp_path):
    """A life that begins anew, as after a defect, collects when the life before would have."""

    async def main():
        async with opened_life(tmp_path, store, make_config(tmp_path)) as life:
            with trio.move_on_after(0.05):
                await life.collector.run()
            due = life.record.collect_at
            life.begin(life.record)
            with trio.move_on_after(0.05):
                await life.collector.run()
            assert abs(life.record.collect_at - due) < 0.04

    trio.run(main)


def test_a_store_that_is_away(store, tmp_path, monkeypatch):
    """A collection that fails is a problem and is tried again; when it works, the problem is over."""
    monkeypatch.setattr("dasfs_daemon.collector.FIRST_RUN_S", (0.0, 0.0))
    monkeypatch.setattr("dasfs_daemon.collector.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("dasfs_daemon.background.PATIENCE_S", 0.0)
    problems = Problems("d")
    store.plan = during(Fault.FAIL, "list")

    async def test(life):
        await wait_until(lambda: bool(problems.all()))
        assert [each.key for each in problems.all()] == ["collection"]
        assert life.collector.state().runs == 0
        store.plan = healthy
        await wait_until(lambda: life.collector.state().runs == 1)
        assert problems.all() == ()
        assert life.collector.state().deleted_objects == 3

    trio.run(partial(work, collection=CollectionConfig(removed=0.0)), tmp_path, store, test, problems)


def test_a_collection_that_fails_halfway(store, tmp_path, monkeypatch):
    """What was deleted before a collection failed is counted, and told in the log; the rest goes next time."""
    monkeypatch.setattr("dasfs_daemon.collector.FIRST_RUN_S", (0.0, 0.0))
    monkeypatch.setattr("dasfs_daemon.collector.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("dasfs_daemon.background.PATIENCE_S", 0.0)
    monkeypatch.setattr("dasfs.dataset.collect.BATCH_SIZE", 1)
    # The first deletes the collector's own probe.
    store.plan = nth(3, Fault.FAIL, "delete")
    problems = Problems("d")

    async def test(life):
        await wait_until(lambda: bool(problems.all()))
        state = life.collector.state()
        assert (state.deleted_objects, state.runs, state.running_since) == (1, 0, None)
        await wait_until(lambda: life.collector.state().runs == 1)
        assert life.collector.state().deleted_objects == 3

    trio.run(partial(work, collection=CollectionConfig(removed=0.0)), tmp_path, store, test, problems)


def test_the_collection_under_way_is_told_and_ends(store, tmp_path, monkeypatch):
    """The state says since when it runs; when the dataset is stopped in the middle, nothing is deleted any more."""
    monkeypatch.setattr("dasfs_daemon.collector.FIRST_RUN_S", (0.0, 0.0))
    begun, go_on = threading.Event(), threading.Event()

    def plan(operation, key, _number):
        if operation == "list" and key.endswith("/log/"):
            begun.set()
            assert go_on.wait(30)

    store.plan = plan
    before = {info.key for info in store.inner.list("")}

    async def test(life):
        await wait_until(begun.is_set)
        assert life.collector.state().running_since is not None

    trio.run(partial(work, collection=CollectionConfig(removed=0.0)), tmp_path, store, test)
    assert any("Collector.run" in thread.name for thread in threading.enumerate())
    go_on.set()
    # The thread is left behind; it ends with its next request.
    wait_for(lambda: not any("Collector.run" in thread.name for thread in threading.enumerate()))
    assert {info.key for info in store.inner.list("")} == before


def test_a_hiccup_costs_one_request(store, monkeypatch):
    """What fails once is done in the next try, and a listing goes on where it was."""
    monkeypatch.setattr("dasfs_daemon.background._PAGE", 10)
    background = BackgroundStore(store, Throttle(), threading.Event())
    keys = [f"k/{number:04d}" for number in range(25)]
    for key in keys:
        store.inner.put(key, b"x")
    store.plan = nth(2, Fault.FAIL, "get", "list", "head")
    assert background.get(keys[0]) == b"x"
    assert background.head(keys[0]).size == 1
    store.plan = nth(1, Fault.LOSE_ANSWER, "list")
    assert [info.key for info in background.list("k/", after=keys[3])] == keys[4:]
    assert list(background.list_prefixes("")) == ["datas3t", "k"]


def test_it_keeps_to_the_bandwidth_and_ends_when_told(store):
    """What passes through this machine takes its time, what the store copies takes none; once stopped, it ends."""
    stop = threading.Event()
    background = BackgroundStore(store, Throttle(200_000), stop)
    started = time.monotonic()
    background.put("a", bytes(40_000))
    background.compose("b", [CopyPiece("a", 0, 40_000), bytes(20_000)])
    background.read_into("b", 0, memoryview(bytearray(40_000)))
    background.compose("c", [CopyPiece("b", 0, 60_000)] * 50)
    assert 0.45 < time.monotonic() - started < 10
    stop.set()
    for request in (
        lambda: background.head("a"),
        lambda: background.put("d", b""),
        lambda: list(background.list("")),
        lambda: background.compose("d", [CopyPiece("a", 0, 1)]),
        lambda: background.delete(["a"]),
    ):
        with pytest.raises(Closed):
            request()
    assert {info.key for info in store.inner.list("")} >= {"a", "b", "c"}


def test_the_lock_follows_the_directory(tmp_path):
    """It is held once, written nowhere, told of when another has it, and goes over to a directory put in the place."""
    place = tmp_path / "in"
    place.mkdir()
    mine, other = DirectoryLock(str(place)), DirectoryLock(str(place))
    mine.ensure()
    mine.ensure()
    with pytest.raises(AlreadyExists, match=rf"process {os.getpid()}\) empties the write directory"):
        other.ensure()
    assert list(place.iterdir()) == []
    place.rename(tmp_path / "away")
    with pytest.raises(NotFound):
        mine.ensure()
    place.mkdir()
    other.ensure()
    with pytest.raises(AlreadyExists):
        mine.ensure()
    other.close()
    mine.ensure()
    mine.close()
    with pytest.raises(Closed):
        mine.ensure()
