"""Uploads, commits and removals that meet an aggregation or a collection: nothing is lost, nothing is there twice."""

import os
import threading
import time
from contextlib import contextmanager
from datetime import timedelta

import pytest

from dasfs.dataset.aggregate import aggregate
from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.verify import verify
from dasfs.errors import Corrupt, StoreUnavailable
from dasfs.stores import open_store
from dasfs_daemon.files import stamp_of
from dasfs_daemon.journal import Journal
from dasfs_daemon.origin import OriginJournal
from dasfs_daemon.rows import NewFile
from dasfs_daemon.shipping import TRUSTED_UPLOAD_S, Place, Shipping
from dasfs_daemon.throttle import Throttle
from tests.daemons import write
from tests.datasets import add, datarange_id
from tests.faulty import Fault, FaultyStore, healthy
from tests.lives import live, make_config

NOW = Grace(timedelta(minutes=-1), timedelta(minutes=-1), timedelta(minutes=-1))
WEEK_S = 7 * 86400.0


class Ship:
    """The shipping of a write directory with two files, which are datapoints 0 and 1, and what else there is."""

    def __init__(self, home, store, journal):
        self.store = store
        self.dataset = Dataset(store, "d")
        (home / "in").mkdir()
        self.journal = OriginJournal(journal, journal.origin("d", str(home / "in"), store.url))
        place = Place(str(home / "in"), str(home), None)
        self.shipping = Shipping(self.dataset, place, self.journal, Throttle(), threading.Event(), lambda: WEEK_S / 2)
        self.shipping.recover()
        for number in range(2):
            path = home / "in" / f"{number:020d}.bin"
            path.write_bytes(bytes([number]) * 100)
            self.journal.take([NewFile(os.fsencode(path.name), stamp_of(path.stat()), number)], time.time())
        files = self.journal.numbered_waiting(2)
        self.row = self.journal.pack(0, files, self.shipping.revision)

    def upload(self):
        with self.shipping.pack(self.row) as packed:
            self.row = self.shipping.upload(self.row, packed, lambda _size: None)

    def commit(self, *, again=False):
        """Commit; return whether it was."""
        committed = self.shipping.commit(self.row, again=again)
        self.row = committed or self.row
        return committed is not None

    def replace(self):
        """Aggregate all that is live, and collect what it was: what other daemons do."""
        with open_store(self.store.url) as store:
            other = Dataset(store, "d")
            aggregate(other, other.snapshot().dataranges)
            collect(store, "d", grace=NOW)


@pytest.fixture
def ship(file_url, tmp_path):
    with open_store(file_url) as inner, Journal(str(tmp_path / "journal.db")) as journal:
        add(inner, "d", 2, [b"a neighbour"])
        yield Ship(tmp_path, FaultyStore(inner), journal)


def lose(ship, key):
    """Delete one object of the datarange that was uploaded."""
    keys = ship.dataset.keys
    ship.store.inner.delete([getattr(keys, key)(ship.row.uploaded.id)])


def age(ship, seconds):
    """Make all objects of the store that much older."""
    root = ship.store.url.removeprefix("file://")
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            status = os.stat(path)
            os.utime(path, (status.st_atime, status.st_mtime - seconds))


@contextmanager
def later(monkeypatch, seconds):
    """Let so much time pass on this host's steady clock."""
    monotonic = time.monotonic
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: monotonic() + seconds)
        yield


def test_aggregated_and_collected_before_the_sources_are_removed(ship):
    """What was committed is aggregated by another daemon, and its objects are gone: the aggregate confirms it."""
    ship.upload()
    assert ship.commit()
    ship.replace()
    ship.shipping.confirm(ship.row)
    assert ship.shipping.remove(ship.row).files == 2


def test_aggregated_between_the_two_looks_of_a_confirmation(ship):
    """An aggregation that comes between reading the log and looking at the objects is no alarm."""
    ship.upload()
    assert ship.commit()
    plan, replaced = ship.store.plan, []

    def meet(operation, key, number):
        if operation == "head" and not replaced:
            replaced.append(key)
            ship.replace()
        return plan(operation, key, number)

    ship.store.plan = meet
    ship.shipping.confirm(ship.row)
    assert replaced


