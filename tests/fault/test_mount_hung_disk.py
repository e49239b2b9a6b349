"""A store on a disk that stops answering: the mount keeps its deadline, serves what it has, and goes on afterwards.

A file system whose process is stopped stands for NFS with a server that is gone: whoever calls it sleeps in the kernel,
where only SIGKILL reaches him.
"""

import errno
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from dasfs.fuse.mountpoint import find_mount
from dasfs.stores import open_store
from tests import datasets
from tests.mounts import PATIENCE_S, Mount, Mounter, dasfs, detach, errno_of, in_thread, wait_until

DEADLINE_S = 1.0
# What the deadline of one operation may become for a program that does several, on a machine with other work.
BOUND_S = 10.0
WARNINGS = ["can't be read", "answer", "deadline", "was not read within"]
OUTAGE = (errno.EIO, errno.ETIMEDOUT)


def name(number: int) -> str:
    return f"{number:020d}.bin"


def content(number: int) -> bytes:
    return random.Random(number).randbytes(300_000)


# More files than a mount has threads to fetch with.
COLD = 60


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that can hang, and the directory that it shows."""

    process: "subprocess.Popen[str]"
    behind: Path
    path: Path

    @property
    def url(self) -> str:
        return f"file://{self.path}/store"

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let it answer nothing within a `with` block."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk with a store of two datasets."""
    behind, path = tmp_path / "behind", tmp_path / "disk"
    behind.mkdir()
    path.mkdir()
    with open_store(f"file://{behind}/store") as store:
        store.create()
        for dataset, count in (("set", 10), ("cold", COLD)):
            datasets.add(store, dataset, 0, [content(number) for number in range(count)])
    process = subprocess.Popen(["bindfs", "-f", "-r", behind, path])
    try:
        wait_until(lambda: find_mount(str(path)) is not None)
        yield Disk(process, behind, path)
        process.terminate()
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        detach(path)


@pytest.fixture
def mount(disk: Disk, mounted: Mounter) -> Mount:
    """The store, mounted with a short deadline, and one file that was read."""
    made = mounted(disk.url, options=f"deadline={DEADLINE_S}", warnings=WARNINGS)
    assert (made.path / "set" / name(0)).read_bytes() == content(0)
    assert (made.path / "cold").exists()
    return made


def test_a_disk_that_hangs_and_comes_back(disk: Disk, mount: Mount) -> None:
    """Cached files are served, everything else fails within the deadline, any number of times; then all is well."""
    cold = mount.path / "cold" / name(9)
    with disk.hanging():
        for _ in range(5):
            begun = time.monotonic()
            assert in_thread(errno_of, cold.read_bytes) in OUTAGE
            assert in_thread(errno_of, (mount.path / "another" / name(0)).stat) in OUTAGE
            assert in_thread((mount.path / "set" / name(0)).read_bytes) == content(0)
            assert in_thread(mount.names, "set") == [name(number) for number in range(10)]
            assert time.monotonic() - begun < BOUND_S
        wait_until(lambda: mount.status()["problem"] is not None)
    wait_until(lambda: mount.status()["problem"] is None)
    wait_until(lambda: errno_of(cold.read_bytes) is None)
    for number in range(10):
        assert in_thread((mount.path / "cold" / name(number)).read_bytes) == content(number)


def test_more_readers_than_threads(disk: Disk, mount: Mount) -> None:
    """Of 60 readers that are stuck each gets an error in time, while others are served, and the bytes afterwards."""
    paths = [mount.path / "cold" / name(number) for number in range(COLD)]
    assert {path.stat().st_size for path in paths} == {len(content(0))}
    with disk.hanging():
        begun = time.monotonic()
        readers = [subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for path in paths]
        try:
            assert in_thread((mount.path / "set" / name(0)).read_bytes) == content(0)
            for reader in readers:
                _, said = reader.communicate(timeout=PATIENCE_S)
                assert reader.returncode == 1
                assert b"timed out" in said or b"Input/output" in said, said
            assert time.monotonic() - begun < BOUND_S
        finally:
            for reader in readers:
                reader.kill()
                reader.communicate()
    for number, path in enumerate(paths):
        wait_until(lambda path=path: errno_of(path.read_bytes) is None)  # type: ignore[misc]
        assert path.read_bytes() == content(number)


def test_it_ends_while_the_disk_hangs(disk: Disk, mount: Mount) -> None:
    """SIGTERM ends the mount within seconds though its threads sleep in the kernel."""
    with disk.hanging():
        reader = subprocess.Popen(["cat", mount.path / "cold" / name(9)], stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: mount.status()["problem"] is not None)
            begun = time.monotonic()
            mount.stop()
            assert time.monotonic() - begun < BOUND_S
        finally:
            reader.kill()
            reader.wait()


def test_a_mount_of_a_disk_that_hangs(disk: Disk, tmp_path: Path) -> None:
    """Mounting fails within the deadline, in one line, and leaves the mount point as it was."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    with disk.hanging():
        begun = time.monotonic()
        options = ("--cache-dir", tmp_path / "cache", "-o", f"deadline={DEADLINE_S}")
        refused = dasfs("mount", disk.url, mountpoint, *options, home=tmp_path)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
        assert "did not answer within 1 s" in refused.stderr
        assert time.monotonic() - begun < BOUND_S
        assert find_mount(str(mountpoint)) is None
