"""What a dataset is at one revision, and how a commit changes it. Pure: no I/O.

A `Snapshot` is the set of live dataranges with what else the log has said so far. A `Change` is what a
writer wants, a `Commit` is a change with its place in the log. `check` decides whether a change fits a
snapshot, `make_commit` turns it into the next commit, `apply` makes the snapshot after it; they are the
only authority on what the log may say.
"""

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from dasfs.errors import AlreadyExists, Conflict, Corrupt, InvalidInput
from dasfs.formats.compression import Compression
from dasfs.names import MAX_NUMBER, DatapointNumber, DatarangeId, Revision

MIB: Final = 1 << 20
# A datarange of 64 MiB is one upload of a few seconds, and a few hundred 100 kB files share one commit.
DEFAULT_DATARANGE_SIZE: Final = 64 * MIB


class Operation(StrEnum):
    """Why a commit was made. Readers need only what it adds and removes; people want to know why."""

    CREATE = "create"
    RESERVE = "reserve"
    UPLOAD = "upload"
    AGGREGATE = "aggregate"
    DELETE = "delete"
    CLEAR = "clear"
    IMPORT = "import"
    CONFIGURE = "configure"


@dataclass(frozen=True, slots=True)
class Datarange:
    """One live datarange, as a commit names it. Sizes are bytes.

    `manifest_size` is 0 where there is no manifest object (datas3t wrote it). `data_size` is the sum of the
    true sizes of its datapoints (0 where nobody knows it yet), `named` whether any of them has an original
    name.
    """

    id: DatarangeId
    tar_size: int
    manifest_size: int
    data_size: int
    named: bool = False

    @property
    def first(self) -> DatapointNumber:
        return self.id.first

    @property
    def last(self) -> DatapointNumber:
        return self.id.last

    @property
    def count(self) -> int:
        return self.id.last - self.id.first + 1


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a dataset is told once and every writer follows."""

    compression: Compression = field(default_factory=lambda: Compression.parse("none"))
    datarange_size: int = DEFAULT_DATARANGE_SIZE
    # False: the store ignores If-None-Match, so that only one writer at a time is safe (probed at
    # creation).
    conditional_put: bool = True


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A dataset at one revision. `dataranges` ascend and do not overlap.

    `dataset_id` is new each time a dataset of this name is created, so that caches never mix two of the
    same name. `next_number` is the lowest number that was never reserved or used. `last_counter` is the
    highest counter ever used. `commit_id` is that of the last commit: it tells this history from another one that
    somebody began in its place.
    """

    dataset: str
    dataset_id: str
    revision: Revision
    time: datetime
    dataranges: tuple[Datarange, ...] = ()
    next_number: int = 0
    last_counter: int = 0
    configuration: Configuration = field(default_factory=Configuration)
    # A deleted dataset keeps its log, so that neither a revision nor a counter is ever used again.
    deleted: bool = False
    commit_id: str = ""
    # The first number of each datarange, so that finding one calls no function for each step.
    _firsts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_firsts", tuple(datarange.id.first for datarange in self.dataranges))

    @property
    def count(self) -> int:
        """The number of datapoints."""
        return sum(datarange.count for datarange in self.dataranges)

    @property
    def tar_size(self) -> int:
        return sum(datarange.tar_size for datarange in self.dataranges)

    @property
    def data_size(self) -> int:
        return sum(datarange.data_size for datarange in self.dataranges)

    def find(self, number: int) -> Datarange | None:
        """Return the datarange that holds `number`, or None in a gap."""
        place = self.place(number)
        return None if place is None else self.dataranges[place]

    def place(self, number: int) -> int | None:
        """Return which of `dataranges` holds `number`, or None in a gap."""
        place = bisect.bisect_right(self._firsts, number) - 1
        return None if place < 0 or self.dataranges[place].id.last < number else place

    def holds(self, wanted: DatarangeId) -> bool:
        """Return whether exactly this datarange is live."""
        found = self.find(wanted.first)
        return found is not None and found.id == wanted

    def overlapping(self, first: int, last: int) -> tuple[Datarange, ...]:
        """Return the dataranges that hold any number of `first..last`, ascending."""
        start = bisect.bisect_left(self.dataranges, first, key=_last)
        end = bisect.bisect_right(self._firsts, last)
        return self.dataranges[start:end]


