"""When and how often a request is tried again: the one place for it.

An error says by `.retryable` whether trying again can help. The waits grow and are random, so that many
clients that were cut off together don't come back together. No attempt starts that could end after the
deadline.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep,
    sleep_using_event,
    wait_random_exponential,
)

from dasfs.errors import Corrupt, DasfsError, StoreUnavailable

Result = TypeVar("Result")
log = logging.getLogger(__name__)

# The first wait is at most 0.1 s, for a connection that was just reset; 5 s is what an overloaded gateway is
# given.
_JITTER: Final = wait_random_exponential(multiplier=0.1, max=5)
# A flipped bit or a proxy's error page goes away at once or not at all.
MAX_GARBLED_ATTEMPTS: Final = 3
# A store that is well answers within seconds; longer than this one silent attempt must not keep the others
# waiting.
MAX_ATTEMPT_S: Final = 20.0


class Overloaded(StoreUnavailable):
    """The store asks to be left alone, for `retry_after_s` where it said so."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class GarbledAnswer(Corrupt):
    """An answer is not what the protocol promises: a proxy's page, another range, a wrong checksum."""

    retryable: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one operation may take with all its attempts."""

    deadline_s: float

    @property
    def attempt_s(self) -> float:
        """How long one attempt may hear nothing. Three fit into the deadline."""
        return min(MAX_ATTEMPT_S, self.deadline_s / 3)

    def run(self, attempt: Callable[[], Result], *, cancelled: threading.Event | None = None) -> Result:
        """Return what `attempt` returns; try again while that can help. The last error is raised as it is.

        When `cancelled` gets set, no wait goes on and no other attempt is made.
        """
        retrying = Retrying(
            retry=retry_if_exception(_can_help),
            wait=_choose_wait,
            stop=lambda state: self._is_over(state) or (cancelled is not None and cancelled.is_set()),
            sleep=sleep if cancelled is None else sleep_using_event(cancelled),
            before_sleep=_report,
            reraise=True,
        )
        return retrying(attempt)

    def _is_over(self, state: RetryCallState) -> bool:
        if isinstance(_error_of(state), GarbledAnswer) and state.attempt_number >= MAX_GARBLED_ATTEMPTS:
            return True
        elapsed_s = state.seconds_since_start or 0.0
        return elapsed_s + state.upcoming_sleep + self.attempt_s > self.deadline_s


def _can_help(error: BaseException) -> bool:
    return isinstance(error, DasfsError) and error.retryable


def _choose_wait(state: RetryCallState) -> float:
    """Return the seconds to wait: random, and never less than what the store asked for."""
    error = _error_of(state)
    asked_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
    return max(asked_s, _JITTER(state))


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _report(state: RetryCallState) -> None:
    log.debug("trying again in %.1f s: %s", state.upcoming_sleep, _error_of(state))
