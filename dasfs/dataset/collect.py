"""Deleting what no live revision needs, and nothing else.

What may go: dataranges that the head snapshot does not name, 24 h after they were removed and 7 days after their last
object was written when they were never committed; checkpoints but for the last three; commits that all three cover, 90
days after they were written; uploads that were begun more than 7 days ago and never finished.

What stays: everything whose key is not understood; and dataranges without a manifest that were never committed, unless
a newer live one covers them: dasfs writes manifests first, so these are datas3t's, and an import left them out.

**Concurrency:** any number of writers, readers and collectors may be at work. Objects are listed before the log is
read, so that all that was committed before is known, and the log is asked again before each batch is deleted.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from dasfs.dataset.listing import Listing, covers, group_objects
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Commit, Snapshot
from dasfs.errors import DasfsError, InvalidInput, NotFound
from dasfs.names import DatarangeId, DatasetKeys, Revision
from dasfs.stores.base import ObjectInfo, Store

KEPT_CHECKPOINTS: Final = 3
# What one DeleteObjects request of S3 takes.
BATCH_SIZE: Final = 1000


@dataclass(frozen=True, slots=True)
class Grace:
    """How long what nobody needs is left alone.

    `removed`: readers of an older snapshot may still be at it. `uncommitted`: its writer may be about to commit it.
    `log`: people may want to know what happened.
    """

    removed: timedelta = timedelta(hours=24)
    uncommitted: timedelta = timedelta(days=7)
    log: timedelta = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Garbage:
    """One object that can go, and why."""

    key: str
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What was deleted (or would be, in a dry run), and how many objects were not understood and left."""

    garbage: tuple[Garbage, ...]
    unknown: int
    aborted_uploads: int

    @property
    def size(self) -> int:
        return sum(each.size for each in self.garbage)


def plan_dataranges(
    snapshot: Snapshot, commits: Iterable[Commit], listing: Listing, now: datetime, grace: Grace
) -> list[Garbage]:
    """Return the objects of dataranges that can go. Pure.

    `commits` are those that the log still has. The objects of one datarange are judged together, by the newest.
    """
    live = {each.id for each in snapshot.dataranges}
    removed = {gone: commit.time for commit in commits for gone in commit.remove}
    garbage = []
    for datarange, kinds in listing.objects.items():
        if datarange in live:
            continue
        reason = _why_garbage(datarange, kinds, removed.get(datarange), snapshot, now, grace)
        if reason is not None:
            garbage += [Garbage(info.key, info.size, reason) for info in kinds.values()]
    return garbage


def _why_garbage(
    datarange: DatarangeId,
    kinds: Mapping[str, ObjectInfo],
    removed: datetime | None,
    snapshot: Snapshot,
    now: datetime,
    grace: Grace,
) -> str | None:
    """Return why a datarange that is not live can go, or None where it has to stay."""
    written = max(info.modified for info in kinds.values())
    if removed is not None:
        # A writer's clock may be behind; its removal can't be older than the objects.
        return "removed" if now - max(removed, written) >= grace.removed else None
    if now - written < grace.uncommitted:
        return None
    if "manifest" in kinds:
        return "never committed"
    newer = [each.id for each in snapshot.overlapping(datarange.first, datarange.last)]
    if any(each.counter > datarange.counter and covers(each, datarange) for each in newer):
        return "replaced before the import"
    return None


def plan_log(keys: DatasetKeys, objects: Iterable[ObjectInfo], now: datetime, grace: Grace) -> list[Garbage]:
    """Return the checkpoints and commits that can go. Pure.

    A commit goes only when each of the kept checkpoints covers it, so that any one of them is enough to read the log.
    """
    checkpoints: list[tuple[Revision, ObjectInfo]] = []
    commits: list[tuple[Revision, ObjectInfo]] = []
    for info in objects:
        if (revision := keys.parse_checkpoint(info.key)) is not None:
            checkpoints.append((revision, info))
        elif (revision := keys.parse_commit(info.key)) is not None:
            commits.append((revision, info))
    checkpoints.sort(key=lambda each: each[0])
    kept = checkpoints[-KEPT_CHECKPOINTS:]
    garbage = [Garbage(info.key, info.size, "old checkpoint") for _, info in checkpoints[:-KEPT_CHECKPOINTS]]
    if len(kept) == KEPT_CHECKPOINTS:
        covered = kept[0][0]
        garbage += [
            Garbage(info.key, info.size, "covered by a checkpoint")
            for revision, info in commits
            if revision <= covered and now - info.modified >= grace.log
        ]
    return garbage


def collect(store: Store, dataset: str, *, grace: Grace | None = None, dry_run: bool = False) -> CollectReport:
    """Delete what no live revision of a dataset (also of a deleted one) needs. A dry run deletes nothing.

    Raises `NotFound` for a dataset without a log, and whatever reading the log raises, before anything is deleted.
    """
    grace = grace or Grace()
    if grace.log < grace.removed:
        raise InvalidInput("the grace period of the log can't be shorter than that of removed dataranges")
    log = CommitLog(store, dataset)
    now = datetime.now(UTC) if dry_run else _store_time(store, log.keys)
    objects = list(store.list(log.keys.root))
    snapshot = log.replay()
    if snapshot.revision == 0:
        raise NotFound(f"there is no log of dataset {dataset} in {store.url}: nothing is known to be garbage")
    log_objects = [info for info in objects if info.key.startswith(log.keys.log)]
    listing = group_objects(log.keys, (info for info in objects if info.key.startswith(log.keys.dataranges)))
    garbage = [
        *plan_dataranges(snapshot, log.commits(), listing, now, grace),
        *_checked_log_garbage(log, plan_log(log.keys, log_objects, now, grace)),
    ]
    unknown = len(objects) - _understood(log.keys, log_objects, listing)
    if dry_run:
        return CollectReport(tuple(garbage), unknown, 0)
    garbage = _delete(log, snapshot, garbage)
    aborted = store.abort_uploads(log.keys.dataranges, before=now - grace.uncommitted)
    return CollectReport(tuple(garbage), unknown, aborted)
