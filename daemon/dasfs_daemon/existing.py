"""Whether a file is in the dataset already: the same, or another one in its place.

- A numbered file is compared with the datapoint of its number. Same extension, size and CRC-32: it is there. Else
  its number clashes, and it can never be packed.
- An unnumbered file is there if a datapoint has its original path, size and CRC-32. With another content it is a new
  file: a write directory is a drop box, and the same name again is another file.

"There" means that the store still has the objects, too: else the file may be the last copy, and stays.

**Concurrency:** for one worker thread at a time.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.local import checksum
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.dataset.put_plan import Existing, is_candidate, refusal
from dasfs.dataset.writer import is_uploaded
from dasfs.errors import Corrupt, DasfsError
from dasfs.formats.manifest import Manifest
from dasfs.names import DatarangeId
from dasfs_daemon.files import make_source
from dasfs_daemon.known import KnownPaths
from dasfs_daemon.origin import FileRow

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
            return [self._numbered(row, snapshot) for row in files]
        self._known.update(self._dataset, snapshot)
        candidates = self._known.numbers(snapshot.dataset_id, [row.path for row in files])
        return [
            self._unnumbered(row, numbers, snapshot) if numbers else NEW
            for row, numbers in zip(files, candidates, strict=True)
        ]

    def _numbered(self, row: FileRow, snapshot: Snapshot) -> Verdict:
        assert row.number is not None
        datarange = snapshot.find(row.number)
        if datarange is None:
            return NEW
        existing = self._existing(datarange, row.number)
        try:
            source = make_source(self._directory, row)
            if not is_candidate(source, existing):
                return Verdict(clash=refusal(source, existing))
            same = checksum(source) == existing.crc32
        except DasfsError:
            return NEW
        if same and not self._is_whole(datarange):
            return Verdict(clash=_missing(datarange))
        return Verdict(same=True) if same else Verdict(clash=refusal(source, existing))

    def _unnumbered(self, row: FileRow, numbers: Sequence[int], snapshot: Snapshot) -> Verdict:
        for number in numbers:
            datarange = snapshot.find(number)
            if datarange is None:
                continue
            names = self._manifest(datarange).names
            if names is None or names.path(number - datarange.first) != row.path:
                continue
            existing = self._existing(datarange, number)
            try:
                source = make_source(self._directory, row)
                if not is_candidate(source, existing):
                    continue
                if checksum(source) == existing.crc32 and self._is_whole(datarange):
                    return Verdict(same=True)
            except DasfsError:
                return NEW
        return NEW

    def _existing(self, datarange: Datarange, number: int) -> Existing:
        record = self._manifest(datarange).record(number - datarange.first)
        return Existing(number, record.extension, record.true_size, record.crc32)

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


def _missing(datarange: Datarange) -> DasfsError:
    span = f"{datarange.first}-{datarange.last}"
    return Corrupt(
        f"it is in the dataset, but the store does not have the objects of {span} as they were",
        hint="keep this file, and run 'dasfs dataset verify'",
    )
