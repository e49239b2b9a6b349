"""Which dataranges a dataset without a log has: the rule for what datas3t wrote.

Without its database nothing tells a live object from what an aggregation replaced or a failed upload left.
So a datarange counts when its `.tar` and its `.index` are there, and of overlapping ones the highest
counter that covers all the others wins.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dasfs.dataset.model import Datarange, Snapshot, nothing
from dasfs.names import DatarangeId, DatasetKeys
from dasfs.stores.base import ObjectInfo, Store


@dataclass(frozen=True, slots=True)
class Listing:
    """What stands below `dataranges/`: the objects of each datarange by kind, and the number of others."""

    objects: Mapping[DatarangeId, Mapping[str, ObjectInfo]] = field(default_factory=dict)
    unknown: int = 0

    @property
    def candidates(self) -> tuple[DatarangeId, ...]:
        """The dataranges that have both a TAR and an index."""
        return tuple(each for each, kinds in self.objects.items() if "tar" in kinds and "index" in kinds)

    @property
    def last_counter(self) -> int:
        return max((each.counter for each in self.objects), default=0)

    def datarange(self, datarange: DatarangeId) -> Datarange:
        """Return what a listing can say of one of the candidates."""
        kinds = self.objects[datarange]
        manifest_size = kinds["manifest"].size if "manifest" in kinds else 0
        return Datarange(datarange, kinds["tar"].size, manifest_size, data_size=0)


def group_objects(keys: DatasetKeys, objects: Iterable[ObjectInfo]) -> Listing:
    """Return the objects below `dataranges/` by datarange. Others count as unknown."""
    found: dict[DatarangeId, dict[str, ObjectInfo]] = {}
    unknown = 0
    for info in objects:
        parsed = keys.parse_datarange(info.key)
        if parsed is None:
            unknown += 1
        else:
            found.setdefault(parsed[0], {})[parsed[1]] = info
    return Listing(found, unknown)


def list_dataranges(store: Store, keys: DatasetKeys) -> Listing:
    return group_objects(keys, store.list(keys.dataranges))


def choose_live(candidates: Iterable[DatarangeId]) -> tuple[DatarangeId, ...]:
    """Return the candidates that are live by the rule, ascending; they do not overlap."""
    live: list[DatarangeId] = []
    cluster: list[DatarangeId] = []
    end = -1
    for candidate in sorted(candidates):
        if candidate.first > end:
            live += _choose_in_cluster(cluster)
            cluster = []
        cluster.append(candidate)
        end = max(end, candidate.last)
    live += _choose_in_cluster(cluster)
    return tuple(live)


def _choose_in_cluster(cluster: list[DatarangeId]) -> list[DatarangeId]:
    """Choose among candidates that overlap, directly or through others. The newest goes first."""
    left = sorted(cluster, key=lambda each: (each.counter, each.last - each.first), reverse=True)
    chosen: list[DatarangeId] = []
    while left:
        best, *left = left
        overlapping = [each for each in left if overlap(best, each)]
        if all(covers(best, each) for each in overlapping):
            chosen.append(best)
            left = [each for each in left if each not in overlapping]
    return sorted(chosen)


def covers(outer: DatarangeId, inner: DatarangeId) -> bool:
    return outer.first <= inner.first and inner.last <= outer.last


def overlap(one: DatarangeId, other: DatarangeId) -> bool:
    return one.first <= other.last and other.first <= one.last


def foreign_snapshot(store: Store, dataset: str) -> Snapshot | None:
    """Return the snapshot of a dataset that has no log, or None where there is nothing of that name.

    Its revision is 0 for ever, and its `dataset_id` is `foreign`: compare `dataranges` to notice a change.
    """
    keys = DatasetKeys(dataset)
    listing = list_dataranges(store, keys)
    live = choose_live(listing.candidates)
    if not live:
        return None
    return Snapshot(
        dataset=dataset,
        dataset_id="foreign",
        revision=nothing(dataset).revision,
        time=_newest(listing, live),
        dataranges=tuple(listing.datarange(each) for each in live),
        next_number=live[-1].last + 1,
        last_counter=listing.last_counter,
    )


def _newest(listing: Listing, live: Iterable[DatarangeId]) -> datetime:
    return max(info.modified for each in live for info in listing.objects[each].values())
