"""The task that removes what is committed: at once or when it was kept for its time, and only what is still the same.

**Concurrency:** one task; `add` is for other tasks of the trio thread.
"""

import heapq
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

import trio

from dasfs.dataset.local import local_error
from dasfs.errors import AccessDenied, DasfsError
from dasfs_daemon.attempts import Attempts
from dasfs_daemon.config import DatasetConfig
from dasfs_daemon.files import show
from dasfs_daemon.journal import Closed
from dasfs_daemon.rows import DatarangeRow
from dasfs_daemon.shipping import Removed, Replaced, Shipping
from dasfs_daemon.tally import Tally
from dasfs_daemon.walk import remove_empty

log = logging.getLogger(__name__)

# How long to leave what could not be removed: somebody writes to it, or the store did not confirm it.
RETRY_S: Final = 5.0
# Directories that are remembered to be removed when they stay empty; scans find the others.
MAX_DIRECTORIES: Final = 10_000


class Outlet:
    """Removes the sources of committed dataranges of one write directory."""

    def __init__(
        self,
        config: DatasetConfig,
        shipping: Shipping,
        attempts: Attempts,
        tally: Tally,
        look_at: Callable[[Iterable[bytes]], None],
    ) -> None:
        self._config = config
        self._shipping = shipping
        self._attempts = attempts
        self._tally = tally
        self._look_at = look_at
        self._due: list[tuple[float, int, DatarangeRow]] = []  # a heap, by trio's clock
        self._emptied: dict[bytes, float] = {}
        self._wake = trio.Event()

    @property
    def kept_files(self) -> int:
        """How many committed files are still there."""
        return sum(row.count for _, _, row in self._due)

    def add(self, row: DatarangeRow) -> None:
        """Remove the sources of a committed datarange when its time has come."""
        assert row.committed is not None
        # The clock may have been set back since: nothing is kept longer than its time from now on.
        left = min(row.committed + self._config.keep - time.time(), self._config.keep)
        self._push(row, max(left, 0.0))

    async def run(self) -> None:
        """Remove until cancelled."""
        while True:
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                await self._remove(heapq.heappop(self._due)[2])
            await self._tidy()
            first = min([*self._emptied.values(), *(due for due, _, _ in self._due[:1])], default=float("inf"))
            with trio.move_on_at(first):
                await self._wake.wait()
            self._wake = trio.Event()

    def _push(self, row: DatarangeRow, delay: float) -> None:
        heapq.heappush(self._due, (trio.current_time() + delay, row.id, row))
        self._wake.set()

    async def _remove(self, row: DatarangeRow) -> None:
        try:
            await self._attempts.once(self._shipping.confirm, row)
            self._attempts.problems.clear("confirm")
            removed = await self._attempts.once(self._shipping.remove, row)
        except (Closed, Replaced):
            raise
        except DasfsError as error:
            self._attempts.problems.report("confirm", error)
            self._push(row, RETRY_S)
            return
        self._note(removed)
        if removed.left:
            self._push(row, RETRY_S)

    def _note(self, removed: Removed) -> None:
        self._tally.add(removed_files=removed.files, changed_files=len(removed.changed))
        error = removed.error
        self._attempts.problems.set("remove", None if error is None else removal_error(error))
        self._look_at(removed.changed)
        due = trio.current_time() + self._config.empty_directories
        for directory in removed.directories:
            if len(self._emptied) < MAX_DIRECTORIES:
                self._emptied[directory] = due

    async def _tidy(self) -> None:
        """Remove the directories that stayed empty for their time."""
        now = trio.current_time()
        due = [directory for directory, at in self._emptied.items() if at <= now]
        for directory in due:
            del self._emptied[directory]
        if due:
            for directory, wait in await self._attempts.once(self._remove_empty, due):
                self._emptied[directory] = trio.current_time() + wait

    def _remove_empty(self, directories: list[bytes]) -> list[tuple[bytes, float]]:
        """Remove directories; return those that are too young still, and how long."""
        top = os.fsencode(self._config.directory)
        age = self._config.empty_directories
        young = []
        for directory in directories:
            if (left := remove_empty(top, directory, time.time() - age)) is not None:
                path, changed = left
                young.append((path, min(max(changed + age - time.time(), 0.1), age)))
        return young


def removal_error(error: OSError) -> DasfsError:
    """Return why a file that is in the store can't be removed, and what to do."""
    found = local_error(error, show(os.fsencode(error.filename or "")))
    if not isinstance(found, AccessDenied):
        return found
    return AccessDenied(
        f"{found.message}: it is in the store and can't be removed here",
        hint="let the daemon write to the directory that it is in: see docs/systemd.md",
    )
