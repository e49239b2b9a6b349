"""The sync daemon: its speed beside `tar`, its memory with a long backlog, and how soon a file is seen.

Backlog and latency have a folder for a store: a gateway on the same two cores would be most of what is measured.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.cases.put import TAR, upload_tar
from bench.daemon import DATASET, Daemon
from bench.material import make_files, remove
from bench.outcome import Aim, Outcome, Row
from bench.processes import run, wait_until
from bench.rig import Rig

MB: Final = 1_000_000
MIB: Final = 1 << 20
TIMEOUT_S: Final = 1800.0
# Until nothing about the files that were just made counts as changed.
SETTLE_S: Final = 2.5
GONE_POLL_S: Final = 1.0
TAR_FILE: Final = "tar into one file"
FASTEST: Final = {"settle": "0.2s", "datarange_age": "0.5s"}


@dataclass(frozen=True, slots=True)
class _Place:
    """A store that the daemon fills, with a number for each round, and the tar that is written beside it."""

    peer: str
    files: Sequence[tuple[int, int]]  # how many, and their size
    store: Callable[[int], str]
    tar: Callable[[Path], float]
    clean: Callable[[int], None]


def daemon(rig: Rig) -> Outcome:
    """Move many small and some large files from a write directory into a dataset, by turns with `tar`.

    Once into a folder, beside a tar in one file, and once into the gateway, beside a tar in one multipart upload. The
    files are there and settled when the daemon starts, and it is timed from the start of its process. They are links
    to the same files that `tar` reads, so that both find them in the kernel's cache or not.
    """
    outcome = Outcome("daemon", "The daemon")
    gateway = rig.gateway
    folder = _Place(
        TAR_FILE,
        rig.settings.daemon_files,
        lambda number: f"file://{rig.work / f'store-{number}'}",
        lambda source: tar(source, rig.work / "all.tar"),
        lambda number: remove(rig.work / f"store-{number}"),
    )
    bucket = _Place(
        TAR,
        rig.settings.daemon_uploads,
        lambda number: f"{gateway.store}-{number}",
        lambda source: upload_tar(gateway, source, "tar"),
        lambda _number: gateway.empty(),
    )
    for place in (folder, bucket):
        for files, size in place.files:
            _compare(rig, outcome, place, files, size)
    return outcome


def _compare(rig: Rig, outcome: Outcome, place: _Place, files: int, size: int) -> None:
    """Measure the daemon beside one peer with so many files of one size."""
    source = rig.work / "files"
    make_files(source, size, files, rig.settings.seed)
    what = f"{files:,} files of {size / 1000:g} kB, beside {place.peer}"
    for number in range(rig.settings.slow_rounds):
        before = sum(os.times()[:4])
        outcome.add_sample(f"tar, {what}, s", place.tar(source))
        outcome.add_sample(f"tar, {what}, CPU s", sum(os.times()[:4]) - before)
        _drain(make_daemon(rig, "daemon", place.store(number), {"datarange_age": "1s"}), source, what, outcome)
        place.clean(number)
    remove(source)
    _daemon_rows(outcome, what, place.peer, files, files * size / MB)


def tar(source: Path, target: Path) -> float:
    """Return the seconds until a tar of a folder was safely stored."""
    started = time.monotonic()
    run("tar", "-cf", str(target), "-C", str(source), ".")
    run("sync", str(target))
    seconds = time.monotonic() - started
    target.unlink()
    return seconds


def make_daemon(rig: Rig, name: str, store: str, settings: Mapping[str, str]) -> Daemon:
    """Return a daemon, not yet running, and the dataset that it is to fill."""
    if store.startswith("file://"):
        Path(store.removeprefix("file://")).mkdir(parents=True)
    rig.dasfs("dataset", "create", DATASET, "--store", store)
    made = Daemon(rig.work / name, store, rig.gateway.environment, settings)
    made.prepare()
    return made


def _drain(taker: Daemon, source: Path, what: str, outcome: Outcome) -> None:
    """Let a new daemon take the files of `source` from its write directory."""
    names = os.listdir(source)
    for name in names:
        os.link(source / name, taker.directory / name)
    os.sync()
    time.sleep(SETTLE_S)
    with taker.running():
        outcome.add_sample(f"daemon, {what}, committed, s", taker.wait_committed(len(names), TIMEOUT_S))
        outcome.add_sample(f"daemon, {what}, committed, CPU s", taker.cpu_s())
        outcome.add_sample(f"daemon, {what}, removed, s", taker.wait_empty(TIMEOUT_S))
        outcome.add_sample(f"daemon, {what}, removed, CPU s", taker.cpu_s())
        outcome.add_sample(f"daemon, {what}, peak MiB", taker.peak() / MIB)
    remove(taker.home)


def _daemon_rows(outcome: Outcome, what: str, peer: str, files: int, megabytes: float) -> None:
    def rate(amount: float, sample: str) -> float | None:
        seconds = outcome.median(sample)
        return amount / seconds if seconds else None

    committed, removed, tar_s = (f"daemon, {what}, committed, s", f"daemon, {what}, removed, s", f"tar, {what}, s")
    aim = Aim(0.9)
    name = what.partition(", beside")[0]
    outcome.rows += [
        Row(f"{name}, until committed", "files/s", rate(files, committed), peer, rate(files, tar_s), aim),
        Row(f"{name}, until committed", "MB/s", rate(megabytes, committed), peer, rate(megabytes, tar_s), aim),
        Row(f"{name}, until removed", "files/s", rate(files, removed)),
        Row(f"{name}, peak memory", "MiB", outcome.median(f"daemon, {what}, peak MiB")),
    ]
    for each in ("committed", "removed"):
        ours = outcome.median(f"daemon, {what}, {each}, CPU s")
        outcome.rows.append(Row(f"{name}, CPU until {each}", "s", ours, peer, outcome.median(f"tar, {what}, CPU s")))


def backlog(rig: Rig) -> Outcome:
    """Let many files wait while the store is away: time and memory of taking, of a restart, and of catching up.

    Half of them lie in one directory, half in directories of 50.
    """
    outcome = Outcome("backlog", "A backlog of the daemon")
    files, store, away = rig.settings.backlog, rig.work / "store", rig.work / "away"
    taker = make_daemon(rig, "daemon", f"file://{store}", {"datarange_age": "1s"})
    _make_backlog(taker.directory, files)
    os.rename(store, away)
    time.sleep(SETTLE_S)
    with taker.running():
        outcome.add_sample("all files taken, s", taker.wait_taken(files, TIMEOUT_S))
        outcome.add_sample("all files taken, peak MiB", taker.peak() / MIB)
    with taker.running():
        outcome.add_sample("restart, ready, s", taker.wait_ready())
        first = taker.cpu_s()
        _wait_idle(taker, TIMEOUT_S)
        outcome.add_sample("restart, scan, CPU s", taker.cpu_s() - first)
        outcome.add_sample("restart, peak MiB", taker.peak() / MIB)
        os.rename(away, store)
        started = time.monotonic()
        taker.wait_committed(files, TIMEOUT_S)
        outcome.add_sample("caught up: committed, s", time.monotonic() - started)
        _wait_files_gone(taker)
        outcome.add_sample("caught up: removed, s", time.monotonic() - started)
        outcome.add_sample("caught up, peak MiB", taker.peak() / MIB)
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


def _wait_idle(taker: Daemon, timeout_s: float) -> None:
    """Wait until the daemon took less than a tenth of a CPU for two seconds."""
    since, cpu_s = time.monotonic(), taker.cpu_s()

    def idle() -> bool:
        nonlocal since, cpu_s
        now, cpu_now = time.monotonic(), taker.cpu_s()
        if now - since < 2.0:
            return False
        busy = (cpu_now - cpu_s) / (now - since) > 0.1
        since, cpu_s = now, cpu_now
        return not busy

    wait_until(idle, "the end of the scan", timeout_s, GONE_POLL_S)


def _wait_files_gone(taker: Daemon) -> None:
    def gone() -> bool:
        return not any(names for _, _, names in os.walk(taker.directory))

    wait_until(gone, "emptying the directory", TIMEOUT_S, GONE_POLL_S)


def latency(rig: Rig) -> Outcome:
    """Close a file, and see how long it takes until a mount with caches of its own can read it."""
    outcome = Outcome("latency", "From closing a file to reading it")
    rounds = rig.settings.rounds
    _latency(rig, outcome, "default settings", {}, 10.0, rounds)
    _latency(rig, outcome, "fastest settings", FASTEST, 0.2, 4 * rounds)
    return outcome


def _latency(rig: Rig, outcome: Outcome, what: str, settings: Mapping[str, str], refresh_s: float, rounds: int) -> None:
    home = what.replace(" ", "-")
    taker = make_daemon(rig, home, f"file://{rig.work}/{home}-store", settings)
    with ExitStack() as stack:
        stack.enter_context(taker.running())
        taker.wait_ready()
        cache, name = rig.work / f"{home}-cache", f"{home}-mount"
        mount = stack.enter_context(rig.mount_dasfs(name, cache, store=taker.store, refresh_s=refresh_s))
        for number in range(rounds):
            path, content = Path(DATASET) / f"{number:020d}.txt", os.urandom(10_000)
            (taker.directory / path.name).write_bytes(content)
            there = _is_readable(mount.path / path, content)
            outcome.add_sample(f"{what}, s", wait_until(there, path.name, TIMEOUT_S))
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
