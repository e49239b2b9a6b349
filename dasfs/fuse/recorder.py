"""Who reads what: counted while somebody looks, written down where an access log is wanted, and nothing else.

Reads that wait are always known, for whoever begins to look because something hangs. A read that is answered at once
is told only while `on`, so that it costs one look at an attribute otherwise.

**Concurrency:** the trio thread; `log_to` is for any. What `waiting` holds may be looked at by any.
"""

import errno
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

import trio

from dasfs.errors import DasfsError
from dasfs.fuse.access_log import AccessLog
from dasfs.fuse.inodes import DatapointPlace
from dasfs.fuse.processes import Processes
from dasfs.fuse.tallies import Tallies

# For so long after it was asked who reads what, it is counted on.
LEASE_S: Final = 120.0

PlaceOf = Callable[[int], DatapointPlace | None]


def _nowhere(_inode: int) -> DatapointPlace | None:
    return None


class Recorder:
    """What is known of the reads of one mount. `errors` counts those that failed since it began."""

    def __init__(self, place_of: PlaceOf = _nowhere) -> None:
        self.on = False
        self.errors = 0
        self.waiting: dict[int, Wait] = {}
        self.processes = Processes()
        self.place_of = place_of
        self.tallies: Tallies | None = None
        self.access_log: AccessLog | None = None
        self._numbers = itertools.count()
        self._switching = threading.Lock()

    def read(
        self, thread: int, uid: int, inode: int, offset: int, size: int, seconds: float, *, hit: bool, number: int = 0
    ) -> None:
        """Take note of a read that was answered, with `size` bytes or the errno `number`. Only needed while `on`.

        A `hit` waited for nothing. Costs less than 1 µs.
        """
        if self.tallies is not None and not self.tallies.add(thread, uid, inode, offset, size, seconds, hit, number):
            self._count_in(None)
        access_log = self.access_log
        if access_log is not None:
            access_log.add(self.processes.find(thread), uid, inode, offset, size, seconds, hit, number)

    def wait(self, thread: int, uid: int, inode: int, offset: int, size: int) -> "Wait":
        """Return a block in which a read waits for something; its end is a `read`. Set its `size` to what was read."""
        return Wait(self, next(self._numbers), thread, uid, inode, offset, size)

    def count(self) -> Tallies:
        """Return the counts since somebody began to look, and go on counting for `LEASE_S`."""
        if self.tallies is None:
            self._count_in(Tallies(self.processes, self.place_of))
        assert self.tallies is not None
        self.tallies.extend(LEASE_S)
        return self.tallies

    def log_to(self, access_log: AccessLog | None) -> AccessLog | None:
        """Write reads down from now on, or no longer; return what was written to before. Close that."""
        with self._switching:
            before, self.access_log = self.access_log, access_log
            self.on = self.tallies is not None or access_log is not None
        return before

    def _count_in(self, tallies: Tallies | None) -> None:
        with self._switching:
            self.tallies = tallies
            self.on = tallies is not None or self.access_log is not None


@contextmanager
def recording(recorder: Recorder, path: str | None) -> Iterator[None]:
    """Write reads down to the file `path`, if there is one, until the block ends; close what is written to then."""
    if path is not None:
        recorder.log_to(AccessLog(path, recorder.place_of, recorder.processes))
    try:
        yield
    finally:
        last = recorder.log_to(None)
        if last is not None:
            last.close()


class Wait:
    """One read that waits, from entering the block to its end. `size` is what is asked for, then what was read."""

    __slots__ = ("_deadline", "_recorder", "begun", "inode", "key", "offset", "size", "thread", "uid")

    def __init__(self, recorder: Recorder, key: int, thread: int, uid: int, inode: int, offset: int, size: int) -> None:
        self._recorder = recorder
        self.key = key
        self.thread = thread
        self.uid = uid
        self.inode = inode
        self.offset = offset
        self.size = size
        self.begun = 0.0
        self._deadline = math.inf

    def __enter__(self) -> "Wait":
        self.begun = time.perf_counter()
        # Once it has passed it can't be told from being cancelled for another reason.
        self._deadline = trio.current_effective_deadline() if trio.lowlevel.in_trio_run() else math.inf
        self._recorder.waiting[self.key] = self
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        recorder = self._recorder
        del recorder.waiting[self.key]
        number, size = (0, self.size) if error is None else (errno_of(error), 0)
        if number == errno.EINTR and trio.current_time() >= self._deadline:
            number = errno.ETIMEDOUT
        # A reader that was killed is no failure of ours.
        if number and number != errno.EINTR:
            recorder.errors += 1
        if recorder.on:
            seconds = time.perf_counter() - self.begun
            recorder.read(self.thread, self.uid, self.inode, self.offset, size, seconds, hit=False, number=number)


def errno_of(error: BaseException) -> int:
    """Return the errno that a read is answered with when `error` ends it."""
    if isinstance(error, DasfsError):
        return error.errno_value
    if isinstance(error, trio.TooSlowError):
        return errno.ETIMEDOUT
    return errno.EINTR if isinstance(error, trio.Cancelled) else errno.EIO
