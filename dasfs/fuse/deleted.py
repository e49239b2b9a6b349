"""Datapoints that were deleted, for who has them open: where they lay in the last snapshot that had them.

The kernel does not tell who has a file open. But an inode stands for one content, also when its number was taken away
or written anew, so whoever still reads by that inode gets that content for as long as the store keeps it: a day.

**Concurrency:** used in the mount's trio thread; locating waits for the store where a manifest has to be read.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import DasfsError, ObjectChanged, StoreUnavailable
from dasfs.fuse.datapoints import Datapoints
from dasfs.fuse.inodes import DatapointPlace, Inode, Lives, life_of
from dasfs.fuse.nodes import Located

# Deletions that are remembered: each holds on to a snapshot.
MAX_REMEMBERED: Final = 16


@dataclass(frozen=True, slots=True)
class _Deletion:
    """The numbers `first..last` of `snapshot` that the next one did not have any more, and their lives until then."""

    snapshot: Snapshot
    first: int
    last: int
    lives: Lives

    def find(self, place: DatapointPlace) -> Datarange | None:
        """Return the datarange that held a datapoint, if this is how it was deleted."""
        if place.dataset != self.snapshot.dataset or not self.first <= place.number <= self.last:
            return None
        return self.snapshot.find(place.number) if life_of(self.lives, place.number) == place.life else None


class Deleted:
    """The latest deletions that one mount has seen."""

    def __init__(self, datapoints: Datapoints) -> None:
        self._datapoints = datapoints
        self._deletions: deque[_Deletion] = deque(maxlen=MAX_REMEMBERED)

    def add(self, before: Snapshot, first: int, last: int, lives: Lives) -> None:
        """Remember that `first..last` are not what they were in `before`, with their lives until then."""
        self._deletions.append(_Deletion(before, first, last, lives))

    async def locate(self, inode: Inode, place: DatapointPlace) -> Located:
        """Return where a datapoint lay. Raises `ObjectChanged` when it is gone, and what the store raises."""
        number = place.number
        for deletion in reversed(self._deletions):
            datarange = deletion.find(place)
            if datarange is None:
                continue
            try:
                holder = await self._datapoints.hold(deletion.snapshot, datarange, number)
            except StoreUnavailable:
                raise
            except DasfsError:
                break
            record = self._datapoints.record(holder, number)
            return Located(inode, number, deletion.snapshot, datarange, holder.view, record)
        raise ObjectChanged(f"datapoint {number} of {place.dataset} was deleted")
