"""What the journal holds, as values: files, dataranges, and how much waits; and how they stand in its tables.

**Concurrency:** values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from dasfs.dataset.model import Datarange
from dasfs.names import DatapointNumber, DatarangeId


class State(StrEnum):
    """How far a datarange is; see `schema`."""

    PACKED = "packed"
    UPLOADED = "uploaded"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a file from another one that has its path. Two are equal when size, mtime and inode are.

    `ctime_ns` changes with every write, also with one that sets the mtime back, but with new rights, names and links,
    too: where it is not the same the content has to be looked at. 0: unknown.
    """

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is complete. `number` is the one of its name, None where it has none."""

    path: bytes
    stamp: Stamp
    number: int | None


@dataclass(frozen=True, slots=True)
class Known:
    """What the journal has under a path, and where it has none: the paths of files with the same stamp."""

    stamp: Stamp | None
    twins: tuple[bytes, ...]


UNKNOWN: Final = Known(None, ())


class FileRow(NamedTuple):
    """A file in the journal. A tuple, which is made five times as fast: each file is read three times on its way."""

    id: int
    path: bytes
    stamp: Stamp
    taken: float
    numbered: bool
    number: int | None


@dataclass(frozen=True, slots=True)
class DatarangeRow:
    """A datarange in the journal. `uploaded` is what a commit names, None until it is in the store."""

    id: int
    state: State
    first: int
    last: int
    size: int
    oldest: float
    base_revision: int
    uploaded: Datarange | None
    committed: float | None

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much is taken and in no datarange. `oldest`: seconds since 1970."""

    numbered: int
    unnumbered: int
    size: int
    oldest: float | None

    @property
    def files(self) -> int:
        return self.numbered + self.unnumbered


@dataclass(frozen=True, slots=True)
class Uncommitted:
    """All that is taken and not committed at one moment: what waits, and dataranges that are packed or uploaded."""

    waiting: Waiting
    dataranges: Sequence[DatarangeRow]


def new_row(origin: int, file: NewFile, now: float) -> tuple[Any, ...]:
    """Return a file that is taken at `now` as the journal keeps it."""
    stamp, number = file.stamp, file.number
    place = (origin, file.path, stamp.size, stamp.mtime_ns, stamp.inode, stamp.ctime_ns)
    return (*place, now, number is not None, number)


def file_row(row: tuple[Any, ...]) -> FileRow:
    """Return a file as the journal has it."""
    key, path, *stamp, taken, numbered, number = row
    return FileRow(key, path, Stamp(*stamp), taken, bool(numbered), number)


def datarange_row(row: tuple[Any, ...]) -> DatarangeRow:
    """Return a datarange as the journal has it."""
    key, state, first, last, size, oldest, base_revision, counter, tar_size, manifest_size, named, committed = row
    uploaded = None
    if counter is not None:
        identity = DatarangeId(DatapointNumber(first), DatapointNumber(last), counter)
        uploaded = Datarange(identity, tar_size, manifest_size, size, bool(named))
    return DatarangeRow(key, State(state), first, last, size, oldest, base_revision, uploaded, committed)
