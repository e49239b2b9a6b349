"""What the parts of a daemon have in common: its limits, and what outlives one life of a dataset.

**Concurrency:** made and changed in the trio thread; threads read single attributes.
"""

import os
import shutil
from dataclasses import dataclass, field

import trio

from dasfs.dataset.local import local_error
from dasfs.errors import DasfsError, NoSpace
from dasfs_daemon.config import AggregationConfig, CollectionConfig
from dasfs_daemon.journal import Journal
from dasfs_daemon.known import KnownPaths
from dasfs_daemon.state import AggregationState, CollectionState, LastCommit
from dasfs_daemon.tally import Tally
from dasfs_daemon.throttle import Throttle


@dataclass(slots=True)
class Shared:
    """What all datasets of a daemon use together. The limits may change while it runs."""

    journal: Journal
    known: KnownPaths
    spool: str
    throttle: Throttle
    uploads: trio.CapacityLimiter
    threads: trio.CapacityLimiter
    minimum_free_disk: int
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    # Of all datasets one step, and one collection, is under way: they are in no hurry, and files are. Both locks are
    # fair, so that a dataset with a thousand steps to do lets the others in between.
    steps: trio.Lock = field(default_factory=trio.Lock)
    collections: trio.Lock = field(default_factory=trio.Lock)

    def shortage(self, size: int, what: str) -> DasfsError | None:
        """Return what to tell where the disk has not enough room for `size` more bytes; None where it has."""
        try:
            free = free_bytes(self.spool)
        except OSError as error:
            return local_error(error, self.spool)
        if free - size >= self.minimum_free_disk:
            return None
        return NoSpace(
            f"{self.spool} has {free:,} bytes free and needs {self.minimum_free_disk + size:,}: {what} until then",
            hint="make room, or lower limits.minimum_free_disk",
        )


def free_bytes(spool: str) -> int:
    """Return how much room the disk of the spool directory has. One that was removed, as tidy people and programs do
    with what looks empty, is made again. Raises `OSError`."""
    try:
        return shutil.disk_usage(spool).free
    except FileNotFoundError:
        os.makedirs(spool, mode=0o700, exist_ok=True)
        return shutil.disk_usage(spool).free


@dataclass(slots=True)
class Record:
    """What outlives a life of a dataset. `collect_at` is when it is collected next, by trio's clock."""

    tally: Tally
    last_commit: LastCommit | None = None
    aggregation: AggregationState = field(default_factory=AggregationState)
    collection: CollectionState = field(default_factory=CollectionState)
    collect_at: float | None = None
