"""What may be deleted, and what never is."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.collect import (
    Grace,
    collect,
    plan_dataranges,
    plan_log,
    removal_times,
)
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.listing import group_objects
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Commit, Operation, Snapshot
from dasfs.errors import Corrupt, InvalidInput, NotFound
from dasfs.names import DatarangeId, DatasetKeys, Revision
from dasfs.stores import ObjectInfo, Store, open_store
from tests.datasets import add, datarange, datarange_id, upload_only
from tests.faulty import Fault, FaultyStore

KEYS = DatasetKeys("birds")
NOW = datetime(2024, 6, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
AT_ONCE = Grace(timedelta(0), timedelta(0), timedelta(0))


def objects(datarange: DatarangeId, *ages: timedelta, kinds: str = "manifest tar index") -> list[ObjectInfo]:
    """The objects of one datarange, each of its own age."""
    return [
        ObjectInfo(f"{KEYS.dataranges}{datarange}.{kind}", 10, "etag", NOW - age)
        for kind, age in zip(kinds.split(), ages, strict=True)
    ]


def snapshot(*live: DatarangeId) -> Snapshot:
    dataranges = tuple(datarange(each.first, each.last, each.counter) for each in sorted(live))
    return Snapshot("birds", "id", Revision(9), NOW, dataranges)


def planned(
    live: Sequence[DatarangeId], found: Sequence[ObjectInfo], removed: dict[DatarangeId, datetime] | None = None
) -> dict[str, str]:
    """Return kind and reason of what would go."""
    garbage = plan_dataranges(snapshot(*live), removed or {}, group_objects(KEYS, found), NOW, Grace())
    return {each.key.rpartition(".")[2]: each.reason for each in garbage}


A, B = datarange_id(0, 9, 3), datarange_id(10, 19, 4)


def test_what_is_live_stays_however_old() -> None:
    """No object of a live datarange is ever garbage."""
    assert planned([A], objects(A, 900 * DAY, 900 * DAY, 900 * DAY), {A: NOW - 800 * DAY}) == {}


@pytest.mark.parametrize(
    ("removed", "goes"), [(23 * HOUR, False), (24 * HOUR, True), (-2 * HOUR, False)], ids=["23h", "24h", "future"]
)
def test_what_was_removed_goes_after_a_day(removed: timedelta, goes: bool) -> None:
    """A removed datarange stays for 24 hours, for those who read an older snapshot."""
    found = planned([B], objects(A, 30 * DAY, 30 * DAY, 30 * DAY), {A: NOW - removed})
    assert found == (dict.fromkeys(["manifest", "tar", "index"], "removed") if goes else {})


@pytest.mark.parametrize(
    ("ages", "goes"),
    [
        ((8 * DAY, 8 * DAY, 8 * DAY), True),
        ((8 * DAY, 8 * DAY, 6 * DAY), False),
        ((6 * DAY, 8 * DAY, 8 * DAY), False),
    ],
)
def test_what_was_never_committed_goes_after_a_week(ages: Sequence[timedelta], goes: bool) -> None:
    """The objects of one upload are judged together, by the newest: its writer may still be at work."""
    assert bool(planned([B], objects(A, *ages))) == goes


def test_half_an_upload_goes_too() -> None:
    """A writer that died after its manifest leaves only that; it is known to be dasfs's."""
    assert planned([], objects(A, 8 * DAY, kinds="manifest")) == {"manifest": "never committed"}


def test_what_datas3t_left_stays() -> None:
    """A datarange without a manifest that nobody committed was left out of an import: its data may be wanted."""
    assert planned([B], objects(A, 99 * DAY, 99 * DAY, kinds="tar index")) == {}