def test_an_aggregate_that_was_lost_is_not_confirmed(ship):
    """While the store lacks an object of what the datarange was aggregated into, the local files stay."""
    ship.upload()
    assert ship.commit()
    ship.replace()
    (joined,) = ship.dataset.snapshot().dataranges
    ship.store.inner.delete([ship.dataset.keys.tar(joined.id)])
    with pytest.raises(Corrupt, match="the local files stay"):
        ship.shipping.confirm(ship.row)


def test_a_commit_whose_answer_was_lost_and_that_was_aggregated(ship, monkeypatch):
    """A commit that is tried again after another daemon aggregated and collected it is found in the log."""
    ship.upload()
    ship.dataset.log._deadline_s = 0.0
    ship.store.plan = lambda operation, key, _number: (
        (Fault.LOSE_ANSWER if operation == "put_if_absent" else Fault.FAIL)
        if operation in ("put_if_absent", "get") and key.endswith(".json")
        else None
    )
    with pytest.raises(StoreUnavailable, match="may be committed or not"):
        ship.commit()
    ship.store.plan = healthy
    ship.replace()
    before = ship.dataset.snapshot()
    with later(monkeypatch, TRUSTED_UPLOAD_S + 1):
        assert ship.commit(again=True)
    assert ship.dataset.snapshot() == before
    assert list(verify(ship.store.inner, "d", before)) == []


@pytest.mark.parametrize("key", ["manifest", "tar", "index"])
def test_an_upload_of_which_a_part_was_collected(ship, key, monkeypatch):
    """An upload that took so long that a collector took its beginning for left over is not committed, but repeated."""
    ship.upload()
    lose(ship, key)
    with later(monkeypatch, TRUSTED_UPLOAD_S + 1):
        assert not ship.commit()
    assert ship.journal.waiting().files == 2
    assert len(ship.dataset.snapshot().dataranges) == 1


def test_the_time_of_an_upload_counts_from_its_beginning(ship, monkeypatch):
    """The manifest is put first and is alone while the TAR is on its way: by its age a collector takes it."""
    monotonic, passed, keys = time.monotonic, [0.0], ship.dataset.keys

    def collected(operation, _key, _number):
        if operation == "put_stream":
            passed[0] += TRUSTED_UPLOAD_S + 1
            ship.store.inner.delete([keys.manifest(datarange_id(0, 1, 2))])

    ship.store.plan = collected
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + passed[0])
    ship.upload()
    assert not ship.commit()
    assert list(verify(ship.store.inner, "d", ship.dataset.snapshot())) == []


@pytest.mark.parametrize(("days", "committed"), [(1, True), (5, False)])
def test_an_upload_that_collectors_are_about_to_take(ship, monkeypatch, days, committed):
    """After a long outage an upload near its grace is repeated: a collector may be between its look and deletion."""
    ship.upload()
    age(ship, days * 86400)
    with later(monkeypatch, TRUSTED_UPLOAD_S + 1):
        assert ship.commit(again=True) == committed
    assert (ship.journal.waiting().files == 0) == committed
    assert list(verify(ship.store.inner, "d", ship.dataset.snapshot())) == []


def test_a_plan_that_failed_is_made_anew_from_the_newest_snapshot(file_url, tmp_path, monkeypatch):
    """What was aggregated and collected while the store was away is not looked for for ever after."""
    monkeypatch.setattr("dasfs_daemon.attempts.FIRST_PAUSE_S", 0.01)
    config = make_config(tmp_path, aggregate=False, collect=False)
    with open_store(file_url) as inner:
        for first in range(2):
            add(inner, "d", first, [b"there"], names={first: f"there{first}"})
        store, met = FaultyStore(inner), []

        def away(operation, key, _number):
            if operation == "get" and key.endswith(".manifest") and not met:
                met.append(key)
                aggregate(Dataset(inner, "d"), Dataset(inner, "d").snapshot().dataranges)
                collect(inner, "d", grace=NOW)
                return Fault.FAIL
            return None

        store.plan = away
        write(tmp_path / "in", {"new": b"new"})
        live(tmp_path, store, config, lambda _life: not (tmp_path / "in" / "new").exists())
        assert met
        assert Dataset(inner, "d").snapshot().count == 3
