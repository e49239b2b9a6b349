"""What makes a run of several hosts repeatable: one clock, no threads of their own, and turns.

The clock is the one of the stores (times of objects) and, with its skew, that of each host (times of commits).
Thread pools of the project run what is submitted at once, in the thread that submits it. `take_turns` runs several
hosts at a time, but one at any moment: they change at operations of their stores, as a schedule says.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

# Long ago: a file that is being written, which has the kernel's time, is never old.
BEGINNING = datetime(2001, 1, 1, tzinfo=UTC)
# Whatever waits for its turn longer than this waits for ever.
PATIENCE_S = 60.0


class Clock:
    """A clock that stands still but for one microsecond each time it is looked at."""

    def __init__(self) -> None:
        self.now = BEGINNING
        self.skew = threading.local()

    def advance(self, by: timedelta) -> None:
        self.now += by

    def time_ns(self) -> int:
        self.now += timedelta(microseconds=1)
        since = self.now - datetime(1970, 1, 1, tzinfo=UTC)
        return (since // timedelta(microseconds=1)) * 1000

    def host_time(self, _zone: tzinfo | None = None) -> datetime:
        """Return the time as the host sees it whose turn it is."""
        skew: timedelta = getattr(self.skew, "by", timedelta(0))
        return self.now + skew


@contextmanager
def simulated(clock: Clock, *, checkpoint_interval: int, writer: Callable[[], str]) -> Iterator[None]:
    """Make the project's stores and logs repeatable within a `with` block.

    `writer` says who commits; retries wait for nothing.
    """
    stores_time = SimpleNamespace(time_ns=clock.time_ns)
    hosts_time = SimpleNamespace(now=clock.host_time)
    with ExitStack() as stack:
        for place, value in {
            "dasfs.stores.files.time": stores_time,
            "dasfs.stores.sqlite.time": stores_time,
            "dasfs.dataset.log.datetime": hosts_time,
            "dasfs.dataset.collect.datetime": hosts_time,
            "dasfs.dataset.log.CHECKPOINT_INTERVAL": checkpoint_interval,
            "dasfs.dataset.log._pause": lambda _attempt: None,
            "dasfs.dataset.log._writer": writer,
        }.items():
            stack.enter_context(patch(place, value))
        stack.enter_context(patch.object(ThreadPoolExecutor, "submit", _run_at_once))
        yield


def _run_at_once(_pool: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(function(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001  # as a thread of a pool does
        future.set_exception(error)
    return future


class Turns:
    """Lets functions run in threads, one at a time; `pause` is where they change.

    **Concurrency:** whoever has the turn touches what it likes; the turn is handed over under a lock.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._alive: list[int] = []
        self._turn = -1
        self._left = 0
        self._schedule: Iterator[int] = iter(())
        self._mine = threading.local()

    def run(self, functions: Sequence[Callable[[], None]], schedule: Sequence[int]) -> None:
        """Run all of `functions` to their ends. Numbers of `schedule`: after how many pauses it is the next one's turn.

        When the schedule ends each runs to its end. Raises what the first of them raised that failed.
        """
        if len(functions) == 1:
            functions[0]()
            return
        self._schedule = iter(schedule)
        self._alive = list(range(len(functions)))
        self._turn, self._left = 0, next(self._schedule, 1 << 30)
        futures: list[Future[None]] = [Future() for _ in functions]
        threads = [
            threading.Thread(target=self._run_one, args=(number, function, futures[number]), daemon=True)
            for number, function in enumerate(functions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        for future in futures:
            future.result(timeout=0)

    def pause(self) -> None:
        """Let another one run if the schedule says so."""
        number: int | None = getattr(self._mine, "number", None)
        if number is None:
            return  # nobody else is there
        if self._left <= 0:
            self._hand_over(number)
            self._await_turn(number)
        self._left -= 1

    def _run_one(self, number: int, function: Callable[[], None], future: Future[None]) -> None:
        self._mine.number = number
        try:
            self._await_turn(number)
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001  # raised by `run`
            future.set_exception(error)
        finally:
            self._hand_over(number, done=True)

    def _await_turn(self, number: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._turn == number, PATIENCE_S):
                raise TimeoutError("it is never this one's turn")

    def _hand_over(self, number: int, *, done: bool = False) -> None:
        with self._changed:
            place = self._alive.index(number)
            if done:
                self._alive.remove(number)
            else:
                place += 1
            if self._alive:
                self._turn = self._alive[place % len(self._alive)]
            self._left = next(self._schedule, 1 << 30)
            self._changed.notify_all()
