"""Reading many datapoints in order: large ranges of TAR objects, several at a time, every byte checked.

**Concurrency:** `fetch` belongs to one thread, which uses what comes out; up to `jobs` others read windows
ahead of it. Memory is bounded by `2 * jobs` windows of 8 MiB, or by as many compressed datapoints, which are
decoded whole.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from isal import isal_zlib

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import Corrupt, NotFound
from dasfs.formats.compression import Codec, decompress
from dasfs.formats.manifest import Record
from dasfs.names import DatapointName, DatapointNumber
from dasfs.stores.base import MIB

# With 20 ms a request, 8 ranges of 8 MiB at once carry 655 MB/s, and 4 carry 407.
WINDOW_SIZE: Final = 8 * MIB
DEFAULT_JOBS: Final = 8


@dataclass(frozen=True, slots=True)
class Datapoint:
    """One datapoint of the dataset, and where it stands."""

    number: int
    record: Record
    original: str | None
    datarange: Datarange

    @property
    def name(self) -> str:
        return str(DatapointName(DatapointNumber(self.number), self.record.extension))


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of one TAR object that is read at once: whole datapoints, or a part of one.

    `start` is where the stretch begins in the stored content of the first datapoint, which is not 0 only for
    a later part of a large one.
    """

    datapoints: Sequence[Datapoint]
    start: int
    length: int

    @property
    def offset(self) -> int:
        return self.datapoints[0].record.content_offset + self.start


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one datapoint from `start` on. All of a small one; parts of a large one follow each other."""

    datapoint: Datapoint
    start: int
    data: bytes | memoryview
    last: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """The datapoints `first..last` of a dataset at one revision."""

    dataset: Dataset
    snapshot: Snapshot
    first: int
    last: int

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """The stretches that hold no datapoint."""
        return find_gaps(self.snapshot, self.first, self.last)

    @property
    def size(self) -> int:
        """About the sum of the true sizes: that of all dataranges that the selection touches."""
        return sum(each.data_size for each in self.snapshot.overlapping(self.first, self.last))

    def datapoints(self, *, names: bool = False) -> Iterator[Datapoint]:
        """Yield the datapoints in order; with their original paths only where `names` asks for them."""
        for datarange in self.snapshot.overlapping(self.first, self.last):
            manifest = self.dataset.load_manifest(datarange)
            start = max(self.first, datarange.first) - datarange.first
            end = min(self.last, datarange.last) - datarange.first + 1
            for k in range(start, end):
                original = manifest.original_name(k) if names else None
                yield Datapoint(datarange.first + k, manifest.record(k), original, datarange)


def find_gaps(snapshot: Snapshot, first: int, last: int) -> list[tuple[int, int]]:
    """Return the stretches of `first..last` that hold no datapoint. Pure."""
    gaps = []
    expected = first
    for datarange in snapshot.overlapping(first, last):
        if datarange.first > expected:
            gaps.append((expected, datarange.first - 1))
        expected = datarange.last + 1
    if expected <= last:
        gaps.append((expected, last))
    return gaps


def plan_windows(datapoints: Iterable[Datapoint], size: int = WINDOW_SIZE) -> Iterator[Window]:
    """Yield the windows that hold `datapoints`, which ascend. Pure.

    Neighbours share a window of at most `size` bytes. A larger datapoint is cut into parts, but for a
    compressed one, which is decoded as a whole.
    """
    group: list[Datapoint] = []
    for datapoint in datapoints:
        if group and not _fits(group, datapoint, size):
            yield _whole(group)
            group = []
        stored = datapoint.record.stored_size
        if stored > size and datapoint.record.codec is Codec.NONE:
            for start in range(0, stored, size):
                yield Window((datapoint,), start, min(size, stored - start))
        else:
            group.append(datapoint)
    if group:
        yield _whole(group)


def _fits(group: Sequence[Datapoint], datapoint: Datapoint, size: int) -> bool:
    last, record = group[-1], datapoint.record
    follows = datapoint.number == last.number + 1 and datapoint.datarange.id == last.datarange.id
    return follows and record.content_offset + record.stored_size - group[0].record.content_offset <= size


def _whole(group: Sequence[Datapoint]) -> Window:
    last = group[-1].record
    return Window(group, 0, last.content_offset + last.stored_size - group[0].record.content_offset)


def fetch(
    dataset: Dataset, datapoints: Iterable[Datapoint], *, stored: bool = False, jobs: int = DEFAULT_JOBS
) -> Iterator[Piece]:
    """Yield the content of `datapoints`, which ascend: their true bytes, or with `stored` what the TAR holds.

    Every datapoint is checked against its CRC-32; of one larger than a window, the last piece comes only
    after that. Raises `Corrupt`, naming the datapoint, and what the store raises.
    """
    crc32 = 0
    for piece in itertools.chain.from_iterable(_read_windows(dataset, plan_windows(datapoints), stored, jobs)):
        record = piece.datapoint.record
        if piece.start or not piece.last:  # a part; whole ones were checked where they were read
            crc32 = isal_zlib.crc32(piece.data, crc32 if piece.start else 0)
            if piece.last and crc32 != record.crc32:
                raise _damaged(dataset, piece.datapoint)
        yield piece


def _read_windows(dataset: Dataset, windows: Iterator[Window], stored: bool, jobs: int) -> Iterator[list[Piece]]:
    """Yield the pieces of each window, in order, reading others meanwhile."""
    pending: deque[Future[list[Piece]]] = deque()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="dasfs-fetch")
    try:
        for window in windows:
            pending.append(pool.submit(_read_window, dataset, window, stored))
            if len(pending) >= 2 * jobs:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_window(dataset: Dataset, window: Window, stored: bool) -> list[Piece]:
    buffer = memoryview(bytearray(window.length))
    first = window.datapoints[0]
    if window.length:
        key = dataset.keys.tar(first.datarange.id)
        try:
            dataset.store.read_into(key, window.offset, buffer)
        except NotFound:
            # Not "not found": the datapoints exist, they can't be read.
            raise Corrupt(f"{key} is missing", hint=f"run 'dasfs dataset verify {dataset.name}'") from None
    if window.start or window.length < first.record.stored_size:
        return [Piece(first, window.start, buffer, window.start + window.length == first.record.stored_size)]
    pieces = []
    for datapoint in window.datapoints:
        offset = datapoint.record.content_offset - window.offset
        content = buffer[offset : offset + datapoint.record.stored_size]
        data = _check(dataset, datapoint, content)
        pieces.append(Piece(datapoint, 0, content if stored else data, True))
    return pieces


def _check(dataset: Dataset, datapoint: Datapoint, content: memoryview) -> bytes | memoryview:
    """Return the true bytes of one whole datapoint; raise `Corrupt` where they are not what was written."""
    record = datapoint.record
    data: bytes | memoryview = content
    if record.codec is not Codec.NONE:
        try:
            data = decompress(record.codec, content, record.true_size)
        except Corrupt as error:
            raise _damaged(dataset, datapoint) from error
    if isal_zlib.crc32(data) != record.crc32:
        raise _damaged(dataset, datapoint)
    return data


def _damaged(dataset: Dataset, datapoint: Datapoint) -> Corrupt:
    return Corrupt(
        f"datapoint {datapoint.number} of {dataset.name} is damaged: its checksum is wrong",
        hint=f"run 'dasfs dataset verify {dataset.name}'",
    )
