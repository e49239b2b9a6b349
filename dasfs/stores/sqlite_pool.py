"""Connections to one SQLite file, and the door through which apsw's errors enter.

**Concurrency:** a connection belongs to one thread from when it is handed out until it comes back, in one
transaction. Writers of this process queue at a lock, because waiting inside SQLite means polling; writers of
other processes are waited for there.

SQLite's locks don't survive fork(2). Idle connections are closed before a fork, so parent and child each open
new ones. A fork while another thread is inside a transaction is not safe; nothing in dasfs does that.
"""

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Final

import apsw

from dasfs.errors import (
    AccessDenied,
    Corrupt,
    DasfsError,
    DeadlineExceeded,
    InvalidInput,
    NoSpace,
    NotFound,
    StoreUnavailable,
)
from dasfs.stores.files import from_os_error
from dasfs.stores.sqlite_schema import check_file

# The log of what was committed must reach the disk before a commit is acknowledged: see DESIGN of the commit
# log. 8 MiB of cache hold the upper pages of the trees of a store of terabytes.
_PREPARE: Final = "PRAGMA synchronous = FULL; PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY"
# More idle connections than this are closed: each keeps up to 8 MiB and three descriptors.
MAX_IDLE: Final = 16
_OPEN_FLAGS: Final = apsw.SQLITE_OPEN_READWRITE


class ConnectionPool:
    """Transactions on one SQLite store."""

    def __init__(self, path: str, url: str, deadline_s: float) -> None:
        self._path = path
        self._url = url
        self._deadline_s = deadline_s
        self._idle: list[apsw.Connection] = []
        self._file = (0, 0)  # the device and inode of which `_idle` are connections
        self._write_lock = threading.Lock()
        self._max_idle = MAX_IDLE
        _pools.add(self)

    @contextlib.contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """Hand out a connection that sees one state of the store."""
        with map_errors(self._url, self._path), self._connection() as database:
            database.set_busy_timeout(int(self._deadline_s * 1000))
            database.execute("BEGIN")
            try:
                yield database
            finally:
                _roll_back(database)

    @contextlib.contextmanager
    def writing(self) -> Iterator[apsw.Connection]:
        """Hand out the one connection that may write; commit when the block ends, roll back when it raises.

        Raises `DeadlineExceeded` when other writers don't let it come to that.
        """
        end = time.monotonic() + self._deadline_s
        with map_errors(self._url, self._path):
            if not self._write_lock.acquire(timeout=self._deadline_s):
                raise DeadlineExceeded(f"{self._url}: other writers kept it locked for {self._deadline_s:g} s")
            try:
                with self._connection() as database:
                    database.set_busy_timeout(max(1, int((end - time.monotonic()) * 1000)))
                    database.execute("BEGIN IMMEDIATE")
                    try:
                        yield database
                        database.execute("COMMIT")
                    finally:
                        _roll_back(database)
            finally:
                self._write_lock.release()

    def close(self) -> None:
        """Close all connections that are idle, and those in use when they come back."""
        self._max_idle = 0
        self.close_idle()

    def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def renew_lock(self) -> None:
        """Forget a lock that another thread of the parent held at a fork."""
        self._write_lock = threading.Lock()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[apsw.Connection]:
        file = self._identify()
        if file != self._file:
            self.close_idle()
            self._file = file
        try:
            database = self._idle.pop()
        except IndexError:
            database = self._open()
        try:
            yield database
        except apsw.IOError as error:
            if not database.system_errno:
                raise
            raise from_os_error(self._url, OSError(database.system_errno, "")) from error
        finally:
            if database.in_transaction or len(self._idle) >= self._max_idle or file != self._file:
                database.close()
            else:
                self._idle.append(database)

    def _identify(self) -> tuple[int, int]:
        """Return which file the path leads to now: SQLite would go on with one that was moved or removed."""
        status = os.stat(self._path)
        return status.st_dev, status.st_ino

    def _open(self) -> apsw.Connection:
        database = apsw.Connection(self._path, flags=_OPEN_FLAGS)
        try:
            database.set_busy_timeout(int(self._deadline_s * 1000))
            check_file(database, self._url)
            database.execute(_PREPARE).fetchall()
        except BaseException:
            database.close()
            raise
        return database


@contextlib.contextmanager
def map_errors(url: str, path: str) -> Iterator[None]:
    """Translate what apsw and the file system raise inside."""
    try:
        yield
    except DasfsError:
        raise
    except apsw.Error as error:
        raise _from_apsw(url, path, error) from error
    except FileNotFoundError as error:
        raise NotFound(f"{url}: there is no such file", hint="check the path, or create the store first") from error
    except OSError as error:
        raise from_os_error(url, error) from error


def _from_apsw(url: str, path: str, error: apsw.Error) -> DasfsError:
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return DeadlineExceeded(f"{url}: other writers kept it locked until the deadline")
        case apsw.IOError() if _is_full(path):
            # SQLite has no word for a disk on which not even the index of the write-ahead log fits.
            return NoSpace(f"{url}: no space left on its disk", hint="make room")
        case apsw.FullError():
            return NoSpace(f"{url}: no space left on its disk", hint="make room")
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            return AccessDenied(f"{url}: the file can't be written", hint="check the owner and the mode")
        case apsw.CantOpenError() if os.path.isdir(path):
            return InvalidInput(f"{url}: is a directory", hint=f"did you mean file://{path}?")
        case apsw.CantOpenError():
            return AccessDenied(f"{url}: can't be opened", hint="the file and its directory must be writable")
        case apsw.NotADBError():
            return Corrupt(f"{url}: is not a SQLite database", hint="check the path")
        case apsw.CorruptError() | apsw.SQLError() | apsw.FormatError() | apsw.MismatchError() | apsw.ConstraintError():
            return Corrupt(
                f"{url}: the database is damaged: {error}",
                hint="keep a copy; `sqlite3 FILE .recover` may help",
            )
        case apsw.TooBigError():
            return InvalidInput(f"{url}: the object is too large")
        case apsw.IOError() | apsw.ProtocolError() | apsw.InterruptError():
            return StoreUnavailable(f"{url}: {error}")
        case _:
            return DasfsError(f"{url}: {error}")


def _is_full(path: str) -> bool:
    """Return whether not one block is free where a file lies."""
    try:
        return os.statvfs(path).f_bavail == 0
    except OSError:
        return False


def _roll_back(database: apsw.Connection) -> None:
    """End a transaction if one is open: SQLite ends it by itself after some errors."""
    if database.in_transaction:
        database.execute("ROLLBACK")


_pools: "weakref.WeakSet[ConnectionPool]" = weakref.WeakSet()


def _before_fork() -> None:
    for pool in list(_pools):
        pool.close_idle()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool.renew_lock()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
