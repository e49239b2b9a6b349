"""Inode numbers: computed, distinct, and one for each content that a number ever had."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.fuse.inodes import (
    CONTROL_DIRECTORY,
    FIRST_OWN_FILE,
    ROOT,
    DatapointPlace,
    InodeTable,
    Lives,
    TooManyInodes,
    life_of,
    renew,
    same_life,
)
from dasfs.names import MAX_NUMBER, DatapointNumber

numbers = st.integers(0, MAX_NUMBER) | st.integers(0, 100)
small_spans = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted)


def renewed(spans: list[list[int]]) -> Lives:
    lives: Lives = ()
    for first, last in spans:
        lives = renew(lives, first, last)
    return lives


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), numbers), max_size=30))
def test_an_inode_leads_back_to_its_datapoint(places: list[tuple[str, int]]) -> None:
    """Each datapoint has an inode of its own, which is not one of the mount's files, and which leads back to it."""
    table = InodeTable()
    inodes = {place: table.datapoint(place[0], DatapointNumber(place[1])) for place in places}
    assert len(set(inodes.values())) == len(inodes)
    assert not {ROOT, CONTROL_DIRECTORY, FIRST_OWN_FILE, 0} & set(inodes.values())
    for (dataset, number), inode in inodes.items():
        assert table.find_datapoint(inode) == DatapointPlace(dataset, DatapointNumber(number))
        assert table.find_directory(inode) is None
        assert 0 < inode < 2**64


def test_a_directory_keeps_its_inode() -> None:
    """A dataset's directory has one inode for as long as the mount lives, and is no datapoint."""
    table = InodeTable()
    first, second = table.directory("a"), table.directory("b")
    assert (table.directory("a"), table.find_directory(second)) == (first, "b")
    assert first not in (second, ROOT, CONTROL_DIRECTORY, FIRST_OWN_FILE)
    assert table.find_datapoint(first) is None


@pytest.mark.parametrize("inode", [0, 1, 5, 15, 17, 1 << 48, (5 << 48) + 7, 2**64 - 1])
def test_an_inode_that_was_never_given(inode: int) -> None:
    """What the mount never told the kernel leads nowhere."""
    table = InodeTable()
    table.directory("a")
    assert table.find_directory(inode) is None
    assert table.find_datapoint(inode) is None


def test_too_many_datasets() -> None:
    """When 16 bits of slots are used up, that is an error of ours and not a wrong inode."""
    table = InodeTable()
    for number in range(2**16 - 1):
        table.datapoint(str(number), DatapointNumber(0))
    assert table.datapoint("7", DatapointNumber(1))
    with pytest.raises(TooManyInodes):
        table.datapoint("one more", DatapointNumber(0))


@given(numbers, st.lists(small_spans, max_size=4))
def test_inodes_count_up_within_their_room(number: int, spans: list[list[int]]) -> None:
    """From a number on, as far as `room` goes, the next datapoint has the next inode."""
    table = InodeTable()
    for first, last in spans:
        table.renew("a", first, last)
    room = table.room(DatapointNumber(number), table.lives("a"))
    assert room >= 1
    start = table.datapoint("a", DatapointNumber(number))
    for step in {min(step, room - 1) for step in (0, 1, 2, 10, 2**40)}:
        if number + step <= MAX_NUMBER:
            assert table.datapoint("a", DatapointNumber(number + step)) == start + step


@given(st.lists(small_spans, max_size=8))
def test_a_renewed_number_is_in_a_life_it_never_had(spans: list[list[int]]) -> None:
    """Renewing changes the lives of exactly these numbers, each to one that it never had; the spans stay in order."""
    lives: Lives = ()
    had: dict[int, set[int]] = {number: {0} for number in range(45)}
    for first, last in spans:
        before, lives = lives, renew(lives, first, last)
        for number, past in had.items():
            life = life_of(lives, number)
            if first <= number <= last:
                assert life not in past
                past.add(life)
            else:
                assert life == life_of(before, number)
    assert all(left.last < right.first for left, right in itertools.pairwise(lives))


@given(st.lists(small_spans, max_size=8), st.integers(0, 45))
def test_numbers_stay_in_one_life(spans: list[list[int]], number: int) -> None:
    """As far as `same_life` goes, all numbers are in the same life."""
    lives = renewed(spans)
    count = same_life(lives, number)
    assert count >= 1
    assert {life_of(lives, each) for each in range(number, min(number + count, 60))} == {life_of(lives, number)}


def test_lives_do_not_grow_with_what_is_taken_away() -> None:
    """Numbers that are taken away one after another are one span."""
    assert len(renewed([[number, number] for number in range(1000)])) == 1


def test_an_old_inode_is_told_from_a_new_one() -> None:
    """A number that was taken away has another inode; the old one leads to the old life, and is not current."""
    table = InodeTable()
    number = DatapointNumber(7)
    before, lives = table.datapoint("a", number), table.lives("a")
    table.renew("a", 5, 10)
    after = table.datapoint("a", number)
    assert after != before
    assert table.datapoint("a", number, lives) == before
    for inode, current in ((before, False), (after, True)):
        place = table.find_datapoint(inode)
        assert place is not None
        assert (place.number, table.is_current(place)) == (7, current)
    assert table.datapoint("a", DatapointNumber(11)) == before + 4
