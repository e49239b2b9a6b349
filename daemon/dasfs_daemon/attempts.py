"""Doing things in threads, again and again until they work: for days, if the store is away for days.

**Concurrency:** for tasks of the trio thread. A thread that does not return is left behind when its task is
cancelled; what it may still do is refused by the journal (`Closed`).
"""

import logging
import random
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import trio

from dasfs.errors import DasfsError
from dasfs_daemon.journal import Closed
from dasfs_daemon.problems import Problems
from dasfs_daemon.shipping import PackFailed, Replaced

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Half a second for a hiccup; a minute so that a store that is back is used within one.
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0
# Looking, planning, packing and uploading of all datasets at once; uploads have a limit of their own.
THREADS: Final = 64

_random = random.SystemRandom()


class Attempts:
    """Runs the blocking work of one dataset."""

    def __init__(self, problems: Problems, threads: trio.CapacityLimiter, failed: Callable[[], None]) -> None:
        self.problems = problems
        self._threads = threads
        self._failed = failed

    async def once(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(*args, **kwargs)`, run in a thread."""
        return await self._run(self._threads, lambda: function(*args, **kwargs))

    async def until_done(self, key: str, function: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        """Return `function()`, run in a thread, however often it takes; failures are told as the problem `key`.

        Raises what trying again can't help: `Closed`, `Replaced`, `PackFailed`.
        """
        pause = FIRST_PAUSE_S
        while True:
            try:
                result = await self._run(limiter or self._threads, function)
            except (Closed, Replaced, PackFailed):
                raise
            except DasfsError as error:
                self.problems.report(key, error)
            except Exception as error:  # a defect of ours must not end a daemon that others rely on
                log.exception("unexpected error")
                self.problems.report(key, DasfsError(f"unexpected {error!r}", hint="the log has the traceback"))
            else:
                self.problems.clear(key)
                return result
            self._failed()
            await trio.sleep(pause * _random.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _run(self, limiter: trio.CapacityLimiter, function: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)
