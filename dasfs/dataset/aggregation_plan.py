"""Which neighbouring dataranges to join. Pure: no I/O.

Dataranges are told apart by tiers of size: for a target of 1 GiB and a growth of 16 these are the dataranges below
128 KiB, 2 MiB, 32 MiB and 512 MiB, and those above, which are full. Neighbours are joined when that makes a
datarange of a higher tier than each of them had, so that a byte is rewritten at most once a tier: four times in
its life when it came in a datarange below 128 KiB, once when it came in one of 32 MiB or more. Full ones are made when
there is enough for the whole target. A backlog is joined at once, without going through the tiers.

Small ones at the start of a step cost bytes of the large one behind them (see `dasfs.dataset.aggregation_parts`), so a
step begins with a large one where it can. Small ones before it wait for a step that begins further to the left.

Source: size-tiered compaction of log-structured merge trees, with the order of the numbers kept.
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dasfs.dataset.aggregation_parts import MERGE_BELOW
from dasfs.dataset.model import Datarange
from dasfs.errors import InvalidInput
from dasfs.formats.join import joined_size
from dasfs.formats.tar import END_OF_ARCHIVE
from dasfs.names import MAX_NUMBER

GIB: Final = 1 << 30
# A full datarange is read with some 128 requests of 8 MiB, and a terabyte is a thousand of them.
DEFAULT_TARGET_SIZE: Final = GIB
# 8 means one more rewrite, 32 twice as many dataranges that wait.
DEFAULT_GROWTH: Final = 16
# A step that is cut off loses its work: a thousand dataranges are read in some ten seconds.
DEFAULT_MAX_SOURCES: Final = 1000
# A thousand datapoints without content have 512 kB of headers, so what a step can hold gets out of the lowest tier.
_MIN_BOUNDARY: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class AggregationPolicy:
    """How large dataranges get. `target_size` is in bytes of TAR, `growth` the factor between two tiers.

    A step joins at most `max_sources` dataranges, so that it is bounded in time and memory.
    """

    target_size: int = DEFAULT_TARGET_SIZE
    growth: int = DEFAULT_GROWTH
    max_sources: int = DEFAULT_MAX_SOURCES

    def __post_init__(self) -> None:
        if self.target_size < 1 or self.growth < 2 or self.max_sources < 2:
            raise InvalidInput(f"nothing can be aggregated by {self}: the sizes are too small")

    def boundaries(self) -> tuple[int, ...]:
        """Return the sizes, ascending, at which the next tier begins; the last one is that of full dataranges."""
        boundaries = [max(self.target_size // 2, 1)]
        while boundaries[-1] // self.growth >= _MIN_BOUNDARY:
            boundaries.append(boundaries[-1] // self.growth)
        return tuple(reversed(boundaries))


@dataclass(frozen=True, slots=True)
class Plan:
    """Neighbours, two or more, that are to be replaced by one datarange."""

    dataranges: tuple[Datarange, ...]

    @property
    def first(self) -> int:
        return self.dataranges[0].first

    @property
    def last(self) -> int:
        return self.dataranges[-1].last

    @property
    def count(self) -> int:
        """The number of datapoints."""
        return self.last - self.first + 1

    @property
    def tar_size(self) -> int:
        """The size of the TAR object that it makes."""
        return joined_size([each.tar_size for each in self.dataranges])


def plan_aggregation(dataranges: Sequence[Datarange], policy: AggregationPolicy | None = None) -> list[Plan]:
    """Return what should be joined now, ascending; no two plans have a datarange in common.

    `dataranges` ascend and do not overlap. Each plan's result is within the target size. When all was done, more
    may be due: ask again until there is nothing. That ends, because every plan makes dataranges fewer.
    """
    planner = _Planner(policy or AggregationPolicy())
    plans = [plan for run in split_at_gaps(dataranges) for plan in planner.plan(run)]
    return sorted(plans, key=lambda plan: plan.first)


def plan_range(dataranges: Sequence[Datarange], target_size: int | None = None) -> list[Plan]:
    """Return the plans that join just these, whatever their sizes: into one, or into several of `target_size`.

    `dataranges` ascend. Raises `InvalidInput` where there is a gap between them.
    """
    runs = split_at_gaps(dataranges)
    if len(runs) > 1:
        left, right = runs[0][-1], runs[1][0]
        raise InvalidInput(
            f"there is a gap between {left.first}-{left.last} and {right.first}-{right.last}",
            hint="aggregate the numbers before and behind it on their own",
        )
    groups = _fill(dataranges, MAX_NUMBER if target_size is None else target_size, len(dataranges))
    return [Plan(group.dataranges) for group in groups if len(group.dataranges) > 1]


def split_at_gaps(dataranges: Sequence[Datarange]) -> list[list[Datarange]]:
    """Return the stretches of dataranges that follow each other number by number."""
    runs: list[list[Datarange]] = []
    for each in dataranges:
        if runs and runs[-1][-1].last + 1 == each.first:
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


class _Planner:
    """Plans by one policy."""

    def __init__(self, policy: AggregationPolicy) -> None:
        self._policy = policy
        self._boundaries = policy.boundaries()

    def plan(self, run: Sequence[Datarange]) -> Iterator[Plan]:
        """Yield the plans for one stretch without a gap."""
        yield from self._plan_below(run, len(self._boundaries))

    def _plan_below(self, run: Sequence[Datarange], tier: int) -> Iterator[Plan]:
        """Yield the plans for the dataranges of `run` that are below `tier`; higher ones part it."""
        if tier == 0:
            return
        for is_below, group in itertools.groupby(run, key=lambda each: self._tier(each.tar_size) < tier):
            if is_below:
                yield from self._plan_stretch(list(group), tier)

    def _plan_stretch(self, stretch: Sequence[Datarange], tier: int) -> Iterator[Plan]:
        """Yield the plans for neighbours that are all below `tier`: one that reaches it, or those of lower tiers."""
        is_top = tier == len(self._boundaries)
        lead = 0 if is_top else _count_small_before_large(stretch)
        if lead:
            yield from self._plan_stretch(stretch[:lead], tier)
            stretch = stretch[lead:]
        threshold = self._policy.target_size if is_top else self._boundaries[tier - 1]
        left = _data_size(stretch)
        start = 0
        for group in _fill(stretch, self._policy.target_size, self._policy.max_sources):
            if left < threshold or not self._is_worth_it(group):
                break
            yield Plan(group.dataranges)
            left -= _data_size(group.dataranges)
            start += len(group.dataranges)
        yield from self._plan_below(stretch[start:], tier - 1)

    def _is_worth_it(self, group: "_Group") -> bool:
        """Return whether joining lifts every byte into a higher tier, or makes a great many into one."""
        sizes = [each.tar_size for each in group.dataranges]
        if len(sizes) < 2:
            return False
        return group.is_long or self._tier(joined_size(sizes)) > max(map(self._tier, sizes))

    def _tier(self, size: int) -> int:
        return bisect_right(self._boundaries, size)


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbours that fit one step. `is_long` when there are about as many as a step may have."""

    dataranges: tuple[Datarange, ...]
    is_long: bool


