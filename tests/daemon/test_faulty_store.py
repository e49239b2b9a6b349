"""The daemon's tasks on a store that fails, loses answers and hangs, and on a kernel that can't tell who writes."""

import errno
import fcntl
import os
import random
import threading
import time

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.verify import verify
from dasfs.stores import open_store
from dasfs_daemon.config import DatasetConfig
from dasfs_daemon.directory_lock import DirectoryLock
from dasfs_daemon.intake import Intake
from dasfs_daemon.journal import Journal
from dasfs_daemon.origin import OriginJournal
from dasfs_daemon.problems import Problems
from dasfs_daemon.rejects import Rejects
from dasfs_daemon.throttle import Throttle
from dasfs_daemon.walk import BATCH
from tests.daemons import make_store, write
from tests.faulty import Fault, FaultyStore, at_random
from tests.lives import live
from tests.mounts import wait_until


@pytest.fixture
def config(tmp_path):
    (tmp_path / "in").mkdir()
    return DatasetConfig(
        store="x", directory=str(tmp_path / "in"), datarange_size=65536, datarange_age=0.1, settle=0.05
    )


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_a_store_that_fails_a_third_of_its_requests(kind, tmp_path, config, monkeypatch):
    """With a third of all requests failing or losing their answers, every file is in the dataset exactly once."""
    monkeypatch.setattr("dasfs_daemon.attempts.LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr("dasfs_daemon.attempts.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("dasfs_daemon.outlet.RETRY_S", 0.05)
    url = make_store(f"file://{tmp_path}/store" if kind == "file" else f"sqlite://{tmp_path}/store.db")
    content = random.Random(5)
    made = {f"{k % 4}/{k}": content.randbytes(content.randrange(9000)) for k in range(150)}
    made |= {f"{k:020d}.bin": content.randbytes(3000) for k in range(1000, 1030)}
    write(tmp_path / "in", made)

    def is_empty(life):
        return not life.backlog.now()[1] and not any(path.is_file() for path in (tmp_path / "in").rglob("*"))

    with open_store(url) as inner:
        live(tmp_path, FaultyStore(inner, at_random(1, 1 / 3, Fault.FAIL, Fault.LOSE_ANSWER)), config, is_empty)
    with open_store(url) as store:
        dataset = Dataset(store, "d")
        snapshot = dataset.snapshot()
        assert list(verify(store, "d", snapshot)) == []
        names = []
        for datarange in snapshot.dataranges:
            manifest = dataset.load_manifest(datarange)
            names += [manifest.original_name(k) or f"{datarange.first + k:020d}.bin" for k in range(manifest.count)]
        assert sorted(names) == sorted(made)


def test_without_watches_the_directory_is_scanned(file_url, tmp_path, config, monkeypatch):
    """Where the kernel has no inotify instance left, that is told, and files are taken all the same."""

    def exhausted(**_options):
        raise OSError(errno.EMFILE, "inotify instance limit reached")

    monkeypatch.setattr("dasfs_daemon.watcher.InotifyObserver", exhausted)
    problems = Problems("d")
    write(tmp_path / "in", {"a": b"1"})
    with open_store(file_url) as store:
        live(tmp_path, store, config, lambda _life: not (tmp_path / "in" / "a").exists(), problems)
    assert [each.key for each in problems.all()] == ["watch"]
    assert "max_user_instances" in problems.all()[0].hint


def test_a_directory_that_came_to_be_with_another_daemon(file_url, tmp_path, config, monkeypatch):
    """A write directory that appears while the daemon waits for it, and is another's by then, is not touched."""
    monkeypatch.setattr("dasfs_daemon.inlet.RETRY_S", 0.05)
    place, problems, told = tmp_path / "in", Problems("d"), []
    place.rmdir()
    locks = []

    def is_taken(_life):
        messages = " ".join(each.message for each in problems.all())
        if not locks and "is missing" in messages:
            (tmp_path / "new").mkdir()
            write(tmp_path / "new", {"a": b"1"})
            locks.append(DirectoryLock(str(tmp_path / "new")))
            locks[0].ensure()
            (tmp_path / "new").rename(place)
        elif locks and "empties the write directory" in messages:
            assert (place / "a").exists()
            locks[0].close()
            told.append(messages)
        return bool(told) and not (place / "a").exists()

    with open_store(file_url) as store:
        live(tmp_path, store, config, is_taken, problems)


def test_without_leases_the_events_count(tmp_path, config, monkeypatch):
    """Where the kernel can't tell who writes, a file that was created and not closed is left for later."""

    def refuse(*_arguments):
        raise PermissionError(1, "no lease for you")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    path = tmp_path / "in" / "slow"
    path.write_bytes(b"1")
    with Journal(str(tmp_path / "journal.db")) as journal:
        origin = OriginJournal(journal, journal.origin("d", config.directory, "file:///x"))
        intake = Intake("d", config, origin, Rejects("d", config.directory), lambda: None)
        wait_until(lambda: time.time() - path.stat().st_ctime > config.settle)
        looked = intake.look([b"slow"], frozenset([b"slow"]))
        assert (looked.files, looked.later) == (0, [b"slow"])
        assert intake.look([b"slow"]).files == 1


def test_what_is_taken_is_told_while_the_scan_goes_on(tmp_path, config):
    """The first of many files are packed while a scan still looks at the others."""
    for k in range(BATCH + 1):
        (tmp_path / "in" / str(k)).touch()
    wait_until(lambda: time.time() - (tmp_path / "in" / str(BATCH)).stat().st_ctime > config.settle)
    told = []
    with Journal(str(tmp_path / "journal.db")) as journal:
        origin = OriginJournal(journal, journal.origin("d", config.directory, "file:///x"))
        rejects = Rejects("d", config.directory)
        intake = Intake("d", config, origin, rejects, lambda: told.append(origin.waiting().files))
        assert intake.scan().files == BATCH + 1
    assert told == [BATCH, BATCH + 1]


def test_a_clock_that_was_set_back(tmp_path, config, monkeypatch):
    """A file whose time of change lies ahead is taken once it stayed the same for the settle time."""
    path = tmp_path / "in" / "file"
    path.write_bytes(b"1")
    an_hour_ago = time.time_ns() - 3600 * 10**9
    with Journal(str(tmp_path / "journal.db")) as journal:
        origin = OriginJournal(journal, journal.origin("d", config.directory, "file:///x"))
        intake = Intake("d", config, origin, Rejects("d", config.directory), lambda: None)
        monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
        assert intake.look([b"file"]).later == [b"file"]
        assert wait_until(lambda: intake.look([b"file"]).files) == 1


def test_a_file_that_can_not_be_read_is_rejected(tmp_path, config, monkeypatch):
    """No permission to read a file: it goes to `.rejected`, or where that is impossible stays and is counted once."""
    (tmp_path / "in" / "secret").write_bytes(b"1")

    def forbid(*_arguments):
        raise PermissionError(13, "Permission denied")

    with Journal(str(tmp_path / "journal.db")) as journal:
        origin = OriginJournal(journal, journal.origin("d", config.directory, "file:///x"))
        intake = Intake("d", config, origin, Rejects("d", config.directory), lambda: None)
        monkeypatch.setattr("dasfs_daemon.intake.is_open_for_writing", forbid)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", forbid)
            assert wait_until(lambda: intake.look([b"secret"]).rejected) == 1
            assert intake.look([b"secret"]).rejected == 0
        origin.retry_refused()
        assert origin.waiting().files == 1
        origin.forget([file.id for file in origin.unnumbered_waiting(1)])
        assert intake.look([b"secret"]).rejected == 1
    assert "no permission" in (tmp_path / "in" / ".rejected" / "secret.txt").read_text()


def test_the_bandwidth_is_kept():
    """Four threads together send no faster than the limit, and end at once when told to."""
    throttle, stop = Throttle(1_000_000), threading.Event()
    started = time.monotonic()
    threads = [threading.Thread(target=lambda: [throttle.take(10_000, stop) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started >= 0.35
