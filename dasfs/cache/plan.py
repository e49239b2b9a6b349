"""What the block cache decides: which blocks to fetch together, and which to give up. Pure: no I/O.

A stretch of blocks is a `range` of block numbers. When a block was last used is told in ticks of the
cache's clock, which advances with what is stored, not with time.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final

from dasfs.formats.manifest import CHECKSUM_BLOCK_SIZE

BLOCK_SIZE: Final = CHECKSUM_BLOCK_SIZE
# Eight GETs carry three times what one does, and a reader in order has two stretches in flight. Below 1 MiB a GET is
# mostly round trip.
_SHARES: Final = 4
_MIN_SHARE: Final = (1 << 20) // BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Evictions:
    """Which blocks have to go: all that were last used before a tick, and `ties` of those used last in it."""

    before: int
    ties: int


def block_span(start: int, end: int) -> range:
    """Return the blocks that hold the bytes `[start, end)` of a segment."""
    return range(start // BLOCK_SIZE, -(-end // BLOCK_SIZE))


def block_length(block: int, segment_length: int) -> int:
    """Return how many bytes a block has: `BLOCK_SIZE`, less at the segment's end."""
    return min(BLOCK_SIZE, segment_length - block * BLOCK_SIZE)


def even_share(missing: int, max_blocks: int) -> int:
    """Return how many of `missing` blocks one GET should bring when several share them: the first come soon then."""
    return min(max(-(-missing // _SHARES), _MIN_SHARE), max_blocks)


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


def count_ticks(states: Sequence[int], last_used: Sequence[int], *, whole: bool) -> Counter[int]:
    """Return how many blocks of one segment were last used in which tick.

    A block whose state is 0 is not there. With `whole` they can only go together, and all count as used
    when the last of them was.
    """
    ticks = Counter(compress(last_used, states))
    return Counter({max(ticks): ticks.total()}) if whole and ticks else ticks


def choose_evictions(blocks_by_tick: Mapping[int, int], wanted: int) -> Evictions:
    """Return the choice of the `wanted` blocks that were used longest ago (of all, if there are fewer)."""
    ticks = sorted(blocks_by_tick)
    for tick in ticks:
        if blocks_by_tick[tick] >= wanted:
            return Evictions(tick, wanted)
        wanted -= blocks_by_tick[tick]
    return Evictions(ticks[-1] + 1 if ticks else 0, 0)


def has_victims(states: Sequence[int], last_used: Sequence[int], choice: Evictions) -> bool:
    """Return whether one segment may have blocks that have to go."""
    return any(states) and min(compress(last_used, states)) <= choice.before


def find_victims(
    states: Sequence[int], last_used: Sequence[int], choice: Evictions, *, whole: bool
) -> tuple[list[int], int]:
    """Return the blocks of one segment that have to go, ascending, and how many of the `choice.ties` that takes.

    With `whole` all of them go, or none.
    """
    used = {block: last_used[block] for block, state in enumerate(states) if state}
    if whole:
        used = dict.fromkeys(used, max(used.values(), default=0))
    tied = [block for block, tick in used.items() if tick == choice.before]
    if not whole or not choice.ties:
        tied = tied[: choice.ties]
    return sorted([block for block, tick in used.items() if tick < choice.before] + tied), len(tied)
