"""Counts of reads by process and dataset, since somebody began to look.

**Concurrency:** the trio thread.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

from dasfs.fuse.inodes import SLOT_BITS, DatapointPlace
from dasfs.fuse.processes import Process, Processes

# The clock is looked at once in so many reads.
_READS_A_LOOK: Final = 4096
# What a process did is shown for so long after it did it last.
KEPT_S: Final = 60.0
# Processes that read one after another, as those of `find -exec`, don't fill the memory.
MAX_TALLIES: Final = 4096


class Tally:
    """What one process read of one dataset. `seconds` is how long its reads took together."""

    __slots__ = ("bytes", "dataset", "errors", "files", "hits", "process", "reads", "seconds", "seen", "uid")

    def __init__(self, process: Process, uid: int, dataset: str) -> None:
        self.process = process
        self.uid = uid
        self.dataset = dataset
        self.files = self.reads = self.hits = self.bytes = self.errors = 0
        self.seconds = 0.0
        # How many reads there were when it was shown last, and when that grew.
        self.seen = (0, time.monotonic())


class Tallies:
    """The counts of one mount."""

    def __init__(self, processes: Processes, place_of: Callable[[int], DatapointPlace | None]) -> None:
        self.since = time.monotonic()
        self._processes = processes
        self._place_of = place_of
        # By thread and slot of the inode, which is quicker to find than the process and the dataset.
        self._of_thread: dict[tuple[int, int], Tally] = {}
        self._tallies: dict[tuple[int, str], Tally] = {}
        self._until = 0.0
        self._left = _READS_A_LOOK

    def extend(self, seconds: float) -> None:
        """Count for `seconds` from now on."""
        self._until = time.monotonic() + seconds

    def add(
        self, thread: int, uid: int, inode: int, offset: int, size: int, seconds: float, hit: bool, number: int
    ) -> bool:
        """Count one read; return False when nobody looks any more."""
        tally = self._of_thread.get((thread, inode >> SLOT_BITS)) or self._find(thread, uid, inode)
        tally.reads += 1
        tally.bytes += size
        tally.seconds += seconds
        if offset == 0:
            tally.files += 1
        if hit:
            tally.hits += 1
        if number:
            tally.errors += 1
        self._left -= 1
        return self._left > 0 or self._look()

    def all(self) -> Iterator[Tally]:
        """Yield the counts of those that read something lately, and forget the others."""
        now = time.monotonic()
        self._processes.age()
        # Threads come and go, and their numbers are given again.
        self._of_thread.clear()
        for key, tally in list(self._tallies.items()):
            if tally.reads > tally.seen[0]:
                tally.seen = (tally.reads, now)
            elif now - tally.seen[1] > KEPT_S:
                del self._tallies[key]
                continue
            yield tally

    def _find(self, thread: int, uid: int, inode: int) -> Tally:
        process, place = self._processes.find(thread), self._place_of(inode)
        dataset = "" if place is None else place.dataset
        key = (process.pid, dataset)
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= MAX_TALLIES:
                del self._tallies[next(iter(self._tallies))]
            tally = self._tallies[key] = Tally(process, uid, dataset)
        if len(self._of_thread) >= MAX_TALLIES:
            self._of_thread.clear()
        self._of_thread[thread, inode >> SLOT_BITS] = tally
        return tally

    def _look(self) -> bool:
        self._left = _READS_A_LOOK
        return time.monotonic() < self._until
