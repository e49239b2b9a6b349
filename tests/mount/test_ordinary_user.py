"""Mounts of a user who is not root: with fusermount3's help, for himself alone or for all, also after a crash.

Each test has a mount namespace of its own, with an /etc/fuse.conf and a /dev/fuse as Debian has them: those of the
machine are left alone, and in a container they are often others.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dasfs.stores import open_store
from tests import datasets
from tests.mounts import PATIENCE_S, environment, wait_until

USER, ANOTHER = 65534, 65533
NAME = f"{0:020d}.bin"

# Ends in a process that holds the namespace. Copies of other people's mounts would keep theirs from ending. The file
# that stands for /dev/fuse needs a file system with devices.
START = """
grep ' fuse' /proc/self/mounts | cut -d ' ' -f 2 | xargs -r umount -l
touch /etc/fuse.conf
mount --bind fuse.conf /etc/fuse.conf
mount -t tmpfs -o mode=755 none dev
mknod -m 666 dev/fuse c 10 229
mount --bind dev/fuse /dev/fuse
echo ready
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Host:
    """A mount namespace, and a folder in it where USER may do what he likes."""

    namespace: int
    folder: Path

    @property
    def url(self) -> str:
        return f"file://{self.folder}/store"

    @property
    def mountpoint(self) -> Path:
        return self.folder / "mnt"

    @property
    def mounts(self) -> list[str]:
        """What is mounted at the mount point."""
        lines = Path(f"/proc/{self.namespace}/mountinfo").read_text().splitlines()
        return [line.split()[4] for line in lines if line.split()[4].startswith(f"{self.folder}/mnt")]

    def run(self, *command: str | Path, user: int = USER, capabilities: str = "") -> Done:
        """Run a program in the namespace as a user, who has nothing of root's but the `capabilities` named."""
        change = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        change += [f"--inh-caps=-all{capabilities}", f"--ambient-caps=-all{capabilities}"]
        done = subprocess.run(
            ["nsenter", f"--mount=/proc/{self.namespace}/ns/mnt", "--wd=/", "setpriv", *change, *command],
            env=environment(self.folder / "home") | {"HOME": str(self.folder / "home")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,  # several programs one after another, on a busy machine
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def dasfs(self, *arguments: str | Path) -> Done:
        """Run dasfs as USER. Its own code may lie where only root can read: that is all that it may do of root's."""
        command = (sys.executable, "-m", "dasfs", *arguments)
        return self.run(*command, capabilities="" if is_readable_for_all(Path(sys.executable)) else ",+dac_read_search")


def is_readable_for_all(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


@contextmanager
def separate_host(fuse_conf: str) -> Iterator[Host]:
    """Hand out a host whose /etc/fuse.conf says `fuse_conf`; nothing is left of it afterwards."""
    # Not pytest's directory: nobody but root may enter that.
    folder = Path(tempfile.mkdtemp(prefix="dasfs-user-"))
    folder.chmod(0o755)
    (folder / "fuse.conf").write_text(fuse_conf)
    (folder / "dev").mkdir()
    for name in ("home", "mnt"):
        (folder / name).mkdir()
        os.chown(folder / name, USER, USER)
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-e", "-c", START],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        host = Host(process.pid, folder)
        with open_store(host.url) as store:
            store.create()
            datasets.add(store, "set", 0, [b"hello", b"world"])
        yield host
        for mountpoint in host.mounts:
            subprocess.run(
                ["nsenter", f"--mount=/proc/{process.pid}/ns/mnt", "umount", "-l", mountpoint], check=False, timeout=30
            )
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder)


@pytest.fixture
def host() -> Iterator[Host]:
    """A host that lets nobody but root use `allow_other`, as Debian comes."""
    with separate_host("# nothing\n") as made:
        yield made


@pytest.fixture
def generous_host() -> Iterator[Host]:
    """A host on which everybody may use `allow_other`."""
    with separate_host("user_allow_other\n") as made:
        yield made


def log_of(host: Host) -> str:
    (log,) = (host.folder / "home").rglob("mount.log")
    return log.read_text()


def test_he_mounts_reads_and_unmounts(host: Host) -> None:
    """A user mounts in the background, with his own cache, reads what is his, and takes it away; nothing warns."""
    mounted = host.dasfs("mount", host.url, host.mountpoint)
    assert (mounted.code, mounted.out, mounted.err) == (0, "", "")
    assert host.run("cat", host.mountpoint / "set" / NAME) == Done(0, "hello", "")
    assert host.run("stat", "-c", "%u %g %a", host.mountpoint / "set" / NAME).out == f"{USER} {USER} 444\n"
    assert host.run("find", host.mountpoint, "-type", "f").out.count("\n") == 2
    assert len(list((host.folder / "home").rglob("dasfs-cache"))) == 1
    assert "WARNING" not in log_of(host)
    ended = host.dasfs("umount", host.mountpoint)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert host.mounts == []


def test_nobody_else_sees_it(host: Host) -> None:
    """Without `allow_other` every other user is refused, root among them, and he himself is not."""
    assert host.dasfs("mount", host.url, host.mountpoint).code == 0
    for other in (ANOTHER, 0):
        refused = host.run("ls", host.mountpoint, user=other)
        assert refused.code != 0
        assert "Permission denied" in refused.err
    assert host.run("ls", host.mountpoint).out == "set\n"


def test_others_need_the_consent_of_root(host: Host) -> None:
    """`allow_other` without `user_allow_other` in /etc/fuse.conf is refused and says so; nothing is mounted."""
    refused = host.dasfs("mount", host.url, host.mountpoint, "-o", "allow_other")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.splitlines()[-1].startswith("dasfs: ")
    assert "put a line user_allow_other into /etc/fuse.conf" in refused.err.splitlines()[-1]
    assert "Traceback" not in refused.err
    assert host.mounts == []


def test_others_are_let_in(generous_host: Host) -> None:
    """With that consent, `allow_other` lets every user read, and root."""
    assert generous_host.dasfs("mount", generous_host.url, generous_host.mountpoint, "-o", "allow_other").code == 0
    for other in (USER, ANOTHER, 0):
        assert generous_host.run("cat", generous_host.mountpoint / "set" / NAME, user=other) == Done(0, "hello", "")
    assert generous_host.dasfs("umount", generous_host.mountpoint).code == 0


def test_he_replaces_a_dead_mount(host: Host) -> None:
    """After a crash he mounts again with `--replace`, without root's help."""
    assert host.dasfs("mount", host.url, host.mountpoint).code == 0
    status = host.run("grep", "-o", '"pid": *[0-9]*', host.mountpoint / ".dasfs" / "status.json").out
    os.kill(int(status.split(":")[1]), signal.SIGKILL)
    wait_until(lambda: "not connected" in host.run("ls", host.mountpoint).err)
    refused = host.dasfs("mount", host.url, host.mountpoint)
    assert refused.code == 1
    assert "--replace" in refused.err
    assert host.dasfs("mount", host.url, host.mountpoint, "--replace").code == 0
    assert host.run("cat", host.mountpoint / "set" / NAME) == Done(0, "hello", "")


def test_he_can_not_mount_over_what_is_not_his(host: Host) -> None:
    """At a directory of another user the mount is refused in one line that names it."""
    other = host.folder / "other"
    other.mkdir()
    refused = host.dasfs("mount", host.url, other)
    assert refused.code == 1
    assert refused.err.splitlines()[-1].startswith("dasfs: ")
    assert str(other) in refused.err
    assert "Traceback" not in refused.err
    assert host.mounts == []
