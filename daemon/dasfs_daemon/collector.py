"""The task that deletes what no live revision of one dataset needs: some minutes after the start, then at intervals.

Of all datasets one is collected at a time. Nothing waits for it, so the moments are spread at random: many daemons
that were started together don't list the same bucket together.

**Concurrency:** one task; `wake` and `state` are for the trio thread. A collection runs in a thread and ends within
one request once the dataset is closed; what is left is collected next time. Others may collect at the same time.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import trio

from dasfs.dataset.collect import CollectReport, Garbage, collect
from dasfs.dataset.dataset import Dataset
from dasfs.errors import Conflict, DasfsError
from dasfs_daemon.attempts import Attempts, Backoff
from dasfs_daemon.journal import Closed
from dasfs_daemon.shared import Record, Shared
from dasfs_daemon.shipping import Replaced
from dasfs_daemon.state import CollectionState

log = logging.getLogger(__name__)

PROBLEM: Final = "collection"
# Not at once: a daemon that is started again and again would list the whole bucket each time, and files go before.
FIRST_RUN_S: Final = (120.0, 600.0)
JITTER: Final = (0.9, 1.1)
FIRST_PAUSE_S: Final = 10.0
LONGEST_PAUSE_S: Final = 600.0
# Two collectors that met: the other one is done by then, and it did the work of both.
CONFLICT_S: Final = (30.0, 90.0)

_random = random.SystemRandom()


class Collector:
    """Collects one dataset."""

    def __init__(self, dataset: Dataset, shared: Shared, attempts: Attempts, record: Record) -> None:
        self._dataset = dataset
        self._shared = shared
        self._attempts = attempts
        self._record = record
        self._news = trio.Event()
        self._since: datetime | None = None
        # What the run under way deleted; written by its thread.
        self._objects = self._bytes = 0
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)

    def wake(self) -> None:
        """Look at the configuration again."""
        self._news.set()

    def state(self) -> CollectionState:
        """Return what it is at, at this moment."""
        state = self._record.collection
        return replace(
            state,
            running_since=self._since,
            deleted_objects=state.deleted_objects + self._objects,
            deleted_bytes=state.deleted_bytes + self._bytes,
        )

    async def run(self) -> None:
        """Collect until cancelled."""
        if self._record.collect_at is None:
            self._run_after(_random.uniform(*FIRST_RUN_S))
        while True:
            self._news = trio.Event()
            left_s = (self._record.collect_at or 0.0) - trio.current_time()
            if left_s > 0:
                # Noted again, because a new configuration may say a shorter interval.
                with trio.move_on_after(self._run_after(left_s)):
                    await self._news.wait()
                continue
            async with self._shared.collections:
                pause_s = await self._collect()
            self._run_after(pause_s)

    def _run_after(self, pause_s: float) -> float:
        """Note that the next run is after `pause_s`, or after an interval where that is shorter; return that."""
        pause_s = min(pause_s, self._shared.collection.interval * JITTER[1])
        self._record.collect_at = trio.current_time() + pause_s
        next_run = datetime.now(UTC) + timedelta(seconds=pause_s)
        self._record.collection = replace(self._record.collection, next_run=next_run)
        return pause_s

    async def _collect(self) -> float:
        """Collect once; return how long to wait until the next time."""
        self._since = datetime.now(UTC)
        store, name, grace = self._dataset.store, self._dataset.name, self._shared.collection.grace
        report: CollectReport | None = None
        try:
            report = await self._attempts.checked(partial(collect, store, name, grace=grace, told=self._told))
        except (Closed, Replaced):
            raise
        except Conflict as error:
            log.debug("%s: %s", self._dataset.name, error)
            return _random.uniform(*CONFLICT_S)
        except DasfsError as error:
            self._attempts.problems.report(PROBLEM, error)
            return self._backoff.next_s()
        finally:
            self._note(report)
        self._attempts.problems.clear(PROBLEM)
        self._backoff.reset()
        return self._shared.collection.interval * _random.uniform(*JITTER)

    def _told(self, deleted: Sequence[Garbage]) -> None:
        self._objects += len(deleted)
        self._bytes += sum(each.size for each in deleted)

    def _note(self, report: CollectReport | None) -> None:
        """Note what a run did, also one that failed: then without a report."""
        state, objects, size = self.state(), self._objects, self._bytes
        self._since, self._objects, self._bytes = None, 0, 0
        if report is not None:
            state = replace(
                state,
                last_run=datetime.now(UTC),
                runs=state.runs + 1,
                aborted_uploads=state.aborted_uploads + report.aborted_uploads,
                unknown_objects=report.unknown,
            )
        self._record.collection = replace(state, running_since=None)
        aborted = 0 if report is None else report.aborted_uploads
        if objects or aborted:
            log.info(
                "%s: collected %d objects, %d bytes, and %d unfinished uploads; %d unknown objects are left",
                self._dataset.name,
                objects,
                size,
                aborted,
                state.unknown_objects,
            )
