"""Commits whose answers are lost, late or refused: each change happens exactly once, or is told as unknown."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.log import MAX_TRIES, CommitLog
from dasfs.dataset.model import Change, Operation
from dasfs.errors import Conflict, NotFound, StoreUnavailable, Unsupported
from dasfs.stores import ObjectInfo, Store, open_store
from tests.datasets import datarange

PutIfAbsent = Callable[[str, bytes], ObjectInfo]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"file://{tmp_path}/store") as opened:
        opened.create()
        yield opened


@pytest.fixture
def log(place: Store) -> CommitLog:
    log = CommitLog(place, "birds", deadline_s=0.3)
    log.create()
    return log


def script(
    monkeypatch: pytest.MonkeyPatch, place: Store, *steps: Callable[[PutIfAbsent, str, bytes], ObjectInfo]
) -> None:
    """Let the next conditional puts go as `steps` say, and the ones after them as always."""
    real = place.put_if_absent
    left = list(steps)

    def put_if_absent(key: str, data: bytes) -> ObjectInfo:
        return left.pop(0)(real, key, data) if left else real(key, data)

    monkeypatch.setattr(place, "put_if_absent", put_if_absent)


def lost_after(real: PutIfAbsent, key: str, data: bytes) -> ObjectInfo:
    """The store writes the object, but nobody hears of it."""
    real(key, data)
    raise StoreUnavailable("the answer was lost")


def lost_before(real: PutIfAbsent, key: str, data: bytes) -> ObjectInfo:
    """The request never arrives."""
    raise StoreUnavailable("the request was lost")


def twice(real: PutIfAbsent, key: str, data: bytes) -> ObjectInfo:
    """The store's client repeats a request whose answer was lost, and is told that the object exists."""
    real(key, data)
    return real(key, data)


