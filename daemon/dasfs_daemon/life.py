"""One life of a dataset: from comparing the journal with the log until it is stopped or has to begin anew.

**Concurrency:** the tasks run in the trio thread and share this object; what blocks runs in threads (`Attempts`).
`_news` wakes the planner. A life ends by cancelling `run`, at any moment: `close` then makes every thread that was
left behind useless, and the journal says where to go on.
"""

import itertools
import logging
import shutil
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.writer import PackedDatarange
from dasfs.errors import NoSpace
from dasfs.stores import Store
from dasfs_daemon.attempts import Attempts
from dasfs_daemon.config import DatasetConfig
from dasfs_daemon.existing import Comparer
from dasfs_daemon.inlet import Inlet
from dasfs_daemon.intake import Intake
from dasfs_daemon.journal import Closed, Journal
from dasfs_daemon.known import KnownPaths
from dasfs_daemon.origin import DatarangeRow, OriginJournal, State, Waiting
from dasfs_daemon.outlet import Outlet
from dasfs_daemon.plan import seconds_until_due
from dasfs_daemon.planner import Plan, Planner
from dasfs_daemon.rejects import Rejects
from dasfs_daemon.shipping import PackFailed, Place, Shipping
from dasfs_daemon.state import LastCommit
from dasfs_daemon.tally import Tally
from dasfs_daemon.throttle import Throttle

log = logging.getLogger(__name__)

# How long to wait for room on the disk before looking again, and after a plan that found nothing to do.
DISK_PAUSE_S: Final = 2.0
EMPTY_PLAN_PAUSE_S: Final = 1.0


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


@dataclass(slots=True)
class Record:
    """What outlives a life of a dataset."""

    tally: Tally
    last_commit: LastCommit | None = None


