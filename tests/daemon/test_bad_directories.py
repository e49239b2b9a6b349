"""Write directories that can't be: no rights, in a mount of dasfs, of two datasets, moved away while files arrive."""

import os
import shutil
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.commands import COMMAND, dasfs
from tests.daemons import once, write
from tests.mounts import mounting, wait_until

# Root without what makes the rights of files mean nothing to root.
MORTAL = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")


def queues_of(pid):
    """Return the inotify instances that a process has."""
    return [each for each in Path(f"/proc/{pid}/fd").iterdir() if os.readlink(each) == "anon_inode:inotify"]


def test_a_daemon_without_rights(file_url, daemon_of):
    """What it may not read or empty is told with its path and what to do; the rest goes on, and all goes in the end."""
    daemon = daemon_of(file_url, scan_interval="0.3s")
    daemon.command = (*MORTAL, *COMMAND)
    daemon.expected += ["can't be read and written", "permission denied", "no permission to read it", "rejected file"]
    write(daemon.directory, {"closed/a": b"1", "open/b": b"2", "frozen/c": b"3", "secret": b"4"})
    (daemon.directory / "secret").chmod(0)
    (daemon.directory / "closed").chmod(0)
    (daemon.directory / "frozen").chmod(0o500)
    daemon.directory.chmod(0)
    daemon.start()
    line = daemon.wait_log("WARNING: d: the write directory .*")
    assert "can't be read and written by this user; files are removed from it" in line
    daemon.directory.chmod(0o700)
    daemon.wait_log("WARNING: d: .*closed: permission denied.*")
    daemon.wait_log("WARNING: d: .*frozen/c: permission denied.*")
    wait_until(lambda: not (daemon.directory / "open").exists() and (daemon.rejected / "secret").exists())
    assert "no permission to read it" in (daemon.rejected / "secret.txt").read_text()
    assert daemon.states() == {"committed": 1}
    for name in ("closed", "frozen"):
        (daemon.directory / name).chmod(0o700)
    daemon.wait_empty()
    assert daemon.end() == 0
    assert daemon.contents() == once({"closed/a": b"1", "open/b": b"2", "frozen/c": b"3"})


def test_a_duplicate_that_can_not_be_removed(file_url, daemon_of):
    """A file that the dataset has already, where the daemon may remove nothing, is told; after a restart it goes."""
    daemon = daemon_of(file_url, scan_interval="0.3s", empty_directories="1h")
    daemon.command = (*MORTAL, *COMMAND)
    daemon.expected += ["neither pack nor move away"]
    write(daemon.directory, {"frozen/c": b"3"})
    daemon.start()
    daemon.wait_empty()
    write(daemon.directory, {"frozen/c": b"3"})
    (daemon.directory / "frozen").chmod(0o500)
    line = daemon.wait_log("WARNING: d: files that the daemon can neither pack nor move away: 1, as frozen/c: .*")
    assert "it is in the dataset already, but can't be removed: Permission denied" in line
    (daemon.directory / "frozen").chmod(0o700)
    assert daemon.end() == 0
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == once({"frozen/c": b"3"})


def test_a_directory_in_a_mount(file_url, daemon_of, tmp_path):
    """A write directory in a mount of dasfs ends the start with one line that says why; so does one of two datasets."""
    daemon = daemon_of(file_url)
    with mounting(tmp_path) as mounter:
        mount = mounter(file_url)
        daemon.write_config(directory=str(mount.path / "d"))
        answer = dasfs("daemon", "--config", str(daemon.config))
        assert (answer.code, f"lies in the dasfs mount {mount.path}" in answer.message) == (2, True), answer
    daemon.write_config()
    text = daemon.config.read_text()
    daemon.config.write_text(text + f'[datasets.e]\nstore = "lab"\ndirectory = "{daemon.directory}"\n')
    answer = dasfs("daemon", "--config", str(daemon.config))
    assert (answer.code, "is the directory of d, too; give each its own" in answer.message) == (2, True), answer


def test_a_socket_stays(file_url, daemon_of):
    """Sockets stay where they are, with one line; a link to a directory is not entered."""
    daemon = daemon_of(file_url, scan_interval="0.2s")
    daemon.expected += ["is left where it is"]
    (daemon.home / "elsewhere").mkdir()
    (daemon.home / "elsewhere" / "mine").write_bytes(b"1")
    os.symlink(daemon.home / "elsewhere", daemon.directory / "link")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(daemon.directory)  # a socket's path has at most 107 bytes
        listener.bind("socket")
        os.chdir(here)
    write(daemon.directory, {"a": b"1"})
    daemon.start()
    daemon.wait_log("committed 0-0")
    daemon.wait_log("socket is left where it is: it is no regular file")
    assert sorted(os.listdir(daemon.directory)) == ["link", "socket"]
    assert (daemon.home / "elsewhere" / "mine").exists()


