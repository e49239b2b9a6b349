"""Local disks that are full or read-only: the daemon says which and what to do, keeps the files, and goes on after."""

import os
import subprocess

from tests.commands import dasfs
from tests.daemons import disk, fill, make_store, once, write
from tests.mounts import wait_until

LINE = "(?m)^dasfs: WARNING: d: .*"


def test_a_write_directory_on_a_full_disk(file_url, daemon_of):
    """Files on a disk without a free byte are packed and removed; one to be rejected stays where it is, and is told."""
    daemon = daemon_of(file_url)
    daemon.expected += [
        "is rejected, but can't be moved away: No space left on device",
        "neither pack nor move away: 1, ",
    ]
    with disk(daemon.directory, "size=1m"):
        made = {f"{k}": os.urandom(9000) for k in range(20)}
        bad = f"{10**20 - 1}.bin"
        write(daemon.directory, made | {bad: b"1"})
        fill(daemon.directory)
        daemon.start()
        daemon.wait_log("is rejected, but can't be moved away")
        wait_until(lambda: [path.name for path in daemon.files() if path.name != ".fill"] == [bad])
        assert daemon.contents() == once(made)
        daemon.wait_log(f"neither pack nor move away: 1, as {bad}: ")
        (daemon.directory / bad).unlink()
        daemon.wait_log("over after .*neither pack nor move away")
        assert daemon.end() == 0
        assert daemon.log.count("is rejected") == 1


def test_a_full_spool_directory(file_url, daemon_of):
    """Where no TAR can be packed the disk is told by its place; with room again the files are packed."""
    daemon = daemon_of(file_url, limits={"minimum_free_disk": 0})
    daemon.expected += ["spool has .* bytes free and needs"]
    with disk(daemon.home / "state" / "spool", "size=128k") as spool:
        filled = fill(spool)
        write(daemon.directory, {"a": b"1" * 10_000})
        daemon.start()
        line = daemon.wait_log(LINE + "spool.*")
        assert "make room" in line
        filled.unlink()
        daemon.wait_empty()
        assert daemon.end() == 0
    assert daemon.contents() == once({"a": b"1" * 10_000})


def test_a_state_directory_that_gets_full(file_url, daemon_of):
    """When the journal can't grow any more it is told, every file stays, and it goes on when there is room."""
    daemon = daemon_of(file_url)
    daemon.limits = {"minimum_free_disk": 0}
    daemon.write_config()
    daemon.expected += ["[nN]o space left"]
    with disk(daemon.home / "state", "size=16m") as state:
        daemon.start()
        filled = fill(state)
        made = {f"{k}": os.urandom(100) for k in range(2000)}
        write(daemon.directory, made)
        assert "make room" in daemon.wait_log(LINE + "no space left.*")
        filled.unlink()
        daemon.wait_empty(60)
        assert daemon.end() == 0
    assert daemon.contents() == once(made)


def test_a_daemon_that_can_not_write_its_state(file_url, daemon_of):
    """A state directory that is read-only, or full from the beginning, ends the start with one line."""
    daemon = daemon_of(file_url)
    state = daemon.home / "state"
    with disk(state, "size=1m,ro"):
        answer = dasfs("daemon", "--config", str(daemon.config))
        assert (answer.code, "read-only file system" in answer.message) == (1, True), answer
        assert str(state) in answer.message
        assert "can't be written by this user" in dasfs("daemon", "--check", "--config", str(daemon.config)).out
    with disk(state, "size=64k"):
        fill(state)
        answer = dasfs("daemon", "--config", str(daemon.config))
        assert (answer.code, "make room" in answer.message) == (1, True), answer
        assert str(state) in answer.message


def test_a_store_that_is_full(tmp_path, daemon_of):
    """A store on a full disk is told with its name, for a directory and for SQLite; with room again it goes on."""
    for kind in ("file", "sqlite"):
        with disk(tmp_path / kind, "size=16m") as place:
            url = make_store(f"file://{place}/store" if kind == "file" else f"sqlite://{place}/store.db")
            daemon = daemon_of(url)
            daemon.expected += ["[nN]o space left"]
            daemon.start()
            filled = fill(place)
            made = {f"{k}": os.urandom(20_000) for k in range(20)}
            write(daemon.directory, made)
            line = daemon.wait_log(LINE + "[nN]o space left.*")
            assert "make room" in line
            assert str(place) in line
            assert len(daemon.files()) == 20
            filled.unlink()
            daemon.wait_empty()
            assert daemon.contents() == once(made)
            assert daemon.end() == 0


def test_a_store_that_is_read_only(tmp_path, daemon_of):
    """A store that became read-only is told with its name; when it can be written again everything arrives."""
    for kind in ("file", "sqlite"):
        with disk(tmp_path / kind, "size=20m") as place:
            url = make_store(f"file://{place}/store" if kind == "file" else f"sqlite://{place}/store.db")
            daemon = daemon_of(url)
            daemon.expected += ["Read-only file system|can't be opened"]
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            write(daemon.directory, {"a": b"1"})
            daemon.start()
            assert str(place) in daemon.wait_log(LINE + "(mount it for writing|must be writable).*")
            subprocess.run(["mount", "-o", "remount,rw", place], check=True)
            daemon.wait_empty()
            assert daemon.contents() == once({"a": b"1"})
            assert daemon.end() == 0
