"""One life of a dataset: from comparing the journal with the log until it is stopped or has to begin anew.

**Concurrency:** the tasks run in the trio thread and share this object; what blocks runs in threads (`Attempts`).
`_news` wakes the planner. A life ends by cancelling `run`, at any moment: `close` then makes every thread that was
left behind useless, and the journal says where to go on.
"""

import itertools
import logging
import threading
from datetime import UTC, datetime
from typing import Final

import trio

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.writer import PackedDatarange
from dasfs.errors import AlreadyExists, DasfsError
from dasfs.stores import Store
from dasfs_daemon.aggregator import Aggregator
from dasfs_daemon.attempts import Attempts
from dasfs_daemon.background import BackgroundStore
from dasfs_daemon.backlog import BacklogView
from dasfs_daemon.collector import Collector
from dasfs_daemon.config import DatasetConfig
from dasfs_daemon.directory_lock import DirectoryLock
from dasfs_daemon.existing import Comparer
from dasfs_daemon.files import show
from dasfs_daemon.inlet import RETRY_S, Inlet
from dasfs_daemon.intake import Intake
from dasfs_daemon.journal import Closed
from dasfs_daemon.log_fields import log_fields
from dasfs_daemon.origin import OriginJournal
from dasfs_daemon.outlet import Outlet
from dasfs_daemon.plan import seconds_until_due
from dasfs_daemon.planner import Plan, Planner
from dasfs_daemon.rejects import Rejects
from dasfs_daemon.rows import DatarangeRow, State
from dasfs_daemon.shared import Record, Shared
from dasfs_daemon.shipping import PackFailed, Place, Shipping
from dasfs_daemon.state import LastCommit
from dasfs_daemon.tally import Tally

log = logging.getLogger(__name__)

# How long to wait for room on the disk before looking again, and after a plan that found nothing to do.
DISK_PAUSE_S: Final = 2.0
EMPTY_PLAN_PAUSE_S: Final = 1.0
# A million files are scanned in half a minute. A file system that is slower than that must not hold up what is taken.
SCAN_PATIENCE_S: Final = 300.0


