"""Sixteen readers of one mount, for long, while its dataset grows, is aggregated and collected: what must stay flat.

    make soak SOAK=mount                         30 minutes, a Ceph gateway of its own
    make soak SOAK='mount --minutes 5'

Some readers go in order, some shuffled, some read the same few files again and again, some jump within large files,
some list; now and then one is killed with -9. The cache holds a tenth of the dataset, and the kernel is told to forget
what was read, so that the mount is asked. Every byte is compared. Memory, open files, threads and cache of it are
sampled; at the end a table tells the medians of the second and of the last fifth of the time. Exit code 1 where
something grows, a byte was wrong, or an operation took longer than the mount's deadline.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_double, c_longlong
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from bench.gateway import Gateway, open_gateway
from bench.processes import BenchError, Mount, mounted
from bench.rig import dasfs_command
from bench.run import interrupt
from bench.soak import SAMPLE_S, Series, figures
from dasfs.dataset.aggregate import aggregate
from dasfs.dataset.aggregation_plan import AggregationPolicy, plan_aggregation
from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.stores import Store, open_store
from tests import datasets

DATASET: Final = "soak"
FILES: Final = 8_000  # at the beginning; they are 700 MB
PACKED: Final = 500  # files of a datarange at the beginning
SMALLEST, LARGEST = 1_000, 100_000
LARGE_EVERY: Final = 1_000  # one of so many files is large
LARGE: Final = 32 << 20
STEP: Final = 128 << 10
NEW_FILES: Final = 50
WRITE_EVERY_S: Final = 5.0
AGGREGATE_EVERY: Final = 6  # writings
# Neighbours between two of the large files are 47 MiB: more than one result, or nothing is joined.
POLICY: Final = AggregationPolicy(target_size=32 << 20, max_sources=20)
# The mount asks for what is new each second, so that nobody needs what was removed a minute ago.
GRACE: Final = Grace(timedelta(minutes=1), timedelta(minutes=10), timedelta(minutes=2))
KILL_EVERY_S: Final = 7.0
READ_PAUSE_S: Final = 0.002
DEADLINE_S: Final = 30.0
MEMORY_LIMIT: Final = (256 << 20) + 100_000_000

_POOL: Final = random.Random(1).randbytes(LARGE + (8 << 20))


def content_of(number: int) -> memoryview:
    """Return what is in a datapoint."""
    source = random.Random(number)
    size = LARGE if number % LARGE_EVERY == 0 else source.randrange(SMALLEST, LARGEST)
    start = source.randrange(len(_POOL) - size)
    return memoryview(_POOL)[start : start + size]


class Shared:
    """What the processes of a soak share. Without locks: a process that is killed would keep them."""

    def __init__(self, readers: int) -> None:
        self.stop: Any = RawValue(c_longlong, 0)
        self.written: Any = RawValue(c_longlong, FILES)
        self.aggregations: Any = RawValue(c_longlong, 0)
        # One slot for each reader, which only its process writes, and its successors.
        self.read: Any = RawArray(c_longlong, readers)
        self.wrong: Any = RawArray(c_longlong, readers)
        self.slowest: Any = RawArray(c_double, readers)


@dataclass(frozen=True, slots=True)
class Reader:
    """One reader: `slot` is its place in `shared`."""

    directory: str
    slot: int
    seed: int
    shared: Shared

    def run(self, kind: "Callable[[Reader], Iterator[None]]") -> None:
        """Read until told to stop."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.nice(5)  # who watches must not be kept waiting
        for _ in kind(self):
            self.shared.read[self.slot] += 1
            if self.shared.stop.value:
                return
            time.sleep(READ_PAUSE_S)

    def read(self, number: int, places: Sequence[int] | None = None) -> None:
        """Read a datapoint, all of it or at some places, and compare."""
        wanted = content_of(number)
        path = f"{self.directory}/{number:020d}.bin"
        try:
            file = self.timed(os.open, path, os.O_RDONLY)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                for place in range(0, len(wanted), STEP) if places is None else places:
                    if self.timed(os.pread, file, STEP, place) != wanted[place : place + STEP]:
                        self.complain(f"{path} at {place}: wrong bytes")
            finally:
                os.close(file)
        except OSError as error:
            self.complain(f"{path}: {error.strerror}")

    def timed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        started = time.monotonic()
        try:
            return function(*arguments)
        finally:
            seconds = time.monotonic() - started
            self.shared.slowest[self.slot] = max(self.shared.slowest[self.slot], seconds)

    def complain(self, problem: str) -> None:
        self.shared.wrong[self.slot] += 1
        print(f"soak: {problem}", file=sys.stderr)


