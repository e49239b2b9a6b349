"""The cases of the daemon: its speed against `tar`, its memory with a long backlog, and how soon a file is seen."""

import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from typing import Final
from urllib.parse import urlsplit

from cases import Upload, place
from daemon_rig import DATASET, Daemon
from rig import DASFS, Outcome, Row, make_files, mount_dasfs, run, wait_until

MB: Final = 1_000_000
MIB: Final = 1 << 20
ROUNDS: Final = 3
TIMEOUT_S: Final = 1800.0
# Until nothing about the files that were just made counts as changed.
SETTLE_S: Final = 2.5
TAR: Final = "tar into one upload"


def daemon(work: Path, *, store: str | None = None, scale: float = 1.0) -> Outcome:
    """Move many small and some large files from a write directory into a dataset, by turns with `tar` and one upload.

    The files are there and settled when the daemon starts, and it is timed from the start of its process. They are
    links to the same files that `tar` reads, so that both find them in the kernel's cache or not.
    """
    outcome = Outcome("daemon")
    for count, size in ((100_000, 10_000), (1_000, 10_000_000)):
        _daemon(work, store, max(1, round(count * scale)), size, outcome)
    return outcome


def _daemon(work: Path, store: str | None, files: int, size: int, outcome: Outcome) -> None:
    source = work / "files"
    make_files(source, files, size, name="{:06d}.jpg")
    what = f"{files:,} files of {size / 1000:g} kB"
    with place(work, store) as target:
        kind = urlsplit(target).scheme
        upload = Upload(target)
        for number in range(ROUNDS):
            before = sum(os.times()[:4])
            outcome.add_sample(f"tar, {what}, s", upload(source, f"tar-{number}"))
            outcome.add_sample(f"tar, {what}, CPU s", sum(os.times()[:4]) - before)
            _drain(Daemon(work / "daemon", f"{target}/{number}", {"datarange_age": "1s"}), source, what, outcome)
            if kind == "file":
                rmtree(work / "store" / str(number))
    rmtree(source)
    _daemon_rows(outcome, what, kind, files, files * size / MB)


def _drain(daemon: Daemon, source: Path, what: str, outcome: Outcome) -> None:
    """Let a new daemon take the files of `source` from its write directory."""
    daemon.prepare()
    names = os.listdir(source)
    for name in names:
        os.link(source / name, daemon.directory / name)
    _make_dataset(daemon.store)
    os.sync()
    time.sleep(SETTLE_S)
    with daemon.running():
        outcome.add_sample(f"daemon, {what}, committed, s", daemon.wait_committed(len(names), TIMEOUT_S))
        outcome.add_sample(f"daemon, {what}, committed, CPU s", daemon.cpu_s())
        outcome.add_sample(f"daemon, {what}, removed, s", daemon.wait_empty(TIMEOUT_S))
        outcome.add_sample(f"daemon, {what}, removed, CPU s", daemon.cpu_s())
        outcome.add_sample(f"daemon, {what}, peak MiB", daemon.peak() / MIB)
    rmtree(daemon.home)


def _daemon_rows(outcome: Outcome, what: str, kind: str, files: int, megabytes: float) -> None:
    committed, removed = (outcome.median(f"daemon, {what}, {each}, s") for each in ("committed", "removed"))
    tar = outcome.median(f"tar, {what}, s")
    where = f"{what} into {kind}://"
    outcome.rows += [
        Row(f"{where}, until committed", "files/s", files / committed, TAR, files / tar, aim=0.9),
        Row(f"{where}, until committed", "MB/s", megabytes / committed, TAR, megabytes / tar, aim=0.9),
        Row(f"{where}, until removed", "files/s", files / removed),
    ]
    for each in ("committed", "removed"):
        ours, peer = outcome.median(f"daemon, {what}, {each}, CPU s"), outcome.median(f"tar, {what}, CPU s")
        outcome.rows.append(Row(f"{where}, CPU until {each}", "s", ours, TAR, peer, more_is_better=False))
    outcome.rows.append(Row(f"{where}, peak memory", "MiB", outcome.median(f"daemon, {what}, peak MiB")))


