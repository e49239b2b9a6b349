"""Open one of the cache's SQLite databases, or make it anew where it can't be trusted.

What a cache holds can be fetched again, so a database that is damaged, of another version, or not ours is
deleted and started over, with one WARNING. Nothing here grows with the size of the database: a mount must be
ready at once.

**Concurrency:** a connection belongs to one thread at a time; WAL lets others read meanwhile.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import apsw

from dasfs.errors import AccessDenied, Corrupt, DasfsError, NoSpace

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database of the cache must look like. `version` goes up with every change of `sql`."""

    application_id: int
    version: int
    sql: str


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn SQLite's errors into ours: the one door for apsw in the cache."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError, apsw.FormatError) as error:
        raise Corrupt(f"the cache database {path} is damaged") from error
    except apsw.FullError as error:
        raise NoSpace(
            f"no space left for the cache database {path}", hint="free some, or give another --cache-dir"
        ) from error
    except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError) as error:
        raise AccessDenied(f"the cache database {path} can't be written", hint="give another --cache-dir") from error
    except apsw.Error as error:
        raise DasfsError(f"the cache database {path} failed: {error}") from error


def open_database(path: str, schema: Schema) -> tuple[apsw.Connection, bool]:
    """Return a connection to the database at `path`, and whether it had to be made anew.

    Raises `AccessDenied`, `NoSpace`, or `DasfsError` where not even a new one can be made.
    """
    existed = os.path.exists(path)
    if existed:
        try:
            with translated(path):
                return _connect(path, schema, create=False), False
        except Corrupt as error:
            log.warning("%s; it is built anew", error)
            remove_database(path)
    with translated(path):
        return _connect(path, schema, create=True), True


def remove_database(path: str) -> None:
    """Delete a database with its write-ahead log."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)


def connect(path: str) -> apsw.Connection:
    """Return another connection to a database that `open_database` opened."""
    with translated(path):
        connection = apsw.Connection(path)
        _configure(connection)
        return connection


def _configure(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(10_000)  # ms; the only other user is our own second connection
    connection.pragma("journal_mode", "wal")
    # A power cut may lose the last transactions, which a cache can bear; it can't damage the database.
    connection.pragma("synchronous", "normal")


def _connect(path: str, schema: Schema, *, create: bool) -> apsw.Connection:
    connection = apsw.Connection(path)
    try:
        _configure(connection)
        if create:
            with connection:
                connection.execute(schema.sql)
                connection.pragma("application_id", schema.application_id)
                connection.pragma("user_version", schema.version)
        found = (connection.pragma("application_id"), connection.pragma("user_version"))
        if found != (schema.application_id, schema.version):
            raise Corrupt(f"the cache database {path} is of another version")
    except BaseException:
        connection.close()
        raise
    return connection
