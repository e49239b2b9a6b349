"""Deleting what no live revision needs, and nothing else.

What may go: dataranges that the head snapshot does not name, 24 h after they were removed and 7 days after
their last object was written when they were never committed; checkpoints but for the last three; commits
that all three cover, 90 days after they were written; uploads that were begun more than 7 days ago and
never finished; and, as old, objects that are needed for a moment only.

What stays: everything whose key is not understood; and dataranges without a manifest that were never
committed, unless a newer live one covers them: dasfs writes manifests first, so these are datas3t's, and an
import left them out.

**Concurrency:** any number of writers, readers and collectors may be at work. Objects are listed before the
log is read, so that all that was committed before is known, and the log is asked again before each batch is
deleted.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from dasfs.dataset.exclusive import PROBE
from dasfs.dataset.joints import JOINT
from dasfs.dataset.listing import Listing, covers, group_objects
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Commit, Snapshot
from dasfs.errors import Conflict, Corrupt, InvalidInput, NoSpace, NotFound, Unsupported
from dasfs.names import DatarangeId, DatasetKeys, Revision
from dasfs.stores.base import ObjectInfo, Store

KEPT_CHECKPOINTS: Final = 3
# What one DeleteObjects request of S3 takes.
BATCH_SIZE: Final = 1000
COVERED: Final = "covered by checkpoints"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Grace:
    """How long what nobody needs is left alone.

    `removed`: readers of an older snapshot may still be at it. `uncommitted`: its writer may be about to
    commit it. `log`: people may want to know what happened.
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
    snapshot: Snapshot, removed: Mapping[DatarangeId, datetime], listing: Listing, now: datetime, grace: Grace
) -> list[Garbage]:
    """Return the objects of dataranges that can go. Pure.

    `removed` says when, as far as the log still knows. The objects of one datarange are judged together, by
    the newest.
    """
    live = {each.id for each in snapshot.dataranges}
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
        return "removed" if now - max(removed, written) >= grace.removed else None
    if now - written < grace.uncommitted:
        return None
    if "manifest" in kinds:
        return "never committed"
    newer = [each.id for each in snapshot.overlapping(datarange.first, datarange.last)]
    if any(each.counter > datarange.counter and covers(each, datarange) for each in newer):
        return "replaced before the import"
    return None


def plan_log(keys: DatasetKeys, objects: Sequence[ObjectInfo], now: datetime, grace: Grace) -> list[Garbage]:
    """Return the checkpoints and commits that can go. Pure.

    A commit goes only when each of the kept checkpoints covers it, so that any one of them is enough to
    read the log.
    """
    checkpoints = _by_revision(objects, keys.parse_checkpoint)
    kept = checkpoints[-KEPT_CHECKPOINTS:]
    garbage = [Garbage(info.key, info.size, "old checkpoint") for _, info in checkpoints[:-KEPT_CHECKPOINTS]]
    if len(kept) < KEPT_CHECKPOINTS:
        return garbage
    for revision, info in _by_revision(objects, keys.parse_commit):
        if revision > kept[0][0] or now - info.modified < grace.log:
            break  # the log may only get shorter from its start
        garbage.append(Garbage(info.key, info.size, COVERED))
    return garbage


def _by_revision(
    objects: Iterable[ObjectInfo], parse: Callable[[str], Revision | None]
) -> list[tuple[Revision, ObjectInfo]]:
    found = [(revision, info) for info in objects if (revision := parse(info.key)) is not None]
    return sorted(found, key=lambda each: each[0])


def removal_times(
    keys: DatasetKeys, commits: Iterable[Commit], objects: Iterable[ObjectInfo]
) -> dict[DatarangeId, datetime]:
    """Return when each datarange was removed, by the writer's clock or the store's: the later. Pure."""
    written = {revision: info.modified for revision, info in _by_revision(objects, keys.parse_commit)}
    return {
        gone: max(commit.time, written.get(commit.revision, commit.time))
        for commit in commits
        for gone in commit.remove
    }