@pytest.mark.parametrize(
    "steps",
    [(lost_after,), (lost_before,), (twice,), (lost_before, lost_after), (lost_before, lost_before, twice)],
    ids=lambda steps: "-".join(step.__name__ for step in steps),
)
def test_a_lost_answer_neither_loses_nor_repeats_a_commit(
    steps: tuple[Callable[[PutIfAbsent, str, bytes], ObjectInfo], ...],
    log: CommitLog,
    place: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever happens to requests and answers, the change stands in the log once when `commit` returns."""
    script(monkeypatch, place, *steps)
    snapshot = log.commit(Change(Operation.UPLOAD, add=(datarange(0, 9),)))
    assert [commit.operation for commit in log.commits()] == ["create", "upload"]
    assert snapshot == log.head()


def test_a_revision_that_another_writer_took_meanwhile_is_left_to_it(
    log: CommitLog, place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a lost request, a revision that holds another commit is not taken for ours: we come behind it."""
    other = CommitLog(place, "birds")

    def overtaken(real: PutIfAbsent, key: str, data: bytes) -> ObjectInfo:
        other.commit(Change(Operation.UPLOAD, add=(datarange(50, 59),)))
        raise StoreUnavailable("the request was lost")

    script(monkeypatch, place, overtaken)
    snapshot = log.commit(Change(Operation.UPLOAD, add=(datarange(0, 9),)))
    assert (snapshot.revision, [each.first for each in snapshot.dataranges]) == (3, [0, 50])


def test_a_change_that_no_longer_fits_after_a_lost_race_is_a_conflict(
    log: CommitLog, place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the other writer took the same numbers, the change is refused and the log holds only the other's."""
    other = CommitLog(place, "birds")

    def overtaken(real: PutIfAbsent, key: str, data: bytes) -> ObjectInfo:
        other.commit(Change(Operation.UPLOAD, add=(datarange(5, 5),)))
        return real(key, data)

    script(monkeypatch, place, overtaken)
    with pytest.raises(Conflict, match="datapoints 0-9 overlap 5-5"):
        log.commit(Change(Operation.UPLOAD, add=(datarange(0, 9),)))
    assert log.head().dataranges == (datarange(5, 5),)


def test_a_dataset_that_is_replaced_during_a_race_is_not_written_to(
    log: CommitLog, place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change for a dataset never lands in another one that took its name meanwhile."""

    def replaced(real: PutIfAbsent, key: str, data: bytes) -> ObjectInfo:
        other = Dataset(place, "birds")
        other.delete()
        other.log.create()
        return real(key, data)

    script(monkeypatch, place, replaced)
    with pytest.raises(Conflict, match="deleted and created anew"):
        log.commit(Change(Operation.UPLOAD, add=(datarange(0, 9),)))
    assert log.head().dataranges == ()


def test_an_outage_is_told_as_an_unknown_outcome(log: CommitLog, place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the store stays away longer than the deadline, the error says that the outcome is unknown."""
    script(monkeypatch, place, *[lost_before] * 1000)
    with pytest.raises(StoreUnavailable, match=r"revision 2 of birds .*'dasfs dataset log birds'"):
        log.reserve(5)


def test_always_losing_ends_in_a_conflict(log: CommitLog, place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that is overtaken every time is told after a bounded number of tries, instead of going on for ever."""
    monkeypatch.setattr("dasfs.dataset.log._pause", lambda attempt: None)
    other = CommitLog(place, "birds")
    real = place.put_if_absent
    deciding = threading.local()

    def put_if_absent(key: str, data: bytes) -> ObjectInfo:
        if not getattr(deciding, "inside", False):
            deciding.inside = True
            other.reserve(1)
            deciding.inside = False
        return real(key, data)

    monkeypatch.setattr(place, "put_if_absent", put_if_absent)
    with pytest.raises(Conflict, match="overtaken by other writers of birds"):
        log.commit(Change(Operation.UPLOAD, add=(datarange(0, 9),)))
    assert log.head().revision == 1 + MAX_TRIES


def ignoring(place: Store) -> PutIfAbsent:
    """The conditional put of a store that does not know the condition."""
    return place.put


def refusing(place: Store) -> PutIfAbsent:
    """The conditional put of a store that refuses the condition."""

    def put_if_absent(key: str, data: bytes) -> ObjectInfo:
        raise Unsupported("If-None-Match is not implemented")

    return put_if_absent


@pytest.mark.parametrize("kind", [ignoring, refusing])
def test_a_store_without_conditional_puts_works_for_one_writer(
    kind: Callable[[Store], PutIfAbsent],
    place: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Such a store is recognised at creation, with a warning and a note in the configuration; commits go on."""
    monkeypatch.setattr(place, "put_if_absent", kind(place))
    log = CommitLog(place, "birds")
    snapshot = log.create()
    assert not snapshot.configuration.conditional_put
    assert ["only one writer at a time is safe for dataset birds" in message for message in caplog.messages] == [True]
    old = snapshot
    for number in range(3):
        snapshot = log.commit(Change(Operation.UPLOAD, add=(datarange(number, number),)), old)
    assert (snapshot.revision, len(log.head().dataranges)) == (4, 3)


def test_without_conditional_puts_a_lost_race_is_noticed(
    place: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a second writer overwrites a commit all the same, the first one sees that and commits behind it."""
    monkeypatch.setattr(place, "put_if_absent", place.put)
    log = CommitLog(place, "birds")
    log.create()
    real = place.put
    other = CommitLog(place, "birds")
    stolen: list[str] = []

    def put(key: str, data: bytes) -> ObjectInfo:
        written = real(key, data)
        if not stolen and "/log/" in key:
            stolen.append(key)
            place.delete([key])
            other.reserve(7)
        return written

    monkeypatch.setattr(place, "put", put)
    snapshot = log.commit(Change(Operation.UPLOAD, add=(datarange(50, 59),)))
    assert (snapshot.revision, snapshot.next_number) == (3, 60)
    assert [commit.operation for commit in log.commits()] == ["create", "reserve", "upload"]
    assert "only one writer" in caplog.text


def test_creating_at_once_leaves_one_dataset(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two creations at the same moment one is refused, and both see the same dataset afterwards."""
    other = CommitLog(place, "birds")
    probed: list[str] = []

    def overtaken(real: PutIfAbsent, key: str, data: bytes) -> ObjectInfo:
        probed.append(key)
        if key.endswith(".json"):
            real(key, other_first(real, data))
        return real(key, data)

    def other_first(real: PutIfAbsent, data: bytes) -> bytes:
        return data.replace(b'"commit_id": "', b'"commit_id": "x')

    script(monkeypatch, place, overtaken, overtaken, overtaken)
    with pytest.raises(FileExistsError, match="birds exists already"):
        CommitLog(place, "birds").create()
    assert other.head().revision == 1
    assert len(probed) == 3


def test_a_first_answer_lost_at_the_probe_does_not_forbid_many_writers(
    place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated first probe that meets itself is the store's refusal too: conditional puts are honoured."""
    script(monkeypatch, place, twice)
    assert CommitLog(place, "birds").create().configuration.conditional_put


def test_an_outage_while_creating_leaves_no_dataset(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the store goes away at the probe, nothing was created."""
    script(monkeypatch, place, lost_before)
    with pytest.raises(StoreUnavailable):
        CommitLog(place, "birds").create()
    with pytest.raises(NotFound):
        CommitLog(place, "birds").head()
