"""The part of the journal that belongs to one write directory: its files, dataranges and reserved numbers.

**Concurrency:** as the journal. Once `close` was called every method raises `Closed`, so that a thread that was
left behind by a stop or a new configuration can't write over what its successor does.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import apsw

from dasfs.dataset.model import Datarange, join_spans
from dasfs_daemon.journal import Closed, Journal
from dasfs_daemon.rows import (
    UNKNOWN,
    DatarangeRow,
    FileRow,
    Known,
    NewFile,
    Stamp,
    State,
    Uncommitted,
    Waiting,
    datarange_row,
    file_row,
    new_row,
)

# Rows of a datarange that are in memory at once: 1.5 MB.
_PAGE: Final = 4096
_FILE = "SELECT id, path, size, mtime_ns, inode, ctime_ns, taken, numbered, number FROM file"
_DATARANGE = (
    "SELECT id, state, first, last, size, oldest, base_revision, counter, tar_size, manifest_size, named, committed"
    " FROM datarange"
)


class OriginJournal:
    """The journal of one write directory."""

    def __init__(self, journal: Journal, origin: int) -> None:
        self._journal = journal
        self._origin = origin
        self._closed = False

    def close(self) -> None:
        """Refuse everything from now on."""
        self._closed = True

    def look_up(self, files: Sequence[NewFile]) -> list[Known]:
        """Return what the journal knows of each of `files`, in their order."""
        by_path = "SELECT ?3, size, mtime_ns, inode FROM file WHERE (origin, path) = (?1, ?2)"
        by_inode = "SELECT ?5, path FROM file WHERE (origin, inode) = (?1, ?2) AND (size, mtime_ns) = (?3, ?4)"
        found = [UNKNOWN] * len(files)
        with self._transaction() as db:
            places = ((self._origin, each.path, k) for k, each in enumerate(files))
            for k, *stamp in db.executemany(by_path, places):
                found[k] = Known(Stamp(*stamp), ())
            stamps = ((k, each.stamp) for k, each in enumerate(files) if found[k].stamp is None)
            keys = ((self._origin, stamp.inode, stamp.size, stamp.mtime_ns, k) for k, stamp in stamps)
            for k, path in db.executemany(by_inode, keys):
                found[k] = Known(None, (*found[k].twins, path))
        return found

    def rename(self, old: bytes, new: bytes) -> bool:
        """Note that a file has another path now; return False where that path is taken by one in a datarange."""
        with self._transaction() as db:
            there = (self._origin, new)
            db.execute("DELETE FROM file WHERE (origin, path) = (?, ?) AND datarange IS NULL", there)
            if db.execute("SELECT 1 FROM file WHERE (origin, path) = (?, ?)", there).get is not None:
                return False
            db.execute("UPDATE file SET path = ? WHERE (origin, path) = (?, ?)", (new, self._origin, old))
            return True

    def take(self, files: Iterable[NewFile], now: float) -> None:
        """Note complete files, in the order in which they became complete.

        One that was noted before and is another by now replaces the old one, unless that is in a datarange that is
        not committed yet: then it is taken once the datarange is done with.
        """
        replaced = (
            "DELETE FROM file WHERE (origin, path) = (?, ?) AND (datarange IS NULL OR 'committed' ="
            " (SELECT state FROM datarange WHERE datarange.id = file.datarange))"
        )
        query = (
            "INSERT INTO file (origin, path, size, mtime_ns, inode, ctime_ns, taken, numbered, number)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (origin, path) DO NOTHING"
        )
        rows = [new_row(self._origin, file, now) for file in files]
        with self._transaction() as db:
            db.executemany(replaced, (row[:2] for row in rows))
            db.executemany(query, rows)

    def forget(self, files: Iterable[int]) -> None:
        """Drop files by their ids: they are gone, or not ours any more."""
        with self._transaction() as db:
            db.executemany("DELETE FROM file WHERE id = ?", ((each,) for each in files))

    def refuse(self, path: bytes, reason: str) -> None:
        """Note that a waiting file can't be packed and could not be moved away."""
        query = "UPDATE file SET refused = ? WHERE (origin, path) = (?, ?) AND datarange IS NULL"
        with self._transaction() as db:
            db.execute(query, (reason, self._origin, path))

    def refused(self, limit: int) -> list[tuple[int, bytes, str]]:
        """Return the id, the path and the reason of the first refused files."""
        query = "SELECT id, path, refused FROM file WHERE origin = ? AND refused IS NOT NULL LIMIT ?"
        with self._transaction() as db:
            return list(db.execute(query, (self._origin, limit)))

    def retry_refused(self) -> None:
        """Let the refused files wait again."""
        with self._transaction() as db:
            db.execute("UPDATE file SET refused = NULL WHERE origin = ? AND refused IS NOT NULL", (self._origin,))

    def waiting(self) -> Waiting:
        """Return how much waits for a datarange."""
        with self._transaction() as db:
            return self._waiting(db)

    def uncommitted(self) -> Uncommitted:
        """Return what waits and what is on its way, both of the same moment."""
        query = f"{_DATARANGE} WHERE origin = ? AND state IN ('packed', 'uploaded') ORDER BY id"
        with self._transaction() as db:
            dataranges = [datarange_row(row) for row in db.execute(query, (self._origin,))]
            return Uncommitted(self._waiting(db), dataranges)

    def _waiting(self, db: apsw.Connection) -> Waiting:
        oldest = (
            "SELECT taken FROM file"
            " WHERE (origin, numbered) = (?, ?) AND datarange IS NULL AND refused IS NULL ORDER BY id LIMIT 1"
        )
        rows: Any = db.execute("SELECT files, size FROM waiting WHERE origin = ? ORDER BY numbered", (self._origin,))
        (unnumbered, size), (numbered, more) = rows
        found: list[Any] = [db.execute(oldest, (self._origin, each)).get for each in (0, 1)]
        first = min((each for each in found if each is not None), default=None)
        return Waiting(numbered, unnumbered, size + more, first)

    def numbered_waiting(self, limit: int) -> list[FileRow]:
        """Return the first waiting files that have a number by their name, ascending by number and id."""
        return self._waiting_files("numbered = 1 ORDER BY number, id", limit)

    def unnumbered_waiting(self, limit: int) -> list[FileRow]:
        """Return the first waiting files that need a number, in the order in which they became complete."""
        return self._waiting_files("numbered = 0 ORDER BY id", limit)

    def numbers_between(self, first: int, last: int) -> list[int]:
        """Return which of these numbers a file of the journal has, ascending; those that only wait count, too."""
        query = "SELECT DISTINCT number FROM file WHERE origin = ? AND number BETWEEN ? AND ? ORDER BY number"
        with self._transaction() as db:
            return [row[0] for row in db.execute(query, (self._origin, first, last))]

    def numbers_on_their_way(self) -> list[int]:
        """Return the numbers of all files in dataranges that are not committed yet."""
        query = (
            "SELECT number FROM datarange JOIN file ON file.datarange = datarange.id"
            " WHERE datarange.origin = ? AND datarange.state != 'committed'"
        )
        with self._transaction() as db:
            return [row[0] for row in db.execute(query, (self._origin,))]

    def _waiting_files(self, condition: str, limit: int) -> list[FileRow]:
        query = f"{_FILE} WHERE origin = ? AND datarange IS NULL AND refused IS NULL AND {condition} LIMIT ?"
        with self._transaction() as db:
            return [file_row(row) for row in db.execute(query, (self._origin, limit))]

    def dataset_id(self) -> str:
        """Return which dataset was met last; empty before the first."""
        with self._transaction() as db:
            return str(db.execute("SELECT dataset_id FROM origin WHERE id = ?", (self._origin,)).get)

    def meet(self, dataset_id: str) -> None:
        """Note which dataset this is. The numbers that another one of its name gave are void."""
        with self._transaction() as db:
            query = "DELETE FROM reservation WHERE origin = ? AND ? != (SELECT dataset_id FROM origin WHERE id = ?)"
            db.execute(query, (self._origin, dataset_id, self._origin))
            db.execute("UPDATE origin SET dataset_id = ? WHERE id = ?", (dataset_id, self._origin))

    def reservations(self) -> list[range]:
        """Return the numbers that are ours and that no file has, ascending."""
        query = "SELECT first, stop FROM reservation WHERE origin = ? ORDER BY first"
        with self._transaction() as db:
            return [range(first, stop) for first, stop in db.execute(query, (self._origin,))]

    def reserve(self, numbers: range) -> None:
        """Note numbers that the log gave to us."""
        with self._transaction() as db:
            self._reserve(db, numbers)

    def pack(
        self, first: int, files: Sequence[FileRow], base_revision: int, reservations: Sequence[range] | None = None
    ) -> DatarangeRow:
        """Make a datarange of `files`, which get the numbers from `first` on, and return it.

        `reservations` are those that are left then; None: they stay as they are.
        """
        size, oldest = sum(each.stamp.size for each in files), min(each.taken for each in files)
        values = (self._origin, State.PACKED.value, first, first + len(files) - 1, size, oldest, base_revision)
        with self._transaction() as db:
            db.execute(
                "INSERT INTO datarange (origin, state, first, last, size, oldest, base_revision)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            made = db.last_insert_rowid()
            db.executemany(
                "UPDATE file SET datarange = ?, number = ? WHERE id = ?",
                ((made, number, each.id) for number, each in enumerate(files, first)),
            )
            if reservations is not None:
                self._set_reservations(db, reservations)
        return DatarangeRow(made, State.PACKED, *values[2:], None, None)

    def give_back(self, datarange: DatarangeRow, gone: Iterable[int] = ()) -> None:
        """Undo `pack`: the files wait again, but for those `gone`, and the numbers given to them are free again."""
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM datarange WHERE id = ?", (datarange.id,)).get is None:
                return
            given = db.execute("SELECT 1 FROM file WHERE datarange = ? AND numbered = 0", (datarange.id,)).get
            db.executemany("DELETE FROM file WHERE id = ?", ((each,) for each in gone))
            db.execute(
                "UPDATE file SET datarange = NULL, number = CASE numbered WHEN 1 THEN number END WHERE datarange = ?",
                (datarange.id,),
            )
            db.execute("DELETE FROM datarange WHERE id = ?", (datarange.id,))
            if given is not None:
                self._reserve(db, range(datarange.first, datarange.last + 1))

    def uploaded(self, datarange: DatarangeRow, uploaded: Datarange, revision: int) -> DatarangeRow:
        """Note that the objects of a datarange are in the store; return it as it is now.

        The log did not have it at `revision`: where it may be committed, it is looked for behind that.
        """
        named = (uploaded.id.counter, uploaded.tar_size, uploaded.manifest_size, uploaded.named)
        with self._transaction() as db:
            db.execute(
                "UPDATE datarange SET state = 'uploaded', counter = ?, tar_size = ?, manifest_size = ?, named = ?,"
                " base_revision = ? WHERE id = ? AND state = 'packed'",
                (*named, revision, datarange.id),
            )
            self._check_there(db)
        return replace(datarange, state=State.UPLOADED, uploaded=uploaded, base_revision=revision)

    def committed(self, datarange: DatarangeRow, now: float) -> DatarangeRow:
        """Note that the log has a datarange; return it as it is now."""
        with self._transaction() as db:
            db.execute(
                "UPDATE datarange SET state = 'committed', committed = ? WHERE id = ? AND state = 'uploaded'",
                (now, datarange.id),
            )
            self._check_there(db)
        return replace(datarange, state=State.COMMITTED, committed=now)

    def removed(self, datarange: DatarangeRow) -> None:
        """Forget a committed datarange with what is left of its files."""
        with self._transaction() as db:
            db.execute("DELETE FROM file WHERE datarange = ?", (datarange.id,))
            db.execute("DELETE FROM datarange WHERE id = ? AND state = 'committed'", (datarange.id,))

    def dataranges(self, state: State | None = None) -> list[DatarangeRow]:
        """Return the dataranges that are on their way or whose files are kept, all or of one state, oldest first."""
        query = f"{_DATARANGE} WHERE origin = ? AND state IN (?, ?, ?) ORDER BY id"
        states = [each.value for each in State] if state is None else [state.value] * len(State)
        with self._transaction() as db:
            return [datarange_row(row) for row in db.execute(query, (self._origin, *states))]

    def files_of(self, datarange: DatarangeRow) -> Iterator[FileRow]:
        """Yield the files of a datarange that are left, ascending by number; a part of them is in memory at a time."""
        query = f"{_FILE} WHERE datarange = ? AND number > ? ORDER BY number LIMIT ?"
        number = -1
        while True:
            with self._transaction() as db:
                rows = [file_row(row) for row in db.execute(query, (datarange.id, number, _PAGE))]
            yield from rows
            if len(rows) < _PAGE:
                return
            assert rows[-1].number is not None
            number = rows[-1].number

    def _check_there(self, db: apsw.Connection) -> None:
        """Raise `Closed` where the last statement met no row: the datarange was given back meanwhile."""
        if db.changes() == 0:
            raise Closed("this datarange was given back")

    def _reserve(self, db: apsw.Connection, numbers: range) -> None:
        query = "SELECT first, stop - 1 FROM reservation WHERE origin = ?"
        spans = join_spans([*db.execute(query, (self._origin,)), (numbers.start, numbers.stop - 1)])
        self._set_reservations(db, [range(first, last + 1) for first, last in spans])

    def _set_reservations(self, db: apsw.Connection, reservations: Iterable[range]) -> None:
        db.execute("DELETE FROM reservation WHERE origin = ?", (self._origin,))
        rows = ((self._origin, each.start, each.stop) for each in reservations if each)
        db.executemany("INSERT INTO reservation VALUES (?, ?, ?)", rows)

    @contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        with self._journal.transaction() as db:
            if self._closed:
                raise Closed("this dataset was stopped")
            yield db
