"""The socket of a real mount: always there, for those who may read the mount, and gone with it."""

import http.client
import os
import signal
import socket
import stat
from contextlib import closing
from pathlib import Path

from dasfs.cli.status_report import fetch
from dasfs.endpoint import short_path
from dasfs.fuse.door import SHARED_DIRECTORY
from dasfs.fuse.mountpoint import find_mount
from tests.mounts import Mount, Mounter, dasfs, detach

TIMEOUT_S = 30.0


def ask(mount: Mount, path: str) -> tuple[int, str]:
    return ask_at(mount.status()["control"], path)


def ask_at(place: str, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("localhost", timeout=TIMEOUT_S)) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(TIMEOUT_S)
        with short_path(place) as name:
            connection.sock.connect(name)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_every_mount_has_a_socket(local_url: str, mounted: Mounter) -> None:
    """It stands in the cache directory, for its owner only, answers what the port would, and is gone at the end."""
    mount = mounted(local_url)
    path = Path(mount.status()["control"])
    assert path == mount.cache / "dasfs-cache" / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert fetch(str(path), "/status.json")["pid"] == mount.process.pid
    assert ask(mount, "/health") == ask(mount, "/live") == (200, "ok\n")
    assert "dasfs_mount_info{" in ask(mount, "/metrics")[1]
    assert ask(mount, "/else")[0] == 404
    mount.stop()
    assert not path.exists()


def test_a_killed_mounts_socket_is_replaced(local_url: str, mounted: Mounter) -> None:
    """What SIGKILL leaves is no hindrance for the next mount with the same cache."""
    first = mounted(local_url)
    first.signal(signal.SIGKILL)
    first.wait()
    detach(first.path)
    assert (first.cache / "dasfs-cache" / "control.sock").exists()
    second = mounted(local_url, name="second", cache=first.cache)
    assert ask(second, "/live") == (200, "ok\n")


def test_a_cache_with_a_long_path(local_url: str, mounted: Mounter) -> None:
    """107 bytes are no limit for the cache directory."""
    mount = mounted(local_url, cache=mounted.directory / ("long" * 40))
    assert len(mount.status()["control"]) > 107
    assert ask(mount, "/live") == (200, "ok\n")


def test_a_socket_of_roots_that_others_can_reach(local_url: str, mounted: Mounter) -> None:
    """With `allow_other` whoever may read the mount may ask at its socket, and who may not may not."""
    mount = mounted(local_url, options="allow_other,uid=12345,gid=54321,umask=007")
    path = mount.status()["control"]
    assert os.path.dirname(path) == SHARED_DIRECTORY

    def ask_as(uid: int, gid: int) -> str:
        os.setegid(gid)
        os.seteuid(uid)
        try:
            return ask_at(path, "/live")[1]
        finally:
            os.seteuid(0)
            os.setegid(0)

    assert ask_as(12345, 1) == ask_as(999, 54321) == "ok\n"
    assert ask_as(999, 999) == "this user may not ask here\n"
    mount.stop()
    assert not os.path.exists(path)


def test_a_socket_where_the_user_wants_it(local_url: str, mounted: Mounter) -> None:
    """`-o control=PATH` is obeyed; where no socket can be, nothing is mounted."""
    mount = mounted(local_url, options=f"control={mounted.directory}/run/m.sock")
    assert mount.status()["control"] == f"{mounted.directory}/run/m.sock"
    taken = mounted.directory / "file"
    taken.touch()
    (mounted.directory / "other").mkdir()
    for path, words in (
        (taken, "is no socket"),
        (mount.path / "x.sock", None),
        (mounted.directory / "other/s", "below"),
    ):
        done = dasfs(
            *("mount", local_url, mounted.directory / "other", "--foreground", "--cache-dir", "second"),
            *("-o", f"control={path}"),
            home=mounted.directory,
            cwd=mounted.directory,
        )
        assert done.returncode in (1, 2)
        assert len(done.stderr.splitlines()) == 1
        assert words is None or words in done.stderr
        assert find_mount(str(mounted.directory / "other")) is None
