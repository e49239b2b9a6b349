"""The access log: a line of JSON for each read, written beside the mount and never in its way.

    {"time":"2026-03-01T12:00:00.123456Z","pid":812,"uid":1000,"command":"python3","dataset":"photos","number":42,
     "offset":0,"size":65536,"hit":true,"duration_ms":0.012,"error":null}

What the disk does not take in time is dropped and counted; the count is a line of its own: `{"time":...,"dropped":N}`.
The file is looked at before each write: when somebody moved it away (logrotate), a new one is made.

**Concurrency:** `add` is for the trio thread and waits for nothing; a thread of the log's own formats and writes. The
queue between them is a deque, whose ends any thread may use.
"""

import errno
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from dasfs.errors import AccessDenied, InvalidInput, NoSpace
from dasfs.fuse.inodes import DatapointPlace
from dasfs.fuse.processes import Process, Processes

log = logging.getLogger(__name__)

# How long a line may wait: so often the thread wakes up.
INTERVAL_S: Final = 0.2
# Several times what the quickest mount answers between two writes; about 20 MB when it is full.
MAX_QUEUED: Final = 65_536
# Lines that are formatted and written at once: others get the interpreter between.
BATCH: Final = 256
# How long the end of a mount waits for the disk.
END_S: Final = 2.0


class Access(NamedTuple):
    """One read. `time` is when it was answered; `size` what was given; `number` an errno, or 0."""

    time: float
    process: Process
    uid: int
    inode: int
    offset: int
    size: int
    seconds: float
    hit: bool
    number: int


@dataclass(frozen=True, slots=True)
class AccessLogState:
    """How an access log is doing. `problem` is why the last write failed."""

    file: str
    lines: int
    dropped: int
    problem: str | None


class AccessLog:
    """One access log, from when it is made until `close`. Raises as `open_log_file` does."""

    def __init__(self, path: str, place_of: Callable[[int], DatapointPlace | None], processes: Processes) -> None:
        self.path = path
        self._place_of = place_of
        self._processes = processes
        self._file: int | None = open_log_file(path)
        self._queue: deque[tuple[float, Process, int, int, int, int, float, bool, int]] = deque()
        self._lines = self._told = 0
        # What there was no room for, and what could not be written: each counted by one thread.
        self._overflowed = self._lost = 0
        self._problem: str | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def add(
        self, process: Process, uid: int, inode: int, offset: int, size: int, seconds: float, hit: bool, number: int
    ) -> None:
        """Take note of one read, the fields of an `Access`, or drop it where too many wait. Costs 0.4 µs."""
        if len(self._queue) < MAX_QUEUED:
            # A plain tuple is made in a third of the time.
            self._queue.append((time.time(), process, uid, inode, offset, size, seconds, hit, number))
        else:
            self._overflowed += 1

    def state(self) -> AccessLogState:
        return AccessLogState(self.path, self._lines, self._overflowed + self._lost, self._problem)

    def close(self) -> None:
        """Write what waits, for `END_S` at most, and take no more."""
        self._ending.set()
        self._thread.join(END_S)

    def _run(self) -> None:
        while not self._ending.wait(INTERVAL_S):
            self._empty()
        self._empty()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _empty(self) -> None:
        """Write what waits now."""
        self._processes.age()
        for _ in range(MAX_QUEUED // BATCH):
            batch = [Access(*self._queue.popleft()) for _ in range(min(BATCH, len(self._queue)))]
            untold = self._overflowed + self._lost - self._told
            if not batch and not untold:
                return
            text = "".join(format_access(each, self._place_of(each.inode)) for each in batch)
            if untold:
                text += f'{{"time":"{_format_time(time.time())}","dropped":{untold}}}\n'
            self._write(text.encode("utf-8", "backslashreplace"), len(batch), untold)

    def _write(self, data: bytes, lines: int, untold: int) -> None:
        try:
            if self._file is None or _is_moved(self.path, self._file):
                self._reopen()
            assert self._file is not None
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            self._lost += lines
            if self._problem is None:
                log.warning("the access log %s can't be written, lines are dropped: %s", self.path, error)
            self._problem = error.strerror or str(error)
            return
        self._lines += lines
        self._told += untold
        if self._problem is not None:
            log.info("the access log %s is written again", self.path)
        self._problem = None

    def _reopen(self) -> None:
        before, self._file = self._file, None
        if before is not None:
            os.close(before)
        self._file = _open(self.path)


def open_log_file(path: str) -> int:
    """Return a descriptor that appends to the file at `path`. Raises `InvalidInput`, `AccessDenied`, `NoSpace`."""
    try:
        return _open(path)
    except OSError as error:
        message, hint = f"the access log {path} can't be written: {error.strerror}", "give another file"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(message, hint=hint) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AccessDenied(message, hint=hint) from error
        raise InvalidInput(message, hint=hint) from error


def format_access(access: Access, place: DatapointPlace | None) -> str:
    """Return one line. Written by hand: `json.dumps` takes several times as long."""
    dataset, number = ("null", "null") if place is None else (f'"{place.dataset}"', place.number)
    error = f'"{errno.errorcode.get(access.number, access.number)}"' if access.number else "null"
    return (
        f'{{"time":"{_format_time(access.time)}","pid":{access.process.pid},"uid":{access.uid},'
        f'"command":{_quote(access.process.command)},"dataset":{dataset},"number":{number},'
        f'"offset":{access.offset},"size":{access.size},"hit":{"true" if access.hit else "false"},'
        f'"duration_ms":{1000 * access.seconds:.3f},"error":{error}}}\n'
    )


def _format_time(seconds: float) -> str:
    whole = int(seconds)
    return f"{_format_second(whole)}.{int((seconds - whole) * 1e6):06d}Z"


@lru_cache(maxsize=16)
def _format_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_quote = lru_cache(maxsize=1024)(json.dumps)


def _open(path: str) -> int:
    # It says who reads what: for who mounted and for root. Not a FIFO or a device, which could hold up the opening.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(path, flags, 0o600)


def _is_moved(path: str, file: int) -> bool:
    try:
        return not os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return True
