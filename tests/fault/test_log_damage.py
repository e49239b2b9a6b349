"""Logs that are damaged, cut, restored from a backup, or written by a newer dasfs."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Operation, Snapshot
from dasfs.errors import Corrupt, DasfsError, NotFound, Unsupported
from dasfs.names import Revision
from dasfs.stores import Store, open_store
from tests.datasets import damage, datarange


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Store]:
    """A directory store: the log knows nothing of the kind of store, so one is enough here."""
    with open_store(f"file://{tmp_path}/store") as opened:
        opened.create()
        yield opened


def log_of(place: Store, commits: int = 4) -> tuple[CommitLog, list[Snapshot]]:
    """Return a log with so many commits behind the first, and all its snapshots."""
    log = CommitLog(place, "birds")
    history = [log.create()]
    for number in range(commits):
        change = Change(Operation.UPLOAD, add=(datarange(number, number, number + 1),))
        history.append(log.commit(change, history[-1]))
    return log, history


def key(revision: int) -> str:
    return f"datas3t/birds/log/{revision:020d}.json"


def test_a_hole_is_named(place: Store) -> None:
    """A missing commit stops every reader, with the revision that has to be restored."""
    log, _ = log_of(place)
    place.delete([key(3)])
    with pytest.raises(Corrupt, match=r"the log of birds has a hole: revision 3 is missing; restore .*0003.json"):
        log.head()


def test_a_missing_beginning_is_a_hole(place: Store) -> None:
    """Without a checkpoint, the log has to begin with revision 1."""
    log, _ = log_of(place)
    place.delete([key(1)])
    with pytest.raises(Corrupt, match="revision 1 is missing"):
        log.head()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", Corrupt, "no JSON"),
        (b'{"format": 1}', Corrupt, "revision"),
        (b'{"format": 3}', Unsupported, "newer dasfs; upgrade"),
    ],
)
def test_a_bad_commit_is_named(place: Store, content: bytes, error: type[DasfsError], message: str) -> None:
    """A damaged commit, or one of a newer dasfs, stops every reader and writer and names its object."""
    log, history = log_of(place)
    place.put(key(3), content)
    attempts: list[Callable[[], object]] = [log.head, lambda: log.head(history[1]), lambda: log.reserve(1)]
    for attempt in attempts:
        with pytest.raises(error, match=message) as raised:
            attempt()
        assert key(3) in str(raised.value)


def test_a_commit_under_another_key_is_corrupt(place: Store) -> None:
    """A commit whose content says another revision than its key is not applied."""
    log, _ = log_of(place)
    place.put(key(3), place.get(key(2)))
    with pytest.raises(Corrupt, match="says that it is revision 2"):
        log.head()


def test_a_reader_that_knows_the_head_does_not_see_older_damage(place: Store) -> None:
    """What was read once need not be read again."""
    log, history = log_of(place)
    place.put(key(2), b"damaged")
    assert log.head(history[-1]) == history[-1]
    assert log.head(history[2]) == history[-1]


def test_a_log_that_went_back_is_told(place: Store) -> None:
    """A store restored from an older backup is an error for whoever has seen more of the same dataset."""
    log, history = log_of(place)
    place.delete([key(5), key(4)])
    with pytest.raises(Corrupt, match=r"ends at revision 3, but revision 5 was seen before"):
        log.head(history[-1])
    with pytest.raises(Corrupt, match="seen before"):
        log.commit(Change(Operation.RESERVE, reserve=1), history[-1])
    assert log.head().revision == 3


def test_a_log_that_was_emptied_is_not_found(place: Store) -> None:
    """When the whole dataset was removed by other means, it is not there any more."""
    log, history = log_of(place)
    place.delete([info.key for info in place.list("datas3t/birds/")])
    with pytest.raises(NotFound):
        log.head(history[-1])


def test_another_dataset_of_the_same_name_is_read_anew(place: Store) -> None:
    """When the log was emptied and begun again, its new dataset id tells, and nothing old is kept."""
    log, history = log_of(place)
    place.delete([info.key for info in place.list("datas3t/birds/")])
    new = log.create()
    assert log.head(history[-1]) == new
    assert new.dataset_id != history[-1].dataset_id


def test_a_damaged_checkpoint_is_passed_over(place: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The commits say the same as a damaged checkpoint; a warning tells which object to look at."""
    log, history = log_of(place, 104)
    damage(place, log.keys.checkpoint(Revision(100)), 30, b"????")
    with caplog.at_level(logging.WARNING):
        assert log.head() == history[-1]
    assert [log.keys.checkpoint(Revision(100)) in message for message in caplog.messages] == [True]