def in_order(reader: Reader) -> Iterator[None]:
    """Go through the dataset from some place on, again and again."""
    for number in count(random.Random(reader.seed).randrange(FILES)):
        reader.read(number % reader.shared.written.value)
        yield


def shuffled(reader: Reader) -> Iterator[None]:
    """Read each file of an epoch once, in random order."""
    source = random.Random(reader.seed)
    while True:
        for number in source.sample(range(reader.shared.written.value), reader.shared.written.value):
            reader.read(number)
            yield


def again(reader: Reader) -> Iterator[None]:
    """Read a few files again and again."""
    source = random.Random(reader.seed)
    few = source.sample([number for number in range(FILES) if number % LARGE_EVERY], 50)
    while True:
        reader.read(source.choice(few))
        yield


def jumps(reader: Reader) -> Iterator[None]:
    """Read here and there in large files."""
    source = random.Random(reader.seed)
    while True:
        number = source.randrange(FILES // LARGE_EVERY) * LARGE_EVERY
        reader.read(number, [source.randrange(LARGE) for _ in range(8)])
        yield


def lists(reader: Reader) -> Iterator[None]:
    """List all names, which must be those from 0 on, and stat some."""
    source, seen = random.Random(reader.seed), 0
    while True:
        try:
            numbers = sorted(int(name.partition(".")[0]) for name in os.listdir(reader.directory))
            if numbers != list(range(len(numbers))) or len(numbers) < seen:
                reader.complain(f"{len(numbers)} names are listed after {seen}")
            seen = len(numbers)
            for number in source.sample(range(seen), 100):
                path = f"{reader.directory}/{number:020d}.bin"
                if reader.timed(os.stat, path).st_size != len(content_of(number)):
                    reader.complain(f"{path}: wrong size")
        except OSError as error:
            reader.complain(f"listing: {error}")
        yield
        time.sleep(1.0)


KINDS: Final = (in_order, shuffled, again, jumps, in_order, shuffled, again, lists)


def fill(store: Store) -> None:
    """Write the dataset as it is at the beginning."""
    for first in range(0, FILES, PACKED):
        add(store, first, PACKED)


def add(store: Store, first: int, how_many: int) -> None:
    contents = [bytes(content_of(number)) for number in range(first, first + how_many)]
    datasets.add(store, DATASET, first, contents)


def write(gateway: Gateway, shared: Shared) -> None:
    """Add files, aggregate and collect until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    with patch.dict(os.environ, gateway.direct_environment), open_store(gateway.store) as store:
        dataset = Dataset(store, DATASET)
        for turn in count(1):
            add(store, shared.written.value, NEW_FILES)
            time.sleep(WRITE_EVERY_S)
            if shared.stop.value:
                return
            shared.written.value += NEW_FILES  # by now the mount has heard of them
            if turn % AGGREGATE_EVERY == 0:
                for plan in islice(plan_aggregation(dataset.snapshot().dataranges, POLICY), 2):
                    aggregate(dataset, plan.dataranges)
                    shared.aggregations.value += 1
                collect(store, DATASET, grace=GRACE)


@dataclass(slots=True)
class Crowd:
    """The readers, of which one is killed now and then and replaced. `slowest_s` is the slowest death."""

    directory: Path
    shared: Shared
    processes: list[ForkProcess] = field(default_factory=list)
    kills: int = 0
    slowest_s: float = 0.0

    def start(self, slot: int) -> ForkProcess:
        reader = Reader(str(self.directory), slot, slot + 1000 * self.kills, self.shared)
        process = get_context("fork").Process(target=reader.run, args=(KINDS[slot % len(KINDS)],))
        process.start()
        return process

    def kill_one(self) -> None:
        slot = self.kills % len(self.processes)
        self.processes[slot].kill()
        started = time.monotonic()
        self.processes[slot].join(DEADLINE_S * 2)
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        self.kills += 1
        self.processes[slot] = self.start(slot)


@contextlib.contextmanager
def working(gateway: Gateway, mount: Mount, shared: Shared, readers: int) -> Iterator[Crowd]:
    """Have readers and a writer at work in the block."""
    crowd = Crowd(mount.path / DATASET, shared)
    crowd.processes = [crowd.start(slot) for slot in range(readers)]
    writer = get_context("fork").Process(target=write, args=(gateway, shared))
    writer.start()
    try:
        yield crowd
    finally:
        shared.stop.value = 1
        for process in (*crowd.processes, writer):
            process.join()


def watch(sampled: list[tuple[Series, Callable[[], int]]], crowd: Crowd, seconds: float) -> None:
    """Sample and kill until the time is over."""
    started = told = sampled_at = killed_at = time.monotonic()
    while (now := time.monotonic()) - started < seconds:
        if now - sampled_at > SAMPLE_S:
            sampled_at = now
            for series, sample in sampled:
                series.values.append(sample())
        if now - killed_at > KILL_EVERY_S:
            killed_at = now
            crowd.kill_one()
        if now - told > 60:
            told = now
            counts = f"{sum(crowd.shared.read):,} reads, {sum(crowd.shared.wrong)} wrong"
            print(f"soak: {(now - started) / 60:.0f} min: {counts}", file=sys.stderr)
        time.sleep(0.5)


def soak(work: Path, store: str | None, minutes: float, readers: int) -> bool:
    """Run it; print what came of it. Return whether all was flat, in time, and every byte right."""
    shared = Shared(readers)
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(open_gateway(work, store, 0.0))
        with patch.dict(os.environ, gateway.direct_environment), open_store(gateway.store) as opened:
            fill(opened)
            size = sum(datarange.tar_size for datarange in Dataset(opened, DATASET).snapshot().dataranges)
        options = ("--cache-dir", str(work / "cache"), "--cache-size", str(size // 10), "--refresh", "1")
        command = dasfs_command(
            "mount", gateway.store, str(work / "mnt"), *options, "-o", f"deadline={DEADLINE_S}", "-f"
        )
        mount = stack.enter_context(mounted(work / "mnt", command, gateway.environment))
        sampled = list(figures({"mount": mount.pid}, {"mount": mount}))
        with working(gateway, mount, shared, readers) as crowd:
            watch(sampled, crowd, minutes * 60)
        return report([series for series, _ in sampled], crowd)


def report(sampled: list[Series], crowd: Crowd) -> bool:
    print("| | second fifth | last fifth | most | |\n|---|---:|---:|---:|---|")
    for each in sampled:
        unit, shown = (" MiB", 1 << 20) if each.kind in ("memory", "cache") else ("", 1)
        cells = " | ".join(f"{value / shown:,.0f}{unit}" for value in (each.fifth(1), each.fifth(4), max(each.values)))
        print(f"| {each.what} | {cells} | {'flat' if each.is_flat else 'grows'} |")
    shared, memory = crowd.shared, max(next(each for each in sampled if each.kind == "memory").values)
    slowest = max(shared.slowest)
    print(
        f"\n{sum(shared.read):,} reads by {len(shared.read)} readers, {sum(shared.wrong)} wrong; the slowest operation "
        f"took {slowest:.2f} s of {DEADLINE_S:g}; {crowd.kills} readers were killed, the slowest death took "
        f"{crowd.slowest_s:.2f} s; {shared.written.value - FILES:,} files were added, {shared.aggregations.value} "
        f"aggregations; memory {memory / 1e6:.0f} MB of {MEMORY_LIMIT / 1e6:.0f}"
    )
    is_well = all(each.is_flat for each in sampled) and not sum(shared.wrong) and all(shared.read)
    return is_well and memory < MEMORY_LIMIT and max(slowest, crowd.slowest_s) < DEADLINE_S


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="soak mount", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--readers", type=int, default=16)
    parser.add_argument("--store", metavar="URL", help="s3://BUCKET[/PREFIX] instead of a Ceph of its own")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where data goes (default: TMPDIR)")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="dasfs-soak-", dir=arguments.work) as work:
            return 0 if soak(Path(work), arguments.store, arguments.minutes, arguments.readers) else 1
    except BenchError as error:
        print(f"soak: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
