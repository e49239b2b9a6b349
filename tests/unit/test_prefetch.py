"""When the mount reads ahead, and what."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.fuse.prefetch import (
    CONFIRMATIONS,
    FIRST_WINDOW,
    MAX_STREAMS,
    MAX_WINDOW,
    MIB,
    SLACK,
    ReadAhead,
    next_window,
)

# Far apart, so that streams are never taken for each other.
FAR = 1 << 40


def read_in_order(ahead: ReadAhead, start: int, size: int, count: int) -> list[tuple[int, int]]:
    """Note `count` reads in order; return the stretches that should be fetched."""
    noted = [ahead.note(start + k * size, start + (k + 1) * size) for k in range(count)]
    return [stretch for stretch in noted if stretch is not None]


def test_the_first_reads_fetch_nothing_ahead() -> None:
    """A reader is trusted when two reads in a row followed a first."""
    ahead = ReadAhead()
    assert read_in_order(ahead, 0, 4096, CONFIRMATIONS) == []
    assert ahead.note(CONFIRMATIONS * 4096, (CONFIRMATIONS + 1) * 4096) is not None


def test_a_reader_in_order_is_always_ahead() -> None:
    """What is fetched lies before the reader without a gap, and doubles up to the largest window."""
    ahead = ReadAhead()
    size, count = 128 << 10, 4000
    end = CONFIRMATIONS * size
    windows = []
    for k in range(count):
        stretch = ahead.note(k * size, (k + 1) * size)
        if stretch is not None:
            first, last = stretch
            assert first == max(end, (k + 1) * size)
            end = last
            windows.append(last - (k + 1) * size)
        if windows:
            assert end >= (k + 1) * size + windows[-1] // 2 - size
    assert windows[:4] == [FIRST_WINDOW, 2 * FIRST_WINDOW, 4 * FIRST_WINDOW, 8 * FIRST_WINDOW]
    assert max(windows) == MAX_WINDOW


def test_random_reads_fetch_nothing_ahead() -> None:
    """Reads in random order over a large dataset open no window."""
    chosen = random.Random(1)
    ahead = ReadAhead()
    starts = [chosen.randrange(FAR) for _ in range(5000)]
    assert all(ahead.note(start, start + 65536) is None for start in starts)


def test_a_jump_begins_anew() -> None:
    """A reader that jumps has to prove itself again, with a small window."""
    ahead = ReadAhead()
    assert len(read_in_order(ahead, 0, MIB, 100)) > 4
    stretches = read_in_order(ahead, FAR, MIB, CONFIRMATIONS + 1)
    assert [last - first for first, last in stretches] == [FIRST_WINDOW]


def test_interleaved_readers_are_told_apart() -> None:
    """As many readers in order as there may be are each read ahead of, whatever the order in which they come."""
    ahead = ReadAhead()
    size = 64 << 10
    found: dict[int, int] = dict.fromkeys(range(MAX_STREAMS), 0)
    for k in range(100):
        for stream in found:
            start = stream * FAR + k * size
            found[stream] += ahead.note(start, start + size) is not None
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
    stretches = [ahead.note(k * size, (k + 1) * size) for k in order]
    assert sum(last - first for first, last in filter(None, stretches)) > 800 * size


@given(
    st.lists(st.tuples(st.integers(0, 100 * MIB), st.integers(1, 2 * MIB)), max_size=200),
    st.integers(1, MIB),
)
def test_what_is_fetched_ahead_is_bounded(reads: list[tuple[int, int]], step: int) -> None:
    """Whatever is read: a stretch is not empty, begins behind the read, and ends within the largest window."""
    ahead = ReadAhead()
    position = 0
    for jump, size in reads:
        start = jump if jump % 3 == 0 else position + step
        position = start + size
        stretch = ahead.note(start, position)
        if stretch is not None:
            first, last = stretch
            assert position <= first <= last <= position + MAX_WINDOW + SLACK


@pytest.mark.parametrize("window", [0, 1, FIRST_WINDOW, MAX_WINDOW // 2, MAX_WINDOW, MAX_WINDOW * 4])
def test_a_window_doubles_within_its_bounds(window: int) -> None:
    """The next window is twice as large, within the smallest and the largest."""
    assert FIRST_WINDOW <= next_window(window) <= MAX_WINDOW
    assert next_window(window) in (2 * window, FIRST_WINDOW, MAX_WINDOW)
