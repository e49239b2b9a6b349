"""The manifest of a datarange that has none, from one reading of its TAR.

**Concurrency:** any number of them may be built at once.
"""

from collections.abc import Callable
from typing import BinaryIO, Final

from isal import isal_zlib

from dasfs.dataset.reader import ObjectFile
from dasfs.errors import Corrupt, InvalidInput, Unsupported
from dasfs.formats.compression import Codec
from dasfs.formats.index import IndexEntry, decode_index, expected_tar_size
from dasfs.formats.manifest import Manifest, ManifestBuilder
from dasfs.formats.segments import BlockChecksums, Segment
from dasfs.formats.tar import END_OF_ARCHIVE, DatarangeMember, read_datarange
from dasfs.names import DatarangeId, DatasetKeys
from dasfs.stores.base import MIB, Store

CHUNK_SIZE: Final = MIB

Progress = Callable[[int], None]


def build_manifest(
    store: Store, keys: DatasetKeys, datarange: DatarangeId, progress: Progress | None = None
) -> Manifest:
    """Return the manifest of a datarange that has none, by reading its TAR once.

    Its datapoints are taken as they are stored. Raises `Corrupt`, naming object and reason, where TAR,
    index and key do not fit each other: that is what a failed upload looks like. `progress` is told the
    bytes that were read.
    """
    entries = _read_index(store, keys, datarange)
    key = keys.tar(datarange)
    checksums = _TarChecksums(progress)
    with ObjectFile(store, key, observe=checksums.observe) as file:
        checksums.data_size = file.size - len(END_OF_ARCHIVE)
        if file.size != expected_tar_size(entries):
            raise Corrupt(f"{key}: it has {file.size} bytes, its index asks for {expected_tar_size(entries)}")
        builder = ManifestBuilder(keys.dataset)
        count = 0
        try:
            for expected, found in zip(entries, read_datarange(file), strict=True):
                _check_member(datarange.first + count, expected, found)
                _describe(builder, file, found)
                count += 1
        except (Corrupt, InvalidInput, Unsupported, ValueError) as error:
            # ValueError is zip's: more members than entries of the index, or fewer.
            reason = getattr(error, "message", f"it does not hold {len(entries)} datapoints, as its index says")
            raise Corrupt(f"{key}: {reason}") from error
        segment = Segment(datarange, 0, 0, checksums.data_size, checksums.finish())
        return builder.build(datarange, file.size, (segment,))


def _read_index(store: Store, keys: DatasetKeys, datarange: DatarangeId) -> list[IndexEntry]:
    key = keys.index(datarange)
    try:
        entries = decode_index(store.get(key))
    except Corrupt as error:
        raise Corrupt(f"{key}: {error.message}") from error
    count = datarange.last - datarange.first + 1
    if len(entries) != count:
        raise Corrupt(f"{key}: it has {len(entries)} entries for {count} datapoints")
    return entries


def _check_member(number: int, expected: IndexEntry, found: DatarangeMember) -> None:
    member = found.member
    if found.name.number != number:
        raise Corrupt(f"{member.name}: expected number {number}")
    # Its first header block or the last one: other programs may not count extended headers.
    if (expected.content_offset, expected.content_size) != (member.content_offset, member.size):
        raise Corrupt(
            f"{member.name}: the index says {expected.content_size} bytes at {expected.content_offset}, "
            f"the TAR has {member.size} at {member.content_offset}"
        )


def _describe(builder: ManifestBuilder, file: BinaryIO, found: DatarangeMember) -> None:
    """Add what the TAR says about one datapoint."""
    member = found.member
    crc32, left = 0, member.size
    file.seek(member.content_offset)
    while left:
        chunk = file.read(min(left, CHUNK_SIZE))
        crc32 = isal_zlib.crc32(chunk, crc32)
        left -= len(chunk)
    builder.add(
        content_offset=member.content_offset,
        stored_size=member.size,
        true_size=member.size,
        mtime=member.mtime,
        crc32=crc32,
        extension=found.name.extension,
        codec=Codec.NONE,
        original_name=None,
    )


class _TarChecksums:
    """Block checksums of a TAR object up to its 1,024 zero bytes, from the windows as they come in."""

    def __init__(self, progress: Progress | None) -> None:
        self.data_size = 0
        self._checksums = BlockChecksums()
        self._seen = 0
        self._progress = progress

    def observe(self, window: memoryview) -> None:
        self._checksums.update(window[: max(0, self.data_size - self._seen)])
        self._seen += len(window)
        if self._progress is not None:
            self._progress(len(window))

    def finish(self) -> bytes:
        return self._checksums.finish()
