"""The SQL of a names index: the schema, and every statement that is run on it.

One database a dataset. A file's row is found by its number (deleting a datarange, listing in number order) and by its
path (opening it); each costs some 75 bytes on disk. Directories are rows of their own, so that a path is stored once.

Invariants: rows of a datarange are written in one transaction with its row in `datarange`. `complete` is 1 once all of
a snapshot was there, and each later transaction goes from a whole snapshot to a whole snapshot. Every directory but the
root has something in it.
"""

from typing import Final

from dasfs.cache.database import Schema

ROOT_DIRECTORY: Final = 0

SCHEMA: Final = Schema(
    application_id=0x64736E6D,  # "dsnm"
    version=1,
    sql="""
    CREATE TABLE about (
        dataset_id TEXT NOT NULL,           -- the dataset's UUID: two datasets of one name never mix
        complete   INTEGER NOT NULL         -- 1: what stands in `datarange` was a whole snapshot once
    );

    -- The dataranges whose datapoints are here.
    CREATE TABLE datarange (
        datarange TEXT PRIMARY KEY,         -- first-last-counter, as in its key
        first     INTEGER NOT NULL,
        last      INTEGER NOT NULL
    ) WITHOUT ROWID;

    -- AUTOINCREMENT: the kernel may remember a directory that is gone by its number.
    CREATE TABLE directory (
        directory_id INTEGER PRIMARY KEY AUTOINCREMENT,
        parent       INTEGER NOT NULL,      -- 0: the root, which has no row
        name         BLOB NOT NULL,         -- one component of a path, as bytes
        UNIQUE (parent, name)
    );
    CREATE INDEX directory_by_parent ON directory (parent);

    -- One row a datapoint. Several may have the same path: the highest number is the one that is shown under it.
    CREATE TABLE file (
        number INTEGER PRIMARY KEY,
        parent INTEGER NOT NULL,
        name   BLOB NOT NULL
    );
    CREATE INDEX file_by_path ON file (parent, name);
    CREATE INDEX file_by_parent ON file (parent);   -- and by number, which SQLite adds
    """,
)

LOAD_ABOUT: Final = "SELECT dataset_id, complete FROM about"
SAVE_ABOUT: Final = "INSERT INTO about VALUES (?, 0)"
SET_COMPLETE: Final = "UPDATE about SET complete = 1"

LIST_DATARANGES: Final = "SELECT datarange FROM datarange"
SAVE_DATARANGE: Final = "INSERT OR REPLACE INTO datarange VALUES (?, ?, ?)"
DROP_DATARANGE: Final = "DELETE FROM datarange WHERE datarange = ?"

FIND_DIRECTORY: Final = "SELECT directory_id FROM directory WHERE parent = ? AND name = ?"
HAS_DIRECTORY: Final = "SELECT 1 FROM directory WHERE directory_id = ?"
SAVE_DIRECTORY: Final = "INSERT INTO directory (parent, name) VALUES (?, ?)"
LIST_DIRECTORIES: Final = """
    SELECT directory_id, name FROM directory INDEXED BY directory_by_parent
    WHERE parent = ? AND directory_id >= ? ORDER BY directory_id LIMIT ?
"""

# Both in one statement: each costs as much as all that Python does around it.
FIND_NAME: Final = """
    SELECT (SELECT directory_id FROM directory WHERE parent = ?1 AND name = ?2),
           (SELECT number FROM file WHERE parent = ?1 AND name = ?2 ORDER BY number DESC LIMIT 1)
"""
LOAD_FILE: Final = "SELECT parent, name FROM file WHERE number = ?"
LIST_FILES: Final = """
    SELECT number, name,
        EXISTS (SELECT 1 FROM file other
                WHERE other.parent = file.parent AND other.name = file.name AND other.number > file.number)
        OR EXISTS (SELECT 1 FROM directory WHERE directory.parent = file.parent AND directory.name = file.name)
    FROM file INDEXED BY file_by_parent WHERE parent = ? AND number >= ? ORDER BY number LIMIT ?
"""
LOAD_FILES: Final = "SELECT number, parent, name FROM file WHERE number BETWEEN ? AND ? ORDER BY number"
SAVE_FILE: Final = "INSERT OR REPLACE INTO file VALUES (?, ?, ?)"
DROP_FILES: Final = "DELETE FROM file WHERE number BETWEEN ? AND ?"

# Directories that may be empty now; of this connection only.
BEGIN_TOUCHED: Final = "CREATE TEMP TABLE IF NOT EXISTS touched (directory_id INTEGER PRIMARY KEY)"
TOUCH: Final = "INSERT OR IGNORE INTO touched VALUES (?)"
TOUCH_PARENTS: Final = "INSERT OR IGNORE INTO touched SELECT DISTINCT parent FROM file WHERE number BETWEEN ? AND ?"
CLEAR_TOUCHED: Final = "DELETE FROM touched"
# Gives the parents, which may be empty in turn.
DROP_EMPTY: Final = """
    DELETE FROM directory WHERE directory_id IN (SELECT directory_id FROM touched)
        AND NOT EXISTS (SELECT 1 FROM file WHERE file.parent = directory.directory_id)
        AND NOT EXISTS (SELECT 1 FROM directory child WHERE child.parent = directory.directory_id)
    RETURNING parent
"""
