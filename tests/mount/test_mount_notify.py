"""The mount as a service of systemd: what it tells the manager, and what stays while it can't be mounted."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dasfs.stores import Store
from tests import datasets
from tests.managers import Manager, listening
from tests.mounts import Mounter, dasfs, detach, errno_of, wait_until

NAME = f"{0:020d}.bin"


@pytest.fixture
def url(local_store: Store) -> str:
    """The URL of a store with one datapoint."""
    datasets.add(local_store, "set", 0, [b"hello"])
    return local_store.url


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A service manager of all processes that the test starts, with a watchdog that wants a sign of life each 0.4 s."""
    with listening(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        yield manager


def test_it_tells_the_manager_of_its_life(url: str, mounted: Mounter, manager: Manager) -> None:
    """A status while the store is asked, READY once the mount answers, signs of life, STOPPING at the end."""
    mount = mounted(url, ready=False)
    told = manager.wait_for(lambda message: "READY" in message)
    assert told == [{"STATUS": f"asking {url}"}, {"READY": "1"}]
    assert (mount.path / "set" / NAME).read_bytes() == b"hello"
    told = manager.wait_for(lambda message: "1 dataset in use, 1 datapoints, 1 reads" in message.get("STATUS", ""))
    assert all(message.get("WATCHDOG") == "1" for message in told)
    mount.stop()
    assert manager.wait_for(lambda message: "WATCHDOG" not in message)[-1] == {"STOPPING": "1"}
    assert manager.message(0) == {}


def test_a_mount_in_the_background_is_none_of_the_managers(url: str, mounted: Mounter, manager: Manager) -> None:
    """`dasfs mount` without --foreground tells the manager nothing, however long its mount lives."""
    path = mounted.directory / "background"
    path.mkdir()
    try:
        started = dasfs("mount", url, path, "--cache-dir", mounted.directory / "c", home=mounted.directory)
        assert started.returncode == 0, started.stderr
        assert (path / "set" / NAME).read_bytes() == b"hello"
        assert dasfs("umount", path, home=mounted.directory).returncode == 0
    finally:
        detach(path)
    assert manager.drain() == []


def test_a_dead_mount_stays_while_the_store_is_away(url: str, mounted: Mounter) -> None:
    """`--replace` takes the dead mount away when it can mount and not before: never is an empty directory there."""
    mount = mounted(url)
    mount.signal(signal.SIGKILL)
    mount.wait()
    wait_until(lambda: errno_of(os.statvfs, mount.path) == errno.ENOTCONN)
    store = Path(url.removeprefix("file://"))
    store.rename(store.with_name("away"))
    again = ("mount", url, mount.path, "--replace", "--foreground", "--cache-dir", mount.cache)
    refused = dasfs(*again, home=mounted.directory)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert errno_of(os.listdir, mount.path) == errno.ENOTCONN
