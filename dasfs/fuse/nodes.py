"""What the tree of a mount is made of: attributes, datapoints that were found, and what open directories list.

**Concurrency:** values, but for `Listing`, which belongs to whoever has the directory open.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dasfs.cache.index import ManifestView
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import DasfsError
from dasfs.formats.manifest import Record
from dasfs.fuse.inodes import Inode, Lives
from dasfs.fuse.order import PlacedIn
from dasfs.names import DatapointName, DatapointNumber


@dataclass(frozen=True, slots=True)
class Attributes:
    """What `stat` shows of a node, but for owner and mode. `mtime` is seconds since 1970.

    `name_kept_s` is how long the kernel may keep the name that led here; None: as long as it keeps such nodes.
    """

    inode: Inode
    is_directory: bool
    size: int
    mtime: int
    links: int = 1
    name_kept_s: int | None = None


class Located(NamedTuple):
    """A datapoint and all that is needed to read it: pinned, so that it stays readable. A tuple: one a lookup.

    `pin` is the snapshot that it was looked up in, where that is not simply the newest: its content never changes then,
    wherever it lies. `order` is where it stands in the seeded order of the directory that it was looked up in.
    """

    inode: Inode
    number: DatapointNumber
    snapshot: Snapshot
    datarange: Datarange
    view: ManifestView
    record: Record
    pin: Snapshot | None = None
    order: PlacedIn | None = None
    name_kept_s: int | None = None

    @property
    def name(self) -> str:
        return str(DatapointName(self.number, self.record.extension))


@dataclass(frozen=True, slots=True)
class Holder:
    """Where a datapoint is: a datarange of a snapshot, with the page of its records that has the datapoint."""

    snapshot: Snapshot
    datarange: Datarange
    view: ManifestView
    page: bytes


@dataclass(slots=True)
class Listing:
    """An open directory of datapoints: one snapshot, so that a listing is whole.

    `starts[i]` counts the datapoints that precede datarange i; `lives` are those of the dataset's numbers then;
    `source` is the snapshot whose manifests are read, a newer one once those are gone; `problem` is why some datapoints
    could not be listed. `space` is what the inodes belong to: the dataset, or one revision of it, which is pinned.
    """

    snapshot: Snapshot
    source: Snapshot
    starts: tuple[int, ...]
    lives: Lives
    space: str
    problem: DasfsError | None = None

    @property
    def is_pinned(self) -> bool:
        return self.space != self.snapshot.dataset


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A stretch of a listing. `position` counts the datapoints of the directory that precede it.

    Not `live`: replaced since the listing began, so that the kernel must not keep it.
    `extensions` are encoded, by extension number; `records` are packed; inode and number of the k-th are the
    first's + k.
    """

    position: int
    first: DatapointNumber
    inode: Inode
    extensions: tuple[bytes, ...]
    records: bytes
    live: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory. A listing that goes on behind it begins at `next`, which is positive."""

    name: bytes
    attributes: Attributes
    next: int


class Entries(Protocol):
    """An open directory that lists one entry after another, whatever they are."""

    async def read(self, position: int) -> list[Entry]:
        """Return some entries from `position` on, 0 being the start; none at the end.

        Raises where some could not be listed, once all others were.
        """
        ...


class Directory(Protocol):
    """A virtual directory."""

    def peek_name(self, name: str) -> Located | None:
        """Return the datapoint that `name` leads to, if everything needed is in memory; else None. Never waits."""
        ...

    async def lookup(self, name: str) -> Attributes | None:
        """Return the attributes of `name`, or None where it is not."""
        ...

    async def attributes(self) -> Attributes:
        """Return the directory's own attributes. Raises `NotFound` when it is gone."""
        ...

    async def open(self) -> Listing | Entries:
        """Return what it lists. Raises `NotFound` when it is gone."""
        ...

    async def describe(self) -> dict[str, object]:
        """Return what its extended attributes tell."""
        ...


def datapoint_attributes(located: Located) -> Attributes:
    """Return what `stat` shows of a datapoint."""
    record = located.record
    return Attributes(located.inode, False, record.true_size, record.mtime, 1, located.name_kept_s)