def test_an_older_checkpoint_stands_in_for_a_damaged_one(place: Store, caplog: pytest.LogCaptureFixture) -> None:
    """When early commits were collected, the last good checkpoint and the commits after it are enough."""
    log, history = log_of(place, 10)
    for revision in (4, 8):
        log.write_checkpoint(history[revision - 1])
    place.delete([key(1), key(2), key(3), key(4)])
    place.put(log.keys.checkpoint(Revision(8)), b"damaged")
    with caplog.at_level(logging.WARNING):
        assert log.head() == history[-1]
    assert len(caplog.messages) == 1


def test_a_checkpoint_of_a_newer_dasfs_is_not_passed_over(place: Store) -> None:
    """What a newer dasfs wrote is refused, not guessed around."""
    log, _ = log_of(place)
    place.put(log.keys.checkpoint(Revision(3)), zstandard.compress(b'{"format": 2}'))
    with pytest.raises(Unsupported, match="upgrade"):
        log.head()


def test_a_checkpoint_of_another_dataset_is_not_believed(place: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint that was copied from elsewhere is passed over."""
    log, history = log_of(place)
    fish = CommitLog(place, "fish")
    fish.write_checkpoint(fish.create())
    place.put(log.keys.checkpoint(Revision(1)), place.get(fish.keys.checkpoint(Revision(1))))
    with caplog.at_level(logging.WARNING):
        assert log.head() == history[-1]
    assert "checkpoint of fish" in caplog.text


def test_without_commits_a_damaged_checkpoint_is_a_hole(place: Store, caplog: pytest.LogCaptureFixture) -> None:
    """When neither a checkpoint nor the commits can be read, nothing is made up."""
    log, history = log_of(place)
    log.write_checkpoint(history[2])
    place.delete([key(1), key(2), key(3)])
    place.put(log.keys.checkpoint(Revision(3)), b"damaged")
    with caplog.at_level(logging.WARNING), pytest.raises(Corrupt, match="revision 1 is missing"):
        log.head()


def test_commits_that_a_killed_collector_left_are_no_hole(place: Store) -> None:
    """Holes among commits that a checkpoint covers are passed over; what follows is still listed and read."""
    log, history = log_of(place, 6)
    log.write_checkpoint(history[4])
    place.delete([key(1), key(3), key(5)])
    assert [commit.revision for commit in log.commits()] == [6, 7]
    assert log.head() == log.head(history[0]) == history[-1]
    with pytest.raises(NotFound, match="revision 3 of birds is no longer kept; the oldest commit that is left is 6"):
        log.at(3)


def test_a_failed_checkpoint_does_not_fail_the_commit(
    place: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit stands when its checkpoint could not be written; that is only noted."""
    log, history = log_of(place, 98)

    def full(name: str, data: bytes) -> None:
        raise DasfsError("the store is full")

    monkeypatch.setattr(place, "put", full)
    with caplog.at_level(logging.INFO):
        assert log.reserve(1, history[-1]) == range(98, 99)
    assert log.head().revision == 100
    assert ["no checkpoint" in message for message in caplog.messages] == [True]


def test_objects_that_are_no_commits_are_passed_over(place: Store) -> None:
    """Notes and other files that people leave below log/ do no harm."""
    log, history = log_of(place)
    for name in ("README", "0002.json", "00000000000000000002.json.bak", "zzz"):
        place.put(f"{log.keys.log}{name}", b"x")
    assert log.head() == history[-1]
    assert Dataset(place, "birds").snapshot(history[1]) == history[-1]


def replace_log(place: Store, commits: int) -> CommitLog:
    """Delete everything and begin another dataset of the same name, as somebody does who starts over."""
    place.delete([info.key for info in list(place.list(""))])
    return log_of(place, commits)[0]


def test_a_log_in_the_place_of_another_is_noticed_by_its_next_commit(place: Store) -> None:
    """Commits of another history are never applied to what was known of the old one."""
    _, history = log_of(place)
    log = replace_log(place, commits=6)
    assert log.replay(history[-1]) == log.replay()


def test_a_log_of_as_many_revisions_is_noticed_when_asked(place: Store) -> None:
    """What was known long ago is confirmed: the same number of revisions does not make it the same log."""
    _, history = log_of(place)
    log = replace_log(place, commits=4)
    assert log.replay(history[-1], confirm=True) == log.replay() != history[-1]


def test_confirming_what_is_true_changes_nothing(place: Store) -> None:
    """A confirmed snapshot is the very object that was known."""
    log, history = log_of(place)
    assert log.replay(history[-1], confirm=True) is history[-1]
