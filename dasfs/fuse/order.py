"""A dataset in a seeded order: which datapoint stands at which place of `DATASET@shuffle=SEED`.

The order is a pseudo-random permutation of `range(count)` that is computed place by place, in both directions, in no
memory that grows with `count`. It is part of the format: the same seed and count give the same order in every version
of dasfs, so that another program can compute it. `docs/views.md` writes it down.

A Feistel network works on pairs `(left, right)` of a table of `rows x columns` cells, which is at most one row larger
than `count`; whatever falls behind `count` goes through the network again until it does not ("cycle walking", Black and
Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), which happens about once in `sqrt(count)`.

    columns = ceil(sqrt(count)), rows = ceil(count / columns)
    keys    = eight big-endian u64: BLAKE2b-512 of seed and count (big-endian u64 each), personalized "dasfs order 1"
    mix     = the last two steps of the 64-bit finalizer of MurmurHash3, of which the upper 32 bits count
    rounds  = 8: even ones add mix(right ^ key) to left modulo rows, odd ones mix(left ^ key) to right modulo columns
    value   = left * columns + right

**How reading ahead learns of it:** a `Located` that was found in a shuffled directory has `order`, a `PlacedIn`: at
`place` of `order`. Whoever opens it will most likely open `order.number_at(place + 1)` next. The hint is lost where a
file is opened through a directory without an order, and never wrong.

**Concurrency:** everything here is immutable.
"""

import struct
from bisect import bisect_right
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from math import isqrt
from typing import Final

from dasfs.dataset.model import Snapshot
from dasfs.errors import InvalidInput
from dasfs.names import MAX_NUMBER, DatapointNumber

MAX_SEED: Final = 2**64 - 1
PERSONALIZATION: Final = b"dasfs order 1"
ROUNDS: Final = 8

_KEYS: Final = struct.Struct(">8Q")
_SEED_AND_COUNT: Final = struct.Struct(">QQ")
_MASK: Final = 2**64 - 1
_FIRST_FACTOR: Final = 0xFF51AFD7ED558CCD
_SECOND_FACTOR: Final = 0xC4CEB9FE1A85EC53


class SeededOrder:
    """A permutation of `range(count)`: `order[place]` is what stands at `place`. Some 3 µs an answer."""

    __slots__ = ("_columns", "_count", "_pairs", "_rows", "seed")

    def __init__(self, count: int, seed: int) -> None:
        """Raises `InvalidInput` for a seed outside of 0 to 2^64-1, or a count outside of 0 to 2^63."""
        if not 0 <= seed <= MAX_SEED:
            raise InvalidInput(f"{seed} can't be a seed", hint=f"use a number from 0 to {MAX_SEED}")
        if not 0 <= count <= MAX_NUMBER + 1:
            raise InvalidInput(f"there is no order of {count} datapoints")
        self.seed = seed
        self._count = count
        root = isqrt(count)
        self._columns = max(root + (root * root < count), 1)
        self._rows = max(-(-count // self._columns), 1)
        digest = blake2b(_SEED_AND_COUNT.pack(seed, count), digest_size=64, person=PERSONALIZATION).digest()
        keys = _KEYS.unpack(digest)
        self._pairs = tuple(zip(keys[::2], keys[1::2], strict=True))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> int:
        """Return what stands at `place`: the index of a datapoint among the live ones, in number order.

        Raises `IndexError` outside of `0 <= place < len(self)`.
        """
        count, rows, columns = self._count, self._rows, self._columns
        if not 0 <= place < count:
            raise IndexError(f"place {place} of an order of {count}")
        value = place
        while True:
            left, right = divmod(value, columns)
            for even, odd in self._pairs:
                mixed = ((right ^ even) * _FIRST_FACTOR) & _MASK
                mixed = ((mixed ^ (mixed >> 33)) * _SECOND_FACTOR) & _MASK
                left = (left + (mixed >> 32)) % rows
                mixed = ((left ^ odd) * _FIRST_FACTOR) & _MASK
                mixed = ((mixed ^ (mixed >> 33)) * _SECOND_FACTOR) & _MASK
                right = (right + (mixed >> 32)) % columns
            value = left * columns + right
            if value < count:
                return value

    def place_of(self, index: int) -> int:
        """Return where `index` stands: `order[order.place_of(index)] == index`. Raises `IndexError` as above."""
        count, rows, columns = self._count, self._rows, self._columns
        if not 0 <= index < count:
            raise IndexError(f"index {index} in an order of {count}")
        value = index
        while True:
            left, right = divmod(value, columns)
            for even, odd in reversed(self._pairs):
                right = (right - (_mix(left ^ odd))) % columns
                left = (left - (_mix(right ^ even))) % rows
            value = left * columns + right
            if value < count:
                return value


@dataclass(frozen=True, slots=True)
class SnapshotOrder:
    """The datapoints of one snapshot in a seeded order. `starts[i]` counts those that precede datarange i."""

    snapshot: Snapshot
    indexes: SeededOrder
    starts: tuple[int, ...]

    @classmethod
    def of(cls, snapshot: Snapshot, seed: int) -> "SnapshotOrder":
        starts = (0, *accumulate(datarange.count for datarange in snapshot.dataranges))
        return cls(snapshot, SeededOrder(starts[-1], seed), starts)

    def __len__(self) -> int:
        return len(self.indexes)

    def number_at(self, place: int) -> DatapointNumber:
        """Return the number of the datapoint at `place`. Raises `IndexError` behind the last."""
        index = self.indexes[place]
        which = bisect_right(self.starts, index) - 1
        return DatapointNumber(self.snapshot.dataranges[which].first + index - self.starts[which])

    def place_of(self, number: int) -> int | None:
        """Return where the datapoint `number` stands, or None where the snapshot has none."""
        dataranges = self.snapshot.dataranges
        which = bisect_right(dataranges, number, key=lambda each: each.first) - 1
        if which < 0 or number > dataranges[which].last:
            return None
        return self.indexes.place_of(self.starts[which] + number - dataranges[which].first)


@dataclass(frozen=True, slots=True)
class PlacedIn:
    """That a datapoint was found at `place` of an order, so that the places behind it are read next."""

    order: SnapshotOrder
    place: int


def _mix(value: int) -> int:
    mixed = (value * _FIRST_FACTOR) & _MASK
    return (((mixed ^ (mixed >> 33)) * _SECOND_FACTOR) & _MASK) >> 32
