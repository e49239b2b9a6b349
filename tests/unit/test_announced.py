"""What is fetched ahead of an announced order: the rules, without any I/O."""

import random
from array import array
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dasfs.cache.plan import BLOCK_SIZE
from dasfs.dataset.model import Snapshot, nothing
from dasfs.fuse.announced import (
    MAX_BATCH,
    MAX_CHUNKS,
    MIN_BATCH,
    REACH,
    RECENT,
    Batch,
    Limits,
    ListOrder,
    SpanOrder,
    Window,
    count_gaps,
    covers,
)
from dasfs.fuse.order import SnapshotOrder
from tests.datasets import datarange

UNBOUNDED = Limits(1 << 60, 1 << 40)


def snapshot(*spans: tuple[int, int]) -> Snapshot:
    return replace(nothing("set"), dataranges=tuple(datarange(*span) for span in spans), deleted=False)


def numbers(*values: int) -> "array[int]":
    return array("q", values)


# Orders


def test_a_range_has_the_numbers_that_there_are() -> None:
    """A range over gaps is its live numbers in order, however many numbers it names that do not exist."""
    order = SpanOrder.of(snapshot((0, 4), (5, 9), (20, 29), (10**18, 10**18 + 1)), 3, 2**63 - 1)
    there = [*range(3, 10), *range(20, 30), 10**18, 10**18 + 1]
    assert [order.number_at(place) for place in range(len(order))] == there
    assert [order.place_of(number) for number in there] == list(range(len(there)))
    assert [order.place_of(number) for number in (0, 2, 10, 19, 30, 10**18 + 2)] == [None] * 6


def test_a_range_of_nothing_is_empty() -> None:
    """A range that lies in a gap, or in an empty dataset, has no places."""
    assert len(SpanOrder.of(snapshot((0, 4), (20, 29)), 5, 19)) == 0
    assert len(SpanOrder.of(snapshot(), 0, 2**63 - 1)) == 0


@given(st.lists(st.integers(0, 50), min_size=1, max_size=300), st.data())
def test_a_list_finds_the_nearest_place(values: list[int], data: st.DataObject) -> None:
    """Of the places of a number that are looked up, the nearest to where the readers are is meant."""
    order = ListOrder(numbers(*values))
    for _ in range(5):
        near = data.draw(st.integers(0, len(values) - 1))
        order.move(near)
        assert order.place_of(values[near]) is not None
        for number in range(51):
            place = order.place_of(number)
            assert place is None or values[place] == number
    order.move(near)
    assert order.place_of(values[near]) == near or values.count(values[near]) > 1


def test_several_epochs_in_one_list() -> None:
    """A reader that goes through a list with each number once an epoch is always found where it is."""
    epochs = [random.Random(seed).sample(range(1000), 1000) for seed in range(20)]
    order = ListOrder(numbers(*(number for epoch in epochs for number in epoch)))
    for place in range(len(order)):
        order.move(max(place - 24, 0))
        assert order.place_of(order.number_at(place)) == place or place % 1000 < 48


def test_a_list_looks_around_its_readers_only() -> None:
    """What is far away is not looked up by its number, so that memory does not grow with the list."""
    count = 5 * REACH
    order = ListOrder(array("q", range(count)))
    assert order.place_of(count - 1) is None
    assert order.find(count - 1, 0, count) == count - 1
    assert order.find(count, 0, count) is None
    order.move(count - 1)
    assert order.place_of(count - 1) == count - 1
    assert order.place_of(0) is None


def test_one_number_again_and_again() -> None:
    """A list that has only one number costs no more than another one."""
    order = ListOrder(array("q", [7] * 100_000))
    for place in (0, 1, 2, 50_000, 99_999, 3):
        order.move(place)
        found = order.place_of(7)
        assert found is not None
        assert abs(found - place) <= MAX_CHUNKS


