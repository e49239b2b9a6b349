"""The lock that keeps two daemons of one host out of one write directory: an flock on the directory itself.

Nothing is written into the directory for it, and the kernel takes it away with the process. It holds between
daemons of one host; a file system without such locks (some network ones) is used without.

**Concurrency:** any thread.
"""

import errno
import fcntl
import logging
import os
import threading
from typing import Final

from dasfs.dataset.local import local_error
from dasfs.errors import AlreadyExists
from dasfs_daemon.journal import Closed

log = logging.getLogger(__name__)

# What file systems answer that have no such locks, or none on directories.
_NO_LOCKS: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


class DirectoryLock:
    """The lock on one write directory, until it is closed. It follows the path: to another directory put there."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._mutex = threading.Lock()
        self._held: int | None = None  # a descriptor; as long as it is open, no other directory gets its inode
        self._closed = False

    def ensure(self) -> None:
        """Lock the directory that is there now, unless that was done.

        Raises `AlreadyExists` while another process has it, `NotFound` and `AccessDenied` where it can't be opened,
        and `Closed`.
        """
        with self._mutex:
            if self._closed:
                raise Closed("this dataset was stopped")
            try:
                found = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise local_error(error, self._directory) from error
            if self._held is not None and os.path.sameopenfile(self._held, found):
                os.close(found)
                return
            try:
                self._lock(found)
            except BaseException:
                os.close(found)
                raise
            self._release()
            self._held = found

    def close(self) -> None:
        """Let go of the directory, for good."""
        with self._mutex:
            self._closed = True
            self._release()

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyExists(
                f"another daemon{_owner(descriptor)} empties the write directory {self._directory}",
                hint="end one of them, or give each a directory of its own; it is tried again every few seconds",
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise local_error(error, self._directory) from error
            log.info("%s can't be locked: see to it that no other daemon empties it", self._directory)

    def _release(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _owner(descriptor: int) -> str:
    """Return " (process N)" for whoever has the lock, as far as the kernel tells. Source: proc_locks(5)."""
    status = os.fstat(descriptor)
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as file:
            locks = [line.split() for line in file]
    except OSError:
        return ""
    owners = [fields[4] for fields in locks if len(fields) == 8 and fields[1] == "FLOCK" and fields[5] == wanted]
    return f" (process {owners[0]})" if owners else ""
