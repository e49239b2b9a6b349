"""Waiting for the kernel's next request: a moment awake, then asleep.

A reader sends its next request some 30 µs after it got an answer. Going to sleep in `epoll_wait` for that, and being
woken, costs more than answering does: on two cores, open, read and close of a cached 64 KiB file take twice as long
when every wait sleeps. So after each request the session is polled for up to 100 µs before the task sleeps as pyfuse3
does. When looking does not pay, because readers wait for the store or compute between, it is left out for a while; an
idle mount uses no CPU at all.

pyfuse3 has no hook for this. Its session loop looks up `_wait_fuse_readable` in its module each time, and that is
replaced here; where a later version has none, nothing is changed but the speed.

**Concurrency:** runs in the trio thread. Whoever returns True has seen the session readable and is the next to read
from it: nothing is awaited between, or two tasks would read one request, and the second block the whole process.
"""

import logging
import os
import select
import time
from collections.abc import Awaitable, Callable
from typing import Final

import pyfuse3
import trio

log = logging.getLogger(__name__)

LOOK_S: Final = 100e-6
# Other tasks get their turn at least this often.
TURN_S: Final = 2e-3
# After so many looks in vain the next so many waits go to sleep at once.
PATIENCE: Final = 4
PAUSE: Final = 32


class Watch:
    """Looks at one FUSE session. `sleep` is how pyfuse3 itself waits."""

    def __init__(self, descriptor: int, sleep: Callable[[], Awaitable[bool]]) -> None:
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._sleep = sleep
        # A request came since the last look in vain: then, and only then, the next may come soon.
        self._awake = False
        self._turn_ends = 0.0
        self._in_vain = 0
        self._pause = 0

    async def wait(self) -> bool:
        """Return True once there is a request to read, False when the session ends."""
        if self._look():
            now = time.perf_counter()
            if now < self._turn_ends:
                return True
            self._turn_ends = now + TURN_S
            await trio.lowlevel.checkpoint()
            if self._poll.poll(0):
                return True
        while await self._sleep():
            if self._poll.poll(0):
                self._awake = True
                self._turn_ends = time.perf_counter() + TURN_S
                return True
        return False

    def _look(self) -> bool:
        """Return whether a request came within `LOOK_S`."""
        if not self._awake:
            return False
        if self._pause:
            self._pause -= 1
            return False
        end = time.perf_counter() + LOOK_S
        while not self._poll.poll(0):
            if time.perf_counter() > end:
                self._awake = False
                self._in_vain += 1
                if self._in_vain >= PATIENCE:
                    self._in_vain, self._pause = 0, PAUSE
                return False
        self._in_vain = 0
        return True


def stay_awake() -> bool:
    """Let pyfuse3 wait this way from now on; return whether that is so. Call it after `pyfuse3.init`."""
    sleep = getattr(pyfuse3, "_wait_fuse_readable", None)
    descriptor = _session_descriptor()
    if sleep is None or descriptor is None or len(os.sched_getaffinity(0)) < 2:
        return False
    vars(pyfuse3)["_wait_fuse_readable"] = Watch(descriptor, sleep).wait
    return True


def _session_descriptor() -> int | None:
    """Return this process's descriptor of /dev/fuse, which pyfuse3 does not tell."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                return int(name)
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return None
