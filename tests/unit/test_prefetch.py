"""When the mount reads ahead, and what."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.fuse.prefetch import (
    EPOCH_FACTOR,
    FILL_AFTER,
    FIRST_WINDOW,
    GROWTH,
    MAX_STREAMS,
    MAX_WINDOW,
    MIB,
    SAMPLE,
    SAMPLE_FACTOR,
    SLACK,
    STEP,
    ReadAhead,
    next_window,
)

# Far apart, so that streams are never taken for each other.
FAR = 1 << 40
HEADER = 512
SIZE = 64 << 10
Stretch = tuple[int, int]


def read_file(ahead: ReadAhead, first: int, size: int = SIZE) -> Stretch | None:
    """Note the read of a whole file behind its header; return the stretch that should be fetched."""
    return ahead.note(first + HEADER, first + size, first + HEADER, first + size)


def read_in_order(ahead: ReadAhead, start: int, size: int, count: int) -> list[Stretch]:
    """Note `count` files in order; return the stretches that should be fetched."""
    noted = [read_file(ahead, start + k * size, size) for k in range(count)]
    return [stretch for stretch in noted if stretch is not None]


def test_the_next_file_is_proof() -> None:
    """Nothing is fetched for a first file; who goes on with the very next one is read ahead of from there."""
    ahead = ReadAhead()
    assert read_file(ahead, 0) is None
    assert read_file(ahead, SIZE) == (2 * SIZE, 2 * SIZE + FIRST_WINDOW)


def test_a_file_nearby_is_no_proof() -> None:
    """A file near the one before may be chance; a second one in a row is not."""
    ahead = ReadAhead()
    assert read_file(ahead, 0) is None
    assert read_file(ahead, 3 * SIZE) is None
    assert read_file(ahead, 6 * SIZE) is not None


def test_a_file_is_fetched_to_its_end() -> None:
    """A file that is read in pieces is fetched ahead of the reader, in a window that grows, and not beyond its end."""
    ahead, size, step = ReadAhead(), 40 * MIB, 128 << 10
    end = step
    for start in range(0, size, step):
        stretch = ahead.note(start, start + step, 0, size)
        if stretch is not None:
            assert stretch[0] == max(end, start + step)
            end = stretch[1]
            assert end <= size
    assert end == size


def test_a_reader_in_order_is_always_ahead() -> None:
    """What is fetched lies before the reader without a gap, and grows up to the largest window."""
    ahead = ReadAhead()
    size, count = 128 << 10, 4000
    end, windows = 2 * size, []
    for k in range(count):
        stretch = read_file(ahead, k * size, size)
        if stretch is not None:
            first, last = stretch
            assert first == max(end, (k + 1) * size)
            end = last
            windows.append(last - (k + 1) * size)
        if windows:
            assert end >= (k + 1) * size + windows[-1] // 2 - size
    assert windows[:5] == [FIRST_WINDOW * GROWTH**step for step in range(5)]
    largest = windows[5:]
    assert all(MAX_WINDOW - STEP < window <= MAX_WINDOW for window in largest)


def test_a_window_is_filled_before_it_is_empty() -> None:
    """While it grows, what is fetched next is less than what is left to read, nearly; the largest moves on in steps."""
    stretches = read_in_order(ReadAhead(), 0, SIZE, 8000)
    sizes = [last - first for first, last in stretches]
    window = FIRST_WINDOW
    for size in sizes[1:5]:
        window *= GROWTH
        assert size <= 5 * window // 8 + SIZE
    assert all(place % STEP == 0 for stretch in stretches[6:] for place in stretch)


def test_random_files_open_no_window() -> None:
    """Whole files in random order over a large dataset are fetched alone."""
    chosen = random.Random(1)
    ahead = ReadAhead()
    assert all(read_file(ahead, chosen.randrange(FAR)) is None for _ in range(5000))


def test_a_jump_begins_anew() -> None:
    """A reader that jumps has to prove itself again, with a small window."""
    ahead = ReadAhead()
    assert len(read_in_order(ahead, 0, MIB, 100)) > 3
    assert [last - first for first, last in read_in_order(ahead, FAR, SIZE, 2)] == [FIRST_WINDOW]


def test_interleaved_readers_are_told_apart() -> None:
    """As many readers in order as there may be are each read ahead of, whatever the order in which they come."""
    ahead = ReadAhead()
    found: dict[int, int] = dict.fromkeys(range(MAX_STREAMS), 0)
    for k in range(100):
        for stream in found:
            found[stream] += read_file(ahead, stream * FAR + k * SIZE) is not None
    assert all(found.values())


def test_readers_that_share_a_list_are_one() -> None:
    """Several processes that read the files of one list, overtaking each other a little, are read ahead of as one."""
    ahead = ReadAhead()
    chosen = random.Random(2)
    order = list(range(1000))
    for start in range(0, 1000, 8):
        part = order[start : start + 8]
        chosen.shuffle(part)
        order[start : start + 8] = part
    size = SLACK // 16
    stretches = [read_file(ahead, k * size, size) for k in order]
    assert sum(last - first for first, last in filter(None, stretches)) > 800 * size


@given(
    st.lists(st.tuples(st.integers(0, 100 * MIB), st.integers(1, 2 * MIB)), max_size=200),
    st.integers(0, MIB),
)
def test_what_is_fetched_ahead_is_bounded(reads: list[tuple[int, int]], step: int) -> None:
    """Whatever is read: a stretch is not empty, begins behind the read, and ends within the largest window."""
    ahead = ReadAhead()
    position = 0
    for jump, size in reads:
        start = jump if jump % 3 == 0 else position + step
        position = start + size
        stretch = ahead.note(start, position, start, position + 3 * size)
        if stretch is not None:
            first, last = stretch
            assert position <= first < last <= position + MAX_WINDOW + SLACK


@pytest.mark.parametrize("window", [0, 1, FIRST_WINDOW, MAX_WINDOW // 2, MAX_WINDOW, MAX_WINDOW * 4])
def test_a_window_grows_within_its_bounds(window: int) -> None:
    """The next window is the larger one, within the smallest and the largest."""
    assert FIRST_WINDOW <= next_window(window) <= MAX_WINDOW
    assert next_window(window) in (GROWTH * window, FIRST_WINDOW, MAX_WINDOW)


def read_at_random(ahead: ReadAhead, total: int, capacity: int, count: int) -> list[Stretch]:
    """Read `count` files of a dataset in random order; return the stretches that it is filled up with."""
    files = list(range(0, total, SIZE))
    random.Random(3).shuffle(files)
    filled = []
    for first in files[:count]:
        read_file(ahead, first)
        stretch = ahead.fill(total, capacity)
        if stretch is not None:
            filled.append(stretch)
    return filled


def test_an_epoch_fills_the_cache() -> None:
    """Who reads at random in a dataset that fits the cache has all of it fetched, each byte once, from its start on."""
    total = 1000 * MIB
    filled = read_at_random(ReadAhead(), total, total, total // SIZE)
    assert filled[0][0] == 0
    assert filled[-1][1] == total
    assert all(before[1] == after[0] for before, after in itertools.pairwise(filled))
    assert all(last - first >= SAMPLE_FACTOR * FILL_AFTER for first, last in filled[:-1])


@given(st.integers(1, int(1000 * MIB * SAMPLE) // SIZE))
def test_a_sample_costs_little(count: int) -> None:
    """What is fetched for nobody is bounded by what was read, and nothing for the first files."""
    filled = read_at_random(ReadAhead(), 1000 * MIB, 1000 * MIB, count)
    assert sum(last - first for first, last in filled) <= SAMPLE_FACTOR * count * SIZE
    assert filled or count < 2 * FILL_AFTER // SIZE


def test_what_is_no_sample_is_an_epoch() -> None:
    """A dataset of which a twentieth was read in random order is there as a whole, before most of it is asked for."""
    total = 1000 * MIB
    filled = read_at_random(ReadAhead(), total, total, total // SIZE // 20)
    assert filled[-1][1] == total
    assert max(last - first for first, last in filled) <= min(EPOCH_FACTOR * (FILL_AFTER + SIZE), MAX_WINDOW)


def test_what_does_not_fit_is_not_filled() -> None:
    """A dataset that is larger than the cache is only fetched as it is read."""
    assert read_at_random(ReadAhead(), 100 * MIB, 100 * MIB - 1, 1600) == []


def test_reading_in_order_does_not_fill() -> None:
    """A reader that is read ahead of asks for nothing else."""
    ahead = ReadAhead()
    read_in_order(ahead, 500 * MIB, SIZE, 1000)
    assert ahead.fill(1000 * MIB, 1000 * MIB) is None