class Life:
    """Moves what arrives in one write directory into its dataset."""

    def __init__(self, name: str, config: DatasetConfig, store: Store, shared: Shared, attempts: Attempts) -> None:
        self.record = Record(Tally())
        self.waiting = Waiting(0, 0, 0, None)
        self.in_flight: dict[int, DatarangeRow] = {}
        self.recovered = False
        self._name = name
        self._config = config
        self._shared = shared
        self._attempts = attempts
        self._stop = threading.Event()
        origin = shared.journal.origin(name, config.directory, store.url)
        self._journal = OriginJournal(shared.journal, origin)
        self._rejects = Rejects(name, config.directory)
        dataset = Dataset(store, name)
        place = Place(config.directory, shared.spool, config.compression)
        self._shipping = Shipping(dataset, place, self._journal, shared.throttle, self._stop)
        comparer = Comparer(dataset, shared.known, config.directory)
        self._planner = Planner(dataset, config, self._journal, comparer, self._rejects)
        # One more than upload at once is packed, so that no upload waits for the packer.
        self._slots = trio.Semaphore(int(shared.uploads.total_tokens) + 1)
        self._news = trio.Event()

    def begin(self, record: Record) -> None:
        """Make the tasks' objects; counts go on from those of the life before."""
        self.record = record
        config, attempts, tally = self._config, self._attempts, record.tally
        token = trio.lowlevel.current_trio_token()

        def taken() -> None:
            token.run_sync_soon(self._wake, idempotent=True)

        intake = Intake(self._name, config, self._journal, self._rejects, taken)
        self.inlet = Inlet(config, intake, self._rejects, attempts, tally)
        self.outlet = Outlet(config, self._shipping, attempts, tally, self.inlet.look_at)

    async def run(self) -> None:
        """Work until cancelled. Raises `Replaced` when everything must begin anew."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.inlet.run)
            await self._attempts.until_done("journal", self._journal.retry_refused)
            rows = await self._attempts.until_done("store", self._shipping.recover)
            nursery.start_soon(self.outlet.run)
            self.recovered = True
            for row in rows:
                if row.state is State.COMMITTED:
                    self.outlet.add(row)
                else:
                    await self._start(row, nursery)
            await self._plan(nursery)

    def close(self) -> None:
        """End what still runs in threads."""
        self._stop.set()
        self._journal.close()

    def _wake(self) -> None:
        self._news.set()

    async def _plan(self, nursery: trio.Nursery) -> None:
        """Make dataranges whenever enough waits, and start them."""
        snapshot = await self._attempts.until_done("store", self._shipping.refresh)
        while True:
            target = self._planner.target_size(snapshot)
            self._news = trio.Event()
            self.waiting = await self._attempts.until_done("journal", self._journal.waiting)
            due = seconds_until_due(self.waiting, target, self._config.datarange_age, datetime.now(UTC).timestamp())
            if due is None or due > 0:
                with trio.move_on_after(float("inf") if due is None else due):
                    await self._news.wait()
                continue
            await self._wait_for_room(0)
            snapshot = await self._attempts.until_done("store", self._shipping.refresh)
            plan = await self._attempts.until_done("store", lambda: self._planner.plan(snapshot))  # noqa: B023
            self._tell(plan)
            # Not those of the plan: what one made that failed halfway is in the journal as well.
            packed = await self._attempts.until_done("journal", lambda: self._journal.dataranges(State.PACKED))
            new = [row for row in packed if row.id not in self.in_flight]
            for row in new:
                await self._start(row, nursery)
            if not new:
                await trio.sleep(EMPTY_PLAN_PAUSE_S)

    async def _start(self, row: DatarangeRow, nursery: trio.Nursery) -> None:
        await self._slots.acquire()
        self.in_flight[row.id] = row
        nursery.start_soon(self._ship, row)

    async def _ship(self, row: DatarangeRow) -> None:
        """Bring one datarange into the log, or give it back; then its sources may go."""
        try:
            await self._carry(row)
        except Closed as error:
            log.debug("%s: datapoints %d-%d: %s", self._name, row.first, row.last, error)
        finally:
            del self.in_flight[row.id]
            self._slots.release()
            self._wake()

    async def _carry(self, row: DatarangeRow) -> None:
        attempts, shipping = self._attempts, self._shipping
        tries = itertools.count(0 if row.state is State.PACKED else 1)
        if row.state is State.PACKED:
            packed = await self._pack(row)
            if packed is None:
                return
            with packed:
                row = await attempts.until_done(
                    "store", lambda: shipping.upload(row, packed, self._sent), self._shared.uploads
                )
        committed = await attempts.until_done("store", lambda: shipping.commit(row, again=next(tries) > 0))
        if committed is None:
            self.record.tally.add(repacked_dataranges=1)
            return
        self._note_commit(committed)
        self.outlet.add(committed)

    async def _pack(self, row: DatarangeRow) -> PackedDatarange | None:
        """Return the packed datarange; None where it was given back because of a file that can't be packed."""
        await self._wait_for_room(row.size)
        try:
            return await self._attempts.until_done("disk", lambda: self._shipping.pack(row))
        except PackFailed as error:
            failed = error
        out = await self._attempts.until_done("directory", lambda: self._shipping.leave_out(row, failed, self._rejects))
        self.record.tally.add(changed_files=len(out.changed), rejected_files=int(out.rejected), repacked_dataranges=1)
        log.info("%s: %s; it is left out for now", self._name, failed.error.message)
        self.inlet.look_at(out.changed)
        return None

    async def _wait_for_room(self, size: int) -> None:
        """Wait while the disk has not enough room for `size` more bytes."""
        shared = self._shared
        while True:
            free = shutil.disk_usage(shared.spool).free
            if free - size >= shared.minimum_free_disk:
                self._attempts.problems.clear("disk")
                return
            needed = shared.minimum_free_disk + size
            error = NoSpace(
                f"{shared.spool} has {free:,} bytes free and needs {needed:,}: nothing is packed until then",
                hint="make room, or lower limits.minimum_free_disk",
            )
            self._attempts.problems.report("disk", error)
            await trio.sleep(DISK_PAUSE_S)

    def _sent(self, size: int) -> None:
        self.record.tally.add(sent_bytes=size)

    def _tell(self, plan: Plan) -> None:
        self.record.tally.add(duplicate_files=plan.duplicates, rejected_files=plan.rejected)
        if plan.duplicates:
            log.info("%s: %d files were in the dataset already and are removed", self._name, plan.duplicates)

    def _note_commit(self, row: DatarangeRow) -> None:
        assert row.committed is not None
        revision = self._shipping.revision
        now = datetime.now(UTC)
        self.record.last_commit = LastCommit(revision, now, row.first, row.last, row.size)
        self.record.tally.committed(row.count, row.size)
        log.info(
            "%s: committed %d-%d: %d files, %d bytes, %.1f s after the first was complete, revision %d",
            self._name,
            row.first,
            row.last,
            row.count,
            row.size,
            max(row.committed - row.oldest, 0.0),
            revision,
        )
