"""What is wrong just now: told in the log when it begins, from time to time while it lasts, and when it is over.

**Concurrency:** any thread.
"""

import logging
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from dasfs.errors import DasfsError
from dasfs_daemon.log_fields import LogFields, log_fields
from dasfs_daemon.state import Problem

log = logging.getLogger(__name__)

# Loud, but a store that is away for a weekend must not fill the journal of the host.
REPEAT_S: Final = 300.0


class Problems:
    """The problems of one dataset, or of the daemon itself. `where` begins each log line, which carries `fields`."""

    def __init__(self, where: str, fields: LogFields = MappingProxyType({})) -> None:
        self._where = where
        self._fields = fields
        self._lock = threading.Lock()
        self._problems: dict[str, Problem] = {}
        self._logged: dict[str, tuple[str, float]] = {}  # key -> the message and when (monotonic)

    def report(self, key: str, error: DasfsError) -> None:
        """Note that something is wrong. The same message is logged again after five minutes."""
        now = datetime.now(UTC)
        with self._lock:
            known = self._problems.get(key)
            if known is None:
                self._problems[key] = Problem(key, error.message, error.hint, now, now, 1)
            else:
                self._problems[key] = replace(
                    known, message=error.message, hint=error.hint, last_seen=now, count=known.count + 1
                )
            message, logged = self._logged.get(key, ("", 0.0))
            if known is not None and message == str(error) and time.monotonic() - logged < REPEAT_S:
                return
            if known is not None and message != str(error) and time.monotonic() - logged < REPEAT_S / 10:
                return  # the same trouble in other words
            self._logged[key] = (str(error), time.monotonic())
        lasting = (
            "" if known is None else f" (for {(now - known.since).total_seconds():.0f} s, {known.count + 1} times)"
        )
        log.warning("%s: %s%s", self._where, error, lasting, extra={**self._fields, **log_fields(problem=key)})

    def clear(self, key: str) -> None:
        """Note that it is over, if it was there."""
        with self._lock:
            known = self._problems.pop(key, None)
        if known is not None:
            fields = {**self._fields, **log_fields(problem=key)}
            log.info("%s: over after %.0f s: %s", self._where, _age_s(known), known.message, extra=fields)

    def set(self, key: str, error: DasfsError | None) -> None:
        """Note that something is wrong, or with None that it is not."""
        if error is None:
            self.clear(key)
        else:
            self.report(key, error)

    def all(self) -> tuple[Problem, ...]:
        """Return what is wrong, the oldest first."""
        with self._lock:
            return tuple(sorted(self._problems.values(), key=lambda each: each.since))


def _age_s(problem: Problem) -> float:
    return (datetime.now(UTC) - problem.since).total_seconds()
