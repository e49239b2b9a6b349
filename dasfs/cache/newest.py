"""Asking a store what a dataset is now, or was. Every call blocks: they run in threads.

**Concurrency:** nothing here has a state.
"""

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.history import History
from dasfs.dataset.model import Datarange, Operation, Snapshot, join_spans
from dasfs.errors import Corrupt, NotFound, ObjectChanged
from dasfs.formats.manifest import Manifest
from dasfs.stores.base import Store


def read_snapshot(store: Store, name: str, known: Snapshot | None, *, confirm: bool = False) -> Snapshot | None:
    """Return a dataset's newest snapshot, or None where there is no such dataset. `known` saves reading all the log."""
    try:
        return Dataset(store, name).snapshot(known, confirm=confirm)
    except NotFound:
        store.check()  # a store that is gone is another matter than a dataset that is gone
        return None


def read_manifest(store: Store, snapshot: Snapshot, datarange: Datarange) -> Manifest:
    """Return the manifest of a datarange of `snapshot`.

    Raises `ObjectChanged` where it can't be read because a newer revision has removed or replaced the datarange, and
    what `Dataset.load_manifest` raises where it is live.
    """
    try:
        return Dataset(store, snapshot.dataset).load_manifest(datarange)
    except (Corrupt, NotFound) as error:
        newest = read_snapshot(store, snapshot.dataset, snapshot)
        if newest is not None and newest.dataset_id == snapshot.dataset_id and newest.holds(datarange.id):
            raise
        numbers = f"{datarange.first}-{datarange.last}"
        raise ObjectChanged(f"datarange {numbers} of {snapshot.dataset} was removed or replaced") from error


def is_same(before: Snapshot, after: Snapshot) -> bool:
    """Return whether nothing was committed between. Without a log (revision 0), the dataranges tell. Pure."""
    if (before.dataset_id, before.revision, before.commit_id) != (after.dataset_id, after.revision, after.commit_id):
        return False
    return after.revision > 0 or before.dataranges == after.dataranges


def read_past(store: Store, name: str, revision: int) -> Snapshot:
    """Return a dataset's snapshot at a revision, which may be that of a deletion. Raises as `History.at` does."""
    return History(store, name).at(revision)


def read_removed(store: Store, name: str, after: int, last: int) -> list[tuple[int, int]] | None:
    """Return the spans of numbers whose datapoints the revisions after `after`, up to `last`, took away, ascending.

    Aggregation takes none away. None where the log no longer tells.
    """
    spans: list[tuple[int, int]] = []
    for commit in History(store, name).commits(after):
        if commit.revision > last:
            break
        if commit.revision != after + 1:
            return None
        after = commit.revision
        if commit.operation is not Operation.AGGREGATE:
            spans += [(each.first, each.last) for each in commit.remove]
    return join_spans(spans) if after == last else None
