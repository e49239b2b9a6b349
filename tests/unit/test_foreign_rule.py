"""Which dataranges are live in a dataset that has no log."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.listing import choose_live, foreign_snapshot, group_objects, overlap
from dasfs.names import DatarangeId, DatasetKeys
from dasfs.stores import Store, open_store
from tests.datasets import datarange_id

KEYS = DatasetKeys("birds")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"file://{tmp_path}/store") as opened:
        opened.create()
        yield opened


@pytest.mark.parametrize(
    ("candidates", "live"),
    [
        ([], []),
        ([(0, 9, 1)], [(0, 9, 1)]),
        ([(0, 9, 1), (10, 19, 2), (30, 39, 3)], [(0, 9, 1), (10, 19, 2), (30, 39, 3)]),
        # An aggregate replaces what it covers.
        ([(0, 9, 1), (10, 19, 2), (0, 19, 3)], [(0, 19, 3)]),
        # An aggregate of aggregates.
        ([(0, 9, 1), (10, 19, 2), (0, 19, 3), (20, 29, 4), (0, 29, 5)], [(0, 29, 5)]),
        # The same range again: the newer one.
        ([(0, 9, 1), (0, 9, 2)], [(0, 9, 2)]),
        # A failed upload that covers nothing is no reason to drop what it overlaps.
        ([(0, 9, 1), (10, 19, 2), (5, 14, 3)], [(0, 9, 1), (10, 19, 2)]),
        # A newer small piece of something larger, as after a failed upload.
        ([(0, 29, 1), (5, 6, 2)], [(0, 29, 1)]),
        # Datapoints behind an aggregate are another's.
        ([(0, 9, 1), (10, 19, 2), (0, 19, 3), (20, 20, 4)], [(0, 19, 3), (20, 20, 4)]),
    ],
)
def test_the_highest_counter_that_covers_the_others_wins(
    candidates: list[tuple[int, int, int]], live: list[tuple[int, int, int]]
) -> None:
    """Each case of uploads, aggregates and failed uploads leads to the dataranges that datas3t would serve."""
    expected = tuple(datarange_id(*each) for each in live)
    assert choose_live([datarange_id(*each) for each in candidates]) == expected


@given(
    st.lists(
        st.builds(
            lambda first, length, counter: datarange_id(first, first + length, counter),
            st.integers(0, 30),
            st.integers(0, 10),
            st.integers(1, 20),
        ),
        unique=True,
        max_size=12,
    )
)
def test_the_choice_never_overlaps_and_does_not_depend_on_order(candidates: list[DatarangeId]) -> None:
    """What is chosen ascends without overlap, whatever stands in the store and in whatever order it comes."""
    live = choose_live(candidates)
    shuffled = sorted(candidates, key=lambda each: (each.last, -each.counter))
    assert choose_live(shuffled) == live == tuple(sorted(live))
    assert not any(overlap(a, b) for a, b in itertools.pairwise(live))
    alone = [each for each in candidates if not any(overlap(each, other) for other in candidates if other != each)]
    assert set(alone) <= set(live)


def test_only_pairs_of_tar_and_index_count(place: Store) -> None:
    """A TAR without its index, an index without its TAR, and keys of another shape are no dataranges."""
    complete, tar_only, index_only = datarange_id(0, 9), datarange_id(10, 19), datarange_id(20, 29)
    for key in (KEYS.tar(complete), KEYS.index(complete), KEYS.tar(tar_only), KEYS.index(index_only)):
        place.put(key, b"12345")
    place.put(f"{KEYS.dataranges}notes.txt", b"")
    place.put(f"{KEYS.dataranges}{complete}.tar.bak", b"")
    listing = group_objects(KEYS, place.list(KEYS.dataranges))
    assert (listing.candidates, listing.unknown) == ((complete,), 2)


def test_a_foreign_snapshot_is_revision_0(place: Store) -> None:
    """A dataset without a log reads like a snapshot of revision 0, with sizes as listed and no manifests."""
    ids = [datarange_id(0, 9, 1), datarange_id(10, 14, 7)]
    for each in ids:
        place.put(KEYS.tar(each), bytes(2048))
        place.put(KEYS.index(each), bytes(16))
    snapshot = foreign_snapshot(place, "birds")
    assert snapshot is not None
    assert (snapshot.revision, snapshot.dataset_id, snapshot.deleted) == (0, "foreign", False)
    assert [(each.id, each.tar_size, each.manifest_size) for each in snapshot.dataranges] == [
        (each, 2048, 0) for each in ids
    ]
    assert (snapshot.next_number, snapshot.last_counter, snapshot.count) == (15, 7, 15)


def test_nothing_is_no_foreign_dataset(place: Store) -> None:
    """Without a single pair of TAR and index there is no dataset."""
    place.put(KEYS.tar(datarange_id(0, 9)), b"x")
    assert foreign_snapshot(place, "birds") is None
