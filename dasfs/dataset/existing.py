"""Which of the files to put are in the dataset already.

A source with a number is compared with the datapoint of that number, one without by its original path, which
stands in the manifests of the dataranges that hold named datapoints. Same extension (of the numbered), size
and CRC-32: it is there.

**Concurrency:** manifests are read, and files summed up, by a few threads; only what matches is kept of each
manifest, so that memory is bounded by the sources and not by the dataset.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.local import Source, checksum
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.dataset.put_plan import Existing, find_match, is_candidate, refusal
from dasfs.dataset.sources import Sources
from dasfs.errors import Conflict
from dasfs.formats.manifest import Manifest

T = TypeVar("T")
R = TypeVar("R")

# Reading a manifest is one request of some milliseconds; eight at once hide most of that.
THREADS: Final = 8
# Small files take less time to read than to hand to a thread one by one.
CHECKSUM_GROUP: Final = 64


def drop_existing(dataset: Dataset, snapshot: Snapshot, sources: Sources) -> Sources:
    """Return the sources that are not there yet.

    Raises `AlreadyExists` for a source that differs from what is there in its place; what reading the files
    and the manifests raises.
    """
    numbers = _find_numbers(dataset, snapshot, sources.numbered)
    paths = _find_paths(dataset, snapshot.dataranges, _by_path(sources.unnumbered))
    if not numbers and not paths:
        return sources
    _check_same(itertools.chain(sources.numbered, sources.unnumbered), numbers, paths)
    return Sources(
        [each for each in sources.numbered if each.number not in numbers],
        [each for each in sources.unnumbered if each.original not in paths],
    )


def _find_numbers(dataset: Dataset, snapshot: Snapshot, sources: Sequence[Source]) -> dict[int, Existing]:
    """Return what is there under the numbers of `sources`."""
    wanted: dict[Datarange, list[int]] = {}
    for source in sources:
        assert source.number is not None
        datarange = snapshot.find(source.number)
        if datarange is not None:
            wanted.setdefault(datarange, []).append(source.number)

    def look_up(datarange: Datarange) -> dict[int, Existing]:
        manifest = dataset.load_manifest(datarange)
        return {number: _existing(manifest, number - datarange.first) for number in wanted[datarange]}

    return _merge(_in_threads(look_up, wanted))


class PathWatch:
    """Notices when other writers put files under the original paths of `sources`, after a put was planned.

    Each datarange that was added since `planned` is looked into once.
    """

    def __init__(self, dataset: Dataset, planned: Snapshot, sources: Sequence[Source]) -> None:
        self._dataset = dataset
        self._known = {each.id for each in planned.dataranges}
        self._wanted = _by_path(sources)
        self._taken: set[str] = set()

    def add(self, datarange: Datarange) -> None:
        """Note a datarange of our own: its paths are not taken by others."""
        self._known.add(datarange.id)

    def check(self, snapshot: Snapshot, sources: Iterable[Source]) -> None:
        """Raise `Conflict` if another writer put any of `sources`, a part of those watched for."""
        new = [each for each in snapshot.dataranges if each.id not in self._known]
        self._taken |= _find_paths(self._dataset, new, self._wanted).keys()
        self._known.update(each.id for each in new)
        for source in sources:
            if source.original in self._taken:
                raise Conflict(f"{source}: {source.original!r} was put by another writer meanwhile")


def _by_path(sources: Iterable[Source]) -> dict[bytes, str]:
    """Return the original paths by their bytes, which is how manifests have them."""
    return {os.fsencode(source.original): source.original for source in sources}


def _find_paths(dataset: Dataset, dataranges: Iterable[Datarange], wanted: Mapping[bytes, str]) -> dict[str, Existing]:
    """Return what `dataranges` hold under the original paths `wanted`."""
    if not wanted:
        return {}

    def look_up(datarange: Datarange) -> dict[str, Existing]:
        manifest = dataset.load_manifest(datarange)
        if manifest.names is None:
            return {}
        path = manifest.names.path
        return {wanted[each]: _existing(manifest, k) for k in range(manifest.count) if (each := path(k)) in wanted}

    return _merge(_in_threads(look_up, [each for each in dataranges if each.named]))


def _existing(manifest: Manifest, k: int) -> Existing:
    record = manifest.record(k)
    return Existing(manifest.id.first + k, record.extension, record.true_size, record.crc32)


def _check_same(sources: Iterable[Source], numbers: Mapping[int, Existing], paths: Mapping[str, Existing]) -> None:
    """Raise `AlreadyExists` unless every source that has a match in the dataset is the same as that."""
    matched = []
    for source in sources:
        existing = find_match(source, numbers, paths)
        if existing is None:
            continue
        if not is_candidate(source, existing):
            raise refusal(source, existing)
        matched.append((source, existing))

    def check_group(group: Sequence[tuple[Source, Existing]]) -> None:
        for source, existing in group:
            if checksum(source) != existing.crc32:
                raise refusal(source, existing)

    groups = [matched[start : start + CHECKSUM_GROUP] for start in range(0, len(matched), CHECKSUM_GROUP)]
    for _ in _in_threads(check_group, groups):
        pass


def _in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `function(item)` of each item, in order. Ended early, it drops what waits in the pool."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="dasfs-existing")
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _merge(parts: Iterable[dict[T, R]]) -> dict[T, R]:
    merged: dict[T, R] = {}
    for part in parts:
        merged.update(part)
    return merged
