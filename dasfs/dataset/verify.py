"""Reading every byte of a dataset and saying what is wrong with which datapoint.

Checked are: the three objects of each datarange and their sizes; the manifest's own checksum; each TAR
header (name, size, place, time) and each index entry against the manifest; the CRC-32 of each datapoint's
true bytes and of each block; the end of the TAR. Each TAR is read once, from start to end.
"""

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from isal import isal_zlib

from dasfs.dataset.model import Datarange, Snapshot
from dasfs.dataset.reader import ObjectFile
from dasfs.dataset.rebuild import build_manifest
from dasfs.errors import Corrupt, InvalidInput, NotFound, ObjectChanged, Unsupported
from dasfs.formats.compression import Codec, decompress
from dasfs.formats.index import IndexEntry, decode_index
from dasfs.formats.manifest import Manifest, Record
from dasfs.formats.segments import CHECKSUM_BLOCK_SIZE, BlockChecksums, Segment
from dasfs.formats.tar import BLOCK_SIZE, DatarangeMember, read_datarange
from dasfs.names import DatasetKeys
from dasfs.stores.base import MIB, Store

CHUNK_SIZE: Final = MIB
CRC_SIZE: Final = 4

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the datapoints `first..last`, found in the object `key`."""

    key: str
    first: int
    last: int
    message: str

    def __str__(self) -> str:
        numbers = f"datapoint {self.first}" if self.first == self.last else f"datapoints {self.first}-{self.last}"
        return f"{numbers}: {self.message} ({self.key})"


def verify(store: Store, dataset: str, snapshot: Snapshot, progress: Progress | None = None) -> Iterator[Problem]:
    """Yield the problems of all dataranges of `snapshot`, one datarange after another; none when all is well.

    `progress` is told the bytes of TAR that were read. Damage never ends it; a store that is away does
    (`StoreUnavailable`).
    """
    keys = DatasetKeys(dataset)
    for datarange in snapshot.dataranges:
        yield from verify_datarange(store, keys, datarange, progress)


def verify_datarange(
    store: Store, keys: DatasetKeys, datarange: Datarange, progress: Progress | None = None
) -> Iterator[Problem]:
    """Yield the problems of one datarange. Without a manifest there are no checksums."""
    key = keys.tar(datarange.id)
    if not datarange.manifest_size:
        try:
            build_manifest(store, keys, datarange.id, progress)
        except (Corrupt, NotFound, ObjectChanged) as error:
            yield _whole(datarange, key, error.message)
        return
    loaded = _load_manifest(store, keys, datarange)
    if isinstance(loaded, Problem):
        yield loaded
        return
    entries = _load_index(store, keys, datarange)
    if isinstance(entries, Problem):
        yield entries
        entries = [_entry(record) for record in loaded.iter_records()]
    try:
        yield from _TarCheck(keys, loaded, entries, progress).run(store)
    except (Corrupt, NotFound, ObjectChanged) as error:
        yield _whole(datarange, key, error.message)


def _whole(datarange: Datarange, key: str, message: str) -> Problem:
    return Problem(key, datarange.first, datarange.last, message)


def _load_manifest(store: Store, keys: DatasetKeys, datarange: Datarange) -> Manifest | Problem:
    key = keys.manifest(datarange.id)
    try:
        data = store.get(key)
        manifest = Manifest.decode(data, dataset=keys.dataset, id=datarange.id)
    except (Corrupt, NotFound, Unsupported) as error:
        return _whole(datarange, key, error.message)
    told = (datarange.manifest_size, datarange.tar_size, datarange.data_size)
    found = (len(data), manifest.tar_size, manifest.data_size)
    if told != found:
        return _whole(datarange, key, f"its sizes (manifest, TAR, data) are {found}, the log says {told}")
    return manifest


def _load_index(store: Store, keys: DatasetKeys, datarange: Datarange) -> list[IndexEntry] | Problem:
    key = keys.index(datarange.id)
    try:
        entries = decode_index(store.get(key))
    except (Corrupt, NotFound) as error:
        return _whole(datarange, key, error.message)
    if len(entries) != datarange.count:
        return _whole(datarange, key, f"it has {len(entries)} entries for {datarange.count} datapoints")
    return entries


def _entry(record: Record) -> IndexEntry:
    return IndexEntry(record.content_offset - BLOCK_SIZE, 1, record.stored_size)


class _TarCheck:
    """The check of one TAR object against its manifest and index. For one `run`."""

    def __init__(
        self, keys: DatasetKeys, manifest: Manifest, entries: list[IndexEntry], progress: Progress | None
    ) -> None:
        self._keys = keys
        self._key = keys.tar(manifest.id)
        self._manifest = manifest
        self._entries = entries
        self._blocks = _BlockCheck(manifest.segments, progress)
        self._blamed: set[int] = set()

    def run(self, store: Store) -> Iterator[Problem]:
        with ObjectFile(store, self._key, observe=self._blocks.observe) as file:
            if file.size != self._manifest.tar_size:
                yield self._problem(
                    0,
                    self._manifest.count - 1,
                    f"it has {file.size} bytes, the manifest says {self._manifest.tar_size}",
                )
            members = _members(file)
            for k, record in enumerate(self._manifest.iter_records()):
                if record.content_offset + record.stored_size > file.size:
                    yield self._problem(k, self._manifest.count - 1, "the TAR object ends before it")
                    return
                yield from self._check_datapoint(file, members, k, record)
            # What follows the last one is the end of the archive: read_datarange checks it when it is asked
            # for more.
            after = next(members, _END)
            if after is not _END:
                told = after if isinstance(after, str) else f"the member {after.member.name} behind it is too many"
                yield self._problem(self._manifest.count - 1, None, told)
            _read_rest(file)
        yield from self._bad_blocks()

    def _problem(self, k: int, last: int | None, message: str) -> Problem:
        first = self._manifest.id.first
        return Problem(self._key, first + k, first + (k if last is None else last), message)

    def _check_datapoint(
        self, file: BinaryIO, members: Iterator[DatarangeMember | str], k: int, record: Record
    ) -> Iterator[Problem]:
        found = next(members, None)
        problems = (
            _header_problem(self._manifest.id.first + k, record, found),
            _content_problem(file, record),
        )
        for message in problems:
            if message is not None:
                self._blamed.add(k)
                yield self._problem(k, None, message)
        entry = self._entries[k]
        if (entry.content_offset, entry.content_size) != (record.content_offset, record.stored_size):
            number = self._manifest.id.first + k
            message = (
                f"its index entry says {entry.content_size} bytes at {entry.content_offset}, "
                f"the manifest {record.stored_size} at {record.content_offset}"
            )
            yield Problem(self._keys.index(self._manifest.id), number, number, message)

    def _bad_blocks(self) -> Iterator[Problem]:
        """Yield the blocks whose damage no datapoint was blamed for: it is in a header or in padding."""
        offsets = [record.content_offset - BLOCK_SIZE for record in self._manifest.iter_records()]
        for start, end in self._blocks.bad:
            first = max(0, bisect.bisect_right(offsets, start) - 1)
            last = max(first, bisect.bisect_left(offsets, end) - 1)
            if self._blamed.isdisjoint(range(first, last + 1)):
                yield self._problem(first, last, f"bytes {start}-{end} of the TAR object fail their checksum")


class _BlockCheck:
    """Compares the blocks of all segments with their checksums while the TAR goes by."""

    def __init__(self, segments: tuple[Segment, ...], progress: Progress | None) -> None:
        self.bad: list[tuple[int, int]] = []
        self._segments = iter(segments)
        self._segment = next(self._segments, None)
        self._checksums = BlockChecksums()
        self._position = 0
        self._progress = progress

    def observe(self, window: memoryview) -> None:
        if self._progress is not None:
            self._progress(len(window))
        while window and self._segment is not None:
            end = self._segment.offset + self._segment.length
            part = window[: end - self._position]
            self._checksums.update(part)
            self._position += len(part)
            window = window[len(part) :]
            if self._position == end:
                self._compare(self._segment, self._checksums.finish())
                self._segment = next(self._segments, None)
                self._checksums = BlockChecksums()

    def _compare(self, segment: Segment, found: bytes) -> None:
        if found == segment.block_crcs:
            return
        end = segment.offset + segment.length
        for block in range(segment.block_count):
            place = slice(block * CRC_SIZE, (block + 1) * CRC_SIZE)
            if found[place] != segment.block_crcs[place]:
                start = segment.offset + block * CHECKSUM_BLOCK_SIZE
                self.bad.append((start, min(start + CHECKSUM_BLOCK_SIZE, end)))


# What `_members` yields when the TAR ended as it should.
_END: Final = "there is no member for it in the TAR"


def _members(file: BinaryIO) -> Iterator[DatarangeMember | str]:
    """Yield the members of the TAR; behind them `_END`, or a text that says why the next can't be read."""
    try:
        yield from read_datarange(file)
    except (Corrupt, InvalidInput, Unsupported) as error:
        yield error.message
    else:
        yield _END