def backlog(work: Path, *, files: int = 1_000_000) -> Outcome:
    """Let many files wait while the store is away: time and memory of taking, of a restart, and of catching up.

    Half of them lie in one directory, half in 10,000 directories.
    """
    outcome = Outcome("backlog")
    (work / "store").mkdir()
    daemon = Daemon(work / "daemon", f"file://{work}/store", {"datarange_age": "1s"})
    daemon.prepare()
    _make_backlog(daemon.directory, files)
    _make_dataset(daemon.store)
    os.rename(work / "store", work / "away")
    time.sleep(SETTLE_S)
    with daemon.running():
        outcome.add_sample("all files taken, s", daemon.wait_taken(files, TIMEOUT_S))
        outcome.add_sample("all files taken, peak MiB", daemon.peak() / MIB)
    with daemon.running():
        outcome.add_sample("restart, ready, s", daemon.wait_ready())
        first = daemon.cpu_s()
        _wait_idle(daemon, TIMEOUT_S)
        outcome.add_sample("restart, scan, CPU s", daemon.cpu_s() - first)
        outcome.add_sample("restart, peak MiB", daemon.peak() / MIB)
        os.rename(work / "away", work / "store")
        started = time.monotonic()
        daemon.wait_committed(files, TIMEOUT_S)
        outcome.add_sample("caught up: committed, s", time.monotonic() - started)
        daemon.wait_done(TIMEOUT_S)
        outcome.add_sample("caught up: removed, s", time.monotonic() - started)
        outcome.add_sample("caught up, peak MiB", daemon.peak() / MIB)
    outcome.rows = [
        Row(f"{files:,} files wait: {name.rpartition(' ')[0].rstrip(',')}", name.rpartition(" ")[2], values[0])
        for name, values in outcome.samples.items()
    ]
    return outcome


def _make_backlog(directory: Path, files: int) -> None:
    """Make files of a few bytes: half in one directory, half in directories of 50."""
    for number in range(files // 2):
        (directory / f"{number}.txt").write_bytes(b"%d\n" % number)
    for group in range(files // 100):
        below = directory / "many" / f"{group:05d}"
        below.mkdir(parents=True)
        for number in range(50):
            (below / f"{number}.txt").write_bytes(b"%d/%d\n" % (group, number))


def _wait_idle(daemon: Daemon, timeout_s: float) -> None:
    """Wait until the daemon took less than a tenth of a CPU for two seconds."""
    seen = [time.monotonic(), daemon.cpu_s()]

    def idle() -> bool:
        now, cpu = time.monotonic(), daemon.cpu_s()
        if now - seen[0] < 2.0:
            return False
        busy = (cpu - seen[1]) / (now - seen[0]) > 0.1
        seen[:] = now, cpu
        return not busy

    wait_until(idle, "the end of the scan", timeout_s)


def latency(work: Path, *, rounds: int = 5) -> Outcome:
    """Close a file, and see how long it takes until a mount with caches of its own can read it."""
    outcome = Outcome("latency")
    fastest = {"settle": "0.2s", "datarange_age": "0.5s"}
    _latency(work / "default", {}, 10.0, "default settings", rounds, outcome)
    _latency(work / "fastest", fastest, 0.2, "fastest settings", 4 * rounds, outcome)
    return outcome


def _latency(work: Path, settings: dict[str, str], refresh_s: float, what: str, rounds: int, outcome: Outcome) -> None:
    moments = random.Random(rounds)
    daemon = Daemon(work / "daemon", f"file://{work}/store", settings)
    daemon.prepare()
    _make_dataset(daemon.store)
    with ExitStack() as stack:
        stack.enter_context(daemon.running())
        daemon.wait_ready()
        refresh = ("--refresh", f"{refresh_s:g}")
        mount = stack.enter_context(mount_dasfs(work / "mount", daemon.store, work / "cache", *refresh))
        for number in range(rounds):
            # The last file was seen just after a refresh; the next one may come at any time before or after one.
            time.sleep(moments.uniform(0, refresh_s))
            name, content = f"{number:020d}.txt", os.urandom(10_000)
            (daemon.directory / name).write_bytes(content)
            there = _is_readable(mount.path / DATASET / name, content)
            outcome.add_sample(f"{what}, s", wait_until(there, name, TIMEOUT_S))
    samples = outcome.samples[f"{what}, s"]
    outcome.rows += [
        Row(f"from close to readable, {what}, median", "s", statistics.median(samples)),
        Row(f"from close to readable, {what}, longest", "s", max(samples)),
    ]


def _is_readable(path: Path, content: bytes) -> Callable[[], bool]:
    def there() -> bool:
        try:
            return path.read_bytes() == content
        except FileNotFoundError:
            return False

    return there


def _make_dataset(store: str) -> None:
    if store.startswith("file://"):
        Path(urlsplit(store).path).mkdir(parents=True, exist_ok=True)
    run(DASFS, "dataset", "create", DATASET, "--store", store)