def test_a_directory_renamed_while_it_is_written(file_url, daemon_of):
    """A directory that is renamed while files are written and packed: each file once, under one of its names, whole."""
    daemon = daemon_of(file_url, datarange_age="0.3s")
    daemon.start()
    made, stop = {}, threading.Event()

    def rename():
        k = 0
        while not stop.wait(0.05):
            (daemon.directory / f"name{k}").rename(daemon.directory / f"name{k + 1}")
            k += 1

    (daemon.directory / "name0").mkdir()
    held = os.open(daemon.directory / "name0", os.O_RDONLY)
    renamer = threading.Thread(target=rename)
    renamer.start()
    try:
        for k in range(150):
            content = made[f"{k}"] = os.urandom(500)
            descriptor = os.open(f"{k}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=held)
            os.write(descriptor, content[:100])
            stop.wait(0.01)
            os.write(descriptor, content[100:])
            os.close(descriptor)
    finally:
        stop.set()
        renamer.join()
        os.close(held)
    daemon.wait_empty()
    found: dict[str, list[bytes]] = {}
    for name, contents in daemon.contents().items():
        found.setdefault(name.rpartition("/")[2], []).extend(contents)
    assert found == once(made)


def test_a_write_directory_that_is_replaced(file_url, daemon_of):
    """A write directory that is moved away with waiting files, and another in its place: both are emptied in turn."""
    daemon = daemon_of(file_url, datarange_age="1s", scan_interval="0.3s")
    daemon.expected += ["the write directory .* is missing"]
    daemon.start()
    write(daemon.directory, {"a": b"1"})
    wait_until(lambda: daemon.states()["taken"])
    daemon.directory.rename(daemon.home / "moved")
    daemon.directory.mkdir()
    write(daemon.directory, {"b": b"2"})
    daemon.wait_log("committed 0-0")
    wait_until(lambda: not daemon.states())
    shutil.move(daemon.home / "moved" / "a", daemon.directory / "a")
    daemon.wait_empty()
    assert daemon.contents() == once({"b": b"2", "a": b"1"})


def test_an_overflow_of_the_kernel_s_queue(file_url, daemon_of):
    """When more happens than the kernel remembers, a scan finds every file."""
    daemon = daemon_of(file_url)
    daemon.start()
    write(daemon.directory, {"first": b"1"})
    daemon.wait_empty()
    daemon.process.send_signal(signal.SIGSTOP)
    (daemon.directory / ".a").touch()
    # The queue holds 16,384 events; a rename is two.
    for k in range(10_000):
        os.rename(daemon.directory / (".a", ".b")[k % 2], daemon.directory / (".b", ".a")[k % 2])
    (daemon.directory / ".a").unlink()
    made = {f"{k % 9}/{k}": b"%d" % k for k in range(300)}
    write(daemon.directory, made)
    daemon.process.send_signal(signal.SIGCONT)
    daemon.wait_empty()
    assert daemon.end() == 0
    assert daemon.contents() == once(made | {"first": b"1"})
    assert "events were lost; scanning instead" in daemon.log


@pytest.mark.parametrize("limit", ["watches", "instances"])
def test_nothing_left_of_inotify(file_url, daemon_of, limit):
    """Where no directory can be watched it is told with what to raise, scans find every file, and nothing piles up."""
    daemon = daemon_of(file_url, scan_interval="0.5s")
    # A name space of its own has limits of its own.
    script = f'echo 0 > /proc/sys/user/max_inotify_{limit} && exec "$@"'
    daemon.command = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *COMMAND)
    daemon.expected += ["can't be watched"]
    daemon.start()
    assert f"raise fs.inotify.max_user_{limit}" in daemon.wait_log("WARNING: d: .*can't be watched.*")
    made = {f"{k % 9}/{k}": b"%d" % k for k in range(100)}
    write(daemon.directory, made)
    daemon.wait_empty()
    assert len(queues_of(daemon.process.pid)) <= 1
    assert daemon.contents() == once(made)


def test_too_few_watches_for_all_directories(file_url, daemon_of):
    """Where some sub-directories get no watch that is told, scans find their files, and all is well once they do."""
    daemon = daemon_of(file_url, scan_interval="0.5s", empty_directories="1h")
    limit = "/proc/sys/user/max_inotify_watches"
    # Only from inside the name space can the limit be raised: by a process that waits for a file to appear.
    helper = f'(while kill -0 $$ && test ! -e "$0/raise"; do sleep 0.1; done; echo 100 > {limit}) &'
    script = f'echo 4 > {limit} && {{ {helper} }} && exec "$@"'
    daemon.command = ("unshare", "--user", "--map-root-user", "sh", "-c", script, str(daemon.home), *COMMAND)
    daemon.expected += ["can't be watched"]
    for k in range(9):
        (daemon.directory / f"{k}").mkdir()
    daemon.start()
    assert "raise fs.inotify.max_user_watches" in daemon.wait_log("WARNING: d: .*can't be watched: no watch is left.*")
    made = {f"{k % 9}/{k}": b"%d" % k for k in range(50)}
    write(daemon.directory, made)
    daemon.wait_empty()
    (daemon.home / "raise").mkdir()
    daemon.wait_log("over after .*can't be watched: no watch is left")
    (queue,) = queues_of(daemon.process.pid)
    assert (Path(f"/proc/{daemon.process.pid}/fdinfo") / queue.name).read_text().count("inotify wd") == 10
    assert daemon.contents() == once(made)
