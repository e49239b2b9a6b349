"""Reading a long log on a store that fails now and then: each attempt gets further than the last."""

import pytest

from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Operation, Snapshot
from dasfs.errors import StoreUnavailable
from dasfs.stores import open_store
from tests.datasets import datarange
from tests.faulty import Fault, FaultyStore, at_random

COMMITS = 250


@pytest.fixture
def long_log(tmp_path, monkeypatch):
    """A store with a log of 250 commits and no checkpoint, and its newest snapshot."""
    monkeypatch.setattr("dasfs.dataset.log.CHECKPOINT_INTERVAL", 10**9)
    with open_store(f"file://{tmp_path}/store") as store:
        store.create()
        log = CommitLog(store, "d")
        head = log.create()
        while head.revision < COMMITS:
            number = head.revision * 2
            added = datarange(number, number, head.last_counter + 1)
            head = log.commit(Change(Operation.UPLOAD, add=(added,)), head)
        yield store, head


def test_a_long_log_is_read_in_pieces(long_log):
    """With a third of all requests failing, a log of 250 commits is read after some attempts; none starts anew."""
    store, head = long_log
    log = CommitLog(FaultyStore(store, at_random(4, 1 / 3, Fault.FAIL, Fault.LOSE_ANSWER)), "d")
    reached: list[Snapshot] = []
    for _ in range(3 * COMMITS):
        try:
            found = log.head(reached[-1] if reached else None, reached=reached.append)
        except StoreUnavailable:
            continue
        break
    assert found == head
    revisions = [each.revision for each in reached]
    assert revisions == sorted(set(revisions))
    assert len(revisions) > 10


def test_what_is_damaged_is_no_progress(long_log):
    """A commit that can't be read as one ends the reading as before: nothing before it is handed out."""
    store, _ = long_log
    log = CommitLog(store, "d")
    store.put(log.keys.commit(170), b"{}")
    reached: list[Snapshot] = []
    with pytest.raises(Exception, match="170"):
        log.head(reached=reached.append)
    assert reached == []


def test_the_commits_before_a_failure_are_handed_out(long_log):
    """Who goes through a log on a failing store has the commits before the failure, and goes on behind them."""
    store, head = long_log
    log = CommitLog(FaultyStore(store, at_random(4, 1 / 3, Fault.FAIL, Fault.LOSE_ANSWER)), "d")
    seen = [0]
    for _ in range(3 * COMMITS):
        try:
            seen.extend(commit.revision for commit in log.commits(seen[-1]))
        except StoreUnavailable:
            continue
        break
    assert seen == list(range(head.revision + 1))
