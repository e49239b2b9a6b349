"""The tables of a SQLite store, all SQL that touches them, and how such a file is told from others.

```
object    one row for each key that exists
pending   one row for each object id whose chunks belong to no key: an upload under way, or one being deleted
chunk     the bytes: 256 KiB a row, the last of an object shorter, none for an empty object
```

An object id is given once and never again (AUTOINCREMENT), so a reader that knows an id never sees another
object's bytes. Chunk *n* of object *i* has the row id `i * 2**24 + n`: it is found without an index, and the
chunks of an object lie side by side.

Invariants: an object id is in `object` or in `pending`, never in both; chunks exist for those ids only; the
chunks of an id in `object` are complete and never change.
"""

import os
import uuid
from typing import Final

import apsw

from dasfs.errors import AlreadyExists, Corrupt, NotFound, Unsupported

# "dafs" in ASCII; stands at offset 68 of the file, where file(1) and SQLite look for it.
APPLICATION_ID: Final = 0x64616673
VERSION: Final = 1
# 16 pages: a ranged read of 64 KiB takes 34 us; with 1 MiB chunks SQLite walks 64 pages, and it takes 105 us.
CHUNK_SIZE: Final = 256 << 10
# 2**24 chunks are 4 TiB an object; that leaves 2**39 object ids.
CHUNK_NUMBER_BITS: Final = 24
MAX_OBJECT_SIZE: Final = CHUNK_SIZE << CHUNK_NUMBER_BITS
# Writes 468 MB/s; 296 with SQLite's default of 4 KiB.
_PAGE_SIZE: Final = 16384

_CREATE: Final = f"""
PRAGMA page_size = {_PAGE_SIZE};
PRAGMA journal_mode = WAL;
BEGIN;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};

CREATE TABLE object (
    key         TEXT    PRIMARY KEY,      -- ASCII; BINARY collation is byte order
    object_id   INTEGER NOT NULL UNIQUE,
    size        INTEGER NOT NULL,         -- bytes
    etag        TEXT    NOT NULL,         -- BLAKE2b-128 of the content, in hex
    modified_ns INTEGER NOT NULL          -- when the key was published, since 1970, UTC
) WITHOUT ROWID;

CREATE TABLE pending (
    object_id   INTEGER PRIMARY KEY AUTOINCREMENT,
    key         TEXT    NOT NULL,         -- where the upload wants to, or where the object was
    started_ns  INTEGER NOT NULL,
    dropped     INTEGER NOT NULL          -- 1: its chunks are being deleted, nothing may be added
);

CREATE TABLE chunk (
    chunk_id    INTEGER PRIMARY KEY,      -- object_id << {CHUNK_NUMBER_BITS} | number of the chunk
    data        BLOB    NOT NULL
);
COMMIT;
"""

# Objects.
SELECT_OBJECT: Final = "SELECT object_id, size, etag, modified_ns FROM object WHERE key = ?"
REPLACE_OBJECT: Final = "INSERT OR REPLACE INTO object (key, object_id, size, etag, modified_ns) VALUES (?, ?, ?, ?, ?)"
DELETE_OBJECT: Final = "DELETE FROM object WHERE key = ?"
# A listing takes pages: no read transaction is held open while the caller thinks.
LIST_OBJECTS: Final = """
SELECT key, size, etag, modified_ns FROM object WHERE key > ? AND key >= ? AND key < ? ORDER BY key LIMIT 1000
"""
FIRST_KEY: Final = "SELECT key FROM object WHERE key >= ? AND key < ? ORDER BY key LIMIT 1"

# Uploads, and what is left of objects.
INSERT_PENDING: Final = "INSERT INTO pending (key, started_ns, dropped) VALUES (?, ?, 0)"
INSERT_DROPPED: Final = "INSERT INTO pending (object_id, key, started_ns, dropped) VALUES (?, ?, 0, 1)"
IS_UNDER_WAY: Final = "SELECT 1 FROM pending WHERE object_id = ? AND dropped = 0"
STALE_PENDING: Final = (
    "SELECT object_id, dropped FROM pending WHERE key >= ? AND key < ? AND (started_ns < ? OR dropped = 1)"
)
MARK_DROPPED: Final = "UPDATE pending SET dropped = 1 WHERE object_id = ?"
DELETE_PENDING: Final = "DELETE FROM pending WHERE object_id = ?"

# Chunks.
INSERT_CHUNK: Final = "INSERT INTO chunk (chunk_id, data) VALUES (?, ?)"
LAST_CHUNK: Final = "SELECT max(chunk_id) FROM chunk WHERE chunk_id >= ? AND chunk_id < ?"
DELETE_CHUNKS: Final = "DELETE FROM chunk WHERE chunk_id >= ? AND chunk_id < ?"


def first_chunk(object_id: int) -> int:
    """Return the row id of an object's first chunk; `first_chunk(object_id + 1)` is above its last."""
    return object_id << CHUNK_NUMBER_BITS


def create_file(path: str) -> None:
    """Make an empty store at `path` unless something is there. It appears whole; of many at once one wins.

    Raises `AlreadyExists` when only the log of a removed store is there.
    """
    if os.path.lexists(f"{path}-wal") and not os.path.lexists(path):
        # SQLite would play it into the new file, and so destroy it.
        raise AlreadyExists(f"{path}-wal: is left of a store that was removed", hint="move it away, too")
    temporary = f"{path}.{uuid.uuid4().hex}"
    try:
        database = apsw.Connection(temporary)
        try:
            database.execute(_CREATE).fetchall()  # to the end: a row of PRAGMA stops execute
        finally:
            database.close()
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            if os.path.lexists(temporary + suffix):
                os.unlink(temporary + suffix)


def check_file(database: apsw.Connection, url: str) -> None:
    """Raise unless `database` is a store of this version: `NotFound` for an empty file, or `Unsupported`."""
    application_id = database.pragma("application_id")
    version = database.pragma("user_version")
    if (application_id, version) == (APPLICATION_ID, VERSION):
        return
    if application_id == APPLICATION_ID:
        raise Unsupported(
            f"{url}: has format version {version}; this dasfs knows {VERSION}", hint="update dasfs to read it"
        )
    if os.path.getsize(database.filename) == 0:
        raise NotFound(f"{url}: is an empty file, not a store", hint="remove it, and create the store")
    raise Unsupported(f"{url}: is a SQLite database of another program", hint="check the path")


def read_chunks(database: apsw.Connection, object_id: int, offset: int, buffer: memoryview, what: str) -> None:
    """Fill `buffer` from `offset` of an object that reaches that far. Call it inside a read transaction.

    Raises `Corrupt` when a chunk is missing or has another length than the object's size says.
    """
    filled = 0
    while filled < len(buffer):
        number, start = divmod(offset + filled, CHUNK_SIZE)
        length = min(CHUNK_SIZE - start, len(buffer) - filled)
        try:
            with database.blob_open("main", "chunk", "data", first_chunk(object_id) + number, False) as blob:
                if blob.length() < start + length:
                    raise Corrupt(f"{what}: chunk {number} is too short")
                blob.seek(start)
                blob.read_into(buffer, filled, length)
        except apsw.SQLError as error:
            raise Corrupt(f"{what}: chunk {number} is missing") from error
        filled += length
