"""Whether a file is in the dataset already: the same, or another one in its place.

- A numbered file is compared with the datapoint of its number. Same extension and content: it is there. Else its
  number clashes, and it can never be packed.
- An unnumbered file is there if a datapoint has its original path and content. With another content it is a new
  file: a write directory is a drop box, and the same name again is another file.

Sizes and CRC-32 only choose what is compared byte for byte with what the store has. Where the store lost or damaged it
the file may be the last copy, and stays.

**Concurrency:** for one worker thread at a time.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.fetch import Datapoint
from dasfs.dataset.local import checksum
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.dataset.put_plan import Existing, is_candidate, refusal
from dasfs.dataset.writer import is_uploaded
from dasfs.errors import Corrupt, DasfsError
from dasfs.formats.manifest import Manifest
from dasfs.names import DatarangeId
from dasfs_daemon.files import make_source
from dasfs_daemon.known import Candidate, KnownPaths
from dasfs_daemon.likeness import Likeness, Match, compare_bytes
from dasfs_daemon.rows import FileRow

# A manifest of 32,768 files is 1.5 MB, more with their paths.
_MANIFESTS: Final = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """`same`: the file is in the dataset. `clash`: something else has its number. Neither: it is new."""

    same: bool = False
    clash: DasfsError | None = None


NEW: Final = Verdict()


class Comparer:
    """Compares files with what a dataset has."""

    def __init__(self, dataset: Dataset, known: KnownPaths, directory: str) -> None:
        self._dataset = dataset
        self._known = known
        self._directory = directory
        self._manifests: OrderedDict[DatarangeId, Manifest] = OrderedDict()
        self._whole: dict[DatarangeId, bool] = {}

    def compare(self, files: Sequence[FileRow], snapshot: Snapshot) -> list[Verdict]:
        """Return the verdict on each file: all numbered, or all not.

        Raises what reading the store raises; a file that can't be read is `NEW`, and told of when it is packed.
        """
        self._whole.clear()
        if not files:
            return []
        if files[0].numbered:
            return self._confirm([self._numbered(row, snapshot) for row in files])
        self._known.update(self._dataset, snapshot)
        candidates = self._known.candidates(snapshot.dataset_id, [(row.path, row.stamp.size) for row in files])
        return self._confirm(
            [
                self._unnumbered(row, each, snapshot) if each else NEW
                for row, each in zip(files, candidates, strict=True)
            ]
        )

    def _confirm(self, found: Sequence[Verdict | list[Match]]) -> list[Verdict]:
        """Return the verdicts, where there are matches after comparing all of these byte for byte."""
        matches = [match for each in found if not isinstance(each, Verdict) for match in each]
        likenesses = iter(compare_bytes(self._dataset, matches))
        return [
            each if isinstance(each, Verdict) else _judge([(match, next(likenesses)) for match in each])
            for each in found
        ]

    def _numbered(self, row: FileRow, snapshot: Snapshot) -> Verdict | list[Match]:
        assert row.number is not None
        datarange = snapshot.find(row.number)
        if datarange is None:
            return NEW
        datapoint = self._datapoint(datarange, row.number)
        existing = _existing(datapoint)
        try:
            source = make_source(self._directory, row)
            if not is_candidate(source, existing):
                return Verdict(clash=refusal(source, existing))
            same = checksum(source) == existing.crc32
        except DasfsError:
            return NEW
        if same and not self._is_whole(datarange):
            return Verdict(clash=_missing(datarange))
        return [Match(source, datapoint)] if same else Verdict(clash=refusal(source, existing))

    def _unnumbered(self, row: FileRow, candidates: Sequence[Candidate], snapshot: Snapshot) -> Verdict | list[Match]:
        try:
            source = make_source(self._directory, row)
            crc32 = checksum(source)
        except DasfsError:
            return NEW
        matches = []
        for number in (each.number for each in candidates if each.crc32 == crc32):
            datarange = snapshot.find(number)
            if datarange is None:
                continue
            names = self._manifest(datarange).names
            same_path = names is not None and names.path(number - datarange.first) == row.path
            if same_path and self._is_whole(datarange):
                matches.append(Match(source, self._datapoint(datarange, number)))
        return matches

    def _datapoint(self, datarange: Datarange, number: int) -> Datapoint:
        return Datapoint(number, self._manifest(datarange).record(number - datarange.first), None, datarange)

    def _is_whole(self, datarange: Datarange) -> bool:
        """Return whether the store has the objects of a datarange: a file may be the last copy of what it lost."""
        if datarange.id not in self._whole:
            self._whole[datarange.id] = is_uploaded(self._dataset.store, self._dataset.keys, datarange)
        return self._whole[datarange.id]

    def _manifest(self, datarange: Datarange) -> Manifest:
        manifest = self._manifests.get(datarange.id)
        if manifest is None:
            manifest = self._manifests[datarange.id] = self._dataset.load_manifest(datarange)
            if len(self._manifests) > _MANIFESTS:
                self._manifests.popitem(last=False)
        self._manifests.move_to_end(datarange.id)
        return manifest


def _judge(compared: Sequence[tuple[Match, Likeness]]) -> Verdict:
    """Return the verdict on one file by all of its matches; a numbered one has one."""
    if any(likeness is Likeness.SAME for _, likeness in compared):
        return Verdict(same=True)
    for match, likeness in compared:
        if match.source.number is not None and likeness is Likeness.DIFFERENT:
            return Verdict(clash=refusal(match.source, _existing(match.datapoint)))
        if match.source.number is not None and likeness is Likeness.DAMAGED:
            return Verdict(clash=_missing(match.datapoint.datarange))
    return NEW


def _existing(datapoint: Datapoint) -> Existing:
    record = datapoint.record
    return Existing(datapoint.number, record.extension, record.true_size, record.crc32)


def _missing(datarange: Datarange) -> DasfsError:
    span = f"{datarange.first}-{datarange.last}"
    return Corrupt(
        f"it is in the dataset, but the store does not have the objects of {span} as they were",
        hint="keep this file, and run 'dasfs dataset verify'",
    )
