"""What one dataset did since the daemon started.

**Concurrency:** any thread.
"""

import threading
import time
from collections import deque
from dataclasses import fields
from typing import Final

from dasfs_daemon.state import Counters

RATE_S: Final = 60.0


class Tally:
    """Counts up `Counters`, and measures the rate of commits over the last minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {each.name: 0 for each in fields(Counters)}
        self._commits: deque[tuple[float, int, int]] = deque()  # monotonic, files, bytes

    def add(self, **counts: int) -> None:
        """Add to counters, by their names."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def committed(self, files: int, size: int) -> None:
        """Count one committed datarange."""
        self.add(committed_files=files, committed_bytes=size, dataranges=1)
        with self._lock:
            self._commits.append((time.monotonic(), files, size))

    def counters(self) -> Counters:
        with self._lock:
            return Counters(**self._counts)

    def rates(self) -> tuple[float, float]:
        """Return files and bytes a second over the last minute."""
        with self._lock:
            while self._commits and self._commits[0][0] < time.monotonic() - RATE_S:
                self._commits.popleft()
            files = sum(each[1] for each in self._commits)
            size = sum(each[2] for each in self._commits)
        return files / RATE_S, size / RATE_S
