"""Walking a write directory: every file in it, in batches, however many there are.

**Concurrency:** for one thread; others may change the directory meanwhile. What is there from beginning to end is
found, but for a directory that is moved from where the walk has not been to where it has.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from dasfs.dataset.local import local_error
from dasfs_daemon.files import Ignore, show

# Large enough that a transaction with its fsync is nothing beside it, small enough to be a megabyte.
BATCH: Final = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it was seen: its path below the write directory and its status."""

    path: bytes
    status: os.stat_result


@dataclass(slots=True)
class Walk:
    """A walk: `odd` is told of what is neither a file nor a directory, `closed_off` of what can't be read."""

    top: bytes
    ignore: Ignore
    odd: Callable[[bytes, os.stat_result], None]
    closed_off: Callable[[bytes, OSError], None]
    # Directories that were last changed before this time (seconds since 1970) are removed if they are empty.
    empty_before: float
    # Whether a directory was left that is empty, and too young to be removed.
    left_empty: bool = False

    def files(self, start: bytes = b"") -> Iterator[list[Found]]:
        """Yield all files below `start`, a directory below the top, directory by directory.

        Raises `NotFound`, `AccessDenied` or another `DasfsError` where the write directory itself can't be read.
        """
        batch: list[Found] = []
        pending = [start]
        leaving: list[bytes] = []  # directories that were entered, the outer before the inner
        while pending:
            directory = pending.pop()
            if directory:
                leaving.append(directory)
            for found in self._enter(directory, pending):
                batch.append(found)
                if len(batch) >= BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch
        for directory in reversed(leaving):
            left = remove_empty(self.top, directory, self.empty_before)
            self.left_empty = self.left_empty or (left is not None and _is_empty(self.top, left[0]))

    def _enter(self, directory: bytes, pending: list[bytes]) -> Iterator[Found]:
        """Yield the files of one directory, and push its sub-directories."""
        try:
            with os.scandir(os.path.join(self.top, directory)) as entries:
                for entry in entries:
                    if self.ignore.name(entry.name):
                        continue
                    path = os.path.join(directory, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISREG(status.st_mode):
                        yield Found(path, status)
                    else:
                        self.odd(path, status)
        except OSError as error:
            if not directory:
                raise local_error(error, show(self.top)) from error
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                self.closed_off(directory, error)


def remove_empty(top: bytes, directory: bytes, before: float) -> tuple[bytes, float] | None:
    """Remove a sub-directory that is empty and was last changed before `before` (seconds since 1970), and those above
    it that are so, too.

    Returns the first that is too young, and when it was last changed; None: all are gone, in use or not to be removed.
    """
    changed = _changed(top, directory)
    while changed is not None and directory:
        if changed >= before:
            return directory, changed
        # Removing it changes the one above, whose age counts as it was.
        parent = os.path.dirname(directory)
        changed = _changed(top, parent)
        try:
            os.rmdir(os.path.join(top, directory))
        except OSError:
            return None
        directory = parent
    return None


def _is_empty(top: bytes, directory: bytes) -> bool:
    try:
        with os.scandir(os.path.join(top, directory)) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _changed(top: bytes, directory: bytes) -> float | None:
    try:
        return os.lstat(os.path.join(top, directory)).st_mtime
    except OSError:
        return None
