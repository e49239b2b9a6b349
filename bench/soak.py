"""Writers, readers, aggregation and collection at once, for long: what must stay flat is looked at all along.

    make soak                         30 minutes, a Ceph gateway of its own
    make soak SOAK='--minutes 5'

Writers drop files into a write directory, a daemon moves them into the store, aggregates and collects with short
times, and readers read at random through two mounts whose caches are smaller than the dataset. The content of each
file follows from its name, so that every byte is compared. Each process's memory, open files and threads, and each
cache, are sampled; at the end a table tells the medians of the second and of the last fifth of the time.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final

from bench.daemon import DATASET, Daemon
from bench.gateway import open_gateway
from bench.processes import BenchError, Mount, memory, mounted, run
from bench.rig import dasfs_command
from bench.run import interrupt

READERS: Final = 4  # of each mount
WRITERS: Final = 2
WRITE_PAUSE_S: Final = 0.05
READ_PAUSE_S: Final = 0.01
LARGEST: Final = 100_000
SAMPLE_S: Final = 5.0
CACHE_SIZE: Final = "128MiB"
SETTINGS: Final = {"settle": "0.2s", "datarange_age": "2s", "empty_directories": "5s"}
TABLES: Final = {
    "aggregation": {"target_size": "64MiB", "interval": "10s"},
    # Mounts ask for what is new each second, so that nobody needs what was removed a minute ago.
    "collection": {"interval": "30s", "removed": "1m", "log": "2m", "uncommitted": "1h"},
}
# Growth that is noise: an allocator that took another arena, a log of SQLite before its checkpoint.
SLACK: Final = {"memory": 12 << 20, "files": 16, "threads": 16, "cache": 16 << 20}
GROWTH: Final = 1.1


def content_of(name: str) -> bytes:
    """Return what is in a file of this name."""
    seed = hashlib.sha256(name.encode()).digest()
    return random.Random(seed).randbytes(int.from_bytes(seed[:4], "big") % LARGEST)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the processes of a soak count together. `slowest` is in seconds."""

    stop: Event
    written: "Synchronized[int]"
    read: "Synchronized[int]"
    wrong: "Synchronized[int]"
    slowest: "Synchronized[float]"


