"""Programs that the benchmark starts: run to their end, or kept running for a while, and always ended.

Each gets a session of its own, so that Ctrl-C reaches the benchmark alone, which then ends them in order.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY_TIMEOUT_S: Final = 120.0
END_TIMEOUT_S: Final = 20.0
# The slowest command is the install of the peers on a slow link.
COMMAND_TIMEOUT_S: Final = 1200.0
POLL_S: Final = 0.005
IDLE_TIMEOUT_S: Final = 60.0
IDLE_S: Final = 0.5
MOUNTS: Final = Path("/proc/self/mountinfo")


class BenchError(Exception):
    """A case or a peer can't go on; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended well."""

    seconds: float
    stdout: str


def run(*command: str, env: Mapping[str, str] | None = None, timeout_s: float = COMMAND_TIMEOUT_S) -> Done:
    """Run a command to its end. A failure is a `BenchError` with the last line that it wrote."""
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BenchError(f"{command[0]} can't be started: {error.strerror}") from None
    with ended(process):
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{_short(command)} took more than {timeout_s:g} s") from None
        seconds = time.monotonic() - started
    if process.returncode:
        raise BenchError(f"{_short(command)} failed ({process.returncode}): {last_line(stderr or stdout)}")
    return Done(seconds, stdout)


@contextlib.contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    """End a process and its session with the block, if they have not ended by themselves."""
    try:
        yield
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT_S)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float, poll_s: float = POLL_S) -> float:
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
        return memory(self.pid, "VmRSS:")

    def cpu_ticks(self) -> int:
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(after_name[11]) + int(after_name[12])

    def settle(self) -> None:
        """Wait until the process has done what is queued for it: half a second in which it took no time."""
        ticks, since = self.cpu_ticks(), time.monotonic()

        def idle() -> bool:
            nonlocal ticks, since
            if self.cpu_ticks() != ticks:
                ticks, since = self.cpu_ticks(), time.monotonic()
            return time.monotonic() - since > IDLE_S

        wait_until(idle, f"the end of the work of {self.path}", IDLE_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Running:
    """A program that runs until it is ended."""

    process: "subprocess.Popen[str]"
    log_path: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raise `BenchError` with the last line of its log where it has ended."""
        if self.process.poll() is not None:
            reason = last_line(self.log_path.read_text(errors="replace"))
            command = self.process.args if isinstance(self.process.args, (list, tuple)) else ()
            raise BenchError(f"{_short([*map(str, command)])} ended with {self.process.returncode}: {reason}")


def memory(pid: int, name: str) -> int:
    """Return one figure of a process's memory, in bytes, by its name in /proc/PID/status."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


@contextlib.contextmanager
def running(log_path: Path, command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Start `command`, which stays in the foreground and writes its log to a file; end it with the block."""
    with log_path.open("w") as log:
        try:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, text=True
            )
        except OSError as error:
            raise BenchError(f"{command[0]} can't be started: {error.strerror}") from None
    with ended(process):
        yield Running(process, log_path)


@contextlib.contextmanager
def mounted(mountpoint: Path, command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Mount]:
    """Start `command`, which mounts at `mountpoint` and stays in the foreground; end both with the block."""
    mountpoint.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        with running(mountpoint.with_name(f"{mountpoint.name}.log"), command, env) as process:

            def ready() -> bool:
                process.check()
                return is_mounted(mountpoint)

            wait_until(ready, f"mounting {mountpoint}", READY_TIMEOUT_S)
            os.stat(mountpoint)
            yield Mount(mountpoint, process.pid, time.monotonic() - started)
    finally:
        if is_mounted(mountpoint):
            subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False, stderr=subprocess.DEVNULL)


def is_mounted(path: Path) -> bool:
    """Return whether something is mounted at `path`, without touching it: a dead mount would not answer."""
    wanted = str(path)
    return any(line.split()[4] == wanted for line in MOUNTS.read_text().splitlines())


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _short(command: Sequence[str]) -> str:
    return " ".join(Path(word).name if word.startswith("/") else word for word in command[:4])
