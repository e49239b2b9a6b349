"""Opening the cache's databases: trusted only when they are whole and of this version."""

import os
from pathlib import Path

import apsw
import pytest

from dasfs.cache.database import Schema, connect, open_database, remove_database, translated
from dasfs.errors import AccessDenied, Corrupt, DasfsError, NoSpace

SCHEMA = Schema(application_id=0x12345678, version=3, sql="CREATE TABLE thing (name TEXT)")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "cache.db")


def make(path: str, schema: Schema = SCHEMA) -> None:
    """Make a database with one row, and close it."""
    connection, _ = open_database(path, schema)
    connection.execute("INSERT INTO thing VALUES ('kept')")
    connection.close()


def rows(path: str) -> tuple[list[str], bool]:
    """Return the rows of a database that is opened, and whether it was made anew."""
    connection, anew = open_database(path, SCHEMA)
    found = [name for (name,) in connection.execute("SELECT name FROM thing")]
    connection.close()
    return found, anew


def test_a_new_database_is_made(path: str) -> None:
    """Where there is none, one is made, and that is told."""
    assert rows(path) == ([], True)
    assert rows(path) == ([], False)


def test_what_was_kept_is_found(path: str) -> None:
    """A database of this version is opened with what it holds."""
    make(path)
    assert rows(path) == (["kept"], False)


@pytest.mark.parametrize(
    "schema",
    [
        Schema(SCHEMA.application_id, SCHEMA.version + 1, SCHEMA.sql),
        Schema(SCHEMA.application_id, SCHEMA.version - 1, SCHEMA.sql),
        Schema(SCHEMA.application_id + 1, SCHEMA.version, SCHEMA.sql),
    ],
)
def test_another_version_is_made_anew(path: str, schema: Schema, caplog: pytest.LogCaptureFixture) -> None:
    """A database of an older or newer version, or of another program, is replaced, with one warning."""
    make(path, schema)
    assert rows(path) == ([], True)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert rows(path) == ([], False)


@pytest.mark.parametrize("content", [b"", b"x", b"not a database at all" * 1000, os.urandom(20_000)])
def test_garbage_is_made_anew(path: str, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is no database is replaced, with one warning."""
    Path(path).write_bytes(content)
    assert rows(path) == ([], True)
    assert len(caplog.records) == 1


def test_a_left_over_log_is_no_part_of_a_new_database(path: str) -> None:
    """A write-ahead log that stands beside a database that was lost is deleted with it."""
    make(path)
    Path(path).write_bytes(os.urandom(8192))
    Path(path + "-wal").write_bytes(os.urandom(8192))
    assert rows(path) == ([], True)


def test_removing_takes_everything(path: str) -> None:
    """Nothing of a removed database is left; removing none is fine."""
    connection, _ = open_database(path, SCHEMA)
    connection.execute("INSERT INTO thing VALUES ('x')")
    connection.close()
    for suffix in ("-wal", "-shm"):
        Path(path + suffix).touch()
    remove_database(path)
    assert os.listdir(os.path.dirname(path)) == []
    remove_database(path)


def test_a_place_that_can_not_be_opened(tmp_path: Path) -> None:
    """A database in a directory that is not there is `AccessDenied`, with what to do."""
    with pytest.raises(AccessDenied, match="--cache-dir"):
        open_database(str(tmp_path / "missing" / "cache.db"), SCHEMA)


def test_a_second_connection_sees_what_the_first_wrote(path: str) -> None:
    """Another connection reads what was committed, while the first goes on."""
    first, _ = open_database(path, SCHEMA)
    second = connect(path)
    with first:
        first.execute("INSERT INTO thing VALUES ('a')")
        assert list(second.execute("SELECT name FROM thing")) == []
    assert list(second.execute("SELECT name FROM thing")) == [("a",)]
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (apsw.CorruptError, Corrupt),
        (apsw.NotADBError, Corrupt),
        (apsw.FullError, NoSpace),
        (apsw.ReadOnlyError, AccessDenied),
        (apsw.CantOpenError, AccessDenied),
        (apsw.IOError, DasfsError),
        (apsw.SQLError, DasfsError),
        (apsw.ConnectionClosedError, DasfsError),
    ],
)
def test_errors_of_sqlite_are_ours(foreign: type[Exception], ours: type[DasfsError]) -> None:
    """Whatever SQLite raises leaves as an error of ours that names the file."""
    with pytest.raises(ours, match=r"cache\.db"), translated("cache.db"):
        raise foreign("told by SQLite")
