"""What is joined with what, and how often a byte is rewritten for it."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.aggregation_plan import AggregationPolicy, plan_aggregation, plan_range
from dasfs.dataset.model import Datarange
from dasfs.errors import InvalidInput
from tests.datasets import datarange

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SMALLEST = 1536  # the TAR of one empty datapoint

SIZES = st.integers(0, 21).flatmap(lambda power: st.integers(SMALLEST, SMALLEST << power))


@st.composite
def datasets(draw: st.DrawFn) -> list[Datarange]:
    """Dataranges of all sizes, up to 3 GiB, with a gap here and there."""
    made: list[Datarange] = []
    first = 0
    for size in draw(st.lists(SIZES, max_size=60)):
        first += draw(st.sampled_from([0, 0, 0, 0, 0, 5]))
        made.append(datarange(first, first + 1, size=size))
        first += 2
    return made


POLICIES = st.builds(
    AggregationPolicy,
    st.sampled_from([2 * KIB, 100 * KIB, 64 * MIB, GIB]),
    st.integers(2, 32),
    st.integers(2, 50),
)


def apply_plans(dataranges: list[Datarange], policy: AggregationPolicy) -> list[Datarange]:
    """Return what there is after all plans were done."""
    after = {each.first: each for each in dataranges}
    for plan in plan_aggregation(dataranges, policy):
        for each in plan.dataranges:
            del after[each.first]
        after[plan.first] = datarange(plan.first, plan.last, size=plan.tar_size)
    return [after[first] for first in sorted(after)]


@given(datasets(), POLICIES)
def test_plans_join_neighbours_within_the_target(dataranges: list[Datarange], policy: AggregationPolicy) -> None:
    """Each plan joins two or more that follow each other; no datarange is in two; none gets larger than the target."""
    plans = plan_aggregation(dataranges, policy)
    joined = [each for plan in plans for each in plan.dataranges]
    assert len({each.first for each in joined}) == len(joined)
    for plan in plans:
        assert 2 <= len(plan.dataranges) <= policy.max_sources
        assert all(left.last + 1 == right.first for left, right in itertools.pairwise(plan.dataranges))
        assert plan.tar_size <= policy.target_size
        assert plan.tar_size == sum(each.tar_size for each in plan.dataranges) - 1024 * (len(plan.dataranges) - 1)


@given(datasets(), POLICIES)
def test_a_join_lifts_every_byte(dataranges: list[Datarange], policy: AggregationPolicy) -> None:
    """The result is of a higher tier than each that went in, unless the step is about as long as a step may be."""
    boundaries = policy.boundaries()
    for plan in plan_aggregation(dataranges, policy):
        reached = [boundary for boundary in boundaries if boundary <= plan.tar_size]
        if len(plan.dataranges) <= policy.max_sources // 2:
            assert reached
            assert all(each.tar_size < reached[-1] for each in plan.dataranges)


@given(datasets(), POLICIES)
def test_planning_comes_to_an_end(dataranges: list[Datarange], policy: AggregationPolicy) -> None:
    """Done again and again, there is nothing left to do soon, and every number is still there."""
    numbers = [(each.first, each.last) for each in dataranges]
    for _ in range(60):
        before, dataranges = dataranges, apply_plans(dataranges, policy)
        if before == dataranges:
            break
    assert plan_aggregation(dataranges, policy) == []
    covered = {number for each in dataranges for number in range(each.first, each.last + 1)}
    assert covered == {number for first, last in numbers for number in range(first, last + 1)}


@pytest.mark.parametrize(
    ("sizes", "most"),
    [((2 * KIB, 300 * KIB), 4.0), ((SMALLEST, SMALLEST), 4.0), ((40 * MIB, 70 * MIB), 1.0), ((3 * MIB, 9 * MIB), 2.0)],
    ids=["small", "smallest", "usual", "medium"],
)
def test_a_byte_is_rewritten_a_few_times(sizes: tuple[int, int], most: float) -> None:
    """A hundred thousand small appends (fewer of larger ones) are rewritten at most four times; the usual once."""
    appends = 100_000 if sizes[1] < MIB else 5_000
    source, policy = random.Random(3), AggregationPolicy()
    live: list[Datarange] = []
    appended = rewritten = 0
    for number in range(appends):
        live.append(datarange(number, number, size=source.randint(*sizes)))
        appended += live[-1].tar_size
        if number % 20 == 0 or number == appends - 1:
            rewritten += sum(plan.tar_size for plan in plan_aggregation(live, policy))
            live = apply_plans(live, policy)
    assert rewritten / appended <= most
    full = [each.tar_size for each in live if each.tar_size >= GIB // 2]
    assert len(live) - len(full) < 400
    assert sum(full) >= appended - 1.1 * GIB
    assert sum(full) >= 0.9 * GIB * len(full)


def test_a_backlog_is_joined_at_once() -> None:
    """Ten thousand tiny dataranges take a few bounded steps, not one after another through all tiers."""
    policy = AggregationPolicy()
    live = [datarange(number, number, size=100 * KIB) for number in range(10_000)]
    steps = 0
    while plans := plan_aggregation(live, policy):
        steps += len(plans)
        assert all(len(plan.dataranges) <= 1000 for plan in plans)
        live = apply_plans(live, policy)
    assert len(live) <= 30
    assert steps <= 12


@pytest.mark.parametrize("at_once", [7, 10_100], ids=["a few at a time", "a backlog"])
def test_steps_begin_with_a_large_one(at_once: int) -> None:
    """Of small dataranges between large ones, every step but the first begins with a large one, or has none."""
    source = random.Random(7)
    sizes = [20 * KIB] * 10_000 + [source.randint(5 * MIB + 1024, 40 * MIB) for _ in range(100)]
    source.shuffle(sizes)
    live: list[Datarange] = []
    steps = 0
    for start in range(0, len(sizes), at_once):
        live += [datarange(number, number, size=size) for number, size in enumerate(sizes[start:][:at_once], start)]
        while plans := plan_aggregation(live):
            for plan in plans:
                large = [each.tar_size > 5 * MIB for each in plan.dataranges]
                assert large[0] or not any(large) or plan.first == 0
            steps += len(plans)
            live = apply_plans(live, AggregationPolicy())
    assert steps > 15
    assert len(live) < 150


def test_full_ones_are_left_alone() -> None:
    """A datarange of half the target and more is never rewritten, nor joined with what is beside it."""
    full = [datarange(number, number, size=600 * MIB) for number in range(5)]
    assert plan_aggregation(full) == []
    mixed = [datarange(0, 0, size=600 * MIB), datarange(1, 1, size=2048), datarange(2, 2, size=600 * MIB)]
    assert plan_aggregation(mixed) == []


def test_a_range_by_hand_is_joined_whatever_the_sizes() -> None:
    """All that was named becomes one datarange, or several of the size that was asked for."""
    live = [datarange(number, number, size=600 * MIB) for number in range(4)]
    assert [(plan.first, plan.last) for plan in plan_range(live)] == [(0, 3)]
    assert [(plan.first, plan.last) for plan in plan_range(live, 1200 * MIB)] == [(0, 1), (2, 3)]
    assert plan_range(live[:1]) == []
    assert plan_range(live, MIB) == []


def test_a_gap_in_a_range_by_hand_is_named() -> None:
    """What can't be one datarange is refused, with the neighbours of the gap."""
    with pytest.raises(InvalidInput, match="a gap between 2-3 and 5-6"):
        plan_range([datarange(0, 1), datarange(2, 3), datarange(5, 6)])


@pytest.mark.parametrize("values", [(0, 16, 10), (GIB, 1, 10), (GIB, 16, 1)])
def test_a_policy_that_joins_nothing_is_refused(values: tuple[int, int, int]) -> None:
    """Sizes with which no plan could be made are an error, and no endless loop."""
    with pytest.raises(InvalidInput):
        AggregationPolicy(*values)