@pytest.mark.parametrize(
    ("live", "goes"),
    [
        (datarange_id(0, 19, 9), True),
        (datarange_id(0, 9, 2), False),
        (datarange_id(5, 19, 9), False),
    ],
    ids=["newer", "older", "partial"],
)
def test_what_datas3t_aggregated_goes(live: DatarangeId, goes: bool) -> None:
    """A datarange without a manifest goes only when a newer live one has all its datapoints."""
    assert bool(planned([live], objects(A, 99 * DAY, 99 * DAY, kinds="tar index"))) == goes


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5).map(lambda n: datarange_id(n * 10, n * 10 + 9, n % 3)),
            st.sampled_from(["manifest", "tar", "index"]),
            st.integers(0, 100),
        ),
        max_size=12,
        unique_by=lambda each: each[:2],
    ),
    st.sets(st.integers(0, 5)),
    st.dictionaries(st.integers(0, 5), st.integers(0, 100)),
)
def test_garbage_is_never_live_and_never_young(
    found: list[tuple[DatarangeId, str, int]], live: set[int], removed: dict[int, int]
) -> None:
    """Whatever stands in the store: nothing live goes, and nothing of which an object is younger than a day."""
    infos = [ObjectInfo(f"{KEYS.dataranges}{each}.{kind}", 1, "", NOW - age * HOUR) for each, kind, age in found]
    ids = [datarange_id(n * 10, n * 10 + 9, n % 3) for n in range(6)]
    times = {ids[n]: NOW - age * HOUR for n, age in removed.items()}
    garbage = plan_dataranges(snapshot(*(ids[n] for n in live)), times, group_objects(KEYS, infos), NOW, Grace())
    going = {parsed[0] for each in garbage if (parsed := KEYS.parse_datarange(each.key))}
    assert not going & {ids[n] for n in live}
    assert all(age >= 24 for each, _, age in found if each in going)


def log_objects(checkpoints: Sequence[int], commits: Sequence[int], age: timedelta) -> list[ObjectInfo]:
    keys = [KEYS.commit(Revision(each)) for each in commits]
    keys += [KEYS.checkpoint(Revision(each)) for each in checkpoints]
    return [ObjectInfo(key, 1, "", NOW - age) for key in keys]


@pytest.mark.parametrize(
    ("checkpoints", "age", "gone_checkpoints", "gone_commits"),
    [
        ([100, 200, 300], 91 * DAY, [], range(1, 101)),
        ([100, 200, 300], 89 * DAY, [], []),
        ([200, 300], 91 * DAY, [], []),
        ([100, 200, 300, 400, 500], 91 * DAY, [100, 200], range(1, 301)),
        ([100, 200, 300, 400], 1 * DAY, [100], []),
        ([], 91 * DAY, [], []),
    ],
)
def test_the_log_keeps_three_checkpoints_and_what_they_need(
    checkpoints: list[int], age: timedelta, gone_checkpoints: list[int], gone_commits: Sequence[int]
) -> None:
    """Of checkpoints the last three stay; commits go after 90 days when all three cover them."""
    found = log_objects(checkpoints, range(1, 501), age)
    keys = {each.key for each in plan_log(KEYS, found, NOW, Grace())}
    expected = {KEYS.checkpoint(Revision(each)) for each in gone_checkpoints}
    assert keys == expected | {KEYS.commit(Revision(each)) for each in gone_commits}


def test_the_log_is_only_cut_from_its_start() -> None:
    """A young commit, as after a restore, keeps all that follow it: no hole is ever made."""
    found = log_objects([100, 200, 300], range(1, 301), 91 * DAY)
    found[49] = ObjectInfo(KEYS.commit(Revision(50)), 1, "", NOW)
    gone = plan_log(KEYS, found, NOW, Grace())
    assert [each.key for each in gone] == [KEYS.commit(Revision(each)) for each in range(1, 50)]


def test_a_removal_is_as_late_as_any_clock_says() -> None:
    """A writer whose clock is behind does not shorten the grace period: the store's time of the commit counts."""
    commit = Commit(Revision(3), "c", NOW - 5 * DAY, "w", Operation.DELETE, remove=(A,))
    late = ObjectInfo(KEYS.commit(Revision(3)), 1, "", NOW - HOUR)
    assert removal_times(KEYS, [commit], [late]) == {A: NOW - HOUR}
    early = ObjectInfo(KEYS.commit(Revision(3)), 1, "", NOW - 9 * DAY)
    assert removal_times(KEYS, [commit], [early]) == {A: NOW - 5 * DAY}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"file://{tmp_path}/store") as opened:
        opened.create()
        yield opened


def keys_of(place: Store) -> set[str]:
    return {info.key for info in place.list("")}


