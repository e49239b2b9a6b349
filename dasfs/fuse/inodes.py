"""Inode numbers, computed from what they stand for, so that nothing has to be remembered or forgotten.

The upper 16 bits are a slot, the lower 48 a number. Slot 0 holds the root, `.dasfs` with its files, and the datasets'
directories. A higher slot holds 2^48 consecutive datapoint numbers of one dataset; slots are given out when
they are first used, and a dataset whose numbers stay below 2^48 needs one.

An inode stands for one content. A number that was deleted may be written again with another one, and gets another
inode then: the kernel keeps one size and one set of pages for an inode, which whoever still has the old file open goes
on using. How often a number was taken away is its *life*; each life of a dataset has its own slots.

**Concurrency:** used in the mount's trio thread only.
"""

import errno
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final, NewType

from dasfs.errors import DasfsError
from dasfs.names import MAX_NUMBER, DatapointNumber

Inode = NewType("Inode", int)

ROOT: Final = Inode(1)  # FUSE's own constant
CONTROL_DIRECTORY: Final = Inode(2)
# The mount's own files count up from here, far above the directories.
FIRST_OWN_FILE: Final = Inode(1 << 40)

_NUMBER_BITS: Final = 48
# Shifted by so much, inodes that are equal are of one dataset.
SLOT_BITS: Final = _NUMBER_BITS
_NUMBER_MASK: Final = (1 << _NUMBER_BITS) - 1
_FIRST_DIRECTORY: Final = 16
_MAX_SLOT: Final = (1 << 16) - 1


class TooManyInodes(DasfsError):
    """More slots than 16 bits can number: 65,535 datasets or lives, or numbers scattered over the whole range."""

    errno_value = errno.ENFILE


@dataclass(frozen=True, slots=True)
class DatapointPlace:
    """The dataset and number that an inode stands for, and in which life of that number."""

    dataset: str
    number: DatapointNumber
    life: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """The numbers `first..last`, which were taken away `life` times."""

    first: int
    last: int
    life: int


# Ascending, without overlaps; numbers in none of them are in their first life.
Lives = tuple[Span, ...]


def life_of(lives: Lives, number: int) -> int:
    """Return in which life a number is."""
    place = bisect_right(lives, number, key=_first) - 1
    return lives[place].life if place >= 0 and number <= lives[place].last else 0


def renew(lives: Lives, first: int, last: int) -> Lives:
    """Return `lives` after `first..last` were taken away: those numbers are in a life that none of them had before."""
    touched = [span for span in lives if span.first <= last and span.last >= first]
    life = 1 + max((span.life for span in touched), default=0)
    spans = [Span(first, last, life), *(span for span in lives if span not in touched)]
    spans += [Span(span.first, first - 1, span.life) for span in touched if span.first < first]
    spans += [Span(last + 1, span.last, span.life) for span in touched if span.last > last]
    joined: list[Span] = []
    for span in sorted(spans, key=_first):
        if joined and (joined[-1].last + 1, joined[-1].life) == (span.first, span.life):
            span = Span(joined.pop().first, span.last, span.life)
        joined.append(span)
    return tuple(joined)


def same_life(lives: Lives, number: int) -> int:
    """Return how many numbers from `number` on are surely in the same life as `number`."""
    place = bisect_right(lives, number, key=_first)
    ends = [lives[place].first] if place < len(lives) else []
    if place and number <= lives[place - 1].last:
        ends.append(lives[place - 1].last + 1)
    return min(ends, default=MAX_NUMBER + 1) - number


def _first(span: Span) -> int:
    return span.first


class InodeTable:
    """Maps datasets and datapoints to inodes and back, the same way for as long as the mount lives."""

    def __init__(self) -> None:
        self._directories: list[str] = []
        self._directory_of: dict[str, Inode] = {}
        self._slots: list[tuple[str, int, int]] = []
        self._slot_of: dict[tuple[str, int, int], int] = {}
        self._lives: dict[str, Lives] = {}

    def directory(self, dataset: str) -> Inode:
        """Return the inode of a dataset's directory."""
        inode = self._directory_of.get(dataset)
        if inode is None:
            inode = self._directory_of[dataset] = Inode(_FIRST_DIRECTORY + len(self._directories))
            self._directories.append(dataset)
        return inode

    def lives(self, dataset: str) -> Lives:
        """Return in which lives a dataset's numbers are now."""
        return self._lives.get(dataset, ())

    def renew(self, dataset: str, first: int, last: int) -> None:
        """Give the numbers `first..last` other inodes from now on."""
        self._lives[dataset] = renew(self.lives(dataset), first, last)

    def is_current(self, place: DatapointPlace) -> bool:
        """Return whether a number is still in the life that an inode stands for."""
        return place.life == life_of(self.lives(place.dataset), place.number)

    def datapoint(self, dataset: str, number: DatapointNumber, lives: Lives | None = None) -> Inode:
        """Return the inode of a datapoint, at the time of `lives` if given. Raises `TooManyInodes`."""
        life = life_of(self.lives(dataset) if lives is None else lives, number)
        key = (dataset, number >> _NUMBER_BITS, life)
        slot = self._slot_of.get(key)
        if slot is None:
            slot = len(self._slots) + 1
            if slot > _MAX_SLOT:
                raise TooManyInodes("this mount has seen too many datasets")
            self._slots.append(key)
            self._slot_of[key] = slot
        return Inode((slot << _NUMBER_BITS) | (number & _NUMBER_MASK))

    def room(self, number: DatapointNumber, lives: Lives) -> int:
        """Return for how many numbers from `number` on inodes simply count up."""
        return min(_NUMBER_MASK + 1 - (number & _NUMBER_MASK), same_life(lives, number))

    def find_directory(self, inode: int) -> str | None:
        """Return the dataset whose directory `inode` is, or None."""
        place = inode - _FIRST_DIRECTORY
        return self._directories[place] if 0 <= place < len(self._directories) else None

    def find_datapoint(self, inode: int) -> DatapointPlace | None:
        """Return the datapoint that `inode` is, or None."""
        slot = inode >> _NUMBER_BITS
        if not 0 < slot <= len(self._slots):
            return None
        dataset, upper, life = self._slots[slot - 1]
        return DatapointPlace(dataset, DatapointNumber((upper << _NUMBER_BITS) | (inode & _NUMBER_MASK)), life)
