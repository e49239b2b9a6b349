"""Reading blocks that are in the cache: the hot path of the mount.

**Concurrency:** synchronous, in the trio thread. Nothing else of the cache runs between a look at the
states and the `pread` that relies on it.
"""

import errno
import logging
import os

from isal.isal_zlib import crc32

from dasfs.cache.block_files import BlockFiles, OpenFile
from dasfs.cache.block_space import Space
from dasfs.cache.block_table import PRESENT, VERIFIED, BlockTable, CachedSegment, bytes_used
from dasfs.cache.plan import BLOCK_SIZE, block_length

log = logging.getLogger(__name__)


class LocalBlocks:
    """The block files of one cache, seen together with the states of their blocks.

    A block is checked at its first touch, or `always`: then 64 KiB cost what the 256 KiB of their block cost.
    """

    def __init__(self, table: BlockTable, files: BlockFiles, space: Space, *, always: bool = False) -> None:
        self.failures = 0
        self._always = always
        self._table = table
        self._files = files
        self._space = space
        self._in_trouble = False

    def read(self, segment: CachedSegment, start: int, end: int) -> bytes | None:
        """Return the bytes `[start, end)`, not empty, if all their blocks are here and right, else None."""
        states, last_used, tick = segment.states, segment.last_used, self._table.tick
        file = segment.file or self._reopen(segment)
        if file is None:
            return None
        if self._always:
            return self._read_checked(segment, file, start, end)
        for block in range(start // BLOCK_SIZE, (end - 1) // BLOCK_SIZE + 1):
            if states[block] != VERIFIED and self._read_block(segment, file, block) is None:
                return None
            last_used[block] = tick
        if segment.touched != tick:
            self._table.touch(segment)
        return self._pread(segment, file, start, end - start)

    def use(self, segment: CachedSegment, start: int, end: int) -> None:
        """Count the blocks of `[start, end)` as used now; they are read from somewhere else."""
        last_used, tick = segment.last_used, self._table.tick
        for block in range(start // BLOCK_SIZE, (end - 1) // BLOCK_SIZE + 1):
            last_used[block] = tick
        if segment.touched != tick:
            self._table.touch(segment)

    def writable_file(self, segment: CachedSegment) -> OpenFile | None:
        """Return the file to write blocks to, made where there is none; None when the disk won't have it."""
        try:
            file = segment.file or self._adopt(segment, self._files.open(segment))
            if file is None:
                self._lose(segment)
                file = self._adopt(segment, self._files.create(segment))
            return file
        except OSError as error:
            self.note_trouble(error)
            return None

    def note_trouble(self, error: OSError) -> None:
        """Say once that the cache's disk fails; make the cache smaller when the disk is full."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._space.note_full_disk()
        elif not self._in_trouble:
            self._in_trouble = True
            log.warning("the cache's disk fails, what can't be cached comes from the store: %s", error)

    def _read_checked(self, segment: CachedSegment, file: OpenFile, start: int, end: int) -> bytes | None:
        """Return `[start, end)` out of blocks that are checked now, or None where one is missing or wrong."""
        parts = []
        for block in range(start // BLOCK_SIZE, (end - 1) // BLOCK_SIZE + 1):
            data = self._read_block(segment, file, block)
            if data is None:
                return None
            segment.last_used[block] = self._table.tick
            base = block * BLOCK_SIZE
            parts.append(data[max(start - base, 0) : end - base])
        if segment.touched != self._table.tick:
            self._table.touch(segment)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_block(self, segment: CachedSegment, file: OpenFile, block: int) -> bytes | None:
        """Return a block if it is in the file and right; it is VERIFIED then."""
        if segment.states[block] not in (PRESENT, VERIFIED):
            return None
        data = self._pread(segment, file, block * BLOCK_SIZE, block_length(block, segment.length))
        if data is None:
            return None
        if crc32(data) != segment.crc(block):
            self.failures += 1
            log.info("block %d of %s in the cache is wrong and is fetched again", block, segment.identity)
            self._table.lose_block(segment, block)
            return None
        segment.states[block] = VERIFIED
        return data

    def _pread(self, segment: CachedSegment, file: OpenFile, start: int, size: int) -> bytes | None:
        try:
            data = os.pread(file.fd, size, start)
        except OSError as error:
            self.note_trouble(error)
            data = b""
        if len(data) == size:
            return data
        self._lose(segment)
        return None

    def _reopen(self, segment: CachedSegment) -> OpenFile | None:
        if not bytes_used(segment):
            return None
        try:
            file = self._adopt(segment, self._files.open(segment))
        except OSError as error:
            self.note_trouble(error)
            return None
        if file is None:
            self._lose(segment)
        return file

    def _adopt(self, segment: CachedSegment, file: OpenFile | None) -> OpenFile | None:
        """Trust the blocks of a file only if it is the one that they were checked in."""
        if file is not None:
            inode = os.fstat(file.fd).st_ino
            if segment.inode not in (0, inode):
                self._table.distrust(segment)
            segment.inode = inode
        return file

    def _lose(self, segment: CachedSegment) -> None:
        """Somebody deleted or cut the file, or the disk can't read it: begin anew."""
        self._table.lose(segment)
        self._files.close(segment)
        try:
            self._files.remove(segment.name)
        except OSError as error:
            self.note_trouble(error)
