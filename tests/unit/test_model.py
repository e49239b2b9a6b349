"""The model of a dataset: which changes fit, what they become, and what the log may say."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.model import (
    Change,
    Commit,
    Configuration,
    Operation,
    Snapshot,
    apply,
    check,
    find_overlap,
    make_commit,
    nothing,
)
from dasfs.errors import AlreadyExists, Conflict, Corrupt, InvalidInput
from dasfs.formats.compression import Compression
from dasfs.names import MAX_NUMBER, Revision
from tests.datasets import datarange

NOW = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)


def committed(snapshot: Snapshot, change: Change) -> tuple[Commit, Snapshot]:
    commit = make_commit(snapshot, change, commit_id=f"c{snapshot.revision}", time=NOW, writer="test:1")
    return commit, apply(snapshot, commit)


def after(snapshot: Snapshot, *changes: Change) -> Snapshot:
    for change in changes:
        snapshot = committed(snapshot, change)[1]
    return snapshot


def created() -> Snapshot:
    return after(nothing("birds"), Change(Operation.CREATE, dataset_id="id1"))


def upload(*dataranges: object) -> Change:
    return Change(Operation.UPLOAD, add=dataranges)  # type: ignore[arg-type]


A, B, C = datarange(0, 9, 1), datarange(10, 19, 2), datarange(30, 39, 3)


def test_a_dataset_begins_empty_at_revision_1() -> None:
    """The first commit creates the dataset, with its id, its configuration and nothing in it."""
    snapshot = created()
    assert (snapshot.revision, snapshot.dataset_id, snapshot.dataranges) == (1, "id1", ())
    assert (snapshot.next_number, snapshot.configuration, snapshot.deleted) == (0, Configuration(), False)


def test_find_returns_the_datarange_of_a_number_and_nothing_in_gaps() -> None:
    """Every number is found in its datarange; before, between and behind them there is nothing."""
    snapshot = after(created(), upload(C, A, B))
    found = {number: snapshot.find(number) for number in (0, 9, 10, 19, 20, 29, 30, 39, 40, MAX_NUMBER)}
    assert found == {
        0: A, 9: A, 10: B, 19: B, 20: None, 29: None, 30: C, 39: C, 40: None, MAX_NUMBER: None
    }  # fmt: skip


@given(st.integers(0, 50), st.integers(0, 50))
def test_overlapping_is_every_datarange_with_a_common_number(first: int, last: int) -> None:
    """`overlapping` equals the slow definition for any range."""
    snapshot = after(created(), upload(A, B, C))
    numbers = set(range(first, last + 1))
    slow = tuple(each for each in (A, B, C) if numbers & set(range(each.first, each.last + 1)))
    if first <= last:
        assert snapshot.overlapping(first, last) == slow


@pytest.mark.parametrize(
    "change",
    [
        upload(datarange(19, 25, 9)),
        upload(datarange(0, 100, 9)),
        upload(datarange(5, 5, 9)),
        upload(datarange(20, 25, 9), datarange(25, 26, 9)),
        Change(Operation.DELETE, remove=(datarange(0, 9, 7).id,)),
        Change(Operation.DELETE, remove=(datarange(20, 29, 1).id,)),
        Change(Operation.AGGREGATE, add=(datarange(0, 18, 9),), remove=(A.id, B.id)),
        Change(Operation.AGGREGATE, add=(datarange(0, 39, 9),), remove=(A.id, B.id, C.id)),
        Change(Operation.AGGREGATE, add=(datarange(0, 19, 9),), remove=(A.id,)),
        Change(Operation.RESERVE, reserve=MAX_NUMBER),
    ],
    ids=lambda change: f"{change.operation}-{len(change.add)}-{len(change.remove)}",
)
def test_what_does_not_fit_is_a_conflict(change: Change) -> None:
    """Overlaps, removals of what is not live, wrong aggregates and too large reservations are refused."""
    with pytest.raises(Conflict):
        check(after(created(), upload(A, B, C)), change)


def test_an_aggregate_may_leave_gaps_as_they_are() -> None:
    """What covers the same stretches may be cut differently."""
    change = Change(Operation.AGGREGATE, add=(datarange(0, 19, 4), datarange(30, 39, 4)), remove=(C.id, A.id, B.id))
    snapshot = after(created(), upload(A, B, C), change)
    assert [(each.first, each.last) for each in snapshot.dataranges] == [(0, 19), (30, 39)]


def test_a_datarange_may_be_replaced_in_one_change() -> None:
    """What is removed by the same change is no obstacle for what is added."""
    snapshot = after(created(), upload(A), Change(Operation.UPLOAD, add=(datarange(5, 12, 2),), remove=(A.id,)))
    assert snapshot.dataranges == (datarange(5, 12, 2),)


def test_removing_a_datarange_twice_is_wrong_usage() -> None:
    """A change that names a datarange twice is refused before it gets into the log."""
    with pytest.raises(InvalidInput):
        check(after(created(), upload(A)), Change(Operation.DELETE, remove=(A.id, A.id)))


def test_reserved_numbers_follow_what_was_used_or_reserved() -> None:
    """Reservations start behind the highest number ever used or reserved, also after everything was cleared."""
    snapshot = after(
        created(),
        Change(Operation.RESERVE, reserve=5),
        upload(C),
        Change(Operation.CLEAR),
        Change(Operation.RESERVE, reserve=2),
    )
    assert (snapshot.next_number, snapshot.dataranges) == (42, ())


def test_the_last_number_can_be_used() -> None:
    """A datapoint may have the number 2^63-1; after it nothing can be reserved."""
    snapshot = after(created(), upload(datarange(MAX_NUMBER, MAX_NUMBER)))
    assert snapshot.next_number == MAX_NUMBER + 1
    with pytest.raises(Conflict):
        check(snapshot, Change(Operation.RESERVE, reserve=1))


def test_clear_removes_whatever_is_live() -> None:
    """A clear needs no list: it takes what is there when it is committed, and names it in the log."""
    commit, snapshot = committed(after(created(), upload(A, C)), Change(Operation.CLEAR))
    assert (commit.remove, snapshot.dataranges, snapshot.deleted) == ((A.id, C.id), (), False)


def test_a_deleted_dataset_takes_nothing_but_a_new_beginning() -> None:
    """After a deletion only a creation fits, and it goes on with revisions and counters under a new id."""
    deleted = after(created(), upload(A, B), Change(Operation.DELETE, delete_dataset=True))
    assert deleted.deleted
    with pytest.raises(Conflict, match="deleted"):
        check(deleted, upload(C))
    again = after(deleted, Change(Operation.CREATE, dataset_id="id2"))
    assert (again.revision, again.dataset_id, again.last_counter, again.next_number) == (4, "id2", 2, 0)
    assert again.dataranges == ()


def test_what_is_there_can_not_be_created() -> None:
    """Creating and importing over a live dataset is refused as such, not as a conflict."""
    for operation in (Operation.CREATE, Operation.IMPORT):
        with pytest.raises(AlreadyExists):
            check(created(), Change(operation, dataset_id="id2"))


def test_counters_that_no_commit_names_are_not_used_again() -> None:
    """An import can say that higher counters stand in the store than those that it adds."""
    snapshot = after(nothing("x"), Change(Operation.IMPORT, add=(A,), dataset_id="i", last_counter=17))
    assert snapshot.last_counter == 17


def test_configuration_stays_until_it_is_changed() -> None:
    """A commit without a configuration leaves it as it was."""
    wanted = Configuration(Compression.parse("zstd:7"), 1 << 20)
    snapshot = after(created(), Change(Operation.CONFIGURE, configuration=wanted), upload(A))
    assert snapshot.configuration == wanted


@pytest.mark.parametrize(
    ("commit", "problem"),
    [
        ({"revision": Revision(9)}, "follows revision"),
        ({"parent": "other"}, "follows another revision 2"),
        ({"remove": (B.id,)}, "not live"),
        ({"add": (datarange(9, 10, 5),)}, "overlaps"),
        ({"add": (datarange(2, 3, 5),)}, "overlaps"),
        ({"deleted": True}, "leaves 1 dataranges"),
        ({"dataset_id": "other"}, "is there already"),
    ],
    ids=["revision", "parent", "removal", "overlap", "inside", "deletion", "beginning"],
)
def test_a_log_that_contradicts_itself_is_corrupt(commit: dict[str, object], problem: str) -> None:
    """What no writer of ours can have committed is not applied, and the message says why."""
    snapshot = after(created(), upload(A))
    plain = Commit(Revision(3), "c", NOW, "test:1", Operation.UPLOAD, parent=snapshot.commit_id)
    with pytest.raises(Corrupt, match=problem):
        apply(snapshot, replace(plain, **commit))  # type: ignore[arg-type]


def test_a_log_must_begin_with_a_beginning() -> None:
    """A first commit that does not create or import a dataset is corrupt."""
    with pytest.raises(Corrupt, match="not there"):
        apply(nothing("x"), Commit(Revision(1), "c", NOW, "test:1", Operation.UPLOAD, add=(A,)))


RANGES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda pair: datarange(pair[0], sum(pair))), max_size=6
)


@given(st.lists(st.tuples(RANGES, st.sets(st.integers(0, 5))), max_size=8))
def test_what_fits_can_be_applied_and_keeps_order(steps: list[tuple[list[object], set[int]]]) -> None:
    """Whatever `check` lets through, `apply` takes; dataranges ascend without overlap after each commit."""
    snapshot = created()
    for counter, (ranges, places) in enumerate(steps, 1):
        add = tuple(datarange(each.first, each.last, counter) for each in ranges)  # type: ignore[attr-defined]
        remove = tuple(each.id for place, each in enumerate(snapshot.dataranges) if place in places)
        change = Change(Operation.UPLOAD, add=add, remove=remove)
        try:
            check(snapshot, change)
        except Conflict:
            continue
        before = set(snapshot.dataranges)
        snapshot = after(snapshot, change)
        assert find_overlap(snapshot.dataranges) is None
        assert set(snapshot.dataranges) == {each for each in before if each.id not in remove} | set(add)
        assert all(snapshot.next_number > each.last for each in snapshot.dataranges)
