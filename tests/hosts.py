"""Hosts that work on one dataset, each through a store of its own and with what it saw last, and what they do.

An action says before it runs alone which error it has to raise, if any (`expected`), by the model of `tests.ledger`;
where others are at work, or the store fails, any error that its callers must expect will do.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from dasfs.dataset.aggregate import aggregate
from dasfs.dataset.aggregation_plan import AggregationPolicy, plan_aggregation, split_at_gaps
from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot
from dasfs.dataset.put import PutOptions, put
from dasfs.dataset.sources import Sources, find_sources
from dasfs.errors import AlreadyExists, Conflict, Corrupt, DasfsError, InvalidInput, NotFound, StoreUnavailable
from dasfs.formats.compression import Compression
from tests.faulty import Crash, Fault, FaultyStore, nth
from tests.ledger import Datapoint, LedgerStore, Running, World
from tests.simulation import Turns

Piece = TypeVar("Piece")

HOUR = timedelta(hours=1)
DEFAULT_GRACE = Grace()
# What an outage leaves unanswered is asked about so long.
DEADLINE_S = 0.02


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with the `at`th operation of the store, from 1, of these kinds, or of all where none is named."""

    at: int
    fault: Fault
    operations: tuple[str, ...] = ()


class HostStore(FaultyStore):
    """The store as one host has it: others may get their turn at each operation.

    `leave_behind` leaves what a process that is killed in the middle of an upload does.
    """

    def __init__(self, inner: LedgerStore, turns: Turns, leave_behind: Callable[[], None]) -> None:
        super().__init__(inner)
        self.hit = False
        self._turns = turns
        self._leave_behind = leave_behind

    def expect(self, trouble: Trouble) -> None:
        planned = nth(trouble.at, trouble.fault, *trouble.operations)

        def plan(operation: str, key: str, number: int) -> Fault | None:
            fault = planned(operation, key, number)
            self.hit = self.hit or fault is not None
            return fault

        self.hit = False
        self.plan = plan

    def _begin(self, operation: str, key: str) -> Fault | None:
        self._turns.pause()
        return super()._begin(operation, key)

    def _broken_off(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in super()._broken_off(pieces):
            yield piece
            self._leave_behind()


@dataclass(frozen=True)
class Place:
    """Where all hosts work."""

    world: World
    store: LedgerStore
    turns: Turns
    files: "Files"
    leave_behind: Callable[[], None]


class Host:
    """One host. `seen` is the snapshot that it believes to be the newest."""

    def __init__(self, place: Place, skew: timedelta) -> None:
        self.world = place.world
        self.files = place.files
        self.skew = skew
        self.store = HostStore(place.store, place.turns, place.leave_behind)
        self.restart()

    def restart(self) -> None:
        self.store.revive()
        self.seen: Snapshot | None = None
        self.dataset = Dataset(self.store, self.world.dataset.name)
        self.dataset.log = CommitLog(self.store, self.dataset.name, deadline_s=DEADLINE_S)

    def act(self, action: "Action", trouble: Trouble | None = None, *, alone: bool = True) -> None:
        """Do something, to its end or to the host's; an error must be one that can be expected."""
        began = self.world.clock.now
        self.world.clock.skew.by = self.skew
        running = action.begin(self)
        running.alone = alone
        expected = action.expected(self) if alone else None
        error: DasfsError | None = None
        if trouble is not None:
            self.store.expect(trouble)
        with self.world.act(running):
            try:
                action.run(self, running)
            except Crash:
                self.restart()
                return
            except DasfsError as raised:
                error = raised
            finally:
                disturbed, self.store.hit = self.store.hit, False
                self.store.revive()
        if alone and not disturbed:
            assert type(error) is (expected or type(None)), error
        elif error is not None:
            kinds: tuple[type[DasfsError], ...] = (StoreUnavailable,) if disturbed else ()
            kinds += (expected,) if expected else ()
            kinds += () if alone else (AlreadyExists, Conflict, InvalidInput, NotFound)
            if self.world.clock.now - began >= Grace().removed:
                kinds += (Corrupt,)
            assert isinstance(error, kinds), repr(error)


class Files:
    """The local files that hosts put: what each holds is decided by what it is, and a version."""

    def __init__(self, directory: Path, large: Sequence[int]) -> None:
        self.directory = directory
        self.spool = directory / "spool"
        self.spool.mkdir()
        self._large = large

    def datapoint(self, key: int | str, version: int) -> Datapoint:
        seed = int.from_bytes(hashlib.sha256(f"{key}/{version}".encode()).digest()[:4], "big")
        size = self._large[seed % len(self._large)] if self._large and seed % 3 else seed % 700
        content = (hashlib.sha256(str(seed).encode()).digest() * (size // 32 + 1))[:size]
        extension = ("bin", "jpg", "")[seed % 3] if isinstance(key, int) else "txt"
        return Datapoint(content, extension, None if isinstance(key, int) else key)

    def path(self, key: int | str, version: int) -> str:
        each = self.datapoint(key, version)
        name = f"{key:020d}.{each.extension}" if isinstance(key, int) else key
        path = self.directory / str(version) / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(each.content)
        return str(path)


class Action(Protocol):
    """Something that a host does."""

    def begin(self, host: Host) -> Running:
        """Return what it may do."""

    def expected(self, host: Host) -> type[DasfsError] | None:
        """Return what it raises when nobody else is at work."""

    def run(self, host: Host, running: Running) -> None:
        """Do it, and check what it returns."""


def missing(host: Host) -> type[DasfsError] | None:
    return None if host.world.exists else NotFound


def is_stale(host: Host) -> bool:
    """Return whether the host's snapshot is of another dataset of this name."""
    return host.seen is not None and host.seen.dataset_id != host.world.head.dataset_id


class _Report:
    def planned(self, sources: Sources, skipped: int) -> None: ...
    def sent(self, size: int) -> None: ...
    def committed(self, datarange: Datarange) -> None: ...


@dataclass(frozen=True)
class Put:
    """Put files with the numbers `first..first + count - 1`, and such without."""

    first: int
    count: int
    names: frozenset[int]
    version: int
    datarange_size: int

    def begin(self, host: Host) -> Running:
        sources = {key: host.files.datapoint(key, self.version) for key in self._keys()}
        return Running("put", frozenset({Operation.RESERVE, Operation.UPLOAD}), sources, range(0))

    def expected(self, host: Host) -> type[DasfsError] | None:
        for key in self._keys():
            number = host.world.places.get(key) if isinstance(key, str) else key
            there = host.world.datapoints.get(number) if number is not None else None
            if there is not None and there != host.files.datapoint(key, self.version):
                return missing(host) or AlreadyExists
        return missing(host)

    def run(self, host: Host, running: Running) -> None:
        sources = find_sources([host.files.path(key, self.version) for key in self._keys()], str)
        options = PutOptions(self.datarange_size, spool_dir=str(host.files.spool))
        result = put(host.dataset, sources, options, _Report())
        assert result.count + result.skipped == sources.count
        assert result.count == len(running.committed)
        assert running.sources.keys() <= running.present
        host.seen = host.dataset.log.replay(host.seen)

    def _keys(self) -> list[int | str]:
        return [*range(self.first, self.first + self.count), *(f"name{each}.txt" for each in sorted(self.names))]


@dataclass(frozen=True)
class Reserve:
    count: int

    def begin(self, host: Host) -> Running:
        return Running("reserve", frozenset({Operation.RESERVE}))

    def expected(self, host: Host) -> type[DasfsError] | None:
        return missing(host) or (Conflict if is_stale(host) else None)

    def run(self, host: Host, running: Running) -> None:
        numbers = host.dataset.log.reserve(self.count, host.seen)
        assert set(numbers) == running.reserved


@dataclass(frozen=True)
class Aggregate:
    """Aggregate a stretch of what the host believes to be there; places are shares of it."""

    start: float
    length: float

    def begin(self, host: Host) -> Running:
        return Running("aggregate", frozenset({Operation.AGGREGATE}))

    def expected(self, host: Host) -> type[DasfsError] | None:
        chosen = self._choose(host)
        return Conflict if any(each.id not in host.world.live for each in chosen) else None

    def run(self, host: Host, running: Running) -> None:
        chosen = self._choose(host)
        if chosen:
            report = aggregate(host.dataset, chosen, host.seen, spool_dir=str(host.files.spool))
            assert (report.datarange.first, report.datarange.last) == (chosen[0].first, chosen[-1].last)
            host.seen = report.snapshot

    def _choose(self, host: Host) -> list[Datarange]:
        runs = [run for run in split_at_gaps(host.seen.dataranges if host.seen else ()) if len(run) > 1]
        if not runs:
            return []
        run = runs[int(self.start * 7919) % len(runs)]
        first = int(self.start * (len(run) - 1))
        return run[first : first + 2 + int(self.length * (len(run) - first - 1))]


@dataclass(frozen=True)
class AggregateByPolicy:
    target_size: int

    def begin(self, host: Host) -> Running:
        return Running("aggregate", frozenset({Operation.AGGREGATE}))

    def expected(self, host: Host) -> type[DasfsError] | None:
        return missing(host)

    def run(self, host: Host, running: Running) -> None:
        policy = AggregationPolicy(self.target_size, growth=4, max_sources=4)
        snapshot = host.dataset.writable()
        while plans := plan_aggregation(snapshot.dataranges, policy):
            for plan in plans:
                snapshot = aggregate(host.dataset, plan.dataranges, snapshot, spool_dir=str(host.files.spool)).snapshot
        host.seen = snapshot


@dataclass(frozen=True)
class Delete:
    """Delete dataranges by the first and the last number of what the host believes to be there."""

    start: float
    count: int

    def begin(self, host: Host) -> Running:
        chosen = self._choose(host)
        span = range(chosen[0].first, chosen[-1].last + 1) if chosen else range(0)
        return Running("delete", frozenset({Operation.DELETE}), removable=span)

    def expected(self, host: Host) -> type[DasfsError] | None:
        chosen = self._choose(host)
        if not chosen or not host.world.exists:
            return NotFound if chosen else None
        first, last = chosen[0].first, chosen[-1].last
        inside = [each for each in host.world.live if each.first <= last and first <= each.last]
        whole = inside and min(inside).first == first and max(each.last for each in inside) == last
        return None if whole else InvalidInput

    def run(self, host: Host, running: Running) -> None:
        chosen = self._choose(host)
        if chosen:
            host.seen = host.dataset.delete_datarange(chosen[0].first, chosen[-1].last)

    def _choose(self, host: Host) -> Sequence[Datarange]:
        dataranges = host.seen.dataranges if host.seen else ()
        first = int(self.start * len(dataranges))
        return dataranges[first : first + self.count]


@dataclass(frozen=True)
class DeleteSeen(Delete):
    """Delete just the dataranges that the host believes to be there, on the snapshot that it has."""

    def expected(self, host: Host) -> type[DasfsError] | None:
        chosen = self._choose(host)
        if not chosen or not host.world.exists:
            return NotFound if chosen else None
        return Conflict if is_stale(host) or any(each.id not in host.world.live for each in chosen) else None

    def run(self, host: Host, running: Running) -> None:
        chosen = self._choose(host)
        if chosen:
            change = Change(Operation.DELETE, remove=tuple(each.id for each in chosen))
            host.seen = host.dataset.log.commit(change, host.seen)


@dataclass(frozen=True)
class Simple:
    """What takes no argument and only makes one commit."""

    name: str
    operation: Operation
    do: Callable[[Dataset], Snapshot]

    def begin(self, host: Host) -> Running:
        return Running(self.name, frozenset({self.operation}))

    def expected(self, host: Host) -> type[DasfsError] | None:
        if self.operation is Operation.CREATE:
            return AlreadyExists if host.world.exists else None
        return missing(host)

    def run(self, host: Host, running: Running) -> None:
        host.seen = self.do(host.dataset)

    def __repr__(self) -> str:
        return self.name


def _configure(text: str) -> Callable[[Dataset], Snapshot]:
    return lambda dataset: dataset.configure(compression=Compression.parse(text))


CLEAR = Simple("clear", Operation.CLEAR, Dataset.clear)
DELETE_DATASET = Simple("delete dataset", Operation.DELETE, Dataset.delete)
CREATE = Simple("create", Operation.CREATE, lambda dataset: dataset.log.create())
CONFIGURE = [Simple(f"configure {text}", Operation.CONFIGURE, _configure(text)) for text in ("none", "zstd:1", "lz4")]


@dataclass(frozen=True)
class Collect:
    """Collect, with the grace periods that are the default, or with others."""

    grace: Grace = DEFAULT_GRACE

    def begin(self, host: Host) -> Running:
        return Running("collect", grace=self.grace)

    def expected(self, host: Host) -> type[DasfsError] | None:
        return None

    def run(self, host: Host, running: Running) -> None:
        planned = collect(host.store, host.dataset.name, grace=self.grace, dry_run=True)
        report = collect(host.store, host.dataset.name, grace=self.grace)
        if running.alone and not host.skew:
            assert {each.key for each in planned.garbage} <= {each.key for each in report.garbage}


@dataclass(frozen=True)
class Checkpoint:
    def begin(self, host: Host) -> Running:
        return Running("checkpoint")

    def expected(self, host: Host) -> type[DasfsError] | None:
        return None

    def run(self, host: Host, running: Running) -> None:
        snapshot = host.dataset.log.replay(host.seen)
        host.dataset.log.write_checkpoint(snapshot)


@dataclass(frozen=True)
class Look:
    """Read the newest snapshot, and all that it names."""

    everything: bool

    def begin(self, host: Host) -> Running:
        return Running("look")

    def expected(self, host: Host) -> type[DasfsError] | None:
        return missing(host)

    def run(self, host: Host, running: Running) -> None:
        host.seen = host.dataset.log.head(host.seen)
        for each in host.seen.dataranges if self.everything else ():
            manifest = host.dataset.load_manifest(each)
            data = host.store.get(host.dataset.keys.tar(each.id))
            assert len(data) == manifest.tar_size


@dataclass(frozen=True)
class Wait:
    hours: int

    def begin(self, host: Host) -> Running:
        return Running("wait")

    def expected(self, host: Host) -> type[DasfsError] | None:
        return None

    def run(self, host: Host, running: Running) -> None:
        host.world.clock.advance(self.hours * HOUR)
