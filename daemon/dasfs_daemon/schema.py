"""The journal's database: every table, column and sentinel, and what a state means.

A file goes through these states, and each step is one transaction:

    taken      a row in `file`, `datarange` is NULL: complete, waiting for company
    packed     `datarange` points to a row in state 'packed': it has its number for good, unless the datarange is given
               back; its bytes may be in a local TAR without a name, which dies with the process
    uploaded   the datarange's row is in state 'uploaded': its three objects are in the store under its `counter`,
               and a commit may be under way or done; the log knows which
    committed  the datarange's row is in state 'committed': the log has it, the local files may go
    removed    no row: the local file is gone, or is another one by now

So after a crash 'packed' is packed again from the files, 'uploaded' is looked up in the log, 'committed' goes on
removing, and nothing else is there. `refused` files could not be packed and could not be moved away either; they are
tried again when the daemon starts.
"""

from typing import Final

APPLICATION_ID: Final = 0x64617366  # "dasf"
VERSION: Final = 3

SCHEMA: Final = """
-- A write directory and where it goes. Rows whose directory or store is no longer configured are kept: their files are.
CREATE TABLE origin (
  id          INTEGER PRIMARY KEY,
  dataset     TEXT NOT NULL,
  directory   BLOB NOT NULL,
  store_url   TEXT NOT NULL,
  dataset_id  TEXT NOT NULL DEFAULT '',   -- of the dataset that was met last; another one voids the reservations
  UNIQUE (dataset, directory, store_url)
);

-- One datarange on its way. AUTOINCREMENT: an id is never used again, so that late news of an old one changes nothing.
CREATE TABLE datarange (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  origin        INTEGER NOT NULL REFERENCES origin,
  state         TEXT NOT NULL CHECK (state IN ('packed', 'uploaded', 'committed')),
  first         INTEGER NOT NULL,
  last          INTEGER NOT NULL,
  size          INTEGER NOT NULL,         -- true bytes of its files
  oldest        REAL NOT NULL,            -- when the first of its files was taken; seconds since 1970
  base_revision INTEGER NOT NULL,         -- the log had this revision before the datarange was made, or uploaded
  counter       INTEGER,                  -- from here on NULL until it is uploaded
  tar_size      INTEGER,
  manifest_size INTEGER,
  named         INTEGER,
  committed     REAL                      -- when it was found to be in the log; NULL before
);
CREATE INDEX datarange_origin ON datarange (origin, state);

-- One source file.
CREATE TABLE file (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,  -- ascends in the order in which files became complete, and `taken` too
  origin    INTEGER NOT NULL REFERENCES origin,
  path      BLOB NOT NULL,                -- below the write directory, as the kernel has it
  size      INTEGER NOT NULL,
  mtime_ns  INTEGER NOT NULL,
  inode     INTEGER NOT NULL,
  ctime_ns  INTEGER NOT NULL,             -- when it was taken; another one by now: look at its content
  taken     REAL NOT NULL,                -- seconds since 1970
  numbered  INTEGER NOT NULL,             -- 1: `number` comes from its name; 0: from a reservation
  number    INTEGER,                      -- NULL: none was given yet
  datarange INTEGER REFERENCES datarange, -- NULL: waiting, or refused
  refused   TEXT,                         -- why it can't be packed; NULL: it can
  UNIQUE (origin, path)
);
CREATE INDEX file_inode ON file (origin, inode);
CREATE INDEX file_number ON file (origin, number) WHERE number IS NOT NULL;
CREATE INDEX file_datarange ON file (datarange, number) WHERE datarange IS NOT NULL;
CREATE INDEX file_numbered ON file (origin, number, id) WHERE datarange IS NULL AND refused IS NULL AND numbered = 1;
CREATE INDEX file_order ON file (origin, numbered, id) WHERE datarange IS NULL AND refused IS NULL;
CREATE INDEX file_refused ON file (origin) WHERE refused IS NOT NULL;

-- Numbers that the log gave to us and no file has: half-open stretches, the lowest is used first.
CREATE TABLE reservation (
  origin INTEGER NOT NULL REFERENCES origin,
  first  INTEGER NOT NULL,
  stop   INTEGER NOT NULL,
  PRIMARY KEY (origin, first)
) WITHOUT ROWID;

-- How much waits, kept by the triggers, so that nobody counts a million rows to know it.
CREATE TABLE waiting (
  origin   INTEGER NOT NULL REFERENCES origin,
  numbered INTEGER NOT NULL,
  files    INTEGER NOT NULL,
  size     INTEGER NOT NULL,
  PRIMARY KEY (origin, numbered)
) WITHOUT ROWID;
CREATE TRIGGER origin_insert AFTER INSERT ON origin BEGIN
  INSERT INTO waiting VALUES (new.id, 0, 0, 0), (new.id, 1, 0, 0);
END;
CREATE TRIGGER file_insert AFTER INSERT ON file WHEN new.datarange IS NULL AND new.refused IS NULL BEGIN
  UPDATE waiting SET files = files + 1, size = size + new.size WHERE (origin, numbered) = (new.origin, new.numbered);
END;
CREATE TRIGGER file_delete AFTER DELETE ON file WHEN old.datarange IS NULL AND old.refused IS NULL BEGIN
  UPDATE waiting SET files = files - 1, size = size - old.size WHERE (origin, numbered) = (old.origin, old.numbered);
END;
CREATE TRIGGER file_leaves AFTER UPDATE OF datarange, refused, size, numbered ON file
WHEN old.datarange IS NULL AND old.refused IS NULL BEGIN
  UPDATE waiting SET files = files - 1, size = size - old.size WHERE (origin, numbered) = (old.origin, old.numbered);
END;
CREATE TRIGGER file_comes AFTER UPDATE OF datarange, refused, size, numbered ON file
WHEN new.datarange IS NULL AND new.refused IS NULL BEGIN
  UPDATE waiting SET files = files + 1, size = size + new.size WHERE (origin, numbered) = (new.origin, new.numbered);
END;
"""