class Life:
    """Moves what arrives in one write directory into its dataset."""

    def __init__(self, name: str, config: DatasetConfig, store: Store, shared: Shared, attempts: Attempts) -> None:
        self.record = Record(Tally())
        self._under_way: set[int] = set()  # rows of dataranges that are shipped, or wait for their turn
        self.recovered = False
        self._name = name
        self._config = config
        self._shared = shared
        self._attempts = attempts
        self._stop = threading.Event()
        origin = shared.journal.origin(name, config.directory, store.url)
        self._journal = OriginJournal(shared.journal, origin)
        self.backlog = BacklogView(self._journal, attempts)
        self._rejects = Rejects(name, config.directory)
        self._lock = DirectoryLock(config.directory)
        dataset = Dataset(store, name)
        self._background = Dataset(BackgroundStore(store, shared.throttle, self._stop), name)
        place = Place(config.directory, shared.spool, config.compression)
        self._shipping = Shipping(dataset, place, self._journal, shared.throttle, self._stop, self._expiry_s)
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
        self.inlet = Inlet(config, intake, self._rejects, attempts, tally, self._lock.ensure)
        self.outlet = Outlet(config, self._shipping, attempts, tally, self.inlet.look_at)
        self.aggregator = Aggregator(self._background, self._shipping, self._shared, attempts, record, self._is_full)
        self.collector = Collector(self._background, self._shared, attempts, record)

    async def run(self) -> None:
        """Work until cancelled. Raises `Replaced` when everything must begin anew."""
        await self._own_directory()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.inlet.run)
            nursery.start_soon(self.backlog.run)
            await self._attempts.until_done("journal", self._journal.retry_refused)
            rows = await self._attempts.until_done("store", self._shipping.recover)
            self.backlog.look_again()
            nursery.start_soon(self.outlet.run)
            if self._config.aggregate:
                nursery.start_soon(self.aggregator.run)
            if self._config.collect:
                nursery.start_soon(self.collector.run)
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
        self._lock.close()

    def look_again(self) -> None:
        """Bring limits that changed into effect."""
        self.aggregator.wake()
        self.collector.wake()

    def _wake(self) -> None:
        self._news.set()
        self.backlog.look_again()

    def _is_full(self) -> bool:
        """Return whether as many dataranges are on their way as may be: more wait, or will soon."""
        return self._slots.value == 0

    def _expiry_s(self) -> float:
        """Return how long an upload can be left alone until it counts as left over: far from what collectors think."""
        return self._shared.collection.uncommitted / 2

    async def _own_directory(self) -> None:
        """Wait while another daemon has the write directory. One that is away is nobody's: `Inlet` waits for it."""
        while True:
            try:
                await self._attempts.once(self._lock.ensure)
            except AlreadyExists as error:
                self._attempts.problems.report("directory", error)
            except Closed:
                raise
            except DasfsError:
                return
            else:
                return
            await trio.sleep(RETRY_S)

    async def _plan(self, nursery: trio.Nursery) -> None:
        """Make dataranges whenever enough waits, and start them."""
        # Known before the first plan, or that would be made of the first few files.
        target = self._planner.target_size(await self._attempts.until_done("store", self._shipping.refresh))
        while True:
            self._news = trio.Event()
            waiting = await self._attempts.until_done("journal", self._journal.waiting)
            due = seconds_until_due(waiting, target, self._config.datarange_age, datetime.now(UTC).timestamp())
            if due is None or due > 0:
                with trio.move_on_after(float("inf") if due is None else due):
                    await self._news.wait()
                continue
            if waiting.numbered:
                # A directory lists its files in no order: those of half a scan are runs of one or two numbers.
                with trio.move_on_after(SCAN_PATIENCE_S):
                    await self.inlet.wait_scanned()
            await self._wait_for_room(0)
            plan = await self._attempts.until_done("store", self._plan_newest)
            target = plan.target_size
            await self._tell(plan)
            # Not those of the plan: what one made that failed halfway is in the journal as well.
            packed = await self._attempts.until_done("journal", lambda: self._journal.dataranges(State.PACKED))
            new = [row for row in packed if row.id not in self._under_way]
            self.backlog.look_again()
            for row in new:
                await self._start(row, nursery)
            if not new:
                await trio.sleep(EMPTY_PLAN_PAUSE_S)

    def _plan_newest(self) -> Plan:
        """Plan with the newest snapshot: of an older one, manifests may have been collected since."""
        return self._planner.plan(self._shipping.refresh())

    async def _start(self, row: DatarangeRow, nursery: trio.Nursery) -> None:
        await self._slots.acquire()
        self._under_way.add(row.id)
        nursery.start_soon(self._ship, row)

    async def _ship(self, row: DatarangeRow) -> None:
        """Bring one datarange into the log, or give it back; then its sources may go."""
        try:
            await self._carry(row)
        except Closed as error:
            log.debug("%s: datapoints %d-%d: %s", self._name, row.first, row.last, error)
        finally:
            self._under_way.discard(row.id)
            self._slots.release()
            self.backlog.end(row)
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
        fields = log_fields(dataset=self._name, path=show(failed.file.path))
        await self.inlet.tell_rejected()
        log.info("%s: %s; it is left out for now", self._name, failed.error.message, extra=fields)
        self.inlet.look_at(out.changed)
        return None

    async def _wait_for_room(self, size: int) -> None:
        """Wait while the disk has not enough room for `size` more bytes."""
        while (shortage := self._shared.shortage(size, "nothing is packed")) is not None:
            self._attempts.problems.report("disk", shortage)
            await trio.sleep(DISK_PAUSE_S)
        self._attempts.problems.clear("disk")

    def _sent(self, size: int) -> None:
        self.record.tally.add(sent_bytes=size)

    async def _tell(self, plan: Plan) -> None:
        self.record.tally.add(duplicate_files=plan.duplicates, rejected_files=plan.rejected)
        if plan.rejected or plan.refused:
            await self.inlet.tell_rejected()
        if plan.duplicates:
            fields = log_fields(dataset=self._name, files=plan.duplicates)
            log.info(
                "%s: %d files were in the dataset already and are removed", self._name, plan.duplicates, extra=fields
            )

    def _note_commit(self, row: DatarangeRow) -> None:
        assert row.committed is not None
        revision = self._shipping.revision
        now = datetime.now(UTC)
        self.record.last_commit = LastCommit(revision, now, row.first, row.last, row.size)
        self.record.tally.committed(row.count, row.size)
        self.aggregator.wake()
        waited_s = max(row.committed - row.oldest, 0.0)
        span = log_fields(dataset=self._name, first=row.first, last=row.last)
        fields = span | log_fields(files=row.count, bytes=row.size, revision=revision, seconds=round(waited_s, 3))
        log.info(
            "%s: committed %d-%d: %d files, %d bytes, %.1f s after the first was complete, revision %d",
            self._name,
            row.first,
            row.last,
            row.count,
            row.size,
            waited_s,
            revision,
            extra=fields,
        )
