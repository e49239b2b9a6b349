"""How one TAR object is put together from others: what the store copies, and what passes through this machine. Pure.

The new TAR object is the bytes of the old ones, each without the 1,024 zeros at its end, and these zeros once. A store
copies stretches of at least `min_copy_size` (S3: 5 MiB) by itself, and every part of a multipart upload but the last
has at least that. So what is smaller is fetched. It is too small for a part, but it can be the last part of an object
of its own behind the tail of the large source before it, which the store copies there; and that object, a `Part` with
both, is copied into its place then. So a small run between large ones costs a few requests, and no byte of the large
ones is fetched. Only where a small run begins the whole, the head of the large source behind it makes up the part.

Parts and segments are two matters. A segment is a stretch of bytes in the object, whichever way they came there;
so a datarange whose head is fetched keeps its segments, with their identity and their checksums, and whoever has
its blocks cached goes on using them. Only neighbours below 5 MiB get one new segment together, for otherwise a
thousand dataranges of 10 kB would stay a thousand segments for ever: a file in each block cache and a partial block
for each of them. One small datarange between large ones keeps its segments as they do.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dasfs.errors import Corrupt
from dasfs.formats.segments import CHECKSUM_BLOCK_SIZE, BlockChecksums, Segment, block_count
from dasfs.names import DatarangeId
from dasfs.stores.base import MIB

# What S3 does not copy anyway; on stores that copy everything, the same dataranges are merged.
MERGE_BELOW: Final = 5 * MIB
_CRC_SIZE: Final = 4


@dataclass(frozen=True, slots=True)
class Stretch:
    """The bytes `[start, end)` of the TAR object of source number `source`."""

    source: int
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive bytes of the new TAR object: one stretch that the store copies, then some that are fetched.

    One that has both is a joint: it is made as an object of its own first, in which what is fetched is the last part.
    """

    copied: Stretch | None
    fetched: tuple[Stretch, ...] = ()

    @property
    def is_joint(self) -> bool:
        return self.copied is not None and bool(self.fetched)

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        return self.fetched if self.copied is None else (self.copied, *self.fetched)

    @property
    def fetched_length(self) -> int:
        return sum(each.length for each in self.fetched)

    @property
    def length(self) -> int:
        return sum(each.length for each in self.stretches)


@dataclass(frozen=True, slots=True)
class Work:
    """How many bytes the store copies, and how many pass through this machine."""

    copied: int
    fetched: int


def find_merged(lengths: Sequence[int]) -> list[range]:
    """Return the runs of two and more small sources, each of which becomes one new segment.

    `lengths` are those of the sources in bytes, without the zeros at their end.
    """
    runs: list[range] = []
    for source, length in enumerate(lengths):
        if length >= MERGE_BELOW:
            continue
        if runs and runs[-1].stop == source:
            runs[-1] = range(runs[-1].start, source + 1)
        else:
            runs.append(range(source, source + 1))
    return [run for run in runs if len(run) > 1]


def plan_parts(lengths: Sequence[int], min_copy_size: int) -> list[Part]:
    """Return the parts of the new TAR object, in order, without the zeros at its end.

    Each but the last has at least `min_copy_size` bytes, and so has each that is copied. Stretches that are fetched
    start at 0, and end at the end of the source or at a multiple of 256 KiB.
    """
    merged = {source for run in find_merged(lengths) for source in run}
    parts: list[Part] = []
    loose: list[Stretch] = []
    for source, length in enumerate(lengths):
        if source in merged or length < min_copy_size:
            loose.append(Stretch(source, 0, length))
            continue
        head = 0
        if 0 < sum(each.length for each in loose) < min_copy_size:
            if parts:
                parts[-1:] = _join(parts[-1], loose, min_copy_size)
                loose = []
            else:
                head = _head(sum(each.length for each in loose), length, min_copy_size)
                loose.append(Stretch(source, 0, head))
        if head < length:
            if loose:
                parts.append(Part(None, tuple(loose)))
                loose = []
            parts.append(Part(Stretch(source, head, length)))
    if loose:
        parts.append(Part(None, tuple(loose)))
    return parts


def _join(before: Part, loose: Sequence[Stretch], min_copy_size: int) -> list[Part]:
    """Return the parts for a copy and what is `loose` behind it: as little of the copy as possible is made twice."""
    assert before.copied is not None, "what is behind fetched bytes is loose with them, or a copy"
    whole = before.copied
    if whole.length < 2 * min_copy_size:
        return [Part(whole, tuple(loose))]
    cut = whole.end - min_copy_size
    return [Part(replace(whole, end=cut)), Part(replace(whole, start=cut), tuple(loose))]


def _head(loose: int, length: int, min_copy_size: int) -> int:
    """Return how much of the first large source has to be fetched, for `loose` bytes before it to make up a part."""
    head = -(-(min_copy_size - loose) // CHECKSUM_BLOCK_SIZE) * CHECKSUM_BLOCK_SIZE
    return head if length - head >= min_copy_size else length


def measure_work(parts: Sequence[Part]) -> Work:
    """Return what the parts cost."""
    fetched = sum(part.fetched_length for part in parts)
    return Work(sum(part.length for part in parts) - fetched, fetched)


def join_segments(
    id: DatarangeId,  # noqa: A002
    sources: Sequence[Sequence[Segment]],
    merged: Mapping[range, bytes],
) -> list[Segment]:
    """Return the segments of the new TAR object: those of its sources further on, and a new one for each merged run.

    `merged` has the block checksums of each run of `find_merged`.
    """
    runs = {run.start: (run, crcs) for run, crcs in merged.items()}
    segments: list[Segment] = []
    offset = source = 0
    while source < len(sources):
        if source in runs:
            run, block_crcs = runs[source]
            length = sum(_length(sources[each]) for each in run)
            segments.append(Segment(id, offset, offset, length, block_crcs))
            source, offset = run.stop, offset + length
        else:
            segments += (replace(each, offset=each.offset + offset) for each in sources[source])
            source, offset = source + 1, offset + _length(sources[source])
    return segments


def _length(segments: Sequence[Segment]) -> int:
    return segments[-1].offset + segments[-1].length


def end_of_block(segments: Sequence[Segment], end: int) -> int:
    """Return where the last block that holds bytes before `end` ends: what has to be read to check them."""
    for segment in segments:
        inside = end - segment.offset
        if 0 < inside <= segment.length:
            return segment.offset + min(block_count(inside) * CHECKSUM_BLOCK_SIZE, segment.length)
    return end


def check_blocks(segments: Sequence[Segment], data: memoryview, what: str) -> None:
    """Raise `Corrupt` unless `data`, which starts where `segments` do and ends with a block, fits their checksums."""
    for segment, part in _covered(segments, data):
        checksums = BlockChecksums()
        checksums.update(part)
        if checksums.finish() != segment.block_crcs[: block_count(len(part)) * _CRC_SIZE]:
            raise Corrupt(
                f"{what}: bytes {segment.offset}-{segment.offset + len(part)} fail their checksums",
                hint="run 'dasfs dataset verify'",
            )


def _covered(segments: Sequence[Segment], data: memoryview) -> Iterator[tuple[Segment, memoryview]]:
    for segment in segments:
        part = data[segment.offset : segment.offset + segment.length]
        if part:
            yield segment, part


def split_evenly(start: int, end: int, size: int) -> list[tuple[int, int]]:
    """Return `[start, end)` in pieces of at least `size` and less than twice as much; one, where it is shorter."""
    count = max(1, (end - start) // size)
    bounds = [start + (end - start) * i // count for i in range(count + 1)]
    return list(itertools.pairwise(bounds))
