"""The manifest of a datarange: what its index can't say.

All numbers are big-endian. Record k is found without parsing the others.

    bytes  field
        8  magic "DASFSMAN"
        2  version: 1
        2  flags: bit 0, there is a table of names; the others are 0
        8  first datapoint number
        8  last datapoint number; there are last - first + 1 records
        8  counter
        8  size of the TAR object
        2  number of extensions
        4  number of segments
        8  size of the bytes of the table of names, without its offsets; 0 where there is none
    1 + n  dataset: length and ASCII name
    1 + n  each extension: length and UTF-8 (undecodable bytes of file names as they were)

        8  each record: offset of the content in the TAR object
        8    stored size: what the TAR member holds
        8    true size: the same, but for compressed datapoints; of those at most 64 MiB
        8    mtime, seconds since 1970, signed
        4    CRC-32 of the true bytes
        2    extension number, from 0
        1    codec: 0 none, 1 zstd, 2 lz4
        1    0

        4  each of count + 1 offsets into the bytes of the table of names (only with flag 0)
        n  original paths as the file system has them, one after another; empty: that datapoint has none

        8  each segment: first number of its origin
        8    last number of its origin
        8    counter of its origin
        8    offset in the TAR object of its origin
        8    offset in this TAR object
        8    length
    4 * n    CRC-32 of each 256 KiB of it

        4  CRC-32 of everything before

The segments cover the TAR object from 0 to its 1,024 zero bytes at the end, which belong to none, so that
aggregation concatenates segments unchanged.
"""

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from isal import isal_zlib

from dasfs.errors import Corrupt, InvalidInput, Unsupported
from dasfs.formats.compression import Codec
from dasfs.formats.records import (
    RECORD,
    RECORD_SIZE,
    NamesTable,
    Record,
    find_name_problem,
    find_record_problem,
    sum_true_sizes,
)
from dasfs.formats.segments import (
    CHECKSUM_BLOCK_SIZE,
    BlockChecksums,
    Segment,
    block_count,
    find_segment_problem,
)
from dasfs.names import MAX_NUMBER, DatapointNumber, DatarangeId, check_dataset_name, check_extension

__all__ = [
    "CHECKSUM_BLOCK_SIZE",
    "RECORD",
    "RECORD_SIZE",
    "BlockChecksums",
    "Manifest",
    "ManifestBuilder",
    "NamesTable",
    "Record",
    "Segment",
]

MAGIC: Final = b"DASFSMAN"
VERSION: Final = 1
MAX_EXTENSIONS: Final = 2**16 - 1