def test_collect_leaves_exactly_what_the_log_names(place: Store) -> None:
    """After replacing, deleting and failed uploads, only the three objects of each live datarange are left."""
    first = add(place, "birds", 0, [b"a", b"b"]).dataranges[0]
    add(place, "birds", 2, [b"c"])
    dataset = Dataset(place, "birds")
    dataset.delete_datarange(0, 1)
    upload_only(place, "birds", 50, [b"never committed"], counter=9)
    place.put(dataset.keys.manifest(datarange_id(70, 79, 12)), b"a writer died here")
    place.put(f"{dataset.keys.root}probe-123", b"")
    place.put(f"{dataset.keys.root}joint-456", b"an aggregation died here")
    report = collect(place, "birds", grace=AT_ONCE)
    live = dataset.snapshot().dataranges[0]
    expected = {f"{dataset.keys.dataranges}{live.id}.{kind}" for kind in ("tar", "index", "manifest")}
    assert {key for key in keys_of(place) if not key.startswith(dataset.keys.log)} == expected
    assert len(report.garbage) == 3 + 3 + 1 + 1 + 1
    assert {each.reason for each in report.garbage if str(first.id) in each.key} == {"removed"}
    assert report.size == sum(each.size for each in report.garbage) > 0
    assert collect(place, "birds", grace=AT_ONCE).garbage == ()


def test_collect_leaves_everything_within_its_grace_periods(place: Store) -> None:
    """With the grace periods as they are by default, nothing that was written today goes."""
    add(place, "birds", 0, [b"a"])
    Dataset(place, "birds").clear()
    upload_only(place, "birds", 5, [b"b"], counter=7)
    before = keys_of(place)
    assert collect(place, "birds").garbage == ()
    assert keys_of(place) == before


def test_a_dry_run_says_and_does_not(place: Store) -> None:
    """A dry run names what a real one deletes, and changes nothing at all."""
    add(place, "birds", 0, [b"a"])
    Dataset(place, "birds").clear()
    before = keys_of(place)
    said = collect(place, "birds", grace=AT_ONCE, dry_run=True)
    assert keys_of(place) == before
    assert {each.key for each in said.garbage} == {each.key for each in collect(place, "birds", grace=AT_ONCE).garbage}
    assert len(said.garbage) == 3


def test_what_is_not_understood_is_counted_and_left(place: Store) -> None:
    """Files of other people below a dataset stay."""
    add(place, "birds", 0, [b"a"])
    strange = [f"{KEYS.root}README", f"{KEYS.dataranges}x.tar", f"{KEYS.log}notes", f"{KEYS.dataranges}{A}.tar.part"]
    for key in strange:
        place.put(key, b"")
    report = collect(place, "birds", grace=AT_ONCE)
    assert (report.unknown, report.garbage) == (4, ())
    assert keys_of(place) >= set(strange)


def test_other_datasets_are_not_touched(place: Store) -> None:
    """A dataset whose name begins like another's is somebody else's."""
    add(place, "birds", 0, [b"a"])
    add(place, "birds2", 0, [b"a"])
    upload_only(place, "birds2", 9, [b"b"], counter=7)
    before = {key for key in keys_of(place) if "birds2" in key}
    collect(place, "birds", grace=AT_ONCE)
    assert {key for key in keys_of(place) if "birds2" in key} == before


def test_a_deleted_dataset_keeps_only_its_log(place: Store) -> None:
    """The dataranges of a deleted dataset go; its log stays, so that nothing is ever used twice."""
    add(place, "birds", 0, [b"a"])
    Dataset(place, "birds").delete()
    collect(place, "birds", grace=AT_ONCE)
    assert keys_of(place) == {KEYS.commit(Revision(each)) for each in (1, 2, 3)}
    assert CommitLog(place, "birds").create().last_counter == 1


@pytest.mark.parametrize("damage", ["hole", "bad commit"])
def test_nothing_is_deleted_when_the_log_can_not_be_read(place: Store, damage: str) -> None:
    """A log that is damaged anywhere says nothing about what is garbage."""
    for number in range(3):
        add(place, "birds", number, [b"a"])
    Dataset(place, "birds").clear()
    if damage == "hole":
        place.delete([KEYS.commit(Revision(3))])
    else:
        place.put(KEYS.commit(Revision(3)), b"{}")
    before = keys_of(place)
    with pytest.raises(Corrupt):
        collect(place, "birds", grace=AT_ONCE)
    assert keys_of(place) == before


def test_without_a_log_nothing_is_garbage(place: Store) -> None:
    """A dataset that datas3t wrote is not collected."""
    upload_only(place, "birds", 0, [b"a"])
    with pytest.raises(NotFound, match="nothing is known to be garbage"):
        collect(place, "birds", grace=AT_ONCE)


