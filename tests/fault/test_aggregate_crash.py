"""Aggregation that ends in the middle: at any of its steps, in a crash or with a store that loses answers.

Whatever happened, the old dataranges are live or the new one, every byte is there, and `collect` leaves nothing that
the log does not name.
"""

import contextlib
import random
import signal
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from dasfs.dataset.aggregate import aggregate
from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Snapshot
from dasfs.dataset.verify import verify
from dasfs.errors import Corrupt, DasfsError
from dasfs.stores import Store, open_store
from tests.commands import finish, start, succeed
from tests.datasets import add
from tests.faulty import Fault, FaultyStore, Plan, nth

# A clock of a store may tell only seconds, so that what was removed just now seems to be of the future.
NOW = Grace(timedelta(minutes=-1), timedelta(minutes=-1), timedelta(minutes=-1))
MIB = 1 << 20
# On S3 a joint is made of the first three.
SIZES = (5 * MIB + 1000, 9000, 300_000, 6 * MIB, 400)
KILLS = 12


def crash(number: int) -> Plan:
    """Return a plan after which nothing works any more from the `number`th operation on."""
    return lambda _operation, _key, at: Fault.FAIL if at >= number else None


def lose(number: int) -> Plan:
    """Return a plan that loses the answer of one operation."""
    return nth(number, Fault.LOSE_ANSWER)


def fill(store: Store, name: str) -> Snapshot:
    source = random.Random(1)
    for number, size in enumerate(SIZES):
        add(store, name, number, [source.randbytes(size)])
    return Dataset(store, name).snapshot()


def check_old_or_new(store: Store, name: str, before: Snapshot) -> bool:
    """Check that the old dataranges are live or one new one, with all bytes; return whether it is the new one."""
    dataset = Dataset(store, name)
    after = dataset.snapshot()
    is_new = after.dataranges != before.dataranges
    if is_new:
        assert [(each.first, each.last) for each in after.dataranges] == [(0, len(SIZES) - 1)]
    assert list(verify(store, name, after)) == []
    collect(store, name, grace=NOW)
    keys = dataset.keys
    live = {key(each.id) for each in after.dataranges for key in (keys.tar, keys.index, keys.manifest)}
    assert {info.key for info in store.list(keys.root) if not info.key.startswith(keys.log)} == live
    return is_new


@pytest.mark.parametrize("plan", [crash, lose])
def test_at_every_step_it_is_the_old_or_the_new(store: Store, plan: Callable[[int], Plan]) -> None:
    """An aggregation that ends at its nth operation, for each n until it goes through, leaves the old or the new."""
    outcomes = []
    for step in range(1, 60):
        name = f"set{step}"
        before = fill(store, name)
        faulty = FaultyStore(store, plan(step))
        dataset = Dataset(faulty, name)
        dataset.log = CommitLog(faulty, name, deadline_s=0.2)
        failed = False
        try:
            aggregate(dataset, before.dataranges, before)
        except DasfsError:
            failed = True
        is_new = check_old_or_new(store, name, before)
        assert is_new or failed
        outcomes.append(is_new)
        if not failed and len(faulty.operations) < step:
            break
    assert outcomes[-1], "it never went through"
    assert outcomes.count(False) >= 5


@pytest.mark.parametrize("step", range(1, 9))
def test_a_bad_read_is_not_carried_on(store: Store, step: int) -> None:
    """With a wrong bit in one of its reads, of a manifest or of data, an aggregation fails and changes nothing."""
    before = fill(store, "set")
    faulty = FaultyStore(store, nth(step, Fault.FLIP, "get", "read_into"))
    with contextlib.suppress(Corrupt):
        aggregate(Dataset(faulty, "set"), before.dataranges, before)
        reads = faulty.count("get") + faulty.count("read_into")
        assert reads < step, "a wrong bit was not noticed"
    check_old_or_new(store, "set", before)


@pytest.fixture(params=["file", "sqlite"])
def url(request, tmp_path):
    """The URL of an empty local store, once for each kind."""
    made = f"file://{tmp_path}/store" if request.param == "file" else f"sqlite://{tmp_path}/store.db"
    with open_store(made) as store:
        store.create()
    return made


def test_killed_at_any_moment_it_is_repeated(url):
    """kill -9 of the command at random moments: the old or the new each time, and repeating it ends it."""
    moments = random.Random(4)
    with open_store(url) as store:
        for number in range(KILLS + 1):
            fill(store, f"set{number}")
    started = time.monotonic()
    succeed("aggregate", f"set{KILLS}", f"0-{len(SIZES) - 1}", "--store", url)
    duration = time.monotonic() - started
    killed = 0
    for number in range(KILLS):
        name = f"set{number}"
        command = ("aggregate", name, f"0-{len(SIZES) - 1}", "--store", url)
        with open_store(url) as store:
            before = Dataset(store, name).snapshot()
        process = start(*command)
        # The first part is Python that starts.
        with contextlib.suppress(Exception):
            process.wait(duration * moments.uniform(0.5, 1.0))
        process.kill()
        if finish(process).code == -signal.SIGKILL:
            killed += 1
        else:
            duration *= 0.9  # the rehearsal met a busier machine
        with open_store(url) as store:
            check_old_or_new(store, name, before)
        succeed(*command)
        with open_store(url) as store:
            assert check_old_or_new(store, name, before)
    assert killed >= KILLS // 2
