"""The life of a mount in the foreground: how it begins, how it ends, and what is left after a crash."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dasfs.fuse.mountpoint import find_mount
from dasfs.stores import Store
from tests import datasets
from tests.mounts import Mount, Mounter, dasfs, detach, environment, errno_of, in_thread, wait_until

NAME = f"{0:020d}.bin"


@pytest.fixture
def url(local_store: Store) -> str:
    """The URL of a store with one datapoint."""
    datasets.add(local_store, "set", 0, [b"hello"])
    return local_store.url


def kill(mount: Mount) -> None:
    """End the mount's process as the out-of-memory killer does."""
    mount.process.kill()
    mount.wait()


def close_dead(fd: int) -> None:
    """Close a file of a mount that is gone, which the kernel does, and complains about."""
    with contextlib.suppress(OSError):
        os.close(fd)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(url: str, mounted: Mounter, number: signal.Signals) -> None:
    """SIGTERM, SIGINT (Ctrl-C) and SIGHUP unmount and end with exit code 0, within seconds and without a traceback."""
    mount = mounted(url)
    assert (mount.path / "set" / NAME).read_bytes() == b"hello"
    begun = time.monotonic()
    mount.signal(number)
    assert mount.wait() == 0
    assert time.monotonic() - begun < 5
    assert find_mount(str(mount.path)) is None
    assert os.listdir(mount.path) == []


