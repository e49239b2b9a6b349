"""What the block cache decides: which blocks to fetch together, and which to give up. Pure: no I/O.

A stretch of blocks is a `range` of block numbers. Ages count ticks of the cache's clock, which advances
with what is stored, not with time: an age says how much was stored since a block was last used.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final

from dasfs.formats.manifest import CHECKSUM_BLOCK_SIZE

BLOCK_SIZE: Final = CHECKSUM_BLOCK_SIZE
# last_used is an unsigned 32-bit number. It may wrap: ages are differences, and far smaller than that.
TICK_MASK: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Evictions:
    """Which blocks have to go: all older than `older_than`, and of those of exactly that age, `ties`."""

    older_than: int
    ties: int


def block_span(start: int, end: int) -> range:
    """Return the blocks that hold the bytes `[start, end)` of a segment."""
    return range(start // BLOCK_SIZE, -(-end // BLOCK_SIZE))


def block_length(block: int, segment_length: int) -> int:
    """Return how many bytes a block has: `BLOCK_SIZE`, less at the segment's end."""
    return min(BLOCK_SIZE, segment_length - block * BLOCK_SIZE)


def plan_blocks(missing: Iterable[int], max_blocks: int) -> list[range]:
    """Return the stretches to GET for the `missing` blocks, each at most `max_blocks` long.

    Neighbours come together, every missing block comes exactly once, and nothing else comes at all.
    `missing` ascends.
    """
    stretches: list[range] = []
    for block in missing:
        last = stretches[-1] if stretches else range(0)
        if last and last.stop == block and len(last) < max_blocks:
            stretches[-1] = range(last.start, block + 1)
        else:
            stretches.append(range(block, block + 1))
    return stretches


def age_of(last_used: int, tick: int) -> int:
    """Return how many ticks before `tick` a block was last used; 0 for one that was used since."""
    age = (tick - last_used) & TICK_MASK
    return age if age <= TICK_MASK // 2 else 0


def count_ages(states: Sequence[int], last_used: Sequence[int], tick: int, *, whole: bool) -> Counter[int]:
    """Return how many blocks of one segment have which age. A block whose state is 0 is not there.

    With `whole` they can only go together, and all have the age of the youngest.
    """
    ages: Counter[int] = Counter()
    for used, count in Counter(compress(last_used, states)).items():
        ages[age_of(used, tick)] += count
    return Counter({min(ages): ages.total()}) if whole and ages else ages


def choose_evictions(blocks_by_age: Mapping[int, int], wanted: int) -> Evictions:
    """Return the oldest `wanted` of the blocks that are there (all of them if there are fewer).

    `blocks_by_age` says how many blocks have an age.
    """
    oldest_first = sorted(blocks_by_age, reverse=True)
    for age in oldest_first:
        if blocks_by_age[age] >= wanted:
            return Evictions(age, wanted)
        wanted -= blocks_by_age[age]
    return Evictions(-1, 0)


def find_victims(
    states: Sequence[int], last_used: Sequence[int], tick: int, choice: Evictions, *, whole: bool
) -> tuple[list[int], int]:
    """Return the blocks of one segment that have to go, and how many of the `choice.ties` that used up.

    With `whole` all of them go, or none.
    """
    ages = {block: age_of(last_used[block], tick) for block, state in enumerate(states) if state}
    if whole:
        youngest = min(ages.values(), default=-1)
        ages = dict.fromkeys(ages, youngest)
    gone = [block for block, age in ages.items() if age > choice.older_than]
    tied = [block for block, age in ages.items() if age == choice.older_than]
    if not whole or not choice.ties:
        tied = tied[: choice.ties]
    return sorted(gone + tied), len(tied)