@dataclass(frozen=True, slots=True)
class Change:
    """What a writer wants to commit. `reserve` numbers are taken from `next_number` on.

    `CREATE` and `IMPORT` begin a dataset under `dataset_id`, and need that none is live. A `CLEAR`, and a
    `DELETE` with `delete_dataset`, remove whatever is live when they are committed. `last_counter` raises
    the snapshot's, where counters were used that no commit names.
    """

    operation: Operation
    add: tuple[Datarange, ...] = ()
    remove: tuple[DatarangeId, ...] = ()
    reserve: int = 0
    configuration: Configuration | None = None
    delete_dataset: bool = False
    dataset_id: str | None = None
    last_counter: int = 0

    @property
    def begins(self) -> bool:
        return self.operation in (Operation.CREATE, Operation.IMPORT)

    @property
    def empties(self) -> bool:
        return self.delete_dataset or self.operation is Operation.CLEAR


@dataclass(frozen=True, slots=True)
class Commit:
    """One entry of the log. What did not change is None. `dataset_id` is there where a dataset begins.

    `parent` is the `commit_id` of the revision before, empty at the start of the log.
    """

    revision: Revision
    commit_id: str
    time: datetime
    writer: str
    operation: Operation
    add: tuple[Datarange, ...] = ()
    remove: tuple[DatarangeId, ...] = ()
    next_number: int | None = None
    last_counter: int | None = None
    configuration: Configuration | None = None
    dataset_id: str | None = None
    deleted: bool = False
    parent: str = ""


def nothing(dataset: str) -> Snapshot:
    """Return what there is before the first commit: revision 0, the same as a dataset that was deleted."""
    return Snapshot(dataset, "", Revision(0), datetime.fromtimestamp(0, UTC), deleted=True)


def check(snapshot: Snapshot, change: Change) -> None:
    """Raise `Conflict` unless `change` fits `snapshot`; `AlreadyExists` where it begins what is there.

    What is removed is live; what is added overlaps neither what stays nor itself; an aggregate covers
    exactly what it removes; reserved numbers exist.
    """
    if change.begins and not snapshot.deleted:
        raise AlreadyExists(f"dataset {snapshot.dataset} exists already")
    if snapshot.deleted and not change.begins:
        raise Conflict(f"dataset {snapshot.dataset} was deleted meanwhile")
    if len(set(change.remove)) != len(change.remove):
        raise InvalidInput("a change removes a datarange twice")
    for gone in change.remove:
        if not snapshot.holds(gone):
            raise Conflict(
                f"datarange {gone.first}-{gone.last} of {snapshot.dataset} was removed or replaced meanwhile"
            )
    clash = None if change.empties else _first_overlap(snapshot, change)
    if clash is not None:
        kept, added = clash
        raise Conflict(
            f"datapoints {added.first}-{added.last} overlap {kept.first}-{kept.last}, "
            f"which {snapshot.dataset} has already"
        )
    if change.operation is Operation.AGGREGATE and _spans(change.remove) != _spans(d.id for d in change.add):
        raise Conflict("an aggregate must hold exactly the datapoints of what it replaces")
    if snapshot.next_number + change.reserve > MAX_NUMBER + 1:
        raise Conflict(f"{snapshot.dataset} has no {change.reserve} numbers left below 2^63")


def make_commit(snapshot: Snapshot, change: Change, *, commit_id: str, time: datetime, writer: str) -> Commit:
    """Return the commit that brings `change` to `snapshot`. Raises as `check` does."""
    check(snapshot, change)
    used = 0 if change.begins else snapshot.next_number
    next_number = max(used + change.reserve, *(d.last + 1 for d in change.add), 0)
    known_counter = max(snapshot.last_counter, *(d.id.counter for d in change.add), 0)
    return Commit(
        revision=Revision(snapshot.revision + 1),
        commit_id=commit_id,
        time=time,
        writer=writer,
        operation=change.operation,
        add=change.add,
        remove=tuple(d.id for d in snapshot.dataranges) if change.empties else change.remove,
        next_number=next_number if next_number != used else None,
        last_counter=change.last_counter if change.last_counter > known_counter else None,
        configuration=change.configuration,
        dataset_id=change.dataset_id,
        deleted=change.delete_dataset,
        parent=snapshot.commit_id,
    )


