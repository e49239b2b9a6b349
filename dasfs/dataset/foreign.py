"""Datasets that datas3t wrote: manifests for their dataranges, and their import into a log.

**Concurrency:** `build_manifest` may run for any number of dataranges at once. Of two imports of one dataset one wins.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO, Final

from dasfs.dataset.exclusive import put_new
from dasfs.dataset.listing import Listing, choose_live, list_dataranges
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot
from dasfs.dataset.reader import ObjectFile
from dasfs.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, Unsupported
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

    Its datapoints are taken as they are stored. Raises `Corrupt`, naming object and reason, where TAR, index and key do
    not fit each other: that is what a failed upload looks like. `progress` is told the bytes that were read.
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
        crc32 = zlib.crc32(chunk, crc32)
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


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A datarange that was not imported, and why."""

    id: DatarangeId
    reason: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import found. `left_out` stays in the store as it is."""

    snapshot: Snapshot
    left_out: tuple[LeftOut, ...]


def import_dataset(store: Store, dataset: str, progress: Progress | None = None) -> ImportReport:
    """Check every datarange of a dataset without a log, give each a manifest, and write the first commit.

    Done again after it was cut off, it goes on. A datarange that is damaged is left out, and another one that covers
    some of its datapoints takes its place. Raises `NotFound` when nothing can be imported, and `AlreadyExists` for a
    dataset that has a log.
    """
    log = CommitLog(store, dataset)
    if log.replay().revision > 0:
        raise AlreadyExists(f"dataset {dataset} has a log already", hint="'dasfs dataset log' shows it")
    listing = list_dataranges(store, log.keys)
    if not listing.objects:
        raise NotFound(f"there is no dataset {dataset} in {store.url}")
    good, left_out = _check_candidates(store, log.keys, listing, progress)
    if not good:
        reasons = "; ".join(f"{each.id}: {each.reason}" for each in left_out[:3])
        raise NotFound(f"dataset {dataset} has no datarange that can be imported ({reasons})")
    change = Change(Operation.IMPORT, add=good, last_counter=listing.last_counter)
    return ImportReport(log.begin(change), left_out)


def _check_candidates(
    store: Store, keys: DatasetKeys, listing: Listing, progress: Progress | None
) -> tuple[tuple[Datarange, ...], tuple[LeftOut, ...]]:
    """Return the dataranges to import and those that are left out.

    The rule chooses again without each one that turned out to be damaged, until all that it chooses are good.
    """
    reasons: dict[DatarangeId, str] = {
        each: f"its {' and '.join(sorted({'tar', 'index'} - set(kinds)))} object is missing"
        for each, kinds in listing.objects.items()
        if each not in listing.candidates
    }
    good: dict[DatarangeId, Datarange] = {}
    while True:
        chosen = choose_live(each for each in listing.candidates if each not in reasons)
        unchecked = [each for each in chosen if each not in good]
        if not unchecked:
            break
        for each in unchecked:
            try:
                good[each] = _check_candidate(store, keys, listing, each, progress)
            except (Corrupt, Unsupported) as error:
                reasons[each] = error.message
    for each in set(listing.candidates) - set(reasons) - set(chosen):
        reasons[each] = "another datarange holds its datapoints"
    return tuple(good[each] for each in chosen), tuple(LeftOut(each, reasons[each]) for each in sorted(reasons))


def _check_candidate(
    store: Store, keys: DatasetKeys, listing: Listing, datarange: DatarangeId, progress: Progress | None
) -> Datarange:
    """Return a datarange as it is to be committed, with a manifest in the store."""
    found = listing.datarange(datarange)
    if found.manifest_size:
        return _with_manifest(found, Manifest.decode(store.get(keys.manifest(datarange)), id=datarange))
    manifest = build_manifest(store, keys, datarange, progress)
    encoded = manifest.encode()
    put_new(store, keys.manifest(datarange), encoded)
    return replace(_with_manifest(found, manifest), manifest_size=len(encoded))


def _with_manifest(found: Datarange, manifest: Manifest) -> Datarange:
    if manifest.tar_size != found.tar_size:
        raise Corrupt(f"its TAR has {found.tar_size} bytes, its manifest says {manifest.tar_size}")
    return replace(found, data_size=manifest.data_size, named=manifest.names is not None)
