"""How a put is cut into dataranges, and which files it refuses."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.fetch import Datapoint, find_gaps, plan_windows
from dasfs.dataset.local import Source
from dasfs.dataset.model import Datarange, Snapshot, join_spans
from dasfs.dataset.put_plan import Existing, find_match, is_candidate, plan_batches, refusal
from dasfs.formats.compression import Codec
from dasfs.formats.manifest import Record
from dasfs.names import DatapointNumber, DatarangeId


def make_source(number=None, size=0, extension="x", original="p"):
    return Source(f"/{original}", original, number, extension, size, 0, 0, size, 0)


def tar_size(sources):
    return 1024 + sum(512 + -(-source.size // 512) * 512 for source in sources)


numbers_and_sizes = st.dictionaries(st.integers(0, 60), st.integers(0, 5000)).map(lambda found: sorted(found.items()))


@given(numbers_and_sizes, st.integers(1, 20_000))
def test_batches_hold_every_source_once_without_gaps(items, target):
    """All sources, in order, each batch consecutive, none above the target but for a single source."""
    numbered = [(number, make_source(number, size)) for number, size in items]
    batches = list(plan_batches(numbered, target))
    assert [
        (number, source) for batch in batches for number, source in enumerate(batch.sources, batch.first)
    ] == numbered
    for batch in batches:
        assert len(batch.sources) == 1 or tar_size(batch.sources) <= target
        assert batch.last == batch.first + len(batch.sources) - 1
        assert batch.size == sum(source.size for source in batch.sources)


@given(numbers_and_sizes, st.integers(1, 20_000))
def test_batches_are_as_few_as_can_be(items, target):
    """Two neighbours without a gap between them would not fit into one."""
    batches = list(plan_batches(((number, make_source(number, size)) for number, size in items), target))
    for left, right in itertools.pairwise(batches):
        if left.last + 1 == right.first:
            assert tar_size([*left.sources, right.sources[0]]) > target


def test_a_batch_ends_at_the_limits_of_a_manifest(monkeypatch):
    """Neither more datapoints nor more extensions than a manifest can hold come into one datarange."""
    monkeypatch.setattr("dasfs.dataset.put_plan.MAX_DATAPOINTS", 3)
    batches = plan_batches(((number, make_source(number)) for number in range(7)), 1 << 40)
    assert [len(batch.sources) for batch in batches] == [3, 3, 1]
    monkeypatch.setattr("dasfs.dataset.put_plan.MAX_EXTENSIONS", 2)
    batches = plan_batches(((number, make_source(number, extension=str(number))) for number in range(5)), 1 << 40)
    assert [len(batch.sources) for batch in batches] == [2, 2, 1]


@given(st.sets(st.integers(0, 50)))
def test_spans_cover_exactly_the_numbers(numbers):
    """Joined spans hold the same numbers, ascend, and do not touch."""
    spans = join_spans((number, number) for number in numbers)
    assert [each for first, last in spans for each in range(first, last + 1)] == sorted(numbers)
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(spans))


def test_a_source_is_matched_by_number_or_by_original_path():
    """Numbered sources only by number, the others only by path."""
    there = Existing(5, "x", 1, 2)
    assert find_match(make_source(5), {5: there}, {}) is there
    assert find_match(make_source(5, original="a"), {}, {"a": there}) is None
    assert find_match(make_source(original="a"), {}, {"a": there}) is there


@pytest.mark.parametrize(
    ("source", "candidate", "message"),
    [
        (make_source(5, 10), True, "another content"),
        (make_source(5, 11), False, "another content"),
        (make_source(5, 10, extension="y"), False, "another extension"),
        (make_source(None, 10, extension="y"), True, "'p' was put before"),
        (make_source(None, 9), False, "'p' was put before"),
    ],
)
def test_a_refusal_says_what_differs(source, candidate, message):
    """Same size and (with a number) same extension are worth a checksum; the message names what is there."""
    existing = Existing(5, "x", 10, 0)
    assert is_candidate(source, existing) is candidate
    assert message in refusal(source, existing).message
    assert f"{5:020d}.x" in refusal(source, existing).message


def make_datarange(first, last):
    return Datarange(DatarangeId(DatapointNumber(first), DatapointNumber(last), 1), 0, 0, 0)


def test_gaps_are_what_no_datarange_holds():
    """Before, between and behind the dataranges of a range."""
    snapshot = Snapshot("d", "i", 1, None, (make_datarange(2, 3), make_datarange(6, 9)))
    assert find_gaps(snapshot, 0, 12) == [(0, 1), (4, 5), (10, 12)]
    assert find_gaps(snapshot, 3, 6) == [(4, 5)]
    assert find_gaps(snapshot, 6, 9) == []
    assert find_gaps(snapshot, 4, 5) == [(4, 5)]


stored_datapoints = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 3000), st.sampled_from(Codec)), min_size=1, max_size=30
)


@given(stored_datapoints, st.integers(1, 4000))
def test_windows_cover_every_datapoint_once(layout, size):
    """Each stored byte is read in exactly one window, in order; only what is compressed may exceed the size."""
    datapoints, number, offset = [], 0, 0
    datarange = make_datarange(0, 1000)
    for step, stored, codec in layout:
        number += step
        offset += step * 512
        datapoints.append(Datapoint(number, Record(offset, stored, stored, 0, 0, "x", codec), None, datarange))
        offset += -(-stored // 512) * 512
    covered = []
    for window in plan_windows(datapoints, size):
        first = window.datapoints[0]
        if first.record.codec is Codec.NONE or len(window.datapoints) > 1:
            assert window.length <= size
        part = window.start > 0 or window.length < first.record.stored_size
        if part:
            covered.append((first.number, window.start, window.length))
        else:
            covered += [(each.number, 0, each.record.stored_size) for each in window.datapoints]
            last = window.datapoints[-1].record
            assert window.offset + window.length == last.content_offset + last.stored_size
    position = {}
    for which, start, length in covered:
        assert position.get(which, 0) == start
        position[which] = start + length
    assert position == {each.number: each.record.stored_size for each in datapoints}
    assert [which for which, _ in itertools.groupby(which for which, _, _ in covered)] == list(position)
