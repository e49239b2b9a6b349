"""How a mount is doing: the content of `.dasfs/status.json`, and the totals that `statfs` shows.

**Concurrency:** used in the mount's trio thread only; what it shows is gathered when it is asked for.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dasfs
from dasfs.cache.blocks import BlockCache
from dasfs.cache.catalog import Catalog, DatasetState
from dasfs.fuse.announcements import Announcements
from dasfs.fuse.rates import Counts, Rates
from dasfs.fuse.recorder import Recorder
from dasfs.metrics import RequestCounts


@dataclass(frozen=True, slots=True)
class Totals:
    """What the datasets seen so far hold together. Bytes, and numbers of datapoints."""

    datapoints: int
    data_size: int


@dataclass(frozen=True, slots=True)
class MountProblem:
    """Why a dataset, or with an empty name the store as a whole, can't be read."""

    dataset: str
    message: str

    def __str__(self) -> str:
        return f"{self.dataset}: {self.message}" if self.dataset else self.message


@dataclass(slots=True)
class Status:
    """One mount's state of health. `store` is the store's URL."""

    store: str
    mountpoint: str
    options: dict[str, object]
    catalog: Catalog
    blocks: BlockCache
    # Empty for a store that needs no requests.
    store_requests: RequestCounts = field(default_factory=RequestCounts)
    recorder: Recorder = field(default_factory=Recorder)
    # The path of the socket where the mount is asked and told things.
    control: str | None = None
    announcements: Announcements | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    reads: int = 0
    bytes_read: int = 0
    rates: Rates = field(init=False)

    def __post_init__(self) -> None:
        self.rates = Rates(self.counts)

    def count_read(self, size: int) -> None:
        self.reads += 1
        self.bytes_read += size

    def counts(self) -> Counts:
        """Return the counters whose rates are shown."""
        cache = self.blocks.statistics()
        return Counts(
            reads=self.reads,
            bytes_read=self.bytes_read,
            hits=cache.hits,
            misses=cache.misses,
            bytes_fetched=cache.bytes_fetched,
            errors=self.recorder.errors,
        )

    def totals(self) -> Totals:
        snapshots = [state.snapshot for state in self.catalog.states]
        return Totals(sum(each.count for each in snapshots), sum(each.data_size for each in snapshots))

    def problems(self) -> Iterator[MountProblem]:
        """Yield what is wrong just now."""
        if self.catalog.problem is not None:
            yield MountProblem("", self.catalog.problem)
        for state in self.catalog.states:
            if state.problem is not None:
                yield MountProblem(state.name, state.problem)

    def render(self) -> bytes:
        """Return the status as JSON, ending in a newline."""
        lately, access_log = self.rates.lately(), self.recorder.access_log
        document = {
            "dasfs": dasfs.__version__,
            "pid": os.getpid(),
            "store": self.store,
            "mountpoint": self.mountpoint,
            "options": self.options,
            "control": self.control,
            "started": self.started.isoformat(timespec="seconds"),
            "uptime_s": int((datetime.now(UTC) - self.started).total_seconds()),
            "problem": self.catalog.problem,
            "reads": self.reads,
            "bytes_read": self.bytes_read,
            "read_errors": self.recorder.errors,
            "waiting_reads": len(self.recorder.waiting),
            "last_minute": {"seconds": max(1, round(lately.seconds)), **dataclasses.asdict(lately.counts)},
            "access_log": None if access_log is None else dataclasses.asdict(access_log.state()),
            "datasets": {state.name: _describe(state) for state in self.catalog.states},
            "announced": self.announcements.describe() if self.announcements else [],
            "block_cache": dataclasses.asdict(self.blocks.statistics()),
        }
        return json.dumps(document, indent=2).encode() + b"\n"

    def describe(self) -> str:
        """Return in one line what the mount is at, for people who look at `systemctl status`."""
        totals, seen = self.totals(), len(self.catalog.states)
        line = (
            f"{self.store} at {self.mountpoint}: {seen} {'dataset' if seen == 1 else 'datasets'} in use, "
            f"{totals.datapoints:,} datapoints, {self.reads:,} reads"
        )
        return f"{line}; {self.catalog.problem}" if self.catalog.problem else line


def _describe(state: DatasetState) -> dict[str, object]:
    return {
        "revision": state.snapshot.revision,
        "datapoints": state.snapshot.count,
        "dataranges": len(state.snapshot.dataranges),
        "bytes": state.snapshot.data_size,
        "refreshed": state.refreshed_at and state.refreshed_at.isoformat(timespec="seconds"),
        "problem": state.problem,
    }