def collect(
    store: Store,
    dataset: str,
    *,
    grace: Grace | None = None,
    dry_run: bool = False,
    told: Callable[[Sequence[Garbage]], None] | None = None,
) -> CollectReport:
    """Delete what no live revision of a dataset (also of a deleted one) needs. A dry run deletes nothing.

    `told` is called with what was just deleted, some at a time: the report is lost where something fails later.

    Raises `NotFound` for a dataset without a log, and whatever reading the log raises, before anything is
    deleted.
    """
    grace = grace or Grace()
    if grace.log < grace.removed:
        raise InvalidInput("the grace period of the log can't be shorter than that of removed dataranges")
    log = CommitLog(store, dataset)
    if dry_run:
        now, objects = datetime.now(UTC), list(store.list(log.keys.root))
    else:
        now, objects = _list(store, log.keys)
    snapshot = log.replay()
    if snapshot.revision == 0:
        raise NotFound(f"there is no log of dataset {dataset} in {store.url}: nothing is known to be garbage")
    listing = group_objects(log.keys, objects)
    removed = removal_times(log.keys, log.commits(), objects)
    garbage = [
        *plan_dataranges(snapshot, removed, listing, now, grace),
        *_checked(log, plan_log(log.keys, objects, now, grace)),
        *_plan_passing(log.keys, objects, now, grace),
    ]
    unknown = _count_unknown(log.keys, objects, {each.key for each in garbage})
    if dry_run:
        return CollectReport(tuple(garbage), unknown, 0)
    deleted = _delete(log, snapshot, garbage, told or (lambda _deleted: None))
    aborted = store.abort_uploads(log.keys.root, before=now - grace.uncommitted)
    return CollectReport(tuple(deleted), unknown, aborted)


def _list(store: Store, keys: DatasetKeys) -> tuple[datetime, list[ObjectInfo]]:
    """Return the time and all objects of the dataset.

    The time is by the store's own clock, and as listings have it: `head` of S3 leaves out the milliseconds, by which
    it would be before that of what was just written. On a store that is full it is by the clock of this machine.
    """
    key = f"{keys.root}{PROBE}{uuid.uuid4().hex}"
    try:
        store.put(key, b"time")
        objects = list(store.list(keys.root))
    except NoSpace:
        return datetime.now(UTC), list(store.list(keys.root))  # a collector makes room
    finally:
        store.delete([key])
    own = [info for info in objects if info.key == key]
    if not own:
        raise Conflict(f"{key} is gone already: another collector is at work", hint="try again")
    return own[0].modified, [info for info in objects if info is not own[0]]


def _plan_passing(keys: DatasetKeys, objects: Iterable[ObjectInfo], now: datetime, grace: Grace) -> Iterator[Garbage]:
    """Yield what is needed for a moment only, where somebody was killed in it."""
    passing = (keys.root + PROBE, keys.root + JOINT)
    for info in objects:
        if info.key.startswith(passing) and now - info.modified >= grace.uncommitted:
            yield Garbage(info.key, info.size, "left over")


def _count_unknown(keys: DatasetKeys, objects: Iterable[ObjectInfo], garbage: set[str]) -> int:
    parsers = (keys.parse_datarange, keys.parse_commit, keys.parse_checkpoint)
    understood = (any(parse(info.key) for parse in parsers) for info in objects if info.key not in garbage)
    return sum(not each for each in understood)


def _checked(log: CommitLog, garbage: list[Garbage]) -> list[Garbage]:
    """Return `garbage`, without commits if one of the checkpoints that should stand for them is no good."""
    if not any(each.reason == COVERED for each in garbage):
        return garbage
    try:
        for revision in log.list_checkpoints()[-KEPT_CHECKPOINTS:]:
            log.read_checkpoint(revision)
    except (Corrupt, NotFound, Unsupported) as error:
        logger.warning("%s; no commit of %s is deleted", error, log.dataset)
        return [each for each in garbage if each.reason != COVERED]
    return garbage


def _delete(
    log: CommitLog, snapshot: Snapshot, garbage: list[Garbage], told: Callable[[Sequence[Garbage]], None]
) -> list[Garbage]:
    """Delete the garbage in batches and return what was deleted.

    Manifests go last: what a killed collector leaves is then still known to be ours. Whatever became live
    since the log was read stays.
    """
    deleted: list[Garbage] = []
    manifests = [each for each in garbage if each.key.endswith(".manifest")]
    others = [each for each in garbage if not each.key.endswith(".manifest")]
    for batch in (*_batches(others), *_batches(manifests)):
        snapshot = log.replay(snapshot)
        going = [each for each in batch if not _is_live(log.keys, snapshot, each)]
        log.store.delete([each.key for each in going])
        told(going)
        deleted += going
    return deleted


def _batches(garbage: list[Garbage]) -> Iterator[list[Garbage]]:
    return (garbage[start : start + BATCH_SIZE] for start in range(0, len(garbage), BATCH_SIZE))


def _is_live(keys: DatasetKeys, snapshot: Snapshot, garbage: Garbage) -> bool:
    parsed = keys.parse_datarange(garbage.key)
    return parsed is not None and snapshot.holds(parsed[0])
