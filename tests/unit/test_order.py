"""Seeded orders: permutations that another program can compute, and that mix well."""

import itertools
import math
import struct
from collections import Counter
from dataclasses import replace
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.model import Datarange, Snapshot, nothing
from dasfs.errors import InvalidInput
from dasfs.fuse.order import MAX_SEED, SeededOrder, SnapshotOrder
from dasfs.names import MAX_NUMBER
from tests.datasets import datarange

# Never to change: jobs rely on a seed meaning the same order tomorrow.
GOLDEN = [
    (1, 0, [0]),
    (2, 0, [0, 1]),
    (10, 0, [2, 4, 0, 6, 5, 1, 8, 9, 3, 7]),
    (10, 1, [0, 5, 4, 2, 8, 3, 6, 9, 7, 1]),
    (1000, 42, [103, 736, 438, 892, 316, 134, 5, 458, 901, 716]),
    (10_000_000, 2**64 - 1, [1618537, 4861468, 8820220, 2191387, 9601568, 4984759, 793497, 9681413, 5545438, 7686608]),
    (
        MAX_NUMBER + 1,
        7,
        [
            3606340283902984385,
            2259001451930360731,
            2774014361333742421,
            6372606320239598595,
            322362366368573530,
            6803563192256844425,
            4331994716461098884,
            1452036306709971045,
            4586303248702183900,
            1156772272648762822,
        ],
    ),
]


def snapshot_of(*dataranges: Datarange) -> Snapshot:
    return replace(nothing("set"), dataranges=dataranges)


def in_order(count: int, seed: int) -> list[int]:
    order = SeededOrder(count, seed)
    return [order[place] for place in range(count)]


def written_down(count: int, seed: int, place: int) -> int:
    """Compute an order as `docs/views.md` tells it, without the code of the project."""
    columns = math.isqrt(count - 1) + 1
    rows = -(-count // columns)
    data = struct.pack(">QQ", seed, count)
    keys = struct.unpack(">8Q", blake2b(data, digest_size=64, person=b"dasfs order 1").digest())

    def mix(x: int) -> int:
        x = x * 0xFF51AFD7ED558CCD % 2**64
        x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
        return x >> 32

    value = place
    while True:
        left, right = value // columns, value % columns
        for number, key in enumerate(keys):
            if number % 2 == 0:
                left = (left + mix(right ^ key)) % rows
            else:
                right = (right + mix(left ^ key)) % columns
        value = left * columns + right
        if value < count:
            return value


@pytest.mark.parametrize(("count", "seed", "expected"), GOLDEN)
def test_an_order_never_changes(count: int, seed: int, expected: list[int]) -> None:
    """The first places of some orders are what they were when the format was made."""
    order = SeededOrder(count, seed)
    assert [order[place] for place in range(min(count, 10))] == expected


@given(st.integers(1, MAX_NUMBER + 1), st.integers(0, MAX_SEED), st.data())
def test_an_order_is_what_is_written_down(count: int, seed: int, data: st.DataObject) -> None:
    """Every answer is the one that the description gives, and `place_of` is its inverse."""
    place = data.draw(st.integers(0, count - 1))
    order = SeededOrder(count, seed)
    assert order[place] == written_down(count, seed, place)
    assert order.place_of(order[place]) == place
    assert order[order.place_of(place)] == place


@given(st.integers(0, 3000), st.integers(0, MAX_SEED))
def test_an_order_is_a_permutation(count: int, seed: int) -> None:
    """Each index stands at exactly one place."""
    order = SeededOrder(count, seed)
    assert len(order) == count
    assert sorted(order[place] for place in range(count)) == list(range(count))


def test_places_outside_are_errors() -> None:
    """There is nothing before the first place and behind the last; no order of no length or odd seed is made."""
    for place in (-1, 10, 2**70):
        with pytest.raises(IndexError):
            SeededOrder(10, 1)[place]
        with pytest.raises(IndexError):
            SeededOrder(10, 1).place_of(place)
    with pytest.raises(IndexError):
        SeededOrder(0, 1)[0]
    for count, seed in ((10, -1), (10, MAX_SEED + 1), (-1, 0), (MAX_NUMBER + 2, 0)):
        with pytest.raises(InvalidInput):
            SeededOrder(count, seed)


def chi_squared(found: Counter[int], cells: int) -> float:
    """Return how far counts are from equal, in standard deviations of what chance does."""
    expected = found.total() / cells
    total = sum((found[cell] - expected) ** 2 / expected for cell in range(cells))
    return (total - (cells - 1)) / math.sqrt(2 * (cells - 1))


def test_neighbours_are_strangers() -> None:
    """How far neighbours in an order stand apart in the dataset is as likely to be one distance as another."""
    count = 997
    found: Counter[int] = Counter()
    for seed in range(100):
        values = in_order(count, seed)
        found.update((right - left) % count - 1 for left, right in itertools.pairwise(values))
    assert abs(chi_squared(found, count - 1)) < 5


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_every_place_has_everything(count: int) -> None:
    """Over many seeds, the first, a middle and the last place have each index equally often."""
    for place in (0, count // 2, count - 1):
        found = Counter(SeededOrder(count, seed)[place] for seed in range(20 * count))
        assert abs(chi_squared(found, count)) < 5


def test_seeds_are_strangers() -> None:
    """Orders of neighbouring seeds, and of neighbouring counts, agree in about one place, as chance has it."""
    count = 10_000
    orders = [in_order(count, seed) for seed in (0, 1, 2, 2**32, 2**63)]
    orders.append(in_order(count + 1, 0)[:count])
    for k, left in enumerate(orders):
        for right in orders[k + 1 :]:
            assert sum(a == b for a, b in zip(left, right, strict=True)) < 10


def test_a_snapshot_in_order() -> None:
    """Places lead to the numbers of the live datapoints, over gaps, and back; other numbers have no place."""
    snapshot = snapshot_of(datarange(5, 9), datarange(100, 100), datarange(MAX_NUMBER - 3, MAX_NUMBER))
    order = SnapshotOrder.of(snapshot, 3)
    numbers = [order.number_at(place) for place in range(len(order))]
    assert sorted(numbers) == [*range(5, 10), 100, *range(MAX_NUMBER - 3, MAX_NUMBER + 1)]
    assert [order.place_of(number) for number in numbers] == list(range(10))
    assert [order.place_of(number) for number in (0, 4, 10, 99, 101, MAX_NUMBER - 4)] == [None] * 6
    with pytest.raises(IndexError):
        order.number_at(10)
    empty = SnapshotOrder.of(snapshot_of(), 3)
    assert len(empty) == 0
