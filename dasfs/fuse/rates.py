"""What a mount did in the last minute, for whoever asks once: counters alone tell no rate.

**Concurrency:** the trio thread.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

import trio

# Twelve samples a minute cost nothing, and the minute is at most so much longer or shorter.
INTERVAL_S: Final = 5.0
WINDOW_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of a mount; `errors` are reads that failed."""

    reads: int = 0
    bytes_read: int = 0
    hits: int = 0
    misses: int = 0
    bytes_fetched: int = 0
    errors: int = 0

    def since(self, before: "Counts") -> "Counts":
        """Return by how much each grew."""
        return Counts(*(getattr(self, each.name) - getattr(before, each.name) for each in fields(self)))


@dataclass(frozen=True, slots=True)
class Lately:
    """How much was done in `seconds`, which are a minute where the mount is not younger."""

    seconds: float
    counts: Counts


class Rates:
    """Remembers counters of a minute. `read` returns what they are now."""

    def __init__(self, read: Callable[[], Counts], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._samples = deque([(clock(), Counts())])

    def sample(self) -> None:
        """Remember what the counters are, and forget what is older than the window."""
        now = self._clock()
        self._samples.append((now, self._read()))
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()

    def lately(self) -> Lately:
        """Return what was done in the last minute."""
        now = self._clock()
        begun, before = self._samples[0]
        for time_s, counts in self._samples:
            if time_s > now - WINDOW_S:
                break
            begun, before = time_s, counts
        return Lately(max(now - begun, 1e-3), self._read().since(before))

    async def run(self) -> None:
        """Take samples for ever."""
        while True:
            await trio.sleep(INTERVAL_S)
            self.sample()
