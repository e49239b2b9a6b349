"""The journal: which source file is in which datarange in which state, at every moment. See `schema`.

It guards against packing a file twice, so what can't be trusted is never rebuilt silently: a journal that is
damaged or of another version stops the daemon with one line. Whoever moves it away loses nothing: files that are in
the dataset already are recognised by their number, or by their original path, and their content.

**Concurrency:** one connection, used by any thread under one lock. Every method is one transaction, on the disk when
it returns (`synchronous=FULL`), and takes at most some hundred milliseconds: call it in a worker thread.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import apsw

from dasfs.errors import AccessDenied, Corrupt, DasfsError, NoSpace, Unsupported
from dasfs_daemon.schema import APPLICATION_ID, SCHEMA, VERSION

CACHE_KIB: Final = 16 << 10
CHECKPOINT_PAGES: Final = 4096  # of 4 KiB


class Closed(DasfsError):
    """The daemon is stopping, or the dataset was reconfigured: whoever still works for it ends here."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Files on their way from a directory that is no longer configured like this."""

    dataset: str
    directory: str
    store_url: str
    files: int


class Journal:
    """An open journal. Close it, or use it in a `with`."""

    def __init__(self, path: str) -> None:
        """Open the journal at `path`, or begin one.

        Raises `Corrupt`, `Unsupported`, `AccessDenied`, `NoSpace`; all say what to do.
        """
        self.path = path
        self._lock = threading.Lock()
        self._closed = False
        with self._translated():
            self._connection = apsw.Connection(path)
            try:
                self._begin()
            except BaseException:
                self._connection.close()
                raise

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """Lend the connection for one transaction; nothing of it stays after an exception."""
        with self._lock:
            if self._closed:
                raise Closed("the journal is closed")
            with self._translated(), self._connection:
                yield self._connection

    def origin(self, dataset: str, directory: str, store_url: str) -> int:
        """Return the id of a write directory, noted from now on."""
        place = (dataset, os.fsencode(directory), store_url)
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO origin (dataset, directory, store_url) VALUES (?, ?, ?)", place)
            query = "SELECT id FROM origin WHERE (dataset, directory, store_url) = (?, ?, ?)"
            return int(db.execute(query, place).get)

    def leftovers(self, configured: set[int]) -> list[Leftover]:
        """Return what is on its way from origins other than `configured`."""
        query = (
            "SELECT origin.id, dataset, directory, store_url, count(*)"
            " FROM file JOIN origin ON origin.id = file.origin GROUP BY origin.id ORDER BY origin.id"
        )
        with self.transaction() as db:
            rows = list(db.execute(query))
        return [
            Leftover(dataset, os.fsdecode(directory), url, count)
            for each, dataset, directory, url, count in rows
            if each not in configured
        ]

    def close(self) -> None:
        """Let go of the file. Every later call raises `Closed`."""
        with self._lock:
            self._closed = True
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Configure the connection; make the schema in a new file, check it in an old one."""
        db = self._connection
        db.set_busy_timeout(10_000)  # ms; the state directory's lock keeps other daemons away
        if os.path.getsize(self.path) == 0:
            with db:
                db.execute(SCHEMA)
                db.pragma("application_id", APPLICATION_ID)
                db.pragma("user_version", VERSION)
        if db.pragma("application_id") != APPLICATION_ID:
            raise Corrupt(f"{self.path} is not a journal of dasfs", hint="move it away, and start the daemon again")
        found = db.pragma("user_version")
        if found != VERSION:
            raise Unsupported(
                f"the journal {self.path} has version {found}, this dasfs writes {VERSION}",
                hint="start the dasfs that wrote it, let it finish, and change versions then",
            )
        db.pragma("journal_mode", "wal")
        db.pragma("synchronous", "full")
        # A batch of 4,096 files changes a thousand pages, all over the indexes. With SQLite's own 2 MiB of cache and a
        # checkpoint every 4 MiB each of them is written twice, and taking files needs a fifth more CPU.
        db.pragma("cache_size", -CACHE_KIB)
        db.pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        problem = db.pragma("quick_check")
        if problem != "ok":
            raise Corrupt(f"the journal {self.path} is damaged: {problem}", hint=_MOVE_AWAY)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The door for apsw's errors."""
        try:
            yield
        except (apsw.CorruptError, apsw.NotADBError, apsw.FormatError) as error:
            raise Corrupt(f"the journal {self.path} is damaged", hint=_MOVE_AWAY) from error
        except apsw.FullError as error:
            raise NoSpace(f"no space left for the journal {self.path}", hint="make room") from error
        except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError) as error:
            raise AccessDenied(f"the journal {self.path} can't be written", hint="check its directory") from error
        except apsw.Error as error:
            raise DasfsError(f"the journal {self.path} failed: {error}") from error


_MOVE_AWAY = (
    "move it away and start again: nothing is lost, and what is in a dataset already is recognised by its number, "
    "or by its original path and content"
)
