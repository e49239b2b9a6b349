"""Inode numbers, computed from what they stand for, so that nothing has to be remembered or forgotten.

The upper 16 bits are a slot, the lower 48 a number. Slot 0 holds the root, `.dasfs` and the datasets'
directories. A higher slot holds 2^48 consecutive datapoint numbers of one dataset; slots are given out when
they are first used, and a dataset whose numbers stay below 2^48 needs one.

**Concurrency:** used in the mount's trio thread only.
"""

import errno
from dataclasses import dataclass
from typing import Final, NewType

from dasfs.errors import DasfsError
from dasfs.names import DatapointNumber

Inode = NewType("Inode", int)

ROOT: Final = Inode(1)  # FUSE's own constant
CONTROL_DIRECTORY: Final = Inode(2)
STATUS_FILE: Final = Inode(3)

_NUMBER_BITS: Final = 48
_NUMBER_MASK: Final = (1 << _NUMBER_BITS) - 1
_FIRST_DIRECTORY: Final = 16  # below: room for the mount's own files
_MAX_SLOT: Final = (1 << 16) - 1


class TooManyInodes(DasfsError):
    """More slots than 16 bits can number: 65,535 datasets, or numbers scattered over the whole range."""

    errno_value = errno.ENFILE


@dataclass(frozen=True, slots=True)
class DatapointPlace:
    """The dataset and number that an inode stands for."""

    dataset: str
    number: DatapointNumber


class InodeTable:
    """Maps datasets and datapoints to inodes and back, the same way for as long as the mount lives."""

    def __init__(self) -> None:
        self._directories: list[str] = []
        self._directory_of: dict[str, Inode] = {}
        self._slots: list[tuple[str, int]] = []
        self._slot_of: dict[tuple[str, int], int] = {}

    def directory(self, dataset: str) -> Inode:
        """Return the inode of a dataset's directory."""
        inode = self._directory_of.get(dataset)
        if inode is None:
            inode = self._directory_of[dataset] = Inode(_FIRST_DIRECTORY + len(self._directories))
            self._directories.append(dataset)
        return inode

    def datapoint(self, dataset: str, number: DatapointNumber) -> Inode:
        """Return the inode of a datapoint. Raises `TooManyInodes`."""
        key = (dataset, number >> _NUMBER_BITS)
        slot = self._slot_of.get(key)
        if slot is None:
            slot = len(self._slots) + 1
            if slot > _MAX_SLOT:
                raise TooManyInodes("this mount has seen too many datasets")
            self._slots.append(key)
            self._slot_of[key] = slot
        return Inode((slot << _NUMBER_BITS) | (number & _NUMBER_MASK))

    def room(self, number: DatapointNumber) -> int:
        """Return for how many numbers from `number` on inodes simply count up."""
        return _NUMBER_MASK + 1 - (number & _NUMBER_MASK)

    def find_directory(self, inode: int) -> str | None:
        """Return the dataset whose directory `inode` is, or None."""
        place = inode - _FIRST_DIRECTORY
        return self._directories[place] if 0 <= place < len(self._directories) else None

    def find_datapoint(self, inode: int) -> DatapointPlace | None:
        """Return the datapoint that `inode` is, or None."""
        slot = inode >> _NUMBER_BITS
        if not 0 < slot <= len(self._slots):
            return None
        dataset, upper = self._slots[slot - 1]
        return DatapointPlace(dataset, DatapointNumber((upper << _NUMBER_BITS) | (inode & _NUMBER_MASK)))
