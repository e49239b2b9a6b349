"""The SQLite store against foreign and damaged files, locks, full disks, forks and interruptions."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

from dasfs.errors import (
    AlreadyExists,
    Corrupt,
    DasfsError,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Unsupported,
)
from dasfs.stores import Store, StoreOptions, open_store
from dasfs.stores.sqlite import SqliteStore

MIB = 1 << 20


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The file of a SQLite store with one object of three chunks."""
    path = tmp_path / "store.db"
    with open_store(f"sqlite://{path}") as store:
        store.create()
        store.put("a", bytes(600 << 10))
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"this is no database, but a text of some length" * 100, Corrupt),
        (b"SQLite format 3\0" + b"\xff" * 5000, Corrupt),
        (b"", NotFound),
    ],
)
def test_files_that_are_no_database(tmp_path: Path, content: bytes, expected: type[DasfsError]) -> None:
    """A file of another kind is refused in one line by whatever is called, and not touched, by `create` neither."""
    path = tmp_path / "file.db"
    path.write_bytes(content)
    with open_store(f"sqlite://{path}") as store:
        for call in (store.check, store.create, lambda: store.put("a", b"1"), lambda: store.get("a")):
            with pytest.raises(expected, match=r"file\.db") as raised:
                call()
            assert "\n" not in str(raised.value)
    assert path.read_bytes() == content


def test_database_of_another_program(tmp_path: Path) -> None:
    """A SQLite database of another program is refused and keeps its bytes."""
    path = tmp_path / "photos.db"
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE photo (name)")
    raw.commit()
    raw.close()
    content = path.read_bytes()
    with open_store(f"sqlite://{path}") as store:
        for call in (store.check, store.create, lambda: store.put("a", b"1")):
            with pytest.raises(Unsupported, match="another program"):
                call()
    assert path.read_bytes() == content


def test_database_of_another_version(database: Path) -> None:
    """A store that a later dasfs wrote is refused with both versions named."""
    raw = sqlite3.connect(database)
    raw.execute("PRAGMA user_version = 9")
    raw.close()
    with open_store(f"sqlite://{database}") as store, pytest.raises(Unsupported, match=r"version 9.*knows 1"):
        store.check()


def test_damaged_chunk(database: Path) -> None:
    """A chunk that is short or missing is `Corrupt`, naming the object; the others are read."""
    with open_store(f"sqlite://{database}") as store:
        store.put("b", b"fine")
        raw = sqlite3.connect(database)
        raw.execute("UPDATE chunk SET data = x'00' WHERE chunk_id = (SELECT min(chunk_id) FROM chunk)")
        raw.commit()
        with pytest.raises(Corrupt, match="a: chunk 0 is too short"):
            store.get("a")
        raw.execute("DELETE FROM chunk WHERE chunk_id = (SELECT min(chunk_id) FROM chunk)")
        raw.commit()
        raw.close()
        with pytest.raises(Corrupt, match="a: chunk 0 is missing"):
            store.get("a")
        assert store.get("b") == b"fine"


def test_flipped_bit(database: Path) -> None:
    """A whole object with a wrong bit is `Corrupt`."""
    raw = sqlite3.connect(database)
    raw.execute("UPDATE chunk SET data = x'01' || substr(data, 2) WHERE chunk_id = (SELECT min(chunk_id) FROM chunk)")
    raw.commit()
    raw.close()
    with open_store(f"sqlite://{database}") as store, pytest.raises(Corrupt, match=r"a: .*checksum"):
        store.get("a")


def test_log_of_a_removed_store(tmp_path: Path) -> None:
    """No store is made beside a left write-ahead log: SQLite would play that into it."""
    (tmp_path / "store.db-wal").write_bytes(b"left")
    with open_store(f"sqlite://{tmp_path}/store.db") as store:
        with pytest.raises(AlreadyExists, match=r"store\.db-wal"):
            store.create()
        (tmp_path / "store.db-wal").unlink()
        store.create()


