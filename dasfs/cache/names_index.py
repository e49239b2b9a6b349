"""The names index of one dataset: its original paths as a tree, in one local SQLite file.

It answers which directory or datapoint a name in a directory is, and lists directories from any place on, each with
one point or range query, in memory that does not grow with the dataset. It can be built anew from manifests.

Several datapoints may have one path: the highest number is shown under it, the others as `x~NUMBER.jpg`. So is a file
whose path is that of a directory.

**Concurrency:** reading is done by one thread (the mount's trio thread) on its own connection, inline: 5 µs a lookup.
`update` runs in another thread, one at a time, on a second connection; readers see what it wrote after `renew`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import apsw

from dasfs.cache import names_schema as sql
from dasfs.cache.database import connect, open_database, remove_database, translated
from dasfs.cache.names_schema import ROOT_DIRECTORY
from dasfs.cache.paths import Place, place_of, variant, variant_number
from dasfs.dataset.model import Snapshot, join_spans
from dasfs.names import MAX_NUMBER, DatapointName, DatapointNumber, DatarangeId

# Directories whose number is at hand while an update runs; files of one directory mostly follow each other.
MAX_DIRECTORIES: Final = 10_000
# KiB of SQLite's memory while an update runs: paths arrive in any order, and go to the middle of an index.
WRITE_MEMORY_KIB: Final = 32 << 10
# Tildes that are tried before a name that should not exist.
MAX_TILDES: Final = 16


@dataclass(frozen=True, slots=True)
class NamedFile:
    """One datapoint in a directory, under the name that it is shown by."""

    number: DatapointNumber
    name: bytes


@dataclass(frozen=True, slots=True)
class NamedDirectory:
    """One directory in a directory."""

    directory: int
    name: bytes


@dataclass(frozen=True, slots=True)
class NamePage:
    """The names of datapoints from `first` on: original paths, empty where one has none, and extensions."""

    first: int
    paths: list[bytes]
    extensions: list[str]


@dataclass(frozen=True, slots=True)
class NameSource:
    """A datarange, and the names of its datapoints page by page, which may be read once."""

    id: DatarangeId
    pages: Iterable[NamePage]


class NamesIndex:
    """The names index at `path` of the dataset `dataset_id`; made where it is missing, or of another dataset."""

    def __init__(self, path: str, dataset_id: str) -> None:
        self._path = path
        self.dataset_id = dataset_id
        self._reader, _ = open_database(path, sql.SCHEMA)
        row = self._row(sql.LOAD_ABOUT, ())
        if row is not None and row[0] != dataset_id:
            self._reader.close()
            remove_database(path)
            self._reader, _ = open_database(path, sql.SCHEMA)
            row = None
        if row is None:
            with translated(path), self._reader:
                self._reader.execute(sql.SAVE_ABOUT, (dataset_id,))

    def close(self) -> None:
        self._reader.close()

    def renew(self) -> None:
        """Let readers see what `update` has written, from now until the next call.

        Between the calls one read transaction is open, since beginning one costs several times a query.
        """
        with translated(self._path):
            if self._reader.in_transaction:
                self._reader.execute("COMMIT")
            self._reader.execute("BEGIN")

    def discard(self) -> None:
        """Close and delete it: what to do when `Corrupt` was raised."""
        self._reader.close()
        remove_database(self._path)

    @property
    def is_complete(self) -> bool:
        """Whether it holds a whole snapshot, if not the newest."""
        row = self._row(sql.LOAD_ABOUT, ())
        return row is not None and bool(row[1])

    def dataranges(self) -> set[str]:
        """Return the dataranges whose names are here, as in their keys."""
        with translated(self._path):
            return {name for (name,) in self._reader.execute(sql.LIST_DATARANGES)}

    def has_directory(self, directory: int) -> bool:
        return directory == ROOT_DIRECTORY or self._row(sql.HAS_DIRECTORY, (directory,)) is not None

    def find(self, parent: int, name: bytes) -> NamedDirectory | NamedFile | None:
        """Return what is shown as `name` in `parent`, or None."""
        row = self._row(sql.FIND_NAME, (parent, name))
        if row is None:
            return None
        directory, number = row
        if directory is not None:
            return NamedDirectory(directory, name)
        if number is not None:
            return NamedFile(number, name)
        return self._find_hidden(parent, name)

    def _find_hidden(self, parent: int, name: bytes) -> NamedFile | None:
        """Return the file that is shown as `name` because its own name shows something else."""
        number = variant_number(name)
        if number is None or number > MAX_NUMBER:
            return None
        row = self._row(sql.LOAD_FILE, (number,))
        if row is None or row[0] != parent or not self._is_hidden(number, parent, row[1]):
            return None
        if self._variant(parent, row[1], number) != name:
            return None
        return NamedFile(DatapointNumber(number), name)

    def list_directories(self, parent: int, start: int, limit: int) -> list[NamedDirectory]:
        """Return at most `limit` directories in `parent`, from number `start` on, in the order of their numbers."""
        with translated(self._path):
            rows = self._reader.execute(sql.LIST_DIRECTORIES, (parent, start, limit))
            return [NamedDirectory(directory, name) for directory, name in rows]

    def list_files(self, parent: int, start: int, limit: int) -> list[NamedFile]:
        """Return at most `limit` datapoints in `parent`, from number `start` on, in number order."""
        if start > MAX_NUMBER:
            return []
        with translated(self._path):
            rows: list[Any] = self._reader.execute(sql.LIST_FILES, (parent, start, limit)).fetchall()
        return [
            NamedFile(number, self._variant(parent, name, number) if hidden else name) for number, name, hidden in rows
        ]

    def update(self, snapshot: Snapshot, sources: Iterable[NameSource], *, complete: bool) -> None:
        """Add the names of `sources`, and drop what `snapshot` does not have, in one transaction.

        Rows that are right already stay, so that what was aggregated is only compared. `complete` says that all of
        `snapshot` is here then, but for what can't be read. Raises what reading the sources raises.
        """
        connection = connect(self._path)
        try:
            with translated(self._path), connection:
                connection.pragma("cache_size", -WRITE_MEMORY_KIB)
                connection.execute(sql.BEGIN_TOUCHED)
                update = _Update(connection)
                for source in sources:
                    update.add(source)
                if complete:
                    update.drop_all_but(snapshot)
                    connection.execute(sql.SET_COMPLETE)
                update.drop_empty()
        finally:
            connection.close()

    def _is_hidden(self, number: int, parent: int, name: bytes) -> bool:
        """Return whether a file's own name shows another one, or a directory."""
        row = self._row(sql.FIND_NAME, (parent, name))
        return row is not None and (row[0] is not None or row[1] != number)

    def _variant(self, parent: int, name: bytes, number: int) -> bytes:
        """Return the name of a hidden file, which nothing else in its directory has."""
        for tildes in range(1, MAX_TILDES):
            candidate = variant(name, number, tildes)
            if self._row(sql.FIND_NAME, (parent, candidate)) == (None, None):
                return candidate
        return variant(name, number, MAX_TILDES)

    def _row(self, statement: str, values: tuple[int | bytes, ...]) -> tuple[Any, ...] | None:
        try:
            return self._reader.execute(statement, values).fetchone()
        except apsw.Error:
            with translated(self._path):  # not around the query: that costs as much as the query
                raise


