"""A mount in the background, as `dasfs mount` and mount(8) begin it."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dasfs.fuse.mountpoint import find_mount
from dasfs.stores import Store
from tests import datasets
from tests.mounts import PATIENCE_S, dasfs, detach, environment, wait_until

NAME = f"{0:020d}.bin"
HELPER = "from dasfs.cli.mount_helper import main; main()"


@dataclass(frozen=True)
class Background:
    """A store with one dataset, a mount point and a cache directory; nothing is mounted yet."""

    url: str
    home: Path

    @property
    def path(self) -> Path:
        return self.home / "mnt"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def pid(self) -> int:
        return int(json.loads((self.path / ".dasfs/status.json").read_text())["pid"])

    def mount(self, *arguments: str | Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return dasfs("mount", self.url, self.path, "--cache-dir", self.cache, *arguments, home=self.home, cwd=cwd)

    def help_mount(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Call the helper as mount(8) does."""
        return subprocess.run(
            [sys.executable, "-c", HELPER, *arguments],
            env=environment(self.home),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def umount(self) -> "subprocess.CompletedProcess[str]":
        return dasfs("umount", self.path, home=self.home)


def end(cache: Path) -> None:
    """End the process that has a cache directory, if it does not end by itself. It can't be asked: it may be stuck."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = int((cache / "dasfs-cache" / "lock").read_text().split()[0])
        process = os.pidfd_open(pid)
        ours = str(cache) in Path(f"/proc/{pid}/cmdline").read_text()  # it may be another's number by now
        if ours and not select.select([process], [], [], PATIENCE_S)[0]:
            os.kill(pid, signal.SIGKILL)
        os.close(process)


@pytest.fixture
def background(local_store: Store, tmp_path: Path) -> Iterator[Background]:
    """Something to mount; whatever is mounted is taken away at the end, and its process waited for."""
    datasets.add(local_store, "set", 0, [b"hello"])
    (tmp_path / "mnt").mkdir()
    made = Background(local_store.url, tmp_path)
    try:
        yield made
    finally:
        detach(made.path)
        end(made.cache)


def assert_one_line(done: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    """Check that a command ended with `code` and told why in one line."""
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


def test_it_returns_when_the_mount_answers(background: Background) -> None:
    """`dasfs mount` says nothing and returns when files can be read; another process of its own serves them."""
    done = background.mount()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (background.path / "set" / NAME).read_bytes() == b"hello"
    assert os.getsid(background.pid) == background.pid


def test_umount_waits_for_its_end(background: Background) -> None:
    """After `dasfs umount` the process is gone, and the same can be mounted again at once."""
    for _ in range(2):
        assert background.mount().returncode == 0
        process = os.pidfd_open(background.pid)
        try:
            assert background.umount().returncode == 0
            assert select.select([process], [], [], 0)[0], "the process still lives"
        finally:
            os.close(process)
    assert os.listdir(background.path) == []


def test_it_logs_to_a_file(background: Background) -> None:
    """The log stands beside the caches, or where `--log-file` says; warnings go there, not to a terminal."""
    assert background.mount().returncode == 0
    assert background.umount().returncode == 0
    assert (background.cache / "mount.log").exists()
    log = background.home / "logs" / "mine.log"
    assert background.mount("--log-file", log).returncode == 0
    assert (background.path / "set" / NAME).read_bytes() == b"hello"
    shutil.move(background.home / "store", background.home / "away")
    wait_until(lambda: not (background.path / "other").exists() and "can't be read" in log.read_text())
    shutil.move(background.home / "away", background.home / "store")
    assert background.umount().returncode == 0
    assert "Traceback" not in log.read_text()


def test_it_holds_nothing_of_who_started_it(background: Background) -> None:
    """The mount keeps neither the terminal's streams nor its working directory."""
    assert background.mount("--log-file", background.home / "mount.log").returncode == 0
    places = {os.readlink(f"/proc/{background.pid}/fd/{fd}") for fd in (0, 1, 2)}
    assert places == {os.devnull, str(background.home / "mount.log")}
    assert os.readlink(f"/proc/{background.pid}/cwd") == "/"


def test_a_failure_is_one_line(background: Background) -> None:
    """What fails in the background process is told by the command: one line and its exit code."""
    assert_one_line(background.mount("-o", "dataset=a/b"), 2, "a/b")
    assert_one_line(background.mount("-o", "dataset=other"), 1, "other")
    shutil.rmtree(background.home / "store")
    assert_one_line(background.mount(), 1, "store")
    assert find_mount(str(background.path)) is None


@pytest.mark.parametrize("place", ["mnt/mount.log", "store", "file/mount.log"])
def test_a_log_that_can_not_be_written(background: Background, place: str) -> None:
    """A log file below the mount point, or that is a directory, or below a file, is refused with one line."""
    (background.home / "file").touch()
    done = background.mount("--log-file", background.home / place)
    assert_one_line(done, done.returncode, place.partition("/")[0])
    assert done.returncode in (1, 2)
    assert find_mount(str(background.path)) is None


def test_modules_of_the_working_directory_do_not_matter(background: Background) -> None:
    """A file `json.py` where the user happens to be is not run by the background process."""
    trap = background.home / "trap"
    trap.mkdir()
    for module in ("json", "trio", "dasfs"):
        (trap / f"{module}.py").write_text("raise SystemExit('caught')")
    done = subprocess.run(
        [
            Path(sys.executable).parent / "dasfs",
            "mount",
            background.url,
            background.path,
            "--cache-dir",
            background.cache,
        ],
        cwd=trap,
        env=environment(background.home),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_helper_mounts(background: Background) -> None:
    """mount(8)'s helper takes the arguments that mount(8) gives it, and leaves a mount in the background."""
    done = background.help_mount(
        background.url, str(background.path), "-n", "-o", f"rw,cache-dir={background.cache},nofail,x-systemd.requires=a"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (background.path / "set" / NAME).read_bytes() == b"hello"


def test_the_helper_pretends(background: Background) -> None:
    """With `-f` (fake) the helper does nothing, successfully."""
    done = background.help_mount(background.url, str(background.path), "-f", "-o", "rw")
    assert (done.returncode, done.stderr) == (0, "")
    assert find_mount(str(background.path)) is None


def test_the_helper_refuses(background: Background) -> None:
    """Missing arguments, unknown flags and options are one line and exit code 2; with `-s`, options are tolerated."""
    assert_one_line(background.help_mount(background.url), 2, "usage")
    assert_one_line(background.help_mount("--unknown", background.url, str(background.path)), 2, "usage")
    unknown = ("-o", f"cache-dir={background.cache},frobnicate=1")
    assert_one_line(background.help_mount(background.url, str(background.path), *unknown), 2, "frobnicate")
    assert find_mount(str(background.path)) is None
    assert background.help_mount(background.url, str(background.path), "-s", *unknown).returncode == 0
    assert find_mount(str(background.path)) is not None
