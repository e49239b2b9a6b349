"""The commit log on every kind of store: what one writer and one reader can rely on."""

import pytest

from dasfs.dataset.dataset import Dataset, dataset_names, list_datasets
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Configuration, Operation, Snapshot
from dasfs.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from dasfs.formats.compression import Compression
from dasfs.stores import Store
from tests.datasets import datarange


def upload(first: int, last: int, counter: int = 1) -> Change:
    return Change(Operation.UPLOAD, add=(datarange(first, last, counter),))


def test_a_new_dataset_is_found_by_its_name(store: Store) -> None:
    """A created dataset has revision 1, an id and the configuration that was asked for."""
    wanted = Configuration(Compression.parse("zstd:5"), 1 << 20)
    created = CommitLog(store, "birds").create(wanted)
    assert created == CommitLog(store, "birds").head()
    assert (created.revision, created.configuration) == (1, wanted)
    assert len(created.dataset_id) == 32


def test_the_stores_of_the_project_honour_conditional_puts(store: Store) -> None:
    """The probe at creation finds that all three kinds of store are safe for many writers, and leaves nothing."""
    assert CommitLog(store, "birds").create().configuration.conditional_put
    assert [info.key for info in store.list("datas3t/")] == ["datas3t/birds/log/00000000000000000001.json"]


def test_a_dataset_can_not_be_created_twice(store: Store) -> None:
    """A second creation is refused by name."""
    CommitLog(store, "birds").create()
    with pytest.raises(AlreadyExists, match="birds exists already"):
        CommitLog(store, "birds").create()


def test_a_name_without_a_log_is_not_found(store: Store) -> None:
    """Asking for a dataset that is not there says so, with the store's URL."""
    with pytest.raises(NotFound, match="there is no dataset fish in"):
        CommitLog(store, "fish").head()


def test_a_dataset_name_is_checked_before_the_store_is_asked(store: Store) -> None:
    """A name with a slash never becomes part of a key."""
    with pytest.raises(InvalidInput):
        CommitLog(store, "birds/../fish")


def test_a_check_sees_each_snapshot_that_its_commit_is_about_to_follow(store: Store) -> None:
    """Where another writer is first, the commit is checked again on top of what that one wrote."""
    log = CommitLog(store, "birds")
    snapshot = log.create()
    seen: list[int] = []

    def check(about_to_follow: Snapshot) -> None:
        seen.append(about_to_follow.revision)
        if len(seen) == 1:
            log.reserve(1)

    log.commit(Change(Operation.UPLOAD, add=(datarange(5, 9),)), snapshot, check=check)
    assert seen == [1, 2]
    assert log.head().revision == 3


def test_a_check_can_refuse_a_commit(store: Store) -> None:
    """What a check raises goes to who commits, and nothing is committed."""
    log = CommitLog(store, "birds")
    snapshot = log.create()

    def check(_: Snapshot) -> None:
        raise Conflict("not now")

    with pytest.raises(Conflict, match="not now"):
        log.commit(Change(Operation.CLEAR), snapshot, check=check)
    assert log.head() == snapshot


def test_commits_add_up_to_the_head(store: Store) -> None:
    """Uploads, an aggregate, a reservation and a deletion lead to what is expected, in order."""
    log = CommitLog(store, "birds")
    snapshot = log.create()
    a, b = datarange(0, 4), datarange(5, 9)
    snapshot = log.commit(Change(Operation.UPLOAD, add=(a,)), snapshot)
    snapshot = log.commit(Change(Operation.UPLOAD, add=(b,)), snapshot)
    whole = datarange(0, 9, 2)
    snapshot = log.commit(Change(Operation.AGGREGATE, add=(whole,), remove=(a.id, b.id)), snapshot)
    assert log.reserve(5, snapshot) == range(10, 15)
    snapshot = log.commit(upload(20, 29, 3))
    snapshot = log.commit(Change(Operation.DELETE, remove=(whole.id,)))
    assert snapshot == log.head()
    assert snapshot.dataranges == (datarange(20, 29, 3),)
    assert (snapshot.revision, snapshot.next_number, snapshot.last_counter) == (7, 30, 3)
    assert [commit.operation for commit in log.commits()] == [
        "create", "upload", "upload", "aggregate", "reserve", "upload", "delete"
    ]  # fmt: skip


