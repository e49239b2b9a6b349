"""Asking the trio thread something from other threads, without waiting for ever when it is stuck.

**Concurrency:** `LoopQuestion` is made in the trio thread; `ask` is for all other threads, any number at once.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

import trio

from dasfs.errors import DasfsError, DeadlineExceeded

T = TypeVar("T")


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