@dataclass(slots=True)
class Series:
    """The samples of one figure."""

    what: str
    kind: str
    values: list[int] = field(default_factory=list)

    def fifth(self, which: int) -> float:
        """Return the median of one fifth of the time, counted from 0."""
        size = max(1, len(self.values) // 5)
        return statistics.median(self.values[which * size : (which + 1) * size] or self.values[-1:])

    @property
    def is_flat(self) -> bool:
        return self.fifth(4) <= self.fifth(1) * GROWTH + SLACK[self.kind]


def write_files(directory: Path, who: int, shared: Shared) -> None:
    """Drop files into a write directory until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    count = 0
    while not shared.stop.wait(WRITE_PAUSE_S):
        name = f"{who}/{count // 1000}/{count}.bin"
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the daemon removed the empty directory in between
            path.write_bytes(content_of(name))
            count += 1
            with shared.written:
                shared.written.value += 1


def read_files(directory: Path, seed: int, shared: Shared) -> None:
    """Read files of a mount at random and compare them until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, names, listed = random.Random(seed), list[str](), 0.0
    while not shared.stop.wait(READ_PAUSE_S):
        if time.monotonic() - listed > SAMPLE_S:
            names, listed = os.listdir(directory), time.monotonic()
        if not names:
            continue
        path = directory / source.choice(names)
        started = time.monotonic()
        try:
            original = os.fsdecode(os.getxattr(path, "user.dasfs.original_name"))
            right = path.read_bytes() == content_of(original)
        except OSError as error:
            print(f"soak: {path}: {error}", file=sys.stderr)
            right = False
        seconds = time.monotonic() - started
        with shared.read:
            shared.read.value += 1
            shared.wrong.value += not right
            shared.slowest.value = max(shared.slowest.value, seconds)


def figures(processes: dict[str, int], mounts: dict[str, Mount]) -> Iterator[tuple[Series, Callable[[], int]]]:
    """Yield what is sampled, and how."""
    for name, pid in processes.items():
        proc = Path(f"/proc/{pid}")
        yield Series(f"{name}: memory", "memory"), partial(memory, pid, "VmRSS:")
        yield Series(f"{name}: open files", "files"), partial(_entries, proc / "fd")
        yield Series(f"{name}: threads", "threads"), partial(_entries, proc / "task")
    for name, mount in mounts.items():
        yield Series(f"{name}: cache", "cache"), partial(_cached, mount)


def _entries(directory: Path) -> int:
    return len(os.listdir(directory))


def _cached(mount: Mount) -> int:
    status: dict[str, Any] = json.loads((mount.path / ".dasfs" / "status.json").read_text())
    return int(status["block_cache"]["bytes_used"])


def soak(work: Path, store: str | None, minutes: float) -> bool:
    """Run it; print what came of it. Return whether all was flat and every byte right."""
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(open_gateway(work, store, 0.0))
        run(*dasfs_command("dataset", "create", DATASET, "--store", gateway.store), env=gateway.environment)
        daemon = Daemon(work / "daemon", gateway.store, gateway.environment, SETTINGS, TABLES)
        daemon.prepare()
        stack.enter_context(daemon.running())
        daemon.wait_ready()
        mounts = {}
        for name in ("first mount", "second mount"):
            path = work / name.replace(" ", "-")
            options = ("--cache-dir", f"{path}.cache", "--cache-size", CACHE_SIZE, "--refresh", "1", "--foreground")
            command = dasfs_command("mount", gateway.store, str(path), *options)
            mounts[name] = stack.enter_context(mounted(path, command, gateway.environment))
        processes = {"daemon": daemon.pid} | {name: mount.pid for name, mount in mounts.items()}
        sampled = list(figures(processes, mounts))
        with working(daemon, mounts) as shared:
            watch(sampled, shared, minutes * 60)
        return report([series for series, _ in sampled], shared, daemon)


@contextlib.contextmanager
def working(daemon: Daemon, mounts: dict[str, Mount]) -> Iterator[Shared]:
    """Have writers and readers at work in the block."""
    context = get_context("fork")
    shared = Shared(
        context.Event(), context.Value("q", 0), context.Value("q", 0), context.Value("q", 0), context.Value("d", 0.0)
    )
    workers = [context.Process(target=write_files, args=(daemon.directory, who, shared)) for who in range(WRITERS)]
    for place, mount in enumerate(mounts.values()):
        seeds = range(place * READERS, (place + 1) * READERS)
        workers += [context.Process(target=read_files, args=(mount.path / DATASET, seed, shared)) for seed in seeds]
    for worker in workers:
        worker.start()
    try:
        yield shared
    finally:
        shared.stop.set()
        for worker in workers:
            worker.join()


def watch(sampled: list[tuple[Series, Callable[[], int]]], shared: Shared, seconds: float) -> None:
    """Sample until the time is over."""
    started = told = time.monotonic()
    while (now := time.monotonic()) - started < seconds:
        for series, sample in sampled:
            series.values.append(sample())
        if now - told > 60:
            told = now
            counts = f"{shared.written.value:,} files written, {shared.read.value:,} read, {shared.wrong.value} wrong"
            print(f"soak: {(now - started) / 60:.0f} min: {counts}", file=sys.stderr)
        time.sleep(SAMPLE_S)


def report(sampled: list[Series], shared: Shared, daemon: Daemon) -> bool:
    print("| | second fifth | last fifth | most | |\n|---|---:|---:|---:|---|")
    for each in sampled:
        unit, shown = (" MiB", 1 << 20) if each.kind in ("memory", "cache") else ("", 1)
        values = (each.fifth(1), each.fifth(4), max(each.values))
        cells = " | ".join(f"{value / shown:,.0f}{unit}" for value in values)
        print(f"| {each.what} | {cells} | {'flat' if each.is_flat else 'grows'} |")
    steps, runs = daemon.log.count(b": joined "), daemon.log.count(b": collected ")
    print(
        f"\n{shared.written.value:,} files written, {shared.read.value:,} read and compared, {shared.wrong.value} "
        f"wrong; the slowest read took {shared.slowest.value:.2f} s; {steps} aggregations, {runs} collections"
    )
    return all(each.is_flat for each in sampled) and not shared.wrong.value and shared.read.value > 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--store", metavar="URL", help="s3://BUCKET[/PREFIX] instead of a Ceph of its own")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where data goes (default: TMPDIR)")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="dasfs-soak-", dir=arguments.work) as work:
            return 0 if soak(Path(work), arguments.store, arguments.minutes) else 1
    except BenchError as error:
        print(f"soak: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