_HAS_NAMES: Final = 1
_PREAMBLE = struct.Struct(">8sH")
_HEADER = struct.Struct(">8sHHQQQQHIQ")
_SEGMENT = struct.Struct(">QQQQQQ")
_CRC = struct.Struct(">I")
_CODECS: Final = tuple(Codec)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One manifest. Datapoint k has the number `id.first + k`; `records` are `count` packed `RECORD`s."""

    dataset: str
    id: DatarangeId
    tar_size: int
    extensions: tuple[str, ...]
    records: bytes
    names: NamesTable | None
    segments: tuple[Segment, ...]

    @property
    def count(self) -> int:
        """How many datapoints there are."""
        return self.id.last - self.id.first + 1

    @property
    def data_size(self) -> int:
        """The sum of the true sizes. Computed anew each time: some 60 ms for a million datapoints."""
        return sum_true_sizes(self.records)

    def record(self, k: int) -> Record:
        """Return the record of datapoint k, `0 <= k < count`."""
        return self._record(RECORD.unpack_from(self.records, self._checked(k) * RECORD_SIZE))

    def iter_records(self) -> Iterator[Record]:
        """Yield all records in order."""
        return map(self._record, RECORD.iter_unpack(self.records))

    def original_name(self, k: int) -> str | None:
        """Return the path that datapoint k was put under, or None where it had its number already."""
        path = self.names.path(self._checked(k)) if self.names else b""
        return os.fsdecode(path) if path else None

    def _record(self, fields: tuple[int, ...]) -> Record:
        offset, stored_size, true_size, mtime, crc32, extension, codec = fields
        return Record(offset, stored_size, true_size, mtime, crc32, self.extensions[extension], _CODECS[codec])

    def _checked(self, k: int) -> int:
        if not 0 <= k < self.count:
            raise IndexError(f"datapoint {k} of a manifest of {self.count}")
        return k

    def encode(self) -> bytes:
        """Return the manifest object. The same manifest gives the same bytes."""
        parts = [
            _HEADER.pack(
                MAGIC,
                VERSION,
                _HAS_NAMES if self.names else 0,
                self.id.first,
                self.id.last,
                self.id.counter,
                self.tar_size,
                len(self.extensions),
                len(self.segments),
                len(self.names.names) if self.names else 0,
            ),
            _encode_text(self.dataset),
            *map(_encode_text, self.extensions),
            self.records,
        ]
        if self.names:
            parts += [self.names.offsets, self.names.names]
        for segment in self.segments:
            origin = segment.origin
            where = (segment.origin_offset, segment.offset, segment.length)
            parts += [_SEGMENT.pack(origin.first, origin.last, origin.counter, *where), segment.block_crcs]
        body = b"".join(parts)
        return body + _CRC.pack(isal_zlib.crc32(body))

    @classmethod
    def decode(
        cls,
        data: bytes | memoryview,
        *,
        dataset: str | None = None,
        id: DatarangeId | None = None,  # noqa: A002
    ) -> "Manifest":
        """Return the manifest that an object holds, with every promise of the format checked.

        Takes some 0.4 s for a million datapoints. Raises `Unsupported` for another version, `Corrupt` for
        what `encode` can't have written, and when it is not the manifest of `dataset` or `id`, where they
        are given.
        """
        view = memoryview(data)
        try:
            _check_envelope(view)
            manifest = _decode_body(_Cursor(view[: -_CRC.size]))
            problem = find_problem(manifest)
        except (Corrupt, Unsupported) as error:
            message = f"the manifest{f' of {id}' if id else ''}: {error.message}"
            raise type(error)(message, hint=error.hint) from None
        if problem is None and dataset not in (None, manifest.dataset):
            problem = f"it belongs to dataset {manifest.dataset!r}, not {dataset!r}"
        if problem is None and id not in (None, manifest.id):
            problem = f"it stands under the key of {id}"
        if problem is not None:
            raise Corrupt(f"the manifest of {manifest.id}: {problem}")
        return manifest


def _encode_text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return bytes((len(raw),)) + raw


class _Cursor:
    """Reads one field after another. What lies beyond the end is `Corrupt`, before memory is taken for it."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def take(self, size: int, what: str) -> bytes:
        if size > self.left:
            raise Corrupt(f"it is too short: {what} should have {size} bytes at {self._position}, {self.left} are left")
        self._position += size
        return bytes(self._view[self._position - size : self._position])

    def text(self, what: str) -> str:
        return self.take(self.take(1, what)[0], what).decode("utf-8", "surrogateescape")

    @property
    def left(self) -> int:
        return len(self._view) - self._position


