"""Warnings about operations that failed: in an outage thousands fail in a second, and one line tells as much.

**Concurrency:** used in the mount's trio thread only.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

# Enough to see what is wrong and with which files, and no more than a megabyte of log in a day.
LIMIT: Final = 20
PERIOD_S: Final = 300.0


class Complaints:
    """Logs at most `LIMIT` warnings in each `PERIOD_S`, and then how many more there were."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._period_ends = 0.0
        self._count = 0

    def add(self, handler: str, problem: object) -> None:
        """Tell that an operation failed."""
        now = self._clock()
        if now >= self._period_ends:
            if self._count > LIMIT:
                self._log.warning("%d more operations failed", self._count - LIMIT)
            self._period_ends, self._count = now + PERIOD_S, 0
        self._count += 1
        if self._count <= LIMIT:
            self._log.warning("%s: %s", handler, problem)
        if self._count == LIMIT:
            self._log.warning("what else fails in the next minutes is only counted")
