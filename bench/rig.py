"""What the cases share: mounts that come and go, commands with their times, tables."""

import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
OUT: Final = HERE / "out"
DASFS: Final = str(Path(sys.executable).with_name("dasfs"))
FUSE_MEMORY: Final = str(HERE / "fuse_memory")
READY_TIMEOUT_S: Final = 120.0
IDLE_TIMEOUT_S: Final = 60.0
END_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.02


class BenchError(Exception):
    """A case can't go on; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a figure of dasfs, and the same of what it is held against."""

    what: str
    unit: str
    dasfs: float
    peer_name: str = ""
    peer: float | None = None
    more_is_better: bool = True
    aim: float | None = None  # the ratio to reach

    @property
    def ratio(self) -> float | None:
        """How good dasfs is, with the peer as 1: above it is better, whichever way the unit counts."""
        if not self.peer or not self.dasfs:
            return None
        return self.dasfs / self.peer if self.more_is_better else self.peer / self.dasfs


@dataclass(slots=True)
class Outcome:
    """What one case found: rows for people, all samples for who doubts them."""

    case: str
    rows: list[Row] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add_sample(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)
        print(f"  {name}: {value:,.2f}", file=sys.stderr)

    def median(self, name: str) -> float:
        return statistics.median(self.samples[name])

    def save(self) -> None:
        """Write everything to `out/<case>.json`."""
        machine = {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        rows = [{**asdict(row), "ratio": row.ratio} for row in self.rows]
        OUT.mkdir(exist_ok=True)
        text = json.dumps({"case": self.case, "machine": machine, "rows": rows, "samples": self.samples}, indent=1)
        (OUT / f"{self.case}.json").write_text(text + "\n")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| | dasfs | | | ratio | aim |", "|---|---:|---:|---|---:|---:|"]
    for row in rows:
        peer = "" if row.peer is None else f"{row.peer:,.4g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        aim = "" if row.aim is None else f"{row.aim:g}"
        lines.append(f"| {row.what} | {row.dasfs:,.4g} {row.unit} | {peer} | {row.peer_name} | {ratio} | {aim} |")
    return "\n".join(lines)


def run(*command: str) -> float:
    """Run a command to its end, its output thrown away; return its seconds. A failure is a `BenchError`."""
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise BenchError(f"{' '.join(command)} failed ({done.returncode}): {''.join(last)}")
    return seconds


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float, *, poll_s: float = POLL_S) -> float:
    """Return the seconds until `condition` held. Raises `BenchError` naming `what` when it takes too long."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise BenchError(f"{what} took more than {timeout_s:g} s")
        time.sleep(poll_s)
    return time.monotonic() - started


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system that is mounted, by a process of ours in the foreground."""

    path: Path
    pid: int
    ready_s: float

    def resident(self) -> int:
        """Return the resident memory of the process, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def cpu_ticks(self) -> int:
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(after_name[11]) + int(after_name[12])

    def settle(self) -> None:
        """Wait until the process has done what is queued for it: a second in which it took no time."""
        state = [self.cpu_ticks(), time.monotonic()]

        def idle() -> bool:
            ticks, now = self.cpu_ticks(), time.monotonic()
            if ticks != state[0]:
                state[:] = ticks, now
            return now - state[1] > 1.0

        wait_until(idle, f"the end of the work of {self.path}", IDLE_TIMEOUT_S)


@contextmanager
def mounted(mountpoint: Path, *command: str) -> Iterator[Mount]:
    """Start `command`, which mounts at `mountpoint` and stays in the foreground; end it with the block."""
    mountpoint.mkdir(exist_ok=True)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:

        def ready() -> bool:
            if process.poll() is not None:
                raise BenchError(f"{' '.join(command)} ended with {process.returncode} and mounted nothing")
            return mountpoint.is_mount()

        yield Mount(mountpoint, process.pid, wait_until(ready, f"mounting {mountpoint}", READY_TIMEOUT_S))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if mountpoint.is_mount():
            subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False)


def mount_memory(mountpoint: Path, count: int, size: int, *options: str) -> AbstractContextManager[Mount]:
    """Mount the C program with so many files of so many bytes."""
    return mounted(mountpoint, FUSE_MEMORY, *options, str(mountpoint), str(count), str(size))


def mount_dasfs(mountpoint: Path, store: str, cache: Path, *options: str) -> AbstractContextManager[Mount]:
    """Mount every dataset of a store below `mountpoint`."""
    command = (DASFS, "mount", store, str(mountpoint), "--cache-dir", str(cache), "--foreground")
    return mounted(mountpoint, *command, *options)


def read_rate(directory: Path, readers: int) -> float:
    """Read every file of a directory that the kernel has just forgotten; return the files a second."""
    command = [
        sys.executable,
        str(HERE / "read_files.py"),
        str(directory),
        "--readers",
        str(readers),
        "--drop-inodes",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise BenchError(f"reading {directory} failed")
    return float(json.loads(done.stdout)["files_per_s"])


def forget_inodes(*mounts: Mount) -> None:
    """Make the kernel forget all names and files, and wait until the mounts have dealt with that."""
    Path("/proc/sys/vm/drop_caches").write_text("2")
    for mount in mounts:
        mount.settle()


def disk_usage(directory: Path) -> int:
    """Return the bytes that a directory takes on its disk."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in paths)


def make_files(directory: Path, count: int, size: int, name: str = "{:020d}.bin") -> None:
    """Make files of random bytes, named by their numbers from 0 on; the same ones each time."""
    directory.mkdir()
    source = random.Random(count)
    for number in range(count):
        (directory / name.format(number)).write_bytes(source.randbytes(size))
    os.sync()