def test_a_commit_on_an_old_base_is_judged_by_the_newest_snapshot(store: Store) -> None:
    """A writer that fell behind commits all the same where its change still fits, and gets a conflict where not."""
    log = CommitLog(store, "birds")
    base = log.create()
    log.commit(upload(0, 9))
    assert log.commit(upload(10, 19), base).revision == 3
    with pytest.raises(Conflict, match="datapoints 15-25 overlap 10-19"):
        log.commit(upload(15, 25), base)
    gone = log.commit(Change(Operation.DELETE, remove=(datarange(0, 9).id,)))
    assert log.commit(upload(0, 9, 2), base).revision == gone.revision + 1


def test_every_revision_can_be_looked_at(store: Store) -> None:
    """`at` returns each past snapshot, and `commits` goes on after any revision."""
    log = CommitLog(store, "birds")
    history = [log.create()]
    history += [log.commit(upload(number, number)) for number in range(4)]
    assert [log.at(revision) for revision in range(1, 6)] == history
    assert [commit.revision for commit in log.commits(after=3)] == [4, 5]
    log.write_checkpoint(history[-1])
    assert log.at(5) == history[-1]
    for missing in (0, 6, -1):
        with pytest.raises(NotFound, match=f"no revision {missing}; the newest is 5"):
            log.at(missing)


def test_nothing_has_no_revisions(store: Store) -> None:
    """Looking back at a dataset that was never there finds nothing."""
    log = CommitLog(store, "birds")
    with pytest.raises(NotFound, match="no revision 1; the newest is 0"):
        log.at(1)
    assert list(log.commits()) == []


def test_a_name_can_be_used_again_after_its_dataset_was_deleted(store: Store) -> None:
    """A deleted dataset is gone for readers and writers; a new one goes on with its revisions and counters."""
    dataset = Dataset(store, "birds")
    old = dataset.log.create()
    dataset.log.commit(upload(0, 9, 5))
    dataset.delete()
    for attempt in (dataset.snapshot, dataset.log.head, dataset.clear):
        with pytest.raises(NotFound, match="birds was deleted on"):
            attempt()
    new = dataset.log.create()
    assert (new.revision, new.last_counter, new.next_number, new.dataranges) == (4, 5, 0, ())
    assert new.dataset_id != old.dataset_id
    with pytest.raises(Conflict, match="deleted and created anew"):
        dataset.log.commit(upload(0, 9, 6), old)
    assert dataset.snapshot(old) == new


def test_live_datasets_are_listed(store: Store) -> None:
    """The list has what can be opened, in order; names alone are cheaper and include what was deleted."""
    for name in ("fish", "birds", "Apes_2", "gone"):
        CommitLog(store, name).create()
    Dataset(store, "gone").delete()
    store.put("datas3t/not a name/log/x", b"")
    assert list_datasets(store) == ["Apes_2", "birds", "fish"]
    assert list(dataset_names(store)) == ["Apes_2", "birds", "fish", "gone"]


def test_a_checkpoint_is_written_every_hundred_revisions(store: Store) -> None:
    """Revision 100 leaves a checkpoint, and a reader who knows nothing starts from it."""
    log = CommitLog(store, "birds")
    snapshot = log.create()
    for number in range(104):
        snapshot = log.commit(upload(number, number), snapshot)
    assert log.list_checkpoints() == [100]
    store.delete([log.keys.commit(commit.revision) for commit in log.commits() if commit.revision <= 100])
    assert log.head() == snapshot
    assert [commit.revision for commit in log.commits()] == [101, 102, 103, 104, 105]