def test_gaps_are_counted() -> None:
    """Numbers before, between and behind what exists are gaps, each time they are named."""
    assert count_gaps(snapshot((5, 9), (20, 29)), numbers(4, 5, 9, 10, 10, 19, 20, 29, 30)) == 5
    assert count_gaps(snapshot((5, 9)), numbers(9, 5)) == 0
    assert count_gaps(snapshot((5, 9)), numbers(9, 4)) == 1
    assert count_gaps(snapshot(), numbers(1)) == 1


def test_what_reads_a_whole_dataset() -> None:
    """A shuffled epoch and several of them read all of it; a range, a part and a part many times don't."""
    count = 50_000
    shuffled = random.Random(1).sample(range(count), count)
    assert covers(ListOrder(numbers(*shuffled)), count)
    assert covers(ListOrder(numbers(*shuffled * 3)), count)
    assert covers(SnapshotOrder.of(snapshot((0, count - 1)), 7), count)
    assert not covers(ListOrder(numbers(*shuffled[: count // 3])), count)
    assert not covers(ListOrder(numbers(*shuffled[: count // 10] * 10)), count)
    assert not covers(SpanOrder.of(snapshot((0, count - 1)), 0, count), count)


# The window


def planned(window: Window, count: int, size: int = 1) -> None:
    for _ in range(count):
        window.add(size)


def test_one_reader_in_order_moves_the_window() -> None:
    """The position follows a reader closely, and what it leaves behind makes room for more."""
    window = Window(10_000)
    planned(window, 1000, 10)
    for place in range(600):
        window.note(place)
    assert window.position == 600
    assert window.size == (1000 - window.position) * 10


@settings(max_examples=25)
@given(st.integers(1, 16), st.integers(1, 256), st.integers(0, 1000))
def test_workers_that_share_batches(workers: int, batch: int, seed: int) -> None:
    """Workers that each read every n-th batch, at somewhat different speeds, never lose the window, nor move it ahead
    of the last of them."""
    window = Window(1_000_000)
    planned(window, 100_000)
    source = random.Random(seed)
    done = [0] * workers
    for _ in range(1000):
        # Nobody is a batch behind or ahead of the others: the job waits for batches in order.
        behind = min(done) + batch
        worker = source.choice([each for each in range(workers) if done[each] < behind])
        turn, place = divmod(done[worker], batch)
        done[worker] += 1
        window.note((turn * workers + worker) * batch + place)
        reached = max((d // batch * workers + w) * batch + d % batch for w, d in enumerate(done))
        assert window.position <= reached + 1
    assert window.leaps == 0
    assert reached - window.position <= 2 * workers * batch + RECENT


def test_a_stray_read_moves_nothing() -> None:
    """A file that somebody else looks at, far ahead or far behind, leaves the window where it is."""
    window = Window(1_000_000)
    planned(window, 2000)
    for place in range(1000):
        window.note(place)
        if place % 10 == 5:
            window.note(900_000)
    assert window.leaps == 0
    assert window.position > 900
    for place in range(1000, 1900):
        window.note(place)
        if place % 10 == 5:
            window.note(3)
    assert window.position > 1800


@pytest.mark.parametrize(("begin", "then"), [(0, 500_000), (900_000, 0), (999_000, 10), (0, 200_000)])
def test_a_leap_is_followed(begin: int, then: int) -> None:
    """Readers that go on elsewhere are followed after `RECENT` reads at most, and planning begins there."""
    window = Window(1_000_000)
    for place in range(begin, begin + 100):
        window.note(place)
    planned(window, 1000, 5)
    for place in range(then, then + RECENT):
        window.note(place)
    assert then <= window.position <= then + RECENT
    assert (window.start, window.planned) == (window.planned, window.planned)
    assert window.size == 0
    window.add(5)
    assert window.planned == window.start + 1


def test_the_next_epoch_begins_at_the_start() -> None:
    """After the last place the readers start over, also in a small dataset, and so does the window."""
    for count in (200, 2000, 100_000):
        window = Window(count)
        for place in range(count):
            if window.planned < count:
                window.add(1)
            window.note(place)
        assert window.planned == count
        for place in range(RECENT):
            window.note(place)
        assert window.position <= RECENT
        assert window.planned <= RECENT


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 3)), max_size=300))
def test_the_window_always_adds_up(steps: list[tuple[int, int]]) -> None:
    """Whatever is read and planned: its parts are in order, and its size is that of the places ahead."""
    window, sizes = Window(1000), dict[int, int]()
    for place, plan in steps:
        for _ in range(plan):
            if window.planned < window.count:
                sizes[window.planned] = place
                window.add(place)
        window.note(place)
        assert 0 <= window.start <= window.position <= window.planned <= window.count
        assert window.size == sum(sizes[each] for each in range(window.position, window.planned))


# Limits


def test_the_window_is_filled_up_to_its_limits() -> None:
    """More is allowed until there are enough bytes or places, and again once a quarter of that was read."""
    for limits in (Limits(1000, 1 << 30), Limits(1 << 30, 100)):
        window = Window(10_000)
        while limits.allow(window):
            window.add(10)
        assert window.planned == 100
        window.leap(0)
        planned(window, 100, 10)
        for place in range(100):
            assert limits.resume(window) == (place >= 25) or place >= RECENT
            window.note(place)
        assert limits.resume(window)


def test_at_the_end_of_the_order_nothing_more_is_planned() -> None:
    """However much room there is, a window ends with its order."""
    window = Window(3)
    planned(window, 3)
    assert not UNBOUNDED.allow(window)
    assert not UNBOUNDED.resume(window)


def test_batches_grow() -> None:
    """The first batch is small, so that it comes soon; each next one is as large as all before, up to a limit."""
    window, sizes = Window(1_000_000), []
    for _ in range(8):
        size = UNBOUNDED.batch(window)
        sizes.append(size)
        window.add(size)
    assert sizes == [MIN_BATCH, MIN_BATCH, *(MIN_BATCH << k for k in range(1, 5)), MAX_BATCH, MAX_BATCH]
    assert Limits(100, 10).batch(Window(10)) == 100


# Batches

Needs = list[tuple[int, int, int]]
NEEDS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(1, 5)), max_size=60)


@given(NEEDS, st.sampled_from([1, 4]))
def test_a_batch_fetches_each_block_once(needs: Needs, grain: int) -> None:
    """The stretches hold all that is needed and nothing beyond its aligned groups, each block once, no two touch."""
    batch: Batch[int] = Batch(grain)
    new = sum(batch.add(segment, range(first, first + count), 45) for segment, first, count in needs)
    stretches = batch.stretches()
    blocks = [(segment, block) for segment, stretch in stretches for block in stretch]
    assert len(blocks) == len(set(blocks)) == new
    needed = {(segment, block) for segment, first, count in needs for block in range(first, first + count)}
    assert needed <= set(blocks)
    groups = {(segment, block // grain) for segment, block in needed}
    assert {(segment, block // grain) for segment, block in blocks} == groups
    assert all(block < 45 for _, block in blocks)
    ends = {(segment, stretch.stop) for segment, stretch in stretches}
    assert not ends & {(segment, stretch.start) for segment, stretch in stretches}


def test_what_is_needed_first_is_fetched_first() -> None:
    """Stretches come in the order in which their first block is needed."""
    batch: Batch[str] = Batch(1)
    for segment, block in (("b", 7), ("a", 30), ("a", 2), ("b", 8), ("a", 3), ("a", 31)):
        batch.add(segment, range(block, block + 1), 100)
    assert batch.stretches() == [("b", range(7, 9)), ("a", range(30, 32)), ("a", range(2, 4))]


def test_blocks_are_those_of_the_cache() -> None:
    """A batch of one datapoint of two blocks is two blocks, as the block cache counts them."""
    batch: Batch[int] = Batch(1)
    assert batch.add(1, range(2), 2) * BLOCK_SIZE == 512 << 10