def apply(snapshot: Snapshot, *commits: Commit) -> Snapshot:
    """Return the snapshot after `commits`.

    Raises `Corrupt` for a commit that no writer of ours can have made: one that does not follow the
    revision before it, removes what is not live, or adds what overlaps. Costs a binary search for each
    datarange that is added or removed.
    """
    if not commits:
        return snapshot
    dataranges = list(snapshot.dataranges)
    for commit in commits:
        where = f"revision {commit.revision} of {snapshot.dataset}"
        if commit.revision != snapshot.revision + 1:
            raise Corrupt(f"{where} follows revision {snapshot.revision}")
        if commit.parent != snapshot.commit_id:
            raise Corrupt(f"{where} follows another revision {snapshot.revision} than the one that is there")
        if (commit.dataset_id is not None) != snapshot.deleted:
            state = "is not there" if snapshot.deleted else "is there already, as if it began"
            raise Corrupt(f"{where} changes a dataset that {state}")
        _replace(dataranges, commit, where)
        if commit.deleted and dataranges:
            raise Corrupt(f"{where} deletes the dataset, but leaves {len(dataranges)} dataranges in it")
        snapshot = _advance(snapshot, commit)
    return replace(snapshot, dataranges=tuple(dataranges))


def _advance(snapshot: Snapshot, commit: Commit) -> Snapshot:
    """Return the snapshot after `commit` in everything but its dataranges."""
    begins = commit.dataset_id is not None
    next_number = 0 if begins else snapshot.next_number
    return replace(
        snapshot,
        revision=commit.revision,
        time=commit.time,
        dataset_id=commit.dataset_id or snapshot.dataset_id,
        next_number=max(next_number, commit.next_number or 0, *(d.last + 1 for d in commit.add)),
        last_counter=max(snapshot.last_counter, commit.last_counter or 0, *(d.id.counter for d in commit.add)),
        configuration=commit.configuration or (Configuration() if begins else snapshot.configuration),
        deleted=commit.deleted,
        commit_id=commit.commit_id,
    )


def find_overlap(dataranges: Sequence[Datarange]) -> tuple[Datarange, Datarange] | None:
    """Return the first two neighbours that are out of order or overlap, or None where all ascend."""
    for left, right in itertools.pairwise(dataranges):
        if right.first <= left.last:
            return left, right
    return None


def join_spans(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return inclusive spans of numbers in ascending order, joined where they touch or overlap."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def _first(datarange: Datarange) -> int:
    return datarange.first


def _last(datarange: Datarange) -> int:
    return datarange.last


def _replace(dataranges: list[Datarange], commit: Commit, where: str) -> None:
    """Bring one commit to a list of dataranges that ascend, in place."""
    for gone in commit.remove:
        place = bisect.bisect_left(dataranges, int(gone.first), key=_first)
        if place == len(dataranges) or dataranges[place].id != gone:
            raise Corrupt(f"{where} removes {gone.first}-{gone.last}, which is not live")
        del dataranges[place]
    for added in commit.add:
        place = bisect.bisect_left(dataranges, int(added.first), key=_first)
        if find_overlap([*dataranges[max(place - 1, 0) : place], added, *dataranges[place : place + 1]]):
            raise Corrupt(f"{where} adds {added.first}-{added.last}, which overlaps what is live")
        dataranges.insert(place, added)


def _first_overlap(snapshot: Snapshot, change: Change) -> tuple[Datarange, Datarange] | None:
    """Return what is there and what `change` adds where they overlap first, or None."""
    removed = set(change.remove)
    for added in change.add:
        for kept in snapshot.overlapping(added.first, added.last):
            if kept.id not in removed:
                return kept, added
    return find_overlap(sorted(change.add, key=_first))


def _spans(ids: Iterable[DatarangeId]) -> list[tuple[int, int]]:
    return join_spans((each.first, each.last) for each in ids)
