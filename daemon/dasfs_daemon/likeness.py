"""Whether local files are what datapoints hold, byte for byte.

Equal sizes and checksums are not enough to remove a file that may be the only one: among a hundred thousand contents
of one size, as a camera drops them under one path, two are likely to have the same CRC-32.

**Concurrency:** for one worker thread at a time; `fetch` reads ahead in threads of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import groupby
from typing import Final

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.fetch import Datapoint, fetch
from dasfs.dataset.local import Source, checksum, open_source
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import Corrupt, DasfsError
from dasfs.formats.manifest import Manifest
from dasfs.names import DatarangeId

# Twice as many windows of 8 MiB are in memory.
JOBS: Final = 2


@dataclass(frozen=True, slots=True)
class Match:
    """A local file, and the datapoint that it seems to be: of the same size and checksum."""

    source: Source
    datapoint: Datapoint


class Likeness(Enum):
    """What comparing a file with a datapoint came to."""

    SAME = auto()
    DIFFERENT = auto()
    UNREADABLE = auto()  # the file changed, went away, or can't be read
    DAMAGED = auto()  # the store does not have the datapoint as it was


class Packed:
    """What was packed into one datarange, by the checksums of the manifest that has its numbers now."""

    def __init__(self, dataset: Dataset, datarange: Datarange, snapshot: Snapshot) -> None:
        self._dataset = dataset
        self._datarange = datarange
        self._snapshot = snapshot
        self._manifests: dict[DatarangeId, Manifest] = {}

    def holds(self, source: Source, number: int) -> bool:
        """Return whether a file has the content that was packed under `number`.

        The checksum is enough for a file whose size, mtime and inode are still the same. Raises what the store
        raises, but for a manifest that is gone or damaged: then nothing is known.
        """
        datarange = self._snapshot.find(number) or self._datarange
        try:
            if datarange.id not in self._manifests:
                self._manifests[datarange.id] = self._dataset.load_manifest(datarange)
        except Corrupt:
            return False
        record = self._manifests[datarange.id].record(number - datarange.first)
        try:
            return record.true_size == source.size and checksum(source) == record.crc32
        except DasfsError:
            return False


def compare_bytes(dataset: Dataset, matches: Sequence[Match]) -> list[Likeness]:
    """Return the likeness of each match. Raises what the store raises, but for what is damaged in it.

    Neighbours are read together, so that a directory that was copied again costs few requests.
    """
    order = sorted(range(len(matches)), key=lambda k: matches[k].datapoint.number)
    found: dict[int, Likeness] = {}
    for _, group in groupby(order, key=lambda k: matches[k].datapoint.datarange.id):
        positions = list(group)
        found.update(zip(positions, _compare(dataset, [matches[k] for k in positions]), strict=True))
    return [found[k] for k in range(len(matches))]


def _compare(dataset: Dataset, matches: Sequence[Match]) -> list[Likeness]:
    """Return the likeness of matches in one datarange, ascending by number."""
    try:
        return list(_read_together(dataset, matches))
    except Corrupt:
        if len(matches) == 1:
            return [Likeness.DAMAGED]
    return [likeness for match in matches for likeness in _compare(dataset, [match])]


def _read_together(dataset: Dataset, matches: Sequence[Match]) -> Iterator[Likeness]:
    pieces = fetch(dataset, [match.datapoint for match in matches], jobs=JOBS)
    contents = groupby(pieces, key=lambda piece: piece.datapoint.number)
    for match, (_, own) in zip(matches, contents, strict=True):
        yield _likeness(match.source, (piece.data for piece in own))


def _likeness(source: Source, content: Iterable[bytes | memoryview]) -> Likeness:
    try:
        file = open_source(source)
    except DasfsError:
        return Likeness.UNREADABLE
    with file:
        for data in content:
            try:
                if file.read(len(data)) != data:
                    return Likeness.DIFFERENT
            except DasfsError:
                return Likeness.UNREADABLE
    return Likeness.SAME