def _fill(dataranges: Sequence[Datarange], target_size: int, max_sources: int) -> Iterator[_Group]:
    """Yield neighbours in groups, each as many as fit the target; one that is larger stands alone."""
    start, size = 0, len(END_OF_ARCHIVE)
    for end, each in enumerate(dataranges):
        added = each.tar_size - len(END_OF_ARCHIVE)
        while end > start and ((is_long := end - start == max_sources) or size + added > target_size):
            cut = _cut_before_large(dataranges, start, end) if is_long else end
            yield _Group(tuple(dataranges[start:cut]), is_long)
            size -= _data_size(dataranges[start:cut])
            start = cut
        size += added
    if start < len(dataranges):
        yield _Group(tuple(dataranges[start:]), len(dataranges) - start == max_sources)


def _cut_before_large(dataranges: Sequence[Datarange], start: int, end: int) -> int:
    """Return where a step from `start` that has to stop at `end` leaves the next one a large datarange to begin with.

    In its second half, so that steps stay long; `end` where there is none.
    """
    for cut in range(end, start + (end - start) // 2, -1):
        if _is_large(dataranges[cut]):
            return cut
    return end


def _count_small_before_large(dataranges: Sequence[Datarange]) -> int:
    """Return how many small dataranges precede the first large one; 0 where there is none."""
    return next((count for count, each in enumerate(dataranges) if _is_large(each)), 0)


def _is_large(datarange: Datarange) -> bool:
    """Return whether a store copies a datarange by itself."""
    return _data_size([datarange]) >= MERGE_BELOW


def _data_size(dataranges: Sequence[Datarange]) -> int:
    """Return the bytes that TAR objects hold, without their ends."""
    return sum(each.tar_size - len(END_OF_ARCHIVE) for each in dataranges)
