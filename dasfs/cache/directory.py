"""The directory that one mount keeps its caches in.

    DIR/dasfs-cache/lock         locked while a mount uses it; says which process, and where it is mounted
    DIR/dasfs-cache/version      says that this is ours, and of which version
    DIR/dasfs-cache/...          the databases and the block files
    DIR/dasfs-cache/discarded-*  what was given up and is not deleted yet

Only `dasfs-cache` is ever touched. A cache of another version is given up whole, never trusted and never
converted.

**Concurrency:** one process holds the lock from `open` to `close`; it goes with the process, however that
ends.
"""

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from dasfs.errors import AccessDenied, AlreadyExists, DasfsError, InvalidInput, NoSpace

log = logging.getLogger(__name__)

VERSION: Final = b"dasfs cache 1\n"
# umount(8) is done before our process is: a mount that follows at once waits for it.
LOCK_TIMEOUT_S: Final = 3.0
_OWN: Final = "dasfs-cache"
_DISCARDED: Final = "discarded-"
# Room for the databases to start; less than that and the first write of the mount fails.
_PROBE_SIZE: Final = 1 << 20


class CacheDirectory:
    """An exclusively locked cache directory. `root` is its own sub-directory; all paths in it are ours."""

    def __init__(self, root: str, lock: int) -> None:
        self.root = root
        self._lock = lock

    @classmethod
    def open(cls, path: str, *, mount_point: str | None = None) -> Self:
        """Make `path` where it is missing, lock it, and check that it can be written.

        `mount_point` is told to others who ask for the same directory. Raises `InvalidInput` (a file; a
        directory that is not ours), `AccessDenied`, `NoSpace`, `AlreadyExists` (another mount uses it).
        """
        root = os.path.join(path, _OWN)
        with translated_errors(path):
            os.makedirs(path, mode=0o700, exist_ok=True)
            if not os.path.isdir(root):
                os.mkdir(root, mode=0o700)
            lock = os.open(os.path.join(root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        directory = cls(root, lock)
        try:
            with translated_errors(path):
                directory._take_lock(path, mount_point)
                directory._probe()
                directory._check_version(path)
        except BaseException:
            directory.close()
            raise
        return directory

    def path(self, name: str) -> str:
        """Return the path of a file or directory of the cache."""
        return os.path.join(self.root, name)

    def discard(self, name: str) -> None:
        """Give up a file or directory: it is gone at once, and its space with `remove_discarded`."""
        number = 0
        while os.path.lexists(trash := self.path(f"{_DISCARDED}{number}")):
            number += 1
        with translated_errors(self.root):
            if os.path.lexists(self.path(name)):
                os.rename(self.path(name), trash)

    def remove_discarded(self) -> None:
        """Delete what was given up. Blocks, for seconds where it was much: call it in a thread."""
        for name in os.listdir(self.root):
            if name.startswith(_DISCARDED):
                _remove(self.path(name))

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_lock(self, path: str, mount_point: str | None) -> None:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not _lock_now(self._lock):
            if time.monotonic() > deadline:
                raise AlreadyExists(
                    f"the cache directory {path} is in use by {_read_owner(self._lock)}",
                    hint="give another --cache-dir",
                )
            time.sleep(0.05)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, os.fsencode(f"{os.getpid()}\n{mount_point or ''}"), 0)

    def _probe(self) -> None:
        """Write and delete a file: rights of a directory can't be told in another way, nor its space."""
        probe = self.path("probe")
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(descriptor, bytes(_PROBE_SIZE)) < _PROBE_SIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
            os.unlink(probe)

    def _check_version(self, path: str) -> None:
        try:
            with open(self.path("version"), "rb") as file:
                found = file.read(100)
        except FileNotFoundError:
            if set(os.listdir(self.root)) - {"lock"}:
                raise InvalidInput(
                    f"{self.root} is there already, and is not a cache of dasfs",
                    hint="give another --cache-dir",
                ) from None
        else:
            if found == VERSION:
                return
            log.warning("the cache in %s is of another version; it is built anew", path)
            for name in os.listdir(self.root):
                if name not in ("lock", "version") and not name.startswith(_DISCARDED):
                    self.discard(name)
        # Last: until the old content is out of the way, the marker says that it is old.
        with open(self.path("version"), "wb") as file:
            file.write(VERSION)


def _lock_now(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_owner(lock: int) -> str:
    pid, _, mount_point = os.fsdecode(os.pread(lock, 4096, 0)).partition("\n")
    place = f" (mount at {mount_point})" if mount_point else ""
    return f"process {pid}{place}" if pid else "another process"


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        os.unlink(path)
    except OSError as error:
        log.warning("%s can't be deleted: %s", path, error.strerror)


@contextmanager
def translated_errors(path: str) -> Iterator[None]:
    """Turn the system's errors about the directory `path` into ours."""
    try:
        yield
    except DasfsError:
        raise
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidInput(
            f"{path} can't be the cache directory: {error.filename or path} is a file",
            hint="give another --cache-dir",
        ) from error
    except OSError as error:
        message = f"the cache directory {path} can't be used: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(message, hint="free some space, or give another --cache-dir") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AccessDenied(message, hint="give another --cache-dir") from error
        raise DasfsError(message, hint="give another --cache-dir") from error
