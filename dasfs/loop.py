"""Asking the trio thread something from other threads, without waiting for ever when it is stuck.

**Concurrency:** `LoopQuestion` and `LoopCaller` are made in the trio thread; `ask` and `call` are for all other
threads, any number at once.
"""

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Generic, ParamSpec, TypeVar

import trio

from dasfs.errors import DasfsError, DeadlineExceeded

T = TypeVar("T")
P = ParamSpec("P")


class LoopQuestion(Generic[T]):
    """A question that is answered in the trio thread, between two steps of its tasks.

    Whoever asks while an answer is awaited gets the same one: of any number of askers, a stuck loop is left with
    one callback.
    """

    def __init__(self, question: Callable[[], T], *, timeout_s: float) -> None:
        self._question = question
        self._timeout_s = timeout_s
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._asked: Future[T] | None = None

    def ask(self) -> T:
        """Return the answer, computed after this was called.

        Raises what the question raises, `DeadlineExceeded` when the loop does not come to it within the timeout,
        and `DasfsError` when it has ended.
        """
        with self._lock:
            if self._asked is None:
                try:
                    self._token.run_sync_soon(self._answer)
                except trio.RunFinishedError:
                    raise DasfsError("the main loop has ended") from None
                self._asked = Future()
            asked = self._asked
        try:
            return asked.result(self._timeout_s)
        except TimeoutError:
            raise DeadlineExceeded(f"the main loop did not answer within {self._timeout_s:g} s") from None

    def _answer(self) -> None:
        with self._lock:
            asked, self._asked = self._asked, None
        assert asked is not None
        try:
            asked.set_result(self._question())
        except Exception as error:  # noqa: BLE001 - it is raised in the threads that asked
            asked.set_exception(error)


class LoopCaller:
    """Runs async functions in the trio thread, as tasks of a nursery, for threads that wait for what they return."""

    def __init__(self, nursery: trio.Nursery, *, timeout_s: float) -> None:
        self._nursery = nursery
        self._timeout_s = timeout_s
        self._token = trio.lowlevel.current_trio_token()

    def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `function` returns. It is cancelled when that takes longer than the timeout.

        Raises what it raises, `DeadlineExceeded`, and `DasfsError` when the loop has ended.
        """
        future: Future[T] = Future()

        async def run() -> None:
            try:
                with trio.fail_after(self._timeout_s):
                    future.set_result(await function(*args, **kwargs))
            except trio.TooSlowError:
                future.set_exception(DeadlineExceeded(f"this was not done within {self._timeout_s:g} s"))
            except Exception as error:  # noqa: BLE001 - it is raised in the thread that called
                future.set_exception(error)
            finally:
                if not future.done():
                    future.set_exception(DasfsError("the main loop has ended"))

        try:
            self._token.run_sync_soon(self._begin, run, future)
            return future.result(self._timeout_s + 1)
        except trio.RunFinishedError:
            raise DasfsError("the main loop has ended") from None
        except TimeoutError as error:
            if isinstance(error, DasfsError):
                raise
            raise DeadlineExceeded(f"the main loop did not answer within {self._timeout_s:g} s") from None

    def _begin(self, run: Callable[[], Awaitable[None]], future: "Future[T]") -> None:
        try:
            self._nursery.start_soon(run)
        except RuntimeError:  # the nursery is closed
            future.set_exception(DasfsError("the main loop has ended"))
