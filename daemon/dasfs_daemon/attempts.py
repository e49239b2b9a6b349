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


class Backoff:
    """How long to wait before trying again: longer each time, and random, so that hosts don't try in step."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s

    def next_s(self) -> float:
        """Return how long to wait now."""
        pause_s = self._next_s
        self._next_s = min(self._next_s * 2, self._longest_s)
        return pause_s * _random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin with the first pause again: it worked."""
        self._next_s = self._first_s


class Attempts:
    """Runs the blocking work of one dataset."""

    def __init__(self, problems: Problems, threads: trio.CapacityLimiter, failed: Callable[[], None]) -> None:
        self.problems = problems
        self._threads = threads
        self._failed = failed

    async def once(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(*args, **kwargs)`, run in a thread."""
        return await self._run(self._threads, lambda: function(*args, **kwargs))

    async def checked(self, function: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        """Return `function()`, run in a thread. Raises `DasfsError`, also for a defect of ours, and `PackFailed`."""
        try:
            return await self._run(limiter or self._threads, function)
        except (DasfsError, PackFailed):
            raise
        except Exception as error:  # a defect of ours must not end a daemon that others rely on
            log.exception("unexpected error")
            raise DasfsError(f"unexpected {error!r}", hint="the log has the traceback") from error

    async def until_done(self, key: str, function: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        """Return `function()`, run in a thread, however often it takes; failures are told as the problem `key`.

        Raises what trying again can't help: `Closed`, `Replaced`, `PackFailed`.
        """
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            try:
                result = await self.checked(function, limiter)
            except (Closed, Replaced, PackFailed):
                raise
            except DasfsError as error:
                self.problems.report(key, error)
            else:
                self.problems.clear(key)
                return result
            self._failed()
            await trio.sleep(backoff.next_s())

    async def _run(self, limiter: trio.CapacityLimiter, function: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)