def _header_problem(number: int, record: Record, found: DatarangeMember | str | None) -> str | None:
    """Say how a TAR header differs from the manifest. `found` is None behind one that was damaged."""
    if found is None or isinstance(found, str):
        return found
    member = found.member
    name = f"{number:020d}.{record.extension}{record.codec.suffix}"
    in_header = (str(found.name), member.size, member.content_offset, member.mtime)
    in_manifest = (name, record.stored_size, record.content_offset, record.mtime)
    if in_header == in_manifest:
        return None
    return f"its TAR header says (name, size, place, time) {in_header}, the manifest {in_manifest}"


def _content_problem(file: BinaryIO, record: Record) -> str | None:
    """Read one datapoint and say what is wrong with its bytes."""
    file.seek(record.content_offset)
    crc32 = 0
    if record.codec is Codec.NONE:
        left = record.stored_size
        while left:
            chunk = file.read(min(left, CHUNK_SIZE))
            crc32 = isal_zlib.crc32(chunk, crc32)
            left -= len(chunk)
    else:
        try:
            crc32 = isal_zlib.crc32(decompress(record.codec, file.read(record.stored_size), record.true_size))
        except Corrupt as error:
            return error.message
    return None if crc32 == record.crc32 else f"its CRC-32 is {crc32:08x} instead of {record.crc32:08x}"


def _read_rest(file: BinaryIO) -> None:
    while file.read(CHUNK_SIZE):
        pass
