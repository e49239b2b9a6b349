"""The one tree of errors.

Every error that leaves a dasfs function is a `DasfsError`. It carries one line that says what is wrong, an
optional hint that says what to do, the errno that the mount answers with, and whether trying the same again can
help. Foreign errors (botocore, apsw, OSError) are translated where they enter and nowhere else.
"""

import errno
from typing import ClassVar


class DasfsError(Exception):
    """Something that dasfs can explain to its user in one line."""

    errno_value: ClassVar[int] = errno.EIO
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class InvalidInput(DasfsError, ValueError):
    """What the caller gave can't be right, whatever the state of the store: wrong usage."""

    errno_value = errno.EINVAL
    exit_code = 2


class NotFound(DasfsError, FileNotFoundError):
    """The store, dataset, datarange, datapoint or object does not exist."""

    errno_value = errno.ENOENT


class NoLongerKept(NotFound):
    """What was there, and was collected: a revision that the log no longer tells of."""

    errno_value = errno.ESTALE


class NotReady(DasfsError):
    """Something is being made that takes longer than anybody should wait; it goes on, and the next try may find it."""

    errno_value = errno.EAGAIN
    retryable = True


class AlreadyExists(DasfsError, FileExistsError):
    """What should be made is there already."""

    errno_value = errno.EEXIST


class AccessDenied(DasfsError, PermissionError):
    """The store or the local system refuses: wrong keys, missing rights, read-only."""

    errno_value = errno.EACCES


class NoSpace(DasfsError):
    """The store or the local disk is full."""

    errno_value = errno.ENOSPC


class StoreUnavailable(DasfsError, ConnectionError):
    """The store did not answer, or answered that it can't just now. The outcome of a write is unknown."""

    retryable = True


class DeadlineExceeded(StoreUnavailable, TimeoutError):
    """The operation was not finished within its deadline."""

    errno_value = errno.ETIMEDOUT


class Conflict(DasfsError):
    """A commit no longer fits what others committed meanwhile."""

    errno_value = errno.EBUSY


class ObjectChanged(DasfsError):
    """An object is not the one that it was: another ETag or size."""

    errno_value = errno.ESTALE


class Corrupt(DasfsError):
    """Bytes that were read are not what was written: a checksum, a size or a structure is wrong."""


class Unsupported(DasfsError):
    """A format version or an ability that this dasfs or this store does not have."""

    errno_value = errno.ENOTSUP