def test_damaged_pages(database: Path) -> None:
    """Pages of rubbish are an error of one line, whatever is called: never another exception, never wrong bytes."""
    content = database.read_bytes()
    for page in range(1, len(content) // 16384):
        database.write_bytes(content[: page * 16384] + b"\xaa" * 16384 + content[(page + 1) * 16384 :])
        with open_store(f"sqlite://{database}") as store:
            for call in (
                store.check,
                lambda: store.get("a"),
                lambda: list(store.list("")),
                lambda: store.put("b", b""),
            ):
                try:
                    call()
                except DasfsError as error:
                    assert "\n" not in str(error)  # noqa: PT017


def test_lost_tables(database: Path) -> None:
    """A store without its tables is `Corrupt`."""
    raw = sqlite3.connect(database)
    raw.execute("DROP TABLE object")
    raw.close()
    with open_store(f"sqlite://{database}") as store, pytest.raises(Corrupt, match="no such table"):
        store.check()


def test_path_is_a_directory(tmp_path: Path) -> None:
    """A directory in the place of the file gets the hint of the other kind of store."""
    with open_store(f"sqlite://{tmp_path}") as store, pytest.raises(InvalidInput, match=f"file://{tmp_path}"):
        store.check()


def test_locked_database(database: Path) -> None:
    """A writer that another one keeps waiting gives up at the deadline; readers don't notice."""
    raw = apsw.Connection(str(database))
    raw.execute("BEGIN IMMEDIATE")
    with open_store(f"sqlite://{database}", StoreOptions(deadline_s=0.3)) as store:
        with pytest.raises(DeadlineExceeded, match="writers"):
            store.put("b", b"1")
        assert store.head("a").size == 600 << 10
        raw.execute("ROLLBACK")
        store.put("b", b"1")
    raw.close()


def test_full_database(database: Path) -> None:
    """A database that may not grow is `NoSpace`, and what was there stays."""
    script = f"""
import resource, signal, sys
from dasfs.errors import NoSpace
from dasfs.stores import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
with open_store("sqlite://{database}") as store:
    try:
        store.put_stream("b", (bytes(1 << 20) for _ in range(40)))
    except NoSpace:
        sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 7
    with open_store(f"sqlite://{database}") as store:
        assert [info.key for info in store.list("")] == ["a"]
        assert store.get("a") == bytes(600 << 10)


def test_replacing_frees_the_space(database: Path) -> None:
    """Objects that are replaced or deleted make room for new ones: the file does not grow for ever."""
    with open_store(f"sqlite://{database}") as store:
        for _ in range(3):
            store.put_stream("big", [bytes(20 * MIB)])
            store.put("big", b"small")
            store.put_stream("other", [bytes(20 * MIB)])
            store.delete(["other"])
    assert database.stat().st_size < 70 * MIB


def test_creating_at_once(tmp_path: Path) -> None:
    """Of many that create one SQLite store at once, all succeed, and it is one store."""
    url = f"sqlite://{tmp_path}/new/store.db"
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        try:
            with open_store(url) as store:
                barrier.wait(timeout=30)
                store.create()
                store.put(f"k{number}", b"")
        except BaseException as error:  # noqa: BLE001 - a thread's failure must reach the test
            failures.append(error)

    threads = [threading.Thread(target=create, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with open_store(url) as store:
        assert len(list(store.list(""))) == 8
    assert os.listdir(tmp_path / "new") == ["store.db"]


def read_and_write(store: Store, number: int) -> None:
    """What a forked child does with its parent's store."""
    store.put(f"child/{number}", store.get("a")[:5])
    store.close()


def test_fork(database: Path) -> None:
    """A store that was used before a fork works in the parent and in the children."""
    context = multiprocessing.get_context("fork")
    with open_store(f"sqlite://{database}") as store:
        assert store.head("a").size == 600 << 10
        children = [context.Process(target=read_and_write, args=(store, number)) for number in range(4)]
        for child in children:
            child.start()
        store.put("parent", b"1")
        for child in children:
            child.join()
            assert child.exitcode == 0
        assert [info.key for info in store.list("")] == ["a", *(f"child/{n}" for n in range(4)), "parent"]
    raw = sqlite3.connect(database)
    assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


def test_cleaning_up_spares_what_is_published(database: Path) -> None:
    """An upload that is interrupted just after its last commit is not taken for a failed one: the object stays."""
    with open_store(f"sqlite://{database}") as store:
        assert isinstance(store, SqliteStore)
        raw = sqlite3.connect(database)
        (object_id,) = raw.execute("SELECT object_id FROM object").fetchone()
        raw.close()
        store._drop(object_id)
        assert store.get("a") == bytes(600 << 10)
