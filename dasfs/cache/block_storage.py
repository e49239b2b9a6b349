"""Open and close what the block cache keeps on the disk: a database and files, trusted only together.

**Concurrency:** `open` blocks, for a thread. Nothing in it grows with what the cache holds but a sum over
an index.
"""

import logging
import os
from dataclasses import dataclass
from typing import Final, Self

import trio

from dasfs.cache.block_files import BlockFiles
from dasfs.cache.block_schema import BlockDatabase, StartValues
from dasfs.cache.block_table import BlockTable
from dasfs.cache.database import remove_database
from dasfs.cache.directory import CacheDirectory, translated_errors
from dasfs.cache.plan import BLOCK_SIZE
from dasfs.errors import Corrupt, DasfsError

log = logging.getLogger(__name__)

_DATABASE: Final = "blocks.db"
_FILES: Final = "blocks"
# The clock of last use: 256 ticks from a block's last use to its eviction, and 13 to evict 5 %, are order
# enough.
_TICKS_A_TURNOVER: Final = 256


@dataclass(frozen=True, slots=True)
class BlockStorage:
    """The open block cache on the disk. `clean`: the last user closed it."""

    directory: CacheDirectory
    database: BlockDatabase
    table: BlockTable
    files: BlockFiles
    clean: bool

    @classmethod
    def open(cls, directory: CacheDirectory, *, capacity: int, open_files: int) -> Self:
        """Open it, or make it anew when the database is missing, damaged or of another version.

        Raises `NoSpace`, `AccessDenied`.
        """
        recorded = os.path.exists(directory.path(_DATABASE))
        database, start = _open_database(directory.path(_DATABASE))
        try:
            if database.made_anew and os.path.exists(directory.path(_FILES)):
                if not recorded:
                    log.warning("the database of the block cache is missing; the cache is built anew")
                directory.discard(_FILES)
            with translated_errors(directory.root):
                files = BlockFiles(directory.path(_FILES), max_open=open_files)
        except BaseException:
            database.close()
            raise
        blocks_a_tick = max(1, capacity // BLOCK_SIZE // _TICKS_A_TURNOVER)
        table = BlockTable(database, tick=start.tick + 1, used=start.used, blocks_a_tick=blocks_a_tick)
        return cls(directory, database, table, files, start.clean)

    async def close(self, *, recovered: bool) -> None:
        """Record everything and let go. What can't be recorded is lost, and said.

        `recovered`: no file holds what no record knows, so the next user has nothing to look for.
        """
        try:
            await self.table.flush(everything=True)
            if recovered and not self.table.broken:
                await trio.to_thread.run_sync(self.database.mark_clean)
        except DasfsError as error:
            self.table.note_failure(error)
        self.files.close_all()
        self.database.close()
        if self.table.broken:
            remove_database(self.directory.path(_DATABASE))
            self.directory.discard(_FILES)


def _open_database(path: str) -> tuple[BlockDatabase, StartValues]:
    database = BlockDatabase(path)
    try:
        return database, database.start()
    except Corrupt as error:
        log.warning("%s; the block cache is built anew", error)
        database.close()
        remove_database(path)
    database = BlockDatabase(path)
    return database, database.start()
