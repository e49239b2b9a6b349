"""How a TAR object is put together: S3's rules for parts, the segments, and what has to be fetched."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.aggregation_parts import (
    MERGE_BELOW,
    Stretch,
    check_blocks,
    end_of_block,
    find_merged,
    join_segments,
    measure_work,
    plan_parts,
    split_evenly,
)
from dasfs.errors import Corrupt
from dasfs.formats.segments import CHECKSUM_BLOCK_SIZE, BlockChecksums, Segment, find_segment_problem
from tests.datasets import datarange_id

MIB = 1 << 20
LENGTHS = st.lists(st.one_of(st.integers(1, 4000), st.integers(2400, 100_000), st.just(12_800)).map(lambda n: n * 512))
MINIMA = st.sampled_from([0, 5 * MIB])


def crcs(data: bytes) -> bytes:
    checksums = BlockChecksums()
    checksums.update(data)
    return checksums.finish()


@given(LENGTHS, MINIMA)
def test_parts_are_the_sources_in_order(lengths: list[int], minimum: int) -> None:
    """The stretches of all parts are each source from its start to its end, one source after another."""
    parts = plan_parts(lengths, minimum)
    position = dict.fromkeys(range(len(lengths)), 0)
    order = []
    for stretch in (each for part in parts for each in part.stretches):
        assert stretch.start == position[stretch.source] < stretch.end
        position[stretch.source] = stretch.end
        order.append(stretch.source)
    assert order == sorted(order)
    assert list(position.values()) == lengths
    work = measure_work(parts)
    assert work.copied + work.fetched == sum(lengths)


@given(LENGTHS, MINIMA)
def test_parts_keep_the_rules_of_s3(lengths: list[int], minimum: int) -> None:
    """Every part but the last has 5 MiB, and so has every copy, also the last: what follows it are the zeros."""
    parts = plan_parts(lengths, minimum)
    assert all(part.length >= minimum for part in parts[:-1])
    assert all(part.copied.length >= minimum for part in parts if part.copied)
    assert not any(part.is_joint for part in parts[-1:])


@given(LENGTHS, MINIMA)
def test_of_large_ones_at_most_one_head_is_fetched(lengths: list[int], minimum: int) -> None:
    """However small and large ones alternate: of the first large one less than twice the minimum, of others nothing."""
    large = [source for source, length in enumerate(lengths) if length >= MERGE_BELOW]
    fetched = [
        stretch
        for part in plan_parts(lengths, minimum)
        for stretch in part.fetched
        if lengths[stretch.source] >= MERGE_BELOW
    ]
    assert all(stretch.source == large[0] and stretch.length <= 2 * minimum for stretch in fetched)
    if large[:1] == [0]:
        assert fetched == []


@given(LENGTHS, MINIMA)
def test_little_is_copied_twice(lengths: list[int], minimum: int) -> None:
    """A joint takes less than twice the minimum of the large one before it."""
    for part in plan_parts(lengths, minimum):
        if part.is_joint:
            assert part.copied is not None
            assert part.copied.length < 2 * minimum


@given(LENGTHS, MINIMA)
def test_a_merged_run_is_fetched_at_a_stretch(lengths: list[int], minimum: int) -> None:
    """The sources of a new segment are whole and next to each other within one part, so that its blocks are known."""
    parts = plan_parts(lengths, minimum)
    for run in find_merged(lengths):
        holders = [part for part in parts if any(each.source in run for each in part.stretches)]
        assert len(holders) == 1
        whole = [Stretch(source, 0, lengths[source]) for source in run]
        assert [each for each in holders[0].fetched if each.source in run] == whole


@given(LENGTHS)
def test_segments_cover_the_whole(lengths: list[int]) -> None:
    """Merged runs have a new identity, all others keep theirs, and together they cover the object without a gap."""
    if not lengths:
        return
    sources = []
    for number, length in enumerate(lengths):
        cut = length // 1024 * 512
        cuts = [(0, cut), (cut, length)] if cut else [(0, length)]
        sources.append(
            [Segment(datarange_id(number, number), a, a, b - a, b"1234" * -(-(b - a) // 262144)) for a, b in cuts]
        )
    runs = find_merged(lengths)
    merged = {run: b"abcd" * -(-sum(lengths[each] for each in run) // CHECKSUM_BLOCK_SIZE) for run in runs}
    new = datarange_id(0, len(lengths) - 1, 99)
    joined = join_segments(new, sources, merged)
    assert find_segment_problem(joined, sum(lengths) + 1024) is None
    kept = [(each.origin, each.origin_offset, each.length, each.block_crcs) for each in joined if each.origin != new]
    in_runs = {source for run in runs for source in run}
    assert kept == [
        (each.origin, each.origin_offset, each.length, each.block_crcs)
        for number, segments in enumerate(sources)
        if number not in in_runs
        for each in segments
    ]
    assert [each.block_crcs for each in joined if each.origin == new] == list(merged.values())


@pytest.mark.parametrize("end", [1, 1000, 262_144, 262_145, 300_000, 300_001, 800_000, 900_000])
def test_what_is_fetched_can_be_checked(end: int) -> None:
    """As much more is read as the last block needs, in the grid of its own segment; one wrong bit of it is noticed."""
    data = random.Random(end).randbytes(900_000)
    bounds = [(0, 300_000), (300_000, 900_000)]
    segments = [Segment(datarange_id(0, 0), a, a, b - a, crcs(data[a:b])) for a, b in bounds]
    needed = end_of_block(segments, end)
    assert end <= needed < end + CHECKSUM_BLOCK_SIZE
    read = bytearray(data[:needed])
    check_blocks(segments, memoryview(read), "key")
    read[end - 1] ^= 1
    with pytest.raises(Corrupt, match="fail their checksums"):
        check_blocks(segments, memoryview(read), "key")


@given(st.integers(0, 1000), st.integers(1, 10_000), st.integers(1, 500))
def test_pieces_are_neither_small_nor_large(start: int, length: int, size: int) -> None:
    """A fetched part goes to the store in pieces of the size and less than twice that, in order."""
    pieces = split_evenly(start, start + length, size)
    assert [piece[0] for piece in pieces] == [start, *(piece[1] for piece in pieces[:-1])]
    assert pieces[-1][1] == start + length
    if length >= size:
        assert all(size <= b - a < 2 * size for a, b in pieces)
    else:
        assert len(pieces) == 1
