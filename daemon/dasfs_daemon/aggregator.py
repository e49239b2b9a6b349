"""The task that joins the small dataranges of one dataset, one step at a time, when nothing more urgent is to be done.

It plans after each commit of this daemon, and from time to time for those of others. Of all datasets one step is
under way. Files go before: a step waits while uploads use all that they may, but not for ever, because a daemon that
is never idle would never aggregate.

**Concurrency:** one task; `wake` and `state` are for the trio thread. A step runs in a thread, which tells how far it
is by `_done`, and ends within one request once the dataset is closed. Any number of other aggregations may be at work
elsewhere: whoever was slower plans anew.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import trio

from dasfs.dataset.aggregate import AggregateReport, aggregate, estimate_work
from dasfs.dataset.aggregation_plan import Plan, plan_aggregation
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Snapshot
from dasfs.errors import Conflict, Corrupt, DasfsError, NotFound, ObjectChanged
from dasfs.names import DatarangeId
from dasfs_daemon.attempts import Attempts, Backoff
from dasfs_daemon.journal import Closed
from dasfs_daemon.shared import Record, Shared
from dasfs_daemon.shipping import Replaced, Shipping
from dasfs_daemon.state import AggregationState, Step

log = logging.getLogger(__name__)

PROBLEM: Final = "aggregation"
# Between two plans, so that a writer of many small dataranges causes one a second. A plan of a hundred thousand
# dataranges takes some 0.2 s of one core; it may not take more than a twentieth of the time.
PLAN_PAUSE_S: Final = 1.0
PLAN_SHARE: Final = 20
# How long uploads can keep a step waiting: four steps an hour are enough to get along with ten files a second.
PATIENCE_S: Final = 900.0
LULL_PAUSE_S: Final = 0.5
# Nothing waits for a step, and each attempt may cost a gigabyte.
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 600.0
# Bad bytes seldom get better: whoever has to repair them is told, and the others are joined meanwhile.
FIRST_ASIDE_S: Final = 600.0
LONGEST_ASIDE_S: Final = 3600.0
# Another daemon is at the same: one of the two has to get ahead.
FIRST_CONFLICT_S: Final = 0.5
LONGEST_CONFLICT_S: Final = 30.0

_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class _Due:
    """What a plan came to, and how long planning took."""

    snapshot: Snapshot
    plans: tuple[Plan, ...]
    seconds: float


class Aggregator:
    """Aggregates one dataset. `is_full` tells whether its own files need all that they may use."""

    def __init__(
        self,
        dataset: Dataset,
        shipping: Shipping,
        shared: Shared,
        attempts: Attempts,
        record: Record,
        is_full: Callable[[], bool],
    ) -> None:
        self._dataset = dataset
        self._shipping = shipping
        self._shared = shared
        self._attempts = attempts
        self._record = record
        self._is_full = is_full
        self._news = trio.Event()
        self._step: Step | None = None
        self._done = 0  # bytes of the step under way; written by its thread
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._conflict_backoff = Backoff(FIRST_CONFLICT_S, LONGEST_CONFLICT_S)
        # Dataranges of steps that failed for what they are made of, and until when they are left alone (trio's clock).
        self._suspects: frozenset[DatarangeId] = frozenset()
        self._aside_until = 0.0
        self._aside_backoff = Backoff(FIRST_ASIDE_S, LONGEST_ASIDE_S)

    def wake(self) -> None:
        """Plan soon: there was a commit, or the configuration changed."""
        self._news.set()

    def state(self) -> AggregationState:
        """Return what it is at, at this moment."""
        step = None if self._step is None else replace(self._step, done=self._done)
        return replace(self._record.aggregation, step=step)

    async def run(self) -> None:
        """Aggregate until cancelled."""
        while True:
            self._news = trio.Event()
            took_s = await self._work()
            await trio.sleep(max(PLAN_PAUSE_S, PLAN_SHARE * took_s))
            with trio.move_on_after(self._shared.aggregation.interval):
                await self._news.wait()

    async def _work(self) -> float:
        """Do one step after the other until nothing is due. Return how long the last plan took."""
        while True:
            plan: Plan | None = None
            try:
                due = await self._attempts.checked(self._plan)
                self._note_plan(due)
                plan = self._choose(due)
                if plan is None:
                    return due.seconds
                await self._wait_for_lull()
                async with self._shared.steps:
                    await self._do(plan, due.snapshot)
            except (Closed, Replaced):
                raise
            except Conflict as error:
                log.debug("%s: %s", self._dataset.name, error)
                self._note(conflicts=1)
                await trio.sleep(self._conflict_backoff.next_s())
            except DasfsError as error:
                await trio.sleep(self._fail(error, plan))

    def _plan(self) -> _Due:
        snapshot = self._shipping.refresh()
        started = time.monotonic()
        plans = plan_aggregation(snapshot.dataranges, self._shared.aggregation.policy)
        return _Due(snapshot, tuple(plans), time.monotonic() - started)

    def _note_plan(self, due: _Due) -> None:
        planned = {each.id for plan in due.plans for each in plan.dataranges}
        self._record.aggregation = replace(self._record.aggregation, due=len(planned), planned=datetime.now(UTC))
        self._suspects &= planned  # others may have repaired or removed them
        if not planned:
            self._well()

    def _choose(self, due: _Due) -> Plan | None:
        """Return the step to do now, any one: two daemons that aggregate one dataset seldom choose the same."""
        aside = self._suspects if trio.current_time() < self._aside_until else frozenset()
        plans = [plan for plan in due.plans if aside.isdisjoint(each.id for each in plan.dataranges)]
        return _random.choice(plans) if plans else None

    async def _wait_for_lull(self) -> None:
        """Wait while uploads use all that they may, but not for ever."""
        with trio.move_on_after(PATIENCE_S):
            while True:
                if not self._is_full() and self._shared.uploads.available_tokens > 0:
                    return
                await trio.sleep(LULL_PAUSE_S)

    async def _do(self, plan: Plan, snapshot: Snapshot) -> None:
        """Do one step."""
        dataranges = plan.dataranges
        work = estimate_work(dataranges, self._dataset.store.min_copy_size)
        if (shortage := self._shared.shortage(work.fetched, "nothing is aggregated")) is not None:
            raise shortage
        self._done = 0
        since = datetime.now(UTC)
        self._step = Step(plan.first, plan.last, len(dataranges), plan.tar_size, 0, since)
        try:
            report = await self._attempts.checked(partial(self._aggregate, plan, snapshot))
        finally:
            self._step = None
        self._note_step(plan, report, since)

    def _aggregate(self, plan: Plan, snapshot: Snapshot) -> AggregateReport:
        spool, sources = self._shared.spool, plan.dataranges
        report = aggregate(self._dataset, sources, snapshot, spool_dir=spool, progress=self._progress)
        self._shared.known.joined(report.snapshot.dataset_id, sources, report.datarange)
        return report

    def _progress(self, size: int) -> None:
        self._done += size

    def _note_step(self, plan: Plan, report: AggregateReport, since: datetime) -> None:
        joined, now = len(plan.dataranges), datetime.now(UTC)
        self._note(steps=1, joined_dataranges=joined, copied_bytes=report.copied, fetched_bytes=report.fetched)
        state = self._record.aggregation
        self._record.aggregation = replace(state, last_step=now, due=max(state.due - joined, 0))
        self._conflict_backoff.reset()
        self._suspects -= {each.id for each in plan.dataranges}
        if not self._suspects:
            self._well()
        log.info(
            "%s: joined %d-%d: %d dataranges, %d bytes (%d copied in the store, %d fetched), %.1f s, revision %d",
            self._dataset.name,
            plan.first,
            plan.last,
            joined,
            report.datarange.tar_size,
            report.copied,
            report.fetched,
            (now - since).total_seconds(),
            report.snapshot.revision,
        )

    def _note(self, **counts: int) -> None:
        """Add to counters of the state, by their names."""
        state = self._record.aggregation
        changes = {name: getattr(state, name) + count for name, count in counts.items()}
        self._record.aggregation = replace(state, **changes)

    def _fail(self, error: DasfsError, plan: Plan | None) -> float:
        """Tell what went wrong; return how long to wait before the next step."""
        self._attempts.problems.report(PROBLEM, error)
        if plan is None or not isinstance(error, Corrupt | NotFound | ObjectChanged):
            return self._backoff.next_s()
        self._suspects |= {each.id for each in plan.dataranges}
        self._aside_until = trio.current_time() + self._aside_backoff.next_s()
        return 0.0

    def _well(self) -> None:
        """Note that nothing is wrong."""
        self._attempts.problems.clear(PROBLEM)
        for each in (self._backoff, self._aside_backoff):
            each.reset()
