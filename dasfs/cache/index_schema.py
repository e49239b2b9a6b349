"""The index cache's SQL: the schema, and every statement that is run on it.

Invariants: a manifest's row is written in the same transaction as all its pages and segments, so that a row
that is there is whole. Nothing refers to a store: a manifest belongs to a dataset's UUID, and never changes.
"""

from typing import Final

from dasfs.cache.database import Schema

SCHEMA: Final = Schema(
    application_id=0x64736978,  # "dsix"
    version=1,
    sql="""
    -- The last snapshot seen of each dataset: what a mount starts from, and serves while the store is away.
    CREATE TABLE snapshot (
        store   TEXT NOT NULL,              -- the store's URL
        dataset TEXT NOT NULL,              -- the dataset's name
        body    BLOB NOT NULL,              -- as in a checkpoint object: JSON, zstd
        PRIMARY KEY (store, dataset)
    ) WITHOUT ROWID;

    -- One row a datarange whose manifest was fetched.
    CREATE TABLE manifest (
        -- AUTOINCREMENT: no number is used twice, since pages of dropped manifests may still be in memory.
        manifest_id INTEGER PRIMARY KEY AUTOINCREMENT,
        dataset_id  TEXT NOT NULL,          -- the dataset's UUID: two datasets of one name never mix
        datarange   TEXT NOT NULL,          -- first-last-counter, as in its key
        tar_size    INTEGER NOT NULL,       -- bytes
        named       INTEGER NOT NULL,       -- 1: some datapoints have an original name
        extensions  TEXT NOT NULL,          -- JSON list; a record's extension number counts from 0
        UNIQUE (dataset_id, datarange)
    );

    -- The TAR object's segments in order, each with the CRC-32 (u32, big-endian) of its blocks of 256 KiB.
    CREATE TABLE segment (
        manifest_id   INTEGER NOT NULL REFERENCES manifest ON DELETE CASCADE,
        start         INTEGER NOT NULL,     -- offset in this TAR object
        length        INTEGER NOT NULL,
        origin        TEXT NOT NULL,        -- first-last-counter of the TAR object that first held it
        origin_offset INTEGER NOT NULL,
        block_crcs    BLOB NOT NULL,
        PRIMARY KEY (manifest_id, start)
    );

    -- Pages of 1,024 records (see cache/pages.py). page_id = manifest_id * 2^32 + number of the page.
    CREATE TABLE record_page (page_id INTEGER PRIMARY KEY, body BLOB NOT NULL);

    -- The original names of the same 1,024 datapoints: zstd of a JSON list, null where one has none.
    CREATE TABLE name_page (page_id INTEGER PRIMARY KEY, body BLOB NOT NULL);
    """,
)

LOAD_SNAPSHOT: Final = "SELECT body FROM snapshot WHERE store = ? AND dataset = ?"
LIST_SNAPSHOTS: Final = "SELECT dataset FROM snapshot WHERE store = ? ORDER BY dataset"
SAVE_SNAPSHOT: Final = "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?)"
DROP_SNAPSHOT: Final = "DELETE FROM snapshot WHERE store = ? AND dataset = ?"
FIND_MANIFEST: Final = (
    "SELECT manifest_id, tar_size, named, extensions FROM manifest WHERE dataset_id = ? AND datarange = ?"
)
LIST_MANIFESTS: Final = "SELECT datarange FROM manifest WHERE dataset_id = ?"
SAVE_MANIFEST: Final = (
    "INSERT INTO manifest (dataset_id, datarange, tar_size, named, extensions) VALUES (?, ?, ?, ?, ?)"
)
FIND_SEGMENTS: Final = """
    SELECT origin, origin_offset, start, length, block_crcs FROM segment WHERE manifest_id = ? ORDER BY start
"""
SAVE_SEGMENT: Final = "INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?)"
LOAD_RECORDS: Final = "SELECT body FROM record_page WHERE page_id = ?"
SAVE_RECORDS: Final = "INSERT OR REPLACE INTO record_page VALUES (?, ?)"
LOAD_NAMES: Final = "SELECT body FROM name_page WHERE page_id = ?"
SAVE_NAMES: Final = "INSERT OR REPLACE INTO name_page VALUES (?, ?)"
DROP_MANIFEST: Final = (
    "DELETE FROM manifest WHERE manifest_id = ?",
    "DELETE FROM segment WHERE manifest_id = ?",
)
DROP_PAGES: Final = (
    "DELETE FROM record_page WHERE page_id BETWEEN ? AND ?",
    "DELETE FROM name_page WHERE page_id BETWEEN ? AND ?",
)
