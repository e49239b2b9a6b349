"""Hosts that put, aggregate, delete, collect, crash and get in each other's way: the promises of the design hold.

`DASFS_MODEL_EXAMPLES` says how many examples are run of each machine (the default takes some seconds).
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dasfs.cache.index import IndexCache
from dasfs.dataset.collect import Grace
from dasfs.dataset.history import History
from dasfs.dataset.model import Snapshot, apply, nothing
from dasfs.formats.segments import CHECKSUM_BLOCK_SIZE
from dasfs.names import DatapointNumber, DatarangeId, Revision
from dasfs.stores import ObjectInfo, Store, open_store
from dasfs.stores.directory import TEMPORARY
from tests.faulty import Fault
from tests.hosts import (
    CLEAR,
    CONFIGURE,
    CREATE,
    DELETE_DATASET,
    HOUR,
    Action,
    Aggregate,
    AggregateByPolicy,
    Checkpoint,
    Collect,
    Delete,
    DeleteSeen,
    Files,
    Host,
    Look,
    Place,
    Put,
    Reserve,
    Trouble,
    Wait,
)
from tests.ledger import LedgerStore, World
from tests.simulation import Clock, Turns, simulated
from tests.strict import StrictStore, merging_below

# A machine takes a minute, and three on one that is busy otherwise.
pytestmark = pytest.mark.timeout(400)

EXAMPLES = int(os.environ.get("DASFS_MODEL_EXAMPLES", "25"))
STEPS = int(os.environ.get("DASFS_MODEL_STEPS", "25"))
SMALLEST_PART = CHECKSUM_BLOCK_SIZE + 7000
SKEWS = (timedelta(0), -26 * HOUR, 2 * HOUR)
NO_GRACE = Grace(timedelta(0), timedelta(0), timedelta(0))

shares = st.floats(0, 1, exclude_max=True, width=16)
puts = st.builds(
    Put,
    first=st.integers(0, 24),
    count=st.integers(0, 4),
    names=st.frozensets(st.integers(0, 7), min_size=1, max_size=3),
    version=st.sampled_from([0, 0, 0, 0, 1]),
    datarange_size=st.sampled_from([1, 3000, 1 << 20]),
)
aggregations: st.SearchStrategy[Action] = st.one_of(
    st.builds(Aggregate, shares, shares),
    st.builds(Aggregate, shares, shares),
    st.builds(AggregateByPolicy, st.sampled_from([8000, 60_000, 2_000_000])),
)
deletions: st.SearchStrategy[Action] = st.one_of(
    st.builds(Delete, shares, st.integers(1, 3)), st.builds(DeleteSeen, shares, st.integers(1, 3))
)
rare: st.SearchStrategy[Action] = st.one_of(
    st.builds(Reserve, st.integers(1, 3)),
    st.sampled_from(CONFIGURE),
    st.just(Checkpoint()),
    st.builds(Look, st.booleans()),
    st.builds(Look, st.just(False)),
    st.sampled_from([CLEAR, DELETE_DATASET, CREATE]),
)
actions: st.SearchStrategy[Action] = st.one_of(
    puts, puts, aggregations, aggregations, deletions, st.just(Collect()), rare
)
hosts = st.integers(0, len(SKEWS) - 1)
# After how many operations of a store it is the next one's turn.
schedules = st.lists(st.integers(0, 12), min_size=1, max_size=8)
waits = st.builds(Wait, st.sampled_from([1, 25]))
faults = st.sampled_from([Fault.CRASH, Fault.CRASH_WITHIN, Fault.CRASH_AFTER, Fault.FAIL, Fault.LOSE_ANSWER])
WRITES = ("put", "put_if_absent", "put_stream", "compose", "delete")
troubles = st.one_of(
    st.builds(Trouble, st.integers(1, 12) | st.integers(1, 40), faults),
    st.builds(Trouble, st.integers(1, 6), faults, st.just(WRITES)),
)


class DatasetMachine(RuleBasedStateMachine):
    """Three hosts on one dataset in a directory; one has a clock that is late, and one has one that is early."""

    scheme: ClassVar[str] = "file"
    # Memory, where syncing costs nothing; or where temporary files are.
    place: ClassVar[str | None] = "/dev/shm" if os.path.isdir("/dev/shm") else None
    large: ClassVar[tuple[int, ...]] = ()

    def open_store(self, url: str) -> Store:
        return open_store(url)

    @initialize(filled=st.integers(3, 14), size=st.sampled_from([1, 3000]))
    def begin(self, filled: int, size: int) -> None:
        self.sound = False
        self.stack = ExitStack()
        self.directory = Path(tempfile.mkdtemp(prefix="dasfs-model-", dir=self.place))
        self.stack.callback(shutil.rmtree, self.directory)
        self.clock = Clock()
        store = self.stack.enter_context(self.open_store(f"{self.scheme}://{self.directory}/store"))
        store.create()
        self.world = World(store, "birds", self.clock)
        self.stack.enter_context(simulated(self.clock, checkpoint_interval=4, writer=self.world.writer))
        self.index = IndexCache(str(self.directory / "index.sqlite"))
        self.stack.callback(self.index.close)
        self.turns = Turns()
        files = Files(self.directory, self.large)
        place = Place(self.world, LedgerStore(store, self.world), self.turns, files, self.leave_behind)
        self.hosts = [Host(place, skew) for skew in SKEWS]
        self.held: list[tuple[datetime, Snapshot]] = []
        self.hosts[0].act(CREATE)
        self.unknown = self.plant()
        self.hosts[0].act(Put(0, filled, frozenset(), 0, size))

    def plant(self) -> set[str]:
        """Write what nobody understands, or what may be wanted: it stays for ever."""
        far = DatarangeId(DatapointNumber(10**12), DatapointNumber(10**12), 0)
        keys = self.world.keys
        unknown = {f"{keys.dataranges}notes.txt", f"{keys.log}readme", f"{keys.root}x", keys.tar(far), keys.index(far)}
        for key in unknown:
            self.world.store.put(key, b"somebody else's")
        return unknown

    def leave_behind(self) -> None:
        """Leave the files that are being written, as a kill would."""
        temporary = self.directory / "store" / TEMPORARY
        for file in list(temporary.glob("*")) if temporary.exists() else []:
            left = shutil.copy(file, f"{file}-left")
            os.utime(left, (self.clock.now.timestamp(),) * 2)

    @rule(host=hosts, action=puts)
    def put(self, host: int, action: Action) -> None:
        self.do(lambda: self.hosts[host].act(action))

    @rule(host=hosts, action=aggregations, fresh=st.booleans())
    def aggregate(self, host: int, action: Action, fresh: bool) -> None:
        self.look([host] * fresh)
        self.do(lambda: self.hosts[host].act(action))

    @rule(host=hosts, action=st.one_of(deletions, st.just(Collect()), rare), fresh=st.booleans())
    def act(self, host: int, action: Action, fresh: bool) -> None:
        self.look([host] * fresh)
        self.do(lambda: self.hosts[host].act(action))

    @rule(host=hosts, action=puts | actions, trouble=troubles, again=st.none() | hosts)
    def act_in_trouble(self, host: int, action: Action, trouble: Trouble, again: int | None) -> None:
        """What ended early can be done again, by the same host or by another."""
        self.look([host])
        self.do(lambda: self.hosts[host].act(action, trouble))
        if again is not None:
            self.do(lambda: self.hosts[again].act(action))

    @rule(order=st.permutations(range(len(SKEWS))), one=puts | aggregations, other=actions, schedule=schedules)
    def act_together(self, order: list[int], one: Action, other: Action, schedule: list[int]) -> None:
        self.together(order, [(one, None), (other, None)], schedule)

    @rule(
        order=st.permutations(range(len(SKEWS))),
        parts=st.lists(st.tuples(actions | waits, st.none() | troubles), min_size=2, max_size=len(SKEWS)),
        schedule=schedules,
    )
    def act_together_in_trouble(
        self, order: list[int], parts: list[tuple[Action, Trouble | None]], schedule: list[int]
    ) -> None:
        self.together(order, parts, schedule)

    def do(self, *parts: Callable[[], None], schedule: Sequence[int] = ()) -> None:
        self.sound = False
        if not self.world.exists:
            self.hosts[0].act(CREATE)
        self.turns.run(parts, schedule)

    def look(self, hosts: Sequence[int]) -> None:
        for host in hosts if self.world.exists else ():
            self.hosts[host].act(Look(everything=False))

    def together(
        self, order: Sequence[int], parts: Sequence[tuple[Action, Trouble | None]], schedule: Sequence[int]
    ) -> None:
        def doing(host: Host, action: Action, trouble: Trouble | None) -> Callable[[], None]:
            return lambda: host.act(action, trouble, alone=False)

        self.look(order)
        self.do(*(doing(self.hosts[host], *part) for host, part in zip(order, parts, strict=False)), schedule=schedule)

    @rule(hours=st.sampled_from([1, 23, 25, 8 * 24, 100 * 24]))
    def wait(self, hours: int) -> None:
        self.clock.advance(hours * HOUR)

    @rule()
    def hold(self) -> None:
        """A reader begins to read what is there."""
        self.held.append((self.clock.now, self.world.head))

    @rule(rebuild=st.booleans())
    def read_by_index(self, rebuild: bool) -> None:
        """What the index cache says of the datapoints of a snapshot that is held, also when it starts anew."""
        if rebuild:
            self.index.rebuild()
        for _, snapshot in self.readable():
            for each in snapshot.dataranges:
                if self.index.find_manifest(snapshot.dataset_id, each.id) is None:
                    self.index.save_manifest(snapshot.dataset_id, self.world.dataset.load_manifest(each))
                view = self.index.find_manifest(snapshot.dataset_id, each.id)
                assert view is not None
                for k, datapoint in enumerate(self.world.contents[each.id]):
                    record = self.index.record(view, k)
                    assert (record.true_size, record.extension) == (len(datapoint.content), datapoint.extension)
                    assert self.index.original_name(view, k) == datapoint.original

    @rule(waited=st.sampled_from([(3 * HOUR, NO_GRACE), (timedelta(days=9), Grace())]))
    def settle(self, waited: tuple[timedelta, Grace]) -> None:
        """When nobody is at work and nobody reads what was, a collection leaves what is live, and nothing else."""
        self.sound = False
        self.held.clear()
        for host in self.hosts:
            host.restart()
        self.clock.advance(waited[0])
        self.hosts[0].act(Collect(waited[1]))
        keys = self.world.keys
        live = {key for each in self.world.head.dataranges for key in self.world.objects_of(each)}
        left = {key for key in self.list() if not key.startswith(keys.log)}
        assert left == live | {key for key in self.unknown if not key.startswith(keys.log)}
        temporary = self.directory / "store" / TEMPORARY
        assert not temporary.exists() or not list(temporary.iterdir())

    def readable(self) -> list[tuple[datetime, Snapshot]]:
        return [(since, snapshot) for since, snapshot in self.held if self.clock.now - since < Grace().removed]

    def list(self) -> dict[str, ObjectInfo]:
        return {info.key: info for info in self.world.store.list(self.world.keys.root)}

    @invariant()
    def the_log_says_what_happened(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        snapshot = History(world.store, "birds").replay()
        assert snapshot == world.head
        assert snapshot.deleted == (not world.exists)
        assert {each.id: each for each in snapshot.dataranges} == world.live
        assert snapshot.next_number == world.next_number
        assert snapshot.configuration.compression == world.configuration.compression
        numbers = [number for each in snapshot.dataranges for number in range(each.first, each.last + 1)]
        assert numbers == sorted(world.datapoints)
        assert all(number < world.next_number for number in numbers)
        assert all(host.seen is None or host.seen in world.snapshots for host in self.hosts)

    @invariant()
    def any_way_through_the_log_leads_to_the_same(self) -> None:
        if not hasattr(self, "world"):
            return
        history = History(self.world.store, "birds")
        commits = list(history.commits())
        starts = [history.read_checkpoint(revision) for revision in history.list_checkpoints()]
        if commits and commits[0].revision == Revision(1):
            starts.append(nothing("birds"))
        for start in starts:
            assert start == self.world.snapshots[start.revision]
            following = [each for each in commits if each.revision > start.revision]
            if start.revision == 0 or start.revision >= (commits[0].revision if commits else 0) - 1:
                assert apply(start, *following) == self.world.head

    @invariant()
    def all_that_is_needed_is_there(self) -> None:
        """What is live, what readers of the last 24 hours have, and what nobody understands; each byte of it."""
        if not hasattr(self, "world"):
            return
        objects = self.list()
        assert self.unknown <= objects.keys()
        for snapshot in (self.world.head, *(snapshot for _, snapshot in self.readable())):
            for each in snapshot.dataranges:
                self.world.check(each, objects)
        self.sound = True

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        with self.stack:
            if self.sound:
                self.settle((timedelta(days=9), Grace()))
                self.all_that_is_needed_is_there()


class SqliteMachine(DatasetMachine):
    """The same in an SQLite file."""

    scheme = "sqlite"


class StrictMachine(DatasetMachine):
    """The same on a store with S3's rules for parts, and with datapoints that are larger than the least part."""

    place = None  # some 50 MB are too much for the memory of a container
    large = (0, 500, 90_000, SMALLEST_PART + 100, 2 * CHECKSUM_BLOCK_SIZE + 1)

    def open_store(self, url: str) -> Store:
        self.stack.enter_context(merging_below(SMALLEST_PART))
        return StrictStore(super().open_store(url), SMALLEST_PART)


def _case(machine: type[DatasetMachine], share: float) -> Any:
    case = machine.TestCase
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    examples = max(1, int(EXAMPLES * share))
    case.settings = settings(
        max_examples=examples, stateful_step_count=STEPS, deadline=None, suppress_health_check=health
    )
    return case


TestDirectory = _case(DatasetMachine, 1.0)
TestSqlite = _case(SqliteMachine, 0.5)
TestStrict = _case(StrictMachine, 0.5)