def test_what_is_committed_meanwhile_stays(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old upload that is committed between planning and deleting is live, and is not deleted."""
    log = CommitLog(place, "birds")
    log.create()
    uploaded = upload_only(place, "birds", 0, [b"a"])
    real = CommitLog.commits

    def commits(self: CommitLog, after: int = 0) -> Iterator[Commit]:
        yield from list(real(self, after))
        log.commit(Change(Operation.UPLOAD, add=(uploaded,)))

    monkeypatch.setattr(CommitLog, "commits", commits)
    report = collect(place, "birds", grace=AT_ONCE)
    assert report.garbage == ()
    assert {f"{KEYS.dataranges}{uploaded.id}.{kind}" for kind in ("tar", "index", "manifest")} <= keys_of(place)


def test_old_commits_go_behind_checkpoints_and_the_log_reads_on(place: Store) -> None:
    """After commits were collected, readers who know nothing and readers who fell behind see the same head."""
    log = CommitLog(place, "birds")
    history = [log.create()]
    for _ in range(8):
        log.reserve(1)
        history.append(log.head())
    for revision in (2, 4, 6, 8):
        log.write_checkpoint(history[revision - 1])
    report = collect(place, "birds", grace=AT_ONCE)
    assert sorted(each.reason for each in report.garbage) == ["covered by checkpoints"] * 4 + ["old checkpoint"]
    assert log.list_checkpoints() == [4, 6, 8]
    assert log.head() == log.head(history[0]) == log.head(history[6]) == history[-1]
    assert log.at(6) == history[5]


@pytest.mark.parametrize("collected", [0, 1, 3, 4])
def test_old_commits_that_go_while_they_are_read(place: Store, collected: int) -> None:
    """Reading the log while another one collects it gives what is left, and is no damage."""
    log = CommitLog(place, "birds")
    history = [log.create()]
    for _ in range(5):
        log.reserve(1)
        history.append(log.head())
    for revision in (4, 5, 6):
        log.write_checkpoint(history[revision - 1])
    gone = [log.keys.commit(Revision(revision)) for revision in range(1, collected + 1)]

    def collect_meanwhile(operation: str, key: str, _number: int) -> Fault | None:
        if operation == "get" and log.keys.parse_commit(key) is not None:
            place.delete(gone)
        return None

    reader = CommitLog(FaultyStore(place, collect_meanwhile), "birds")
    assert [each.revision for each in reader.commits()] == list(range(collected + 1, 7))
    assert CommitLog(FaultyStore(place, collect_meanwhile), "birds").at(5) == history[4]


def test_commits_stay_when_a_checkpoint_is_no_good(place: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Before commits go, the checkpoints that stand for them are read."""
    log = CommitLog(place, "birds")
    log.create()
    for _ in range(3):
        log.reserve(1)
        log.write_checkpoint(log.head())
    place.put(log.keys.checkpoint(Revision(3)), b"damaged")
    assert collect(place, "birds", grace=AT_ONCE).garbage == ()
    assert "no commit of birds is deleted" in caplog.text
    assert len(list(log.commits())) == 4


def test_a_killed_collector_is_followed_by_another(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed collector left is collected next time: manifests go last, so it is still known to be ours."""
    log = CommitLog(place, "birds")
    log.create()
    upload_only(place, "birds", 0, [b"a"])
    real = place.delete

    def killed(keys: list[str]) -> None:
        """Delete one of a batch's keys: a store may begin with any of them."""
        if any(key.startswith(KEYS.dataranges) for key in keys):
            real(sorted(keys)[1:2])
            raise KeyboardInterrupt
        real(keys)

    monkeypatch.setattr(place, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(place, "birds", grace=AT_ONCE)
    monkeypatch.setattr(place, "delete", real)
    assert {each.reason for each in collect(place, "birds", grace=AT_ONCE).garbage} == {"never committed"}
    assert list(place.list(KEYS.dataranges)) == []


def test_the_log_is_kept_longer_than_it_is_needed(place: Store) -> None:
    """Grace periods under which collecting would forget when something was removed are refused."""
    with pytest.raises(InvalidInput):
        collect(place, "birds", grace=Grace(removed=2 * DAY, log=DAY))
