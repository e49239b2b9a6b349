"""The bandwidth that all uploads share, and the way to end them.

**Concurrency:** any number of threads; each waits its turn in `take`.
"""

import threading
import time

from dasfs_daemon.journal import Closed


class Throttle:
    """Lets bytes through at `rate` bytes a second; 0 is no limit."""

    def __init__(self, rate: int = 0) -> None:
        self._lock = threading.Lock()
        self._rate = rate
        self._free_at = 0.0  # monotonic: when what was let through so far is paid for

    def set_rate(self, rate: int) -> None:
        """Change the limit, from the next bytes on."""
        with self._lock:
            self._rate = rate

    def take(self, size: int, stop: threading.Event) -> None:
        """Wait until `size` bytes may go. Raises `Closed` as soon as `stop` is set."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + (size / self._rate if self._rate else 0.0)
            wait = self._free_at - now
        if stop.wait(wait) if wait > 0 else stop.is_set():
            raise Closed("the upload was ended by the daemon")
