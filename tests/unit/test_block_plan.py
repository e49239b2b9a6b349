"""The decisions of the block cache, against the plainest way to say what they must be."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dasfs.cache.plan import (
    BLOCK_SIZE,
    Evictions,
    block_length,
    block_span,
    choose_evictions,
    count_ticks,
    even_share,
    find_victims,
    has_victims,
    plan_blocks,
)

# A segment's blocks: whether each is there, and when it was used.
segments = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=40).map(
    lambda blocks: ([state for state, _ in blocks], [used for _, used in blocks])
)


@given(st.integers(0, 10 * BLOCK_SIZE), st.integers(1, 5 * BLOCK_SIZE))
def test_a_span_covers_the_range_and_no_more(start: int, size: int) -> None:
    """Every byte's block is in the span, and its first and last block hold a byte of the range."""
    span = block_span(start, start + size)
    assert span.start * BLOCK_SIZE <= start < (span.start + 1) * BLOCK_SIZE
    assert (span.stop - 1) * BLOCK_SIZE < start + size <= span.stop * BLOCK_SIZE


@given(st.integers(1, 1000), st.integers(4, 64))
def test_a_stretch_is_shared_by_eight(missing: int, most: int) -> None:
    """Eight GETs bring a stretch, more where they would be too large, fewer where they would be below 1 MiB."""
    share = even_share(missing, most)
    assert share * BLOCK_SIZE >= 1 << 20
    assert share <= most
    assert share * 8 >= missing or share == most


def test_only_the_last_block_is_short() -> None:
    """The blocks of a segment add up to its length."""
    length = 3 * BLOCK_SIZE + 17
    assert [block_length(block, length) for block in range(4)] == [BLOCK_SIZE] * 3 + [17]


@given(st.sets(st.integers(0, 200)), st.integers(1, 12))
def test_every_missing_block_is_fetched_once_and_nothing_else(missing: set[int], max_blocks: int) -> None:
    """Stretches ascend, hold the missing blocks exactly, and are within the limit."""
    stretches = plan_blocks(sorted(missing), max_blocks)
    assert [block for stretch in stretches for block in stretch] == sorted(missing)
    assert all(1 <= len(stretch) <= max_blocks for stretch in stretches)


@given(st.sets(st.integers(0, 200)), st.integers(1, 12))
def test_neighbours_come_in_one_get(missing: set[int], max_blocks: int) -> None:
    """Two stretches that touch are apart only because the first is as long as allowed."""
    stretches = plan_blocks(sorted(missing), max_blocks)
    for left, right in pairwise(stretches):
        assert left.stop < right.start or len(left) == max_blocks


@given(st.lists(segments, max_size=6), st.integers(1, 100))
def test_the_oldest_blocks_go_and_as_many_as_wanted(cache: list[tuple[list[int], list[int]]], wanted: int) -> None:
    """Over all segments exactly the wanted number goes, and none that stays was used before one that goes."""
    ticks: Counter[int] = Counter()
    for states, used in cache:
        ticks += count_ticks(states, used, whole=False)
    choice = choose_evictions(ticks, wanted)
    gone: list[int] = []
    kept: list[int] = []
    for states, used in cache:
        blocks, ties = find_victims(states, used, choice, whole=False)
        assert has_victims(states, used, choice) or not blocks
        choice = Evictions(choice.before, choice.ties - ties)
        assert blocks == sorted(blocks)
        for block, state in enumerate(states):
            if state:
                (gone if block in blocks else kept).append(used[block])
            else:
                assert block not in blocks
    assert len(gone) == min(wanted, ticks.total())
    assert not gone or not kept or max(gone) <= min(kept)


@given(st.lists(segments, max_size=6), st.integers(1, 100))
def test_whole_segments_go_together(cache: list[tuple[list[int], list[int]]], wanted: int) -> None:
    """Where blocks can't go one by one, a segment goes whole or stays, and enough of them go."""
    ticks: Counter[int] = Counter()
    for states, used in cache:
        ticks += count_ticks(states, used, whole=True)
    choice = choose_evictions(ticks, wanted)
    count = 0
    for states, used in cache:
        blocks, ties = find_victims(states, used, choice, whole=True)
        assert has_victims(states, used, choice) or not blocks
        choice = Evictions(choice.before, max(0, choice.ties - ties))
        assert blocks in ([], [block for block, state in enumerate(states) if state])
        count += len(blocks)
    assert count >= min(wanted, ticks.total())