def _check_envelope(view: memoryview) -> None:
    """Check magic, version and checksum, in this order: another version may have its checksum elsewhere."""
    if len(view) < _HEADER.size + _CRC.size:
        raise Corrupt(f"{len(view)} bytes are too few")
    magic, version = _PREAMBLE.unpack_from(view)
    if magic != MAGIC:
        raise Corrupt(f"it begins with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise Unsupported(f"it has version {version}, this dasfs reads version {VERSION}", hint="update dasfs")
    (expected,) = _CRC.unpack(view[-_CRC.size :])
    if isal_zlib.crc32(view[: -_CRC.size]) != expected:
        raise Corrupt("its checksum is wrong")


def _decode_body(cursor: _Cursor) -> Manifest:
    fields = _HEADER.unpack(cursor.take(_HEADER.size, "the header"))
    flags, first, last, counter, tar_size, extension_count, segment_count, names_size = fields[2:]
    if flags & ~_HAS_NAMES or (names_size and not flags):
        raise Corrupt(f"its flags {flags:#x} are not those of version {VERSION}")
    if not first <= last <= MAX_NUMBER:
        raise Corrupt(f"its range {first}-{last} is impossible")
    dataset = cursor.text("the dataset")
    extensions = tuple(cursor.text("an extension") for _ in range(extension_count))
    count = last - first + 1
    records = cursor.take(count * RECORD_SIZE, "the records")
    names = None
    if flags & _HAS_NAMES:
        names = NamesTable(
            cursor.take((count + 1) * 4, "the offsets of the names"), cursor.take(names_size, "the names")
        )
    segments = tuple(_decode_segment(cursor) for _ in range(segment_count))
    if cursor.left:
        raise Corrupt(f"{cursor.left} bytes follow its last segment")
    range_id = DatarangeId(DatapointNumber(first), DatapointNumber(last), counter)
    return Manifest(dataset, range_id, tar_size, extensions, records, names, segments)


def _decode_segment(cursor: _Cursor) -> Segment:
    first, last, counter, origin_offset, offset, length = _SEGMENT.unpack(cursor.take(_SEGMENT.size, "a segment"))
    origin = DatarangeId(DatapointNumber(first), DatapointNumber(last), counter)
    crcs = cursor.take(block_count(length) * _CRC.size, "the checksums of a segment")
    return Segment(origin, origin_offset, offset, length, crcs)


def find_problem(manifest: Manifest) -> str | None:
    """Return the first promise of the format that `manifest` breaks, as one line, or None. Pure."""
    try:
        check_dataset_name(manifest.dataset)
        for extension in manifest.extensions:
            check_extension(extension)
    except InvalidInput as error:
        return error.message
    if len(set(manifest.extensions)) != len(manifest.extensions):
        return "an extension is listed twice"
    if not 0 <= manifest.tar_size <= MAX_NUMBER:
        return f"its TAR size {manifest.tar_size} is impossible"
    return (
        find_record_problem(manifest.records, manifest.id, len(manifest.extensions), manifest.tar_size)
        or (manifest.names and find_name_problem(manifest.names, manifest.count))
        or find_segment_problem(manifest.segments, manifest.tar_size)
    )


@dataclass(slots=True)
class ManifestBuilder:
    """A manifest that grows by one datapoint at a time, in the order of the TAR object."""

    dataset: str
    _records: bytearray = field(default_factory=bytearray, init=False)
    _extensions: dict[str, int] = field(default_factory=dict, init=False)
    _names: bytearray = field(default_factory=bytearray, init=False)
    _name_offsets: "array[int]" = field(default_factory=lambda: array("Q", (0,)), init=False)

    @property
    def extension_count(self) -> int:
        return len(self._extensions)

    def add(
        self,
        *,
        content_offset: int,
        stored_size: int,
        true_size: int,
        mtime: int,
        crc32: int,
        extension: str,
        codec: Codec,
        original_name: str | None,
    ) -> None:
        """Add the next datapoint. Raises `InvalidInput` for a number, name or extension that has no room."""
        number = self._extensions.get(extension)
        if number is None:
            number = self._add_extension(extension)
        try:
            record = RECORD.pack(content_offset, stored_size, true_size, mtime, crc32, number, codec)
            name = os.fsencode(original_name) if original_name else b""
        except (struct.error, UnicodeEncodeError) as error:
            raise InvalidInput(f"a datapoint does not fit a manifest: {error}") from error
        self._records += record
        self._names += name
        self._name_offsets.append(len(self._names))

    def _add_extension(self, extension: str) -> int:
        if len(self._extensions) == MAX_EXTENSIONS:
            raise InvalidInput(f"a datarange has more than {MAX_EXTENSIONS} extensions", hint="make it smaller")
        check_extension(extension)
        return self._extensions.setdefault(extension, len(self._extensions))

    def build(self, id: DatarangeId, tar_size: int, segments: Sequence[Segment]) -> Manifest:  # noqa: A002
        """Return the manifest. Raises `InvalidInput` when what was added does not make one."""
        names = None
        if self._names:
            if len(self._names) >= 2**32:
                raise InvalidInput("the original names of a datarange take 4 GiB and more", hint="make it smaller")
            offsets = struct.pack(f">{len(self._name_offsets)}I", *self._name_offsets)
            names = NamesTable(offsets, bytes(self._names))
        extensions = tuple(self._extensions)
        manifest = Manifest(self.dataset, id, tar_size, extensions, bytes(self._records), names, tuple(segments))
        problem = find_problem(manifest)
        if problem is not None:
            raise InvalidInput(f"the manifest of {id}: {problem}")
        return manifest
