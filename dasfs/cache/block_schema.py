"""The block cache's SQL: the schema, every statement, and the values that cross them.

A record may say less than the block files hold, never more than they once held: blocks are written before
they are recorded, and records are saved every few seconds. What a record says after a restart is a claim
that a block's CRC-32 must prove, so neither a crash nor somebody else's hands can make it serve wrong
bytes.

**Concurrency:** two connections. `load` runs inline in the trio thread (3 µs); everything else runs in
threads, one at a time, on the other. WAL lets the first read while the second writes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dasfs.cache.database import Schema, connect, open_database, translated
from dasfs.errors import Corrupt
from dasfs.formats.segments import block_count

SCHEMA: Final = Schema(
    application_id=0x64736263,  # "dsbc"
    version=1,
    sql="""
    -- One row. `clean` is 0 while a mount uses the cache: a 0 that is found at the start means that the
    -- last mount was killed, and that files may hold blocks that no record knows.
    CREATE TABLE cache (
        clean INTEGER NOT NULL,
        tick  INTEGER NOT NULL          -- the clock of last_used: no last_used is later
    );
    INSERT INTO cache VALUES (1, 0);

    -- One row a segment with any block in the cache.
    -- Block n is the 256 KiB at n * 256 KiB, less at the end.
    CREATE TABLE segment (
        segment_id INTEGER PRIMARY KEY,
        name       TEXT NOT NULL UNIQUE,  -- of its file: the hash of its identity
        identity   TEXT NOT NULL,         -- dataset UUID, origin, offset in it, length; for people
        length     INTEGER NOT NULL,      -- bytes
        used       INTEGER NOT NULL,      -- bytes of its blocks that are in the cache
        states     BLOB NOT NULL,         -- one byte a block: 0 not there, 1 there
        last_used  BLOB NOT NULL          -- one u32 a block, in this machine's order: tick of last use
    );
    -- So that the sum at the start reads a few bytes a segment and none of the blobs.
    CREATE INDEX segment_used ON segment (used);
    """,
)

_LOAD: Final = "SELECT identity, length, states, last_used FROM segment WHERE name = ?"
_SAVE: Final = """
    INSERT INTO segment (name, identity, length, used, states, last_used) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE
    SET used = excluded.used, states = excluded.states, last_used = excluded.last_used
"""
_DELETE: Final = "DELETE FROM segment WHERE name = ?"
_PAGE: Final = """
    SELECT segment_id, name, identity, length, states, last_used FROM segment WHERE segment_id > ?
    ORDER BY segment_id LIMIT ?
"""
_START: Final = "SELECT clean, tick, (SELECT total(used) FROM segment) FROM cache"
_SAVE_CLEAN: Final = "UPDATE cache SET clean = ?"
_SAVE_TICK: Final = "UPDATE cache SET tick = ?"
# 256 rows of 64 MiB segments are 0.3 MB: little memory, and few enough that nobody waits long for the
# connection.
_PAGE_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """What is recorded of one segment. `used` is not read back: it is there to be summed up."""

    name: str
    identity: str
    length: int
    states: bytes
    last_used: bytes
    used: int = 0


@dataclass(frozen=True, slots=True)
class StartValues:
    """What the database says when it is opened. `used` is bytes."""

    clean: bool
    tick: int
    used: int


class BlockDatabase:
    """The records of one block cache. Raises `Corrupt`, `NoSpace`, `AccessDenied`, `DasfsError`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._worker, self.made_anew = open_database(path, SCHEMA)
        try:
            self._inline = connect(path)
        except BaseException:
            self._worker.close()
            raise

    def load(self, name: str) -> SegmentRow | None:
        """Return what is recorded of one segment."""
        with translated(self._path):
            row = self._inline.execute(_LOAD, (name,)).fetchone()
        return None if row is None else _parse(name, *row)

    def start(self) -> StartValues:
        """Return what the last user left, and note that the cache is in use."""
        with translated(self._path), self._worker:
            row: Any = self._worker.execute(_START).fetchone()
            self._worker.execute(_SAVE_CLEAN, (0,))
        if row is None:
            raise Corrupt(f"the cache database {self._path} is damaged")
        return StartValues(bool(row[0]), int(row[1]), int(row[2]))

    def save(self, rows: Sequence[SegmentRow], tick: int) -> None:
        """Record what `rows` say, all or nothing; a row without any block is deleted."""
        kept = [(row.name, row.identity, row.length, row.used, row.states, row.last_used) for row in rows if row.used]
        with translated(self._path), self._worker:
            self._worker.executemany(_SAVE, kept)
            self._worker.executemany(_DELETE, [(row.name,) for row in rows if not row.used])
            self._worker.execute(_SAVE_TICK, (tick,))

    def mark_clean(self) -> None:
        with translated(self._path):
            self._worker.execute(_SAVE_CLEAN, (1,))

    def pages(self) -> Iterator[list[SegmentRow]]:
        """Yield all rows, some at a time; what is saved meanwhile may come or not."""
        last = 0
        while True:
            with translated(self._path):
                found: Any = self._worker.execute(_PAGE, (last, _PAGE_ROWS)).fetchall()
            if not found:
                return
            last = found[-1][0]
            yield [_parse(*row[1:]) for row in found]

    def close(self) -> None:
        for connection in (self._inline, self._worker):
            with translated(self._path):
                connection.close()


def _parse(name: str, identity: str, length: Any, states: Any, last_used: Any) -> SegmentRow:
    """Return a row that fits together, whatever a damaged database says. Raises `Corrupt`."""
    if isinstance(length, int) and isinstance(states, bytes) and isinstance(last_used, bytes):
        count = block_count(length)
        if len(states) == count and len(last_used) == 4 * count and not states.strip(b"\0\1"):
            return SegmentRow(name, identity, length, states, last_used)
    raise Corrupt(f"the record of segment {identity} in the block cache is damaged")
