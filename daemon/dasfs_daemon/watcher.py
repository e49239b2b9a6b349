"""What the kernel tells of a write directory: hints, as paths, from watchdog's threads into a trio task.

Events get lost: when inotify's queue overflows, when a directory is made and filled before it is watched, when there
are more hints than are kept. So each is only a reason to look; `lost` asks for a scan, and scans find everything.

**Concurrency:** watchdog's threads call `Hints.add` and `Hints.lose`; everything else runs in the trio thread or in a
worker thread that it waits for.
"""

import ctypes
import errno
import logging
import os
import threading
from typing import Final

import trio
from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.inotify import InotifyObserver

from dasfs.dataset.local import local_error
from dasfs.errors import DasfsError

log = logging.getLogger(__name__)

# 100,000 paths of 100 bytes are 20 MB; beyond that a scan is cheaper than looking one by one.
MAX_HINTS: Final = 100_000
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_IN_DELETE_SELF: Final = 0x400  # any event would do; inotify(7)
_EVENTS: Final[list[type[FileSystemEvent]]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]


class Hints:
    """Paths below one write directory that something happened to, each once, up to `MAX_HINTS`."""

    def __init__(self, top: str) -> None:
        self._prefix = os.fsencode(top) + b"/"
        self._lock = threading.Lock()
        self._paths: dict[bytes, None] = {}
        self._open: set[bytes] = set()
        self._lost = False
        self._token = trio.lowlevel.current_trio_token()
        self._wake = trio.Event()

    async def wait(self) -> None:
        """Wait until there is something to take."""
        await self._wake.wait()

    def take(self) -> tuple[list[bytes], bool]:
        """Return the paths since the last time, in their order, and whether events were lost."""
        with self._lock:
            paths, lost = list(self._paths), self._lost
            self._paths, self._lost = {}, False
            self._wake = trio.Event()
        return paths, lost

    def being_written(self) -> frozenset[bytes]:
        """Return the files that were created and neither closed nor moved since, as far as events tell."""
        with self._lock:
            return frozenset(self._open)

    def add(self, path: bytes, *, opened: bool = False) -> None:
        """Note that something happened to an absolute path."""
        if not path.startswith(self._prefix):
            return
        path = path[len(self._prefix) :]
        with self._lock:
            if opened:
                self._open.add(path)
            else:
                self._open.discard(path)
            if len(self._paths) >= MAX_HINTS or len(self._open) > MAX_HINTS:
                self._lose()
            self._paths[path] = None
        self._notify()

    def lose(self) -> None:
        """Note that events were lost."""
        with self._lock:
            self._lose()
        self._notify()

    def _lose(self) -> None:
        self._lost = True
        self._paths.clear()
        self._open.clear()

    def _notify(self) -> None:
        self._token.run_sync_soon(self._set, idempotent=True)

    def _set(self) -> None:
        self._wake.set()


class _Handler(FileSystemEventHandler):
    """Turns watchdog's events into hints."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints

    def on_any_event(self, event: FileSystemEvent) -> None:
        place = event.dest_path if isinstance(event, FileMovedEvent | DirMovedEvent) else event.src_path
        if place:
            self._hints.add(os.fsencode(place), opened=isinstance(event, FileCreatedEvent))


class _Losses(logging.Handler):
    """Hears what watchdog only logs: that the kernel's queue overflowed, or a directory could not be watched."""

    def __init__(self, hints: Hints) -> None:
        super().__init__(logging.WARNING)
        self._hints = hints

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self._hints.lose()


class Watcher:
    """Watches one write directory with all below it."""

    def __init__(self, top: str, hints: Hints) -> None:
        self._top = top
        self._hints = hints
        self._observer: InotifyObserver | None = None
        self._watched: tuple[int, int] | None = None
        self._partly = False  # some sub-directory may not be watched

    def ensure(self) -> None:
        """Watch the directory that stands at the path now, if it is not watched already. Blocks while it is walked.

        Raises `NotFound` and the like; `DasfsError` where the kernel has no watches left for all of it: then what can
        be is watched, and the next call tries again.
        """
        try:
            status = os.stat(self._top)
        except OSError as error:
            raise local_error(error, self._top) from error
        place = (status.st_dev, status.st_ino)
        known = self._watched == place and self._is_alive()
        if known and not self._partly:
            self._check_whole()
        elif not known or _has_watch_left(self._top):
            self._begin(place)
        else:
            raise self._error("no watch is left", "max_user_watches")

    def _is_alive(self) -> bool:
        """Return whether watchdog's threads live: one that met an error of its own is gone, and nothing says so."""
        if self._observer is None:
            return False
        alive = self._observer.is_alive() and all(emitter.is_alive() for emitter in self._observer.emitters)
        if not alive:
            log.warning("%s: watching it failed; it is watched anew", self._top)
        return alive

    def _begin(self, place: tuple[int, int]) -> None:
        self.close()
        observer: InotifyObserver | None = None
        try:
            # Full events: only they tell a file that was moved in from one that was created and is open.
            observer = InotifyObserver(generate_full_events=True)
            observer.schedule(_Handler(self._hints), self._top, recursive=True, event_filter=_EVENTS)
            observer.start()
        except OSError as error:
            if observer is not None:
                observer.stop()  # it has a thread and a queue of the kernel already, which would stay
            limit = "max_user_instances" if error.errno in (errno.EMFILE, errno.ENFILE) else "max_user_watches"
            raise self._error(error.strerror or str(error), limit) from error
        losses = _Losses(self._hints)
        # It speaks of queues and callbacks; what it means is said by whoever scans.
        logging.getLogger("watchdog").propagate = False
        logging.getLogger("watchdog").addHandler(losses)
        self._observer, self._losses, self._watched = observer, losses, place
        self._check_whole()

    def _check_whole(self) -> None:
        """Raise where the kernel's watches are used up: watchdog passes over a sub-directory that gets none."""
        self._partly = not _has_watch_left(self._top)
        if self._partly:
            raise self._error("no watch is left", "max_user_watches")

    def _error(self, reason: str, limit: str) -> DasfsError:
        return DasfsError(
            f"{self._top} can't be watched: {reason}; it is scanned from time to time",
            hint=f"raise fs.inotify.{limit} (sysctl)",
        )

    def close(self) -> None:
        """Stop watching; waits for the threads."""
        if self._observer is None:
            return
        self._observer.stop()
        self._observer.join()
        self._observer = None
        logging.getLogger("watchdog").removeHandler(self._losses)


def _has_watch_left(directory: str) -> bool:
    """Return whether the kernel gives this user one more watch; True where that can't be asked."""
    descriptor = _LIBC.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return True
    try:
        watch = _LIBC.inotify_add_watch(descriptor, os.fsencode(directory), _IN_DELETE_SELF)
        return watch >= 0 or ctypes.get_errno() != errno.ENOSPC
    finally:
        os.close(descriptor)