class _Update:
    """One transaction of changes."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._directories: dict[bytes, int] = {b"": ROOT_DIRECTORY}

    def add(self, source: NameSource) -> None:
        for page in source.pages:
            last = page.first + len(page.paths) - 1
            old = {number: row for number, *row in self._connection.execute(sql.LOAD_FILES, (page.first, last))}
            if old:
                self._replace(page, old)
            else:
                self._connection.executemany(sql.SAVE_FILE, self._rows(page))
        self._connection.execute(sql.SAVE_DATARANGE, (str(source.id), source.id.first, source.id.last))

    def drop_all_but(self, snapshot: Snapshot) -> None:
        live = {str(datarange.id) for datarange in snapshot.dataranges}
        there = [name for (name,) in self._connection.execute(sql.LIST_DATARANGES)]
        gone = [name for name in there if name not in live]
        for first, last in _without(gone, [name for name in there if name in live]):
            self._connection.execute(sql.TOUCH_PARENTS, (first, last))
            self._connection.execute(sql.DROP_FILES, (first, last))
        self._connection.executemany(sql.DROP_DATARANGE, ((name,) for name in gone))

    def drop_empty(self) -> None:
        """Drop directories that became empty, up to the top."""
        while parents := [parent for (parent,) in self._connection.execute(sql.DROP_EMPTY)]:
            self._connection.execute(sql.CLEAR_TOUCHED)
            self._connection.executemany(sql.TOUCH, ((parent,) for parent in set(parents)))

    def _replace(self, page: NamePage, old: dict[int, list[Any]]) -> None:
        """Write only what is not there yet: of datapoints that were aggregated, nothing."""
        changed = [row for row in self._rows(page) if old.get(row[0]) != [row[1], row[2]]]
        touched = {old[number][0] for number, _, _ in changed if number in old}
        self._connection.executemany(sql.TOUCH, ((parent,) for parent in touched))
        self._connection.executemany(sql.SAVE_FILE, changed)

    def _rows(self, page: NamePage) -> Iterator[tuple[int, int, bytes]]:
        for number, (path, extension) in enumerate(zip(page.paths, page.extensions, strict=True), page.first):
            place = place_of(path)
            if place is None:
                name = str(DatapointName(DatapointNumber(number), extension))
                place = Place(b"", name.encode("utf-8", "surrogateescape"))
            yield number, self._directory(place.directory), place.name

    def _directory(self, path: bytes) -> int:
        """Return the directory at `path`, which is made with those above it where it is missing."""
        known = self._directories.get(path)
        if known is not None:
            return known
        directory, end = ROOT_DIRECTORY, 0
        for name in path.split(b"/"):
            end += len(name)
            above, directory = directory, self._directories.get(path[:end], -1)
            if directory < 0:
                directory = self._make_directory(above, name)
                if len(self._directories) >= MAX_DIRECTORIES:
                    self._directories = {b"": ROOT_DIRECTORY}
                self._directories[path[:end]] = directory
            end += 1
        return directory

    def _make_directory(self, parent: int, name: bytes) -> int:
        row = self._connection.execute(sql.FIND_DIRECTORY, (parent, name)).fetchone()
        if row is not None:
            return int(row[0])
        self._connection.execute(sql.SAVE_DIRECTORY, (parent, name))
        return self._connection.last_insert_rowid()


def _without(gone: list[str], kept: list[str]) -> list[tuple[int, int]]:
    """Return the spans of numbers of the dataranges `gone` that are in none of `kept`. Pure."""
    spans = []
    covered = join_spans(_spans(kept))
    place = 0
    for first, last in join_spans(_spans(gone)):
        while place < len(covered) and covered[place][1] < first:
            place += 1
        at = place
        while at < len(covered) and covered[at][0] <= last:
            if first < covered[at][0]:
                spans.append((first, covered[at][0] - 1))
            first = covered[at][1] + 1
            at += 1
        if first <= last:
            spans.append((first, last))
    return spans


def _spans(names: list[str]) -> Iterator[tuple[int, int]]:
    for name in names:
        parsed = DatarangeId.parse(name)
        if parsed is not None:
            yield parsed.first, parsed.last
