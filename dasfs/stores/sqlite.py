"""The SQLite store: all objects in one file, the default where there is no S3.

An upload writes its chunks in transactions of 8 MiB, so that other writers get their turn, and publishes its
key in the last one. What a crash leaves behind belongs to no key, and `abort_uploads` removes it. Space that
is freed is used again; the file does not shrink. The file and its `-wal` and `-shm` must lie on a local disk:
WAL does not work over a network.

**Concurrency:** any number of threads and of processes on one host. Readers never wait; writers queue.
"""

import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import apsw

from dasfs.errors import AlreadyExists, Conflict, Corrupt, DasfsError, InvalidInput, NotFound, ObjectChanged
from dasfs.stores import sqlite_schema as schema
from dasfs.stores.base import MAX_WHOLE_OBJECT, MIB, CopyPiece, ObjectInfo, Store, StoreOptions
from dasfs.stores.keys import after_prefix, check_directory_prefix, check_key, check_prefix
from dasfs.stores.sqlite_pool import ConnectionPool, map_errors
from dasfs.stores.urls import StoreUrl

# 20 ms of writing, which is how long other writers wait for their turn.
_CHUNKS_PER_TRANSACTION: Final = 8 * MIB // schema.CHUNK_SIZE
# Deleting only links pages: 32 MiB take a few ms.
_CHUNKS_PER_DELETE: Final = 32 * MIB // schema.CHUNK_SIZE
_KEYS_PER_DELETE: Final = 200
_COPY_SIZE: Final = MIB
# Above every key: keys are printable ASCII.
_END: Final = "\x7f"


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of `object`, without its key."""

    object_id: int
    size: int
    etag: str
    modified_ns: int


class SqliteStore(Store):
    """Objects in one SQLite file."""

    def __init__(self, place: StoreUrl, options: StoreOptions) -> None:
        self.url = str(place)
        self._path = place.place
        self._pool = ConnectionPool(place.place, self.url, options.deadline_s)

    def check(self) -> None:
        with self._pool.reading() as database:
            database.execute(schema.FIRST_KEY, ("", _END)).fetchone()

    def create(self) -> None:
        with map_errors(self.url, self._path):
            if not os.path.lexists(self._path):
                os.makedirs(os.path.dirname(self._path), exist_ok=True)
                schema.create_file(self._path)
        self.check()

    def head(self, key: str) -> ObjectInfo:
        check_key(key)
        with self._pool.reading() as database:
            row = self._find(database, key)
        return _info(key, row)

    def read_into(self, key: str, offset: int, buffer: memoryview, *, etag: str | None = None) -> None:
        check_key(key)
        if not buffer.nbytes:
            return
        with self._pool.reading() as database:
            row = self._find(database, key)
            if etag is not None and row.etag != etag:
                raise ObjectChanged(f"{self._what(key)}: is not the object that it was: another ETag")
            if offset + buffer.nbytes > row.size:
                raise Corrupt(f"{self._what(key)}: the object ends at {row.size}, before {offset + buffer.nbytes}")
            schema.read_chunks(database, row.object_id, offset, buffer.cast("B"), self._what(key))

    def get(self, key: str, *, max_size: int = MAX_WHOLE_OBJECT) -> bytes:
        check_key(key)
        with self._pool.reading() as database:
            row = self._find(database, key)
            if row.size > max_size:
                raise Corrupt(f"{self._what(key)}: has {row.size} bytes; at most {max_size} were expected")
            data = bytearray(row.size)
            schema.read_chunks(database, row.object_id, 0, memoryview(data), self._what(key))
        if _new_hash(data).hexdigest() != row.etag:
            raise Corrupt(f"{self._what(key)}: its content does not fit its checksum")
        return bytes(data)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        return self._write(key, [data])

    def put_if_absent(self, key: str, data: bytes) -> ObjectInfo:
        check_key(key)
        with self._pool.reading() as database:  # the usual loser does not write first
            self._require_free(database, key)
        return self._write(key, [data], only_if_absent=True)

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> ObjectInfo:
        return self._write(key, chunks)

    def compose(self, key: str, pieces: Iterable[CopyPiece | bytes]) -> ObjectInfo:
        return self._write(key, itertools.chain.from_iterable(self._read_piece(piece) for piece in pieces))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        start, end = _key_range(check_prefix(prefix))
        while True:
            with self._pool.reading() as database:
                rows = database.execute(schema.LIST_OBJECTS, (after, start, end)).fetchall()
            if not rows:
                return
            for row in rows:
                info = _to_info(row)
                yield info
            after = info.key

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        start, end = _key_range(check_directory_prefix(prefix))
        while True:
            with self._pool.reading() as database:
                row = database.execute(schema.FIRST_KEY, (start, end)).fetchone()
            if row is None:
                return
            segment, slash, _ = row[0].removeprefix(prefix).partition("/")
            if slash:
                yield segment
                start = after_prefix(f"{prefix}{segment}/")
            else:
                start = f"{row[0]}\0"

    def delete(self, keys: Iterable[str]) -> None:
        checked = (check_key(key) for key in keys)
        while batch := list(itertools.islice(checked, _KEYS_PER_DELETE)):
            with self._pool.writing() as database:
                large = [object_id for key in batch if (object_id := _unlink(database, key)) is not None]
            for object_id in large:
                self._drop(object_id)

    def abort_uploads(self, prefix: str, *, before: datetime) -> int:
        start, end = _key_range(check_prefix(prefix))
        with self._pool.writing() as database:
            stale: Sequence[Any] = database.execute(schema.STALE_PENDING, (start, end, _to_ns(before))).fetchall()
            for object_id, _ in stale:
                database.execute(schema.MARK_DROPPED, (object_id,))
        for object_id, _ in stale:
            self._drop(object_id)
        return sum(1 for _, was_dropped in stale if not was_dropped)

    def close(self) -> None:
        self._pool.close()

    def _what(self, key: str) -> str:
        return f"{self.url}: {key}"

    def _find(self, database: apsw.Connection, key: str) -> _Row:
        row = database.execute(schema.SELECT_OBJECT, (key,)).fetchone()
        if row is None:
            raise NotFound(f"{self._what(key)}: there is no such object")
        return _Row(*row)

    def _require_free(self, database: apsw.Connection, key: str) -> None:
        if database.execute(schema.SELECT_OBJECT, (key,)).fetchone() is not None:
            raise AlreadyExists(f"{self._what(key)}: exists already")

    def _read_piece(self, piece: CopyPiece | bytes) -> Iterator[bytes | memoryview]:
        if isinstance(piece, bytes):
            yield piece
            return
        etag = self.head(piece.key).etag
        for offset in range(piece.offset, piece.offset + piece.length, _COPY_SIZE):
            buffer = memoryview(bytearray(min(_COPY_SIZE, piece.offset + piece.length - offset)))
            self.read_into(piece.key, offset, buffer, etag=etag)
            yield buffer

    def _write(self, key: str, data: Iterable[bytes | memoryview], *, only_if_absent: bool = False) -> ObjectInfo:
        """Write an object in batches of chunks. The last goes in with the key: a small one is one commit."""
        upload = _Upload(check_key(key), self._what(key))
        last: list[bytearray] = []
        try:
            for batch in _batches(data):
                if last:
                    with self._pool.writing() as database:
                        upload.add(database, last)
                    upload.was_committed()
                last = batch
            with self._pool.writing() as database:
                if only_if_absent:
                    self._require_free(database, key)
                upload.add(database, last)
                replaced = _unlink(database, key)
                row = upload.publish(database)
        except BaseException:
            if upload.object_id is not None:
                self._drop(upload.object_id)
            raise
        if replaced is not None:
            self._drop(replaced)
        return _info(key, row)

    def _drop(self, object_id: int) -> None:
        """Delete the chunks of a pending object, then its row, in many transactions.

        What fails here is left for `abort_uploads`: it does not change what was written or deleted.
        """
        with contextlib.suppress(DasfsError):
            while True:
                with self._pool.writing() as database:
                    database.execute(schema.MARK_DROPPED, (object_id,))
                    if database.changes() == 0:
                        return  # it is no longer pending: dropped by someone else, or published
                    if not _delete_last_chunks(database, object_id):
                        database.execute(schema.DELETE_PENDING, (object_id,))
                        return


class _Upload:
    """An object that is being written: which id it has, how far it is, and the hash so far."""

    def __init__(self, key: str, what: str) -> None:
        self.object_id: int | None = None
        self._key = key
        self._what = what
        self._new_id = 0
        self._chunk_count = 0
        self._size = 0
        self._hash = _new_hash()

    def add(self, database: apsw.Connection, chunks: Sequence[bytearray]) -> None:
        """Write the next chunks. Raises `Conflict` when someone aborted the upload."""
        if self._new_id == 0:
            database.execute(schema.INSERT_PENDING, (self._key, time.time_ns()))
            self._new_id = database.last_insert_rowid()
        elif database.execute(schema.IS_UNDER_WAY, (self._new_id,)).fetchone() is None:
            raise Conflict(f"{self._what}: the upload was aborted by someone else")
        first = schema.first_chunk(self._new_id) + self._chunk_count
        self._chunk_count += len(chunks)
        self._size += sum(map(len, chunks))
        if self._size > schema.MAX_OBJECT_SIZE:
            raise InvalidInput(f"{self._what}: is larger than {schema.MAX_OBJECT_SIZE} bytes")
        for chunk in chunks:
            self._hash.update(chunk)
        database.executemany(schema.INSERT_CHUNK, enumerate(chunks, first))

    def was_committed(self) -> None:
        """Note that the id is ours. Before its first commit SQLite may give it to another writer."""
        self.object_id = self._new_id

    def publish(self, database: apsw.Connection) -> _Row:
        """Give the key to what was added."""
        row = _Row(self._new_id, self._size, self._hash.hexdigest(), time.time_ns())
        database.execute(schema.REPLACE_OBJECT, (self._key, row.object_id, row.size, row.etag, row.modified_ns))
        database.execute(schema.DELETE_PENDING, (self._new_id,))
        return row


def _new_hash(data: bytes | bytearray = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(data, digest_size=16)


def _batches(data: Iterable[bytes | memoryview]) -> Iterator[list[bytearray]]:
    """Yield lists of chunks, each for one transaction. Only the very last chunk is below `CHUNK_SIZE`."""
    batch: list[bytearray] = []
    chunk = bytearray()
    for piece in data:
        rest = memoryview(piece).cast("B")
        while rest:
            room = schema.CHUNK_SIZE - len(chunk)
            chunk += rest[:room]
            rest = rest[room:]
            if len(chunk) == schema.CHUNK_SIZE:
                batch.append(chunk)
                chunk = bytearray()
            if len(batch) == _CHUNKS_PER_TRANSACTION:
                yield batch
                batch = []
    if chunk:
        batch.append(chunk)
    if batch:
        yield batch


def _unlink(database: apsw.Connection, key: str) -> int | None:
    """Take the key from its object and delete that if it is small. Return the id of a large one otherwise."""
    found = database.execute(schema.SELECT_OBJECT, (key,)).fetchone()
    if found is None:
        return None
    row = _Row(*found)
    database.execute(schema.DELETE_OBJECT, (key,))
    if row.size <= schema.CHUNK_SIZE:
        _delete_last_chunks(database, row.object_id)
        return None
    database.execute(schema.INSERT_DROPPED, (row.object_id, key))
    return row.object_id


def _delete_last_chunks(database: apsw.Connection, object_id: int) -> bool:
    """Delete some chunks of an object from its end; return whether there were any."""
    first, end = schema.first_chunk(object_id), schema.first_chunk(object_id + 1)
    last: int | None = database.execute(schema.LAST_CHUNK, (first, end)).get
    if last is None:
        return False
    database.execute(schema.DELETE_CHUNKS, (max(first, last - _CHUNKS_PER_DELETE + 1), end))
    return True


def _key_range(prefix: str) -> tuple[str, str]:
    return (prefix, after_prefix(prefix)) if prefix else ("", _END)


def _info(key: str, row: _Row) -> ObjectInfo:
    return ObjectInfo(key, row.size, row.etag, datetime.fromtimestamp(row.modified_ns / 1e9, UTC))


def _to_info(row: Any) -> ObjectInfo:
    key, size, etag, modified_ns = row
    return _info(key, _Row(0, size, etag, modified_ns))


def _to_ns(time: datetime) -> int:
    return int(time.timestamp() * 1e9)
