"""Real mounts for tests: started, waited for, looked at, and always taken away again."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from dasfs.fuse.mountpoint import find_mount

Result = TypeVar("Result")

# What a test waits for at most; on an idle machine nothing takes a tenth of it.
PATIENCE_S: Final = 30.0
# A test that is stuck in a read can't be interrupted: its mount is killed then, so that the read ends.
WATCHDOG_S: Final = 100.0
# How soon the mounts of tests show what is new.
REFRESH_S: Final = 0.2

_PAUSE: Final = threading.Event()
_BAD_LINE: Final = re.compile(r"^(dasfs: (WARNING|ERROR|CRITICAL): |Traceback|  \+ Exception Group Traceback)")


def wait_until(condition: Callable[[], Result], timeout_s: float = PATIENCE_S) -> Result:
    """Return what `condition` returns once that is true; fail when it does not become true in time."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "what was waited for did not happen in time"
        _PAUSE.wait(0.02)
    return found


def in_thread(function: Callable[..., Result], *args: object, timeout_s: float = PATIENCE_S) -> Result:
    """Return what `function` returns, or raise what it raises; fail when it is still stuck after `timeout_s`."""
    outcome: list[Result] = []
    problem: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(function(*args))
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            problem.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout_s)
    assert not thread.is_alive(), f"{function} is stuck"
    if problem:
        raise problem[0]
    return outcome[0]


def errno_of(function: Callable[..., object], *args: object) -> int | None:
    """Return the errno that a call fails with, None where it works."""
    try:
        function(*args)
    except OSError as error:
        return error.errno
    return None


def environment(home: Path) -> dict[str, str]:
    """Return an environment in which nobody's own configuration counts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DASFS_")}
    return kept | {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA", "STATE")}


def dasfs(*arguments: str | Path, home: Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run one command of dasfs to its end."""
    return subprocess.run(
        [sys.executable, "-m", "dasfs", *map(str, arguments)],
        env=environment(home),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@dataclass
class Mount:
    """One mount in the foreground, in a process of its own."""

    path: Path
    cache: Path
    log_path: Path
    process: "subprocess.Popen[bytes]"
    warnings: Sequence[str]
    watchdog_s: float = WATCHDOG_S
    _watchdog: threading.Timer = field(init=False)

    def __post_init__(self) -> None:
        self._watchdog = threading.Timer(self.watchdog_s, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """Return what `.dasfs/status.json` says."""
        document: dict[str, Any] = json.loads((self.path / ".dasfs/status.json").read_bytes())
        return document

    def names(self, dataset: str | None = None) -> list[str]:
        return os.listdir(self.path / dataset if dataset else self.path)

    def wait_ready(self) -> None:
        """Return once the mount answers; fail with its log where its process ends before."""

        def answers() -> bool:
            assert self.process.poll() is None, f"the mount ended: {self.log[-3000:]}"
            try:
                return self.status()["pid"] == self.process.pid
            except OSError:
                return False

        in_thread(wait_until, answers)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Return the exit code of the mount's process once it has ended."""
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        """End the mount as `systemctl stop` does, and check that it ended well."""
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.log[-3000:]
        assert find_mount(str(self.path)) is None

    def take_away(self) -> None:
        """End the process and the mount, whatever state they are in."""
        self._watchdog.cancel()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                detach(self.path)
                pytest.fail(f"the mount did not end:\n{self.log[-3000:]}")
        detach(self.path)

    def check_log(self) -> None:
        """Fail where the log has a traceback, or a warning that the test did not announce."""
        expected = [*self.warnings, "is only counted"] if self.warnings else []
        unexpected = [
            line
            for line in self.log.splitlines()
            if _BAD_LINE.match(line) and not any(re.search(pattern, line) for pattern in expected)
        ]
        assert not unexpected, f"unexpected in {self.log_path}:\n" + "\n".join(unexpected[:10])


def detach(path: Path) -> None:
    """Take away whatever is mounted at `path`, also when its process is gone."""
    while find_mount(str(path)) is not None:
        subprocess.run(["fusermount3", "-u", "-z", "--", path], check=True, capture_output=True, timeout=PATIENCE_S)


class Mounter:
    """Mounts stores below one directory, for one test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.watchdog_s = WATCHDOG_S
        # Where an S3 store is asked, instead of where the environment says.
        self.endpoint_url: str | None = None
        self._mounts: list[Mount] = []

    def __call__(
        self,
        store_url: str,
        *arguments: str,
        name: str = "mnt",
        cache: Path | None = None,
        warnings: Sequence[str] = (),
        refresh_s: float = REFRESH_S,
        options: str = "",
        ready: bool = True,
    ) -> Mount:
        """Mount a store in the foreground and return once it answers.

        `warnings` are patterns of the warnings that the test provokes; `arguments` and `options` (as of `-o`) are
        given to `dasfs mount` as they are.
        """
        path = self.directory / name
        path.mkdir(exist_ok=True)
        cache = cache or self.directory / "cache"
        log_path = self.directory / f"{name}-{len(self._mounts)}.log"
        command = [sys.executable, "-m", "dasfs", "mount", store_url, str(path), "--foreground"]
        command += ["--cache-dir", str(cache), "--refresh", str(refresh_s), *arguments]
        if options:
            command += ["-o", options]
        variables = environment(self.directory)
        if self.endpoint_url is not None:
            variables["AWS_ENDPOINT_URL"] = self.endpoint_url
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        mount = Mount(path, cache, log_path, process, warnings, self.watchdog_s)
        self._mounts.append(mount)
        if ready:
            mount.wait_ready()
        return mount

    def close(self) -> None:
        """Take all mounts away, then look at their logs."""
        with contextlib.ExitStack() as stack:
            for mount in self._mounts:
                stack.callback(mount.check_log)
            for mount in self._mounts:
                stack.callback(mount.take_away)


@contextlib.contextmanager
def mounting(directory: Path) -> Iterator[Mounter]:
    """Hand out a `Mounter`, and leave nothing mounted behind."""
    mounter = Mounter(directory)
    try:
        yield mounter
    finally:
        mounter.close()
