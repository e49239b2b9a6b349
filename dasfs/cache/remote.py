"""The one place where the mount's tasks call a store: in a thread, with a deadline, and once for many.

**Concurrency:** everything here runs in the trio thread; only the called function runs in a worker thread. A
call that does not return is abandoned at its deadline: its thread ends when the store's own time-outs end it,
and holds its token until then, so that a store that hangs can't use up all threads of the process.
"""

import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, ParamSpec, TypeVar

import trio

from dasfs.errors import DasfsError, DeadlineExceeded

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

# Metadata calls at once: listing a log, fetching a manifest. Reads of data have a limit of their own.
DEFAULT_CALLS = 16


class Remote:
    """Calls blocking functions in threads, each within `deadline_s`, at most `calls` at once."""

    def __init__(self, *, deadline_s: float, calls: int = DEFAULT_CALLS) -> None:
        self.deadline_s = deadline_s
        self._limiter = trio.CapacityLimiter(calls)

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(*args, **kwargs)`, run in a thread.

        Raises what it raises, or `DeadlineExceeded`.
        """
        try:
            with trio.fail_after(self.deadline_s):
                return await trio.to_thread.run_sync(
                    lambda: function(*args, **kwargs), abandon_on_cancel=True, limiter=self._limiter
                )
        except trio.TooSlowError:
            raise DeadlineExceeded(f"the store did not answer within {self.deadline_s:g} s") from None


class SingleFlight(Generic[K]):
    """Does once what several tasks want at the same time, in a task of its own below `nursery`.

    Whoever stops waiting does not stop the work.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._flights: dict[K, _Flight] = {}

    async def run(self, key: K, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the work under way under `key`; begin it if there is none.

        Raises the `DasfsError` that the work raises.
        """
        flight = self.begin(key, work)
        await flight.done.wait()
        if flight.error is not None:
            raise flight.error

    def begin(self, key: K, work: Callable[[], Awaitable[None]]) -> "_Flight":
        """Begin the work unless it is under way; do not wait for it."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self._nursery.start_soon(self._fly, key, flight, work)
        return flight

    async def _fly(self, key: K, flight: "_Flight", work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except DasfsError as error:
            flight.error = error
        except Exception as error:  # a defect of ours must not end the mount
            log.exception("unexpected error in %s", key)
            flight.error = DasfsError(f"unexpected {error!r}")
        finally:
            del self._flights[key]
            flight.done.set()


class _Flight:
    """One piece of work under way."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: DasfsError | None = None
