"""The task that takes files: it waits for hints, lets files settle, and scans.

**Concurrency:** one task; `look_at` is for other tasks of the trio thread.
"""

import itertools
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

import trio

from dasfs.errors import DasfsError
from dasfs_daemon.attempts import Attempts
from dasfs_daemon.checks import check_directory
from dasfs_daemon.config import DatasetConfig
from dasfs_daemon.intake import Intake, Looked
from dasfs_daemon.journal import Closed
from dasfs_daemon.rejects import Rejects
from dasfs_daemon.tally import Tally
from dasfs_daemon.walk import BATCH
from dasfs_daemon.watcher import MAX_HINTS, Hints, Watcher

log = logging.getLogger(__name__)

# A directory that is away (not mounted yet) is looked for so often; one that can't be watched is scanned so often.
RETRY_S: Final = 5.0
UNWATCHED_SCAN_S: Final = 10.0
# Rejected files are counted so often while there are some, so that those taken out are not told of for long.
COUNT_S: Final = 10.0
# A scan of a million files takes ten seconds of one core: it may not take more than a tenth of the time.
SCAN_SHARE: Final = 10


class Inlet:
    """Takes what arrives in one write directory.

    `claim` is called, in a thread, before each scan: it raises unless the directory is ours.
    """

    def __init__(
        self,
        config: DatasetConfig,
        intake: Intake,
        rejects: Rejects,
        attempts: Attempts,
        tally: Tally,
        claim: Callable[[], None],
    ) -> None:
        self.last_scan: datetime | None = None
        self._config = config
        self._intake = intake
        self._rejects = rejects
        self._attempts = attempts
        self._tally = tally
        self._claim = claim
        self._hints = Hints(config.directory)
        self._watcher = Watcher(config.directory, self._hints)
        # When each path may be looked at (trio's clock), ascending.
        self._settling: dict[bytes, float] = {}
        self._scan_at = trio.current_time()
        self._count_at = float("inf")  # when rejected files are counted again
        self._scanned = trio.Event()
        self._scan_took_s = 0.0
        # Often enough that a file is taken soon after it settled, seldom enough that events come in batches.
        self._tick = min(max(config.settle / 4, 0.05), 0.5)

    @property
    def settling(self) -> int:
        """How many paths wait to be looked at."""
        return len(self._settling)

    def look_at(self, paths: Iterable[bytes]) -> None:
        """Look at some paths when they had time to settle."""
        due = trio.current_time() + self._config.settle
        for path in paths:
            self._settling.pop(path, None)
            self._settling[path] = due
        if len(self._settling) > MAX_HINTS:
            self._settling.clear()
            self._scan_at = min(self._scan_at, due)

    async def tell_rejected(self) -> None:
        """Tell how many rejected and refused files there are, and again now and then as long as there are some."""
        started = trio.current_time()
        rejected = await self._attempts.once(self._rejects.problem)
        refused = await self._attempts.until_done("journal", self._intake.refused)
        self._attempts.problems.set("rejected", rejected)
        self._attempts.problems.set("refused", refused)
        now = trio.current_time()
        pause_s = max(COUNT_S, SCAN_SHARE * (now - started))
        self._count_at = float("inf") if rejected is None and refused is None else now + pause_s

    async def wait_scanned(self) -> None:
        """Wait for the end of the scan that is under way, the first included."""
        await self._scanned.wait()

    async def run(self) -> None:
        """Take files until cancelled."""
        try:
            while True:
                if trio.current_time() >= self._scan_at:
                    self._scanned = trio.Event()
                    await self._scan()
                    self._scanned.set()
                await self._look()
                if trio.current_time() >= self._count_at:
                    await self.tell_rejected()
                await trio.sleep(self._tick)
                await self._wait()
        finally:
            with trio.move_on_after(RETRY_S, shield=True):
                await trio.to_thread.run_sync(self._watcher.close, abandon_on_cancel=True)

    async def _wait(self) -> None:
        """Wait until there are hints, a path is settled, or a scan is due; note the hints."""
        until = min(self._scan_at, self._count_at, next(iter(self._settling.values()), self._scan_at))
        with trio.move_on_at(until):
            await self._hints.wait()
        paths, lost = self._hints.take()
        self.look_at(paths)
        if lost:
            self._tally.add(lost_events=1)
            log.info("%s: events were lost; scanning instead", self._config.directory)
            self._scan_at = min(self._scan_at, trio.current_time() + self._config.settle)

    async def _look(self) -> None:
        """Look at the paths that had time to settle."""
        now = trio.current_time()
        due = list(itertools.takewhile(lambda path: self._settling[path] <= now, self._settling))
        for path in due:
            del self._settling[path]
        for start in range(0, len(due), BATCH):
            batch = due[start : start + BATCH]
            being_written = self._hints.being_written()
            looked = await self._attempts.until_done("journal", lambda: self._intake.look(batch, being_written))  # noqa: B023
            self._note(looked)
            if looked.rejected:
                await self.tell_rejected()

    async def _scan(self) -> None:
        """Look at everything. What is wrong with the directory is told, and looked at again soon."""
        started = trio.current_time()
        interval = self._config.scan_interval
        try:
            await self._attempts.once(check_directory, self._config.directory)
            await self._attempts.once(self._claim)
            if not await self._watch():
                interval = min(interval, UNWATCHED_SCAN_S)
            looked = await self._attempts.once(self._intake.scan)
        except Closed:
            raise
        except DasfsError as error:
            self._attempts.problems.report("directory", error)
            self._scan_at = trio.current_time() + RETRY_S
            return
        self._attempts.problems.clear("directory")
        self._attempts.problems.set("subdirectory", looked.closed_off)
        await self.tell_rejected()
        self._tally.add(scans=1)
        self.last_scan = datetime.now(UTC)
        now = trio.current_time()
        self._scan_took_s = now - started
        self._scan_at = now + max(interval, SCAN_SHARE * self._scan_took_s)
        if looked.incomplete:
            self._scan_at = now + max(self._config.settle, self._tick)
        self._note(looked)

    async def _watch(self) -> bool:
        """Watch the directory that is there now; return False, and tell, where that can't be."""
        try:
            await self._attempts.once(self._watcher.ensure)
        except DasfsError as error:
            self._attempts.problems.report("watch", error)
            return False
        self._attempts.problems.clear("watch")
        return True

    def _note(self, looked: Looked) -> None:
        self._tally.add(taken_files=looked.files, taken_bytes=looked.size, rejected_files=looked.rejected)
        self.look_at(looked.later)
        if looked.left_empty:
            pause_s = max(self._config.empty_directories, SCAN_SHARE * self._scan_took_s)
            self._scan_at = min(self._scan_at, trio.current_time() + pause_s)