def test_a_signal_ends_it_while_files_are_open(url: str, mounted: Mounter) -> None:
    """Open files and a working directory below the mount do not keep it from ending."""
    mount = mounted(url)
    file = os.open(mount.path / "set" / NAME, os.O_RDONLY)
    directory = os.open(mount.path / "set", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.read(file, 2) == b"he"
        mount.stop()
    finally:
        close_dead(file)
        close_dead(directory)


def test_umount_ends_it(url: str, mounted: Mounter) -> None:
    """`dasfs umount` returns when the mount is gone and its process has ended, so that the cache is free."""
    mount = mounted(url)
    done = dasfs("umount", mount.path, home=mounted.directory)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert mount.process.poll() == 0
    assert find_mount(str(mount.path)) is None


def test_umount_refuses_while_it_is_in_use(url: str, mounted: Mounter) -> None:
    """A mount in use stays, with one line that says so; `--lazy` takes it away, and open files can still be read."""
    mount = mounted(url)
    with (mount.path / "set" / NAME).open("rb", buffering=0) as file:
        busy = dasfs("umount", mount.path, home=mounted.directory)
        assert busy.returncode == 1
        assert len(busy.stderr.splitlines()) == 1
        assert "busy" in busy.stderr
        assert mount.names() == ["set"]
        assert dasfs("umount", "--lazy", mount.path, home=mounted.directory).returncode == 0
        assert find_mount(str(mount.path)) is None
        assert file.read() == b"hello"
    assert mount.wait() == 0


def test_fusermount_ends_it(url: str, mounted: Mounter) -> None:
    """Whoever unmounts it with `fusermount3 -u`, or `umount`, ends the process as well."""
    mount = mounted(url)
    subprocess.run(["fusermount3", "-u", mount.path], check=True)
    assert mount.wait() == 0


def test_umount_takes_only_mounts_of_dasfs(tmp_path: Path) -> None:
    """`dasfs umount` leaves another file system and a plain directory alone, with one line and exit code 2."""
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", other], check=True)
    try:
        refused = dasfs("umount", other, home=tmp_path)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
        assert find_mount(str(other)) is not None
    finally:
        subprocess.run(["umount", other], check=True)
    refused = dasfs("umount", other, home=tmp_path)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "nothing is mounted" in refused.stderr


def test_a_crash_leaves_a_dead_mount_point(url: str, mounted: Mounter) -> None:
    """After kill -9 the mount point is `ENOTCONN`, not an empty directory; mounting there says what to do."""
    mount = mounted(url)
    kill(mount)
    assert errno_of(os.listdir, mount.path) == errno.ENOTCONN
    wait_until(lambda: errno_of(os.stat, mount.path) == errno.ENOTCONN)  # it was in the kernel's memory
    refused = dasfs("mount", url, mount.path, "--cache-dir", mount.cache, "--foreground", home=mounted.directory)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "--replace" in refused.stderr


def test_replace_mounts_over_a_dead_mount(url: str, mounted: Mounter) -> None:
    """`--replace` takes the dead mount away and mounts anew; the caches of the one that crashed are still good."""
    kill(mounted(url))
    mount = mounted(url, "--replace")
    assert (mount.path / "set" / NAME).read_bytes() == b"hello"
    mount.stop()
    assert find_mount(str(mount.path)) is None


def test_replace_does_not_touch_a_mount_that_lives(url: str, mounted: Mounter) -> None:
    """`--replace` at a mount point whose mount works is refused."""
    mount = mounted(url)
    refused = dasfs(
        "mount", url, mount.path, "--replace", "--cache-dir", mounted.directory / "other", "-f", home=mounted.directory
    )
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "already" in refused.stderr
    assert (mount.path / "set" / NAME).read_bytes() == b"hello"


def test_replace_follows_a_link(url: str, mounted: Mounter) -> None:
    """A dead mount that is named by a symbolic link is recognised and replaced as well."""
    mount = mounted(url)
    kill(mount)
    link = mounted.directory / "link"
    link.symlink_to(mount.path)
    assert dasfs("umount", link, home=mounted.directory).returncode == 0
    assert find_mount(str(mount.path)) is None


def test_umount_takes_a_dead_mount_away(url: str, mounted: Mounter) -> None:
    """`dasfs umount` of a dead mount leaves an empty directory."""
    mount = mounted(url)
    kill(mount)
    assert dasfs("umount", mount.path, home=mounted.directory).returncode == 0
    assert os.listdir(mount.path) == []


def test_a_reader_of_a_crashed_mount_gets_an_error(local_store: Store, mounted: Mounter) -> None:
    """A reader in the middle of a file gets an error when the mount is killed: no zeroes, no end of file."""
    datasets.add(local_store, "set", 0, [os.urandom(8 << 20)])
    mount = mounted(local_store.url)
    file = os.open(mount.path / "set" / NAME, os.O_RDONLY)
    try:
        assert len(os.read(file, 10)) == 10
        kill(mount)
        assert errno_of(os.pread, file, 100, 7 << 20) in (errno.ENOTCONN, errno.ECONNABORTED)
    finally:
        close_dead(file)


def test_sigusr1_dumps_stacks(url: str, mounted: Mounter) -> None:
    """SIGUSR1 writes the stack of every thread and task to the log, any number of times, and the mount goes on."""
    mount = mounted(url, warnings=["Traceback"])
    for times in (1, 2):
        mount.signal(signal.SIGUSR1)
        wait_until(lambda times=times: mount.log.count("task ") > 3 * times)  # type: ignore[misc]
        assert (mount.path / "set" / NAME).read_bytes() == b"hello"
    assert "in _obey" in mount.log
    assert "Thread 0x" in mount.log or "Current thread" in mount.log
    mount.stop()


def test_two_hundred_readers_at_once(local_store: Store, mounted: Mounter) -> None:
    """200 processes that read at the same time, files that nobody read before, all get the right bytes."""
    datasets.add(local_store, "set", 0, [bytes([number]) * 100_000 for number in range(200)])
    mount = mounted(local_store.url)
    readers = [
        subprocess.Popen(["cksum", mount.path / "set" / f"{number:020d}.bin"], stdout=subprocess.PIPE)
        for number in range(200)
    ]
    sums = [reader.communicate(timeout=60)[0].split()[:2] for reader in readers]
    expected = [
        subprocess.run(["cksum"], input=bytes([number]) * 100_000, capture_output=True, check=True).stdout.split()
        for number in (0, 1, 199)
    ]
    assert [reader.returncode for reader in readers] == [0] * 200
    assert [sums[0], sums[1], sums[199]] == expected
    assert len({each[0] for each in sums}) == 200


def test_one_dataset_at_the_root(local_store: Store, mounted: Mounter) -> None:
    """`-o dataset=NAME` shows the datapoints of one dataset at the root, and `.dasfs` with them."""
    datasets.add(local_store, "one", 0, [b"a", b"b"])
    datasets.add(local_store, "two", 0, [b"c"])
    mount = mounted(local_store.url, options="dataset=one")
    assert mount.names() == [NAME, f"{1:020d}.bin"]
    assert (mount.path / NAME).read_bytes() == b"a"
    assert errno_of(os.stat, mount.path / "one") == errno_of(os.stat, mount.path / "two") == errno.ENOENT
    assert os.getxattr(mount.path, "user.dasfs.dataset") == b"one"
    assert list(mount.status()["datasets"]) == ["one"]
    datasets.add(local_store, "one", 2, [b"new"])
    wait_until(lambda: len(mount.names()) == 3)
    assert mount.path.stat().st_nlink == 2


def run_as(user: int, mount: Mount, program: str, path: str) -> tuple[int, str]:
    """Run a program as another user on a path of the mount, whatever stands above the mount."""
    fd = os.open(mount.path, os.O_PATH)
    try:
        done = subprocess.run(
            [program, f"/proc/self/fd/{fd}/{path}"],
            user=user,
            group=user,
            extra_groups=[],
            pass_fds=[fd],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    finally:
        os.close(fd)
    return done.returncode, done.stdout


def test_owner_and_rights_are_chosen(url: str, mounted: Mounter) -> None:
    """`uid`, `gid` and `umask` say who owns everything and what others may do; `allow_other` lets them in."""
    mount = mounted(url, options="uid=12345,gid=54321,umask=027,allow_other,ro,noatime,_netdev,x-systemd.automount")
    file, directory = (mount.path / "set" / NAME).stat(), (mount.path / "set").stat()
    assert (file.st_uid, file.st_gid, directory.st_uid, directory.st_gid) == (12345, 54321, 12345, 54321)
    assert (file.st_mode & 0o777, directory.st_mode & 0o777) == (0o440, 0o550)
    assert run_as(12345, mount, "cat", f"set/{NAME}") == (0, "hello")
    assert run_as(999, mount, "cat", f"set/{NAME}")[0] == 1


def test_others_are_kept_out(url: str, mounted: Mounter) -> None:
    """Without `allow_other` no other user sees the mount at all."""
    mount = mounted(url)
    assert run_as(0, mount, "ls", ".") == (0, "set\n")
    code, said = run_as(999, mount, "ls", ".")
    assert code != 0
    assert "Permission denied" in said


def test_the_kernel_reads_ahead_a_megabyte(url: str, mounted: Mounter) -> None:
    """Root's mount lets the kernel ask for 1 MiB at once."""
    mount = mounted(url)
    found = find_mount(str(mount.path))
    assert found is not None
    setting = Path(f"/sys/class/bdi/{found.device}/read_ahead_kb")
    wait_until(lambda: setting.read_text() == "1024\n")


def test_the_mount_says_what_it_is(url: str, mounted: Mounter) -> None:
    """The kernel's table of mounts names the store and `fuse.dasfs`."""
    mount = mounted(url)
    found = find_mount(str(mount.path))
    assert found is not None
    assert (found.source, found.file_system) == (url, "fuse.dasfs")


def test_ctrl_c_before_it_is_mounted(url: str, mounted: Mounter) -> None:
    """Ctrl-C while the mount starts ends it without a traceback, and with nothing mounted."""
    mount = mounted(url, ready=False)
    wait_until((mount.cache / "dasfs-cache" / "lock").exists)
    mount.signal(signal.SIGINT)
    assert mount.wait() in (0, 130)
    assert find_mount(str(mount.path)) is None
    assert len(mount.log.splitlines()) <= 3


def test_it_does_not_depend_on_the_working_directory(url: str, mounted: Mounter) -> None:
    """The status file of a mount that was begun with a relative path names the absolute one."""
    (mounted.directory / "relative").mkdir()
    command = [sys.executable, "-m", "dasfs", "mount", url, "relative", "--cache-dir", "here"]
    cwd = mounted.directory
    done = subprocess.run(command, cwd=cwd, env=environment(cwd), capture_output=True, text=True, check=False)
    try:
        assert (done.returncode, done.stderr) == (0, "")
        status = json.loads((cwd / "relative/.dasfs/status.json").read_text())
        assert status["mountpoint"] == str(cwd / "relative")
        assert (cwd / "here/dasfs-cache").is_dir()
    finally:
        ended = in_thread(lambda: dasfs("umount", cwd / "relative", home=cwd))
        detach(cwd / "relative")
    assert ended.returncode == 0
