"""Which blocks of which segments are in the cache, in memory and on record.

The state of a segment in use is one `CachedSegment`, of which there is never a second: it is found as long
as anybody holds it. A bounded number is kept when nobody does; all others are rows of the database. So
memory does not grow with the cache: 5 bytes a block of the segments that were used lately.

**Concurrency:** everything here runs in the trio thread, and is atomic between two awaits. Only `flush` and
`pages` use threads, with values that were copied before.
"""

import logging
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakValueDictionary

import trio

from dasfs.cache.block_files import OpenFile
from dasfs.cache.block_schema import BlockDatabase, SegmentRow
from dasfs.cache.plan import BLOCK_SIZE, block_length
from dasfs.errors import Corrupt, DasfsError
from dasfs.formats.segments import block_count

if TYPE_CHECKING:
    from dasfs.cache.block_fetch import Fetch

log = logging.getLogger(__name__)

Summary = TypeVar("Summary")

# States of a block. Plain numbers, because a bytearray holds them and the hot path compares them.
ABSENT: Final = 0
PRESENT: Final = 1  # in the file, says the record; its CRC-32 was not checked since
VERIFIED: Final = 2  # in the file, and checked by this process
LEAVING: Final = 3  # a thread is giving its space back: neither read nor written until it is ABSENT

_TO_RECORD: Final = bytes.maketrans(bytes([ABSENT, PRESENT, VERIFIED, LEAVING]), bytes([0, 1, 1, 0]))
_TO_UNVERIFIED: Final = bytes.maketrans(bytes([VERIFIED]), bytes([PRESENT]))
_TO_ABSENT: Final = bytes.maketrans(bytes([PRESENT, VERIFIED]), bytes([ABSENT, ABSENT]))

# Of a u32. The clock stops there, and eviction knows no order any more; a cache of 1 GiB has stored 16 PiB
# then.
MAX_TICK: Final = 2**32 - 1
# Blocks whose states stay in memory though nobody holds them: 10 MiB of states for 512 GiB of cache.
RESIDENT_BLOCKS: Final = 2 << 20
# And segments, each of which costs some 700 bytes however small it is.
RESIDENT_SEGMENTS: Final = 8192
_ROWS_AT_ONCE: Final = 256


class CachedSegment:
    """One segment as the cache knows it. Callers hold it and hand it back; all else is the cache's."""

    __slots__ = (
        "__weakref__",
        "block_crcs",
        "file",
        "generation",
        "identity",
        "in_flight",
        "inode",
        "last_used",
        "length",
        "name",
        "offset",
        "recent",
        "states",
        "tar_key",
        "touched",
    )

    def __init__(self, name: str, identity: str, length: int, states: bytearray, last_used: "array[int]") -> None:
        self.name = name
        self.identity = identity
        self.length = length
        self.states = states
        self.last_used = last_used
        # Where its bytes are in the store now, and their checksums (u32 big-endian a block); aggregation
        # moves it.
        self.tar_key = ""
        self.offset = 0
        self.block_crcs = b""
        self.file: OpenFile | None = None
        self.inode = 0
        # Goes up whenever blocks are lost without having been evicted: what was begun before is not
        # recorded.
        self.generation = 0
        self.in_flight: dict[int, Fetch] = {}
        # Blocks that a GET brought lately, still in memory: see `BlockMemory`.
        self.recent: dict[int, Fetch] = {}
        self.touched = -1

    def crc(self, block: int) -> int:
        return int.from_bytes(self.block_crcs[4 * block : 4 * block + 4], "big")


class BlockTable:
    """All segments of one cache, and how many bytes they use. `tick` is the clock of `last_used`."""

    def __init__(
        self,
        database: BlockDatabase,
        *,
        tick: int,
        used: int,
        blocks_a_tick: int,
        resident_blocks: int = RESIDENT_BLOCKS,
    ) -> None:
        self.tick = min(tick, MAX_TICK)
        self.used = used
        self.broken = False
        self._failed = False
        self._database = database
        self._database_lock = trio.Lock()
        self._blocks_a_tick = blocks_a_tick
        self._stored = 0
        self._alive: WeakValueDictionary[str, CachedSegment] = WeakValueDictionary()
        self._resident: OrderedDict[str, CachedSegment] = OrderedDict()
        self._resident_blocks = 0
        self._max_resident_blocks = resident_blocks
        # Not recorded yet: another set of blocks is there; only the times of use are newer.
        self._changed: dict[str, CachedSegment] = {}
        self._touched: dict[str, CachedSegment] = {}

    def find(self, name: str) -> CachedSegment | None:
        """Return a segment that is in memory."""
        return self._alive.get(name)

    def load(self, name: str) -> CachedSegment | None:
        """Return a segment that is in memory or on record. A point lookup, inline."""
        return self._alive.get(name) or self._from_record(name)

    def obtain(self, name: str, identity: str, length: int) -> CachedSegment:
        """Return a segment, new where neither memory nor the database has it."""
        segment = self._alive.get(name)
        if segment is None:
            segment = self._from_record(name)
            if segment is None:
                count = block_count(length)
                segment = CachedSegment(name, identity, length, bytearray(count), array("I", bytes(4 * count)))
                self._alive[name] = segment
        self._keep(segment)
        return segment

    def touch(self, segment: CachedSegment) -> None:
        """Note that blocks of `segment` were used in this tick."""
        segment.touched = self.tick
        self._touched[segment.name] = segment

    def add(self, segment: CachedSegment, block: int) -> None:
        """Note that a checked block was written."""
        segment.states[block] = VERIFIED
        segment.last_used[block] = self.tick
        self.used += stored_size(block, segment.length)
        self._changed[segment.name] = segment
        self._stored += 1
        if self._stored >= self._blocks_a_tick:
            self._stored = 0
            self.tick = min(self.tick + 1, MAX_TICK)

    def begin_leaving(self, segment: CachedSegment, blocks: Sequence[int]) -> int:
        """Let nobody read or write `blocks` from now on; return the bytes that they use."""
        size = 0
        for block in blocks:
            if segment.states[block] != ABSENT:
                size += stored_size(block, segment.length)
            segment.states[block] = LEAVING
        if size:
            self._changed[segment.name] = segment
        return size

    def end_leaving(self, segment: CachedSegment, blocks: Sequence[int], size: int) -> None:
        """Their space was given back: `blocks` may be fetched and written again."""
        for block in blocks:
            segment.states[block] = ABSENT
        self.used -= size

    def lose(self, segment: CachedSegment) -> None:
        """Note that the file of `segment` is gone or not to be trusted. What is LEAVING goes on leaving."""
        self.used -= bytes_used(segment)
        segment.states[:] = segment.states.translate(_TO_ABSENT)
        segment.generation += 1
        self._changed[segment.name] = segment

    def lose_block(self, segment: CachedSegment, block: int) -> None:
        """Note that a block in the file is not what it should be."""
        self.used -= stored_size(block, segment.length)
        segment.states[block] = ABSENT
        self._changed[segment.name] = segment

    def distrust(self, segment: CachedSegment) -> None:
        """Let every block prove its CRC-32 again."""
        segment.states[:] = segment.states.translate(_TO_UNVERIFIED)
        segment.generation += 1

    def unrecorded(self) -> list[CachedSegment]:
        """Return the segments whose rows are not up to date."""
        return list((self._touched | self._changed).values())

    async def flush(self, *, everything: bool) -> None:
        """Record which blocks are there, and with `everything` also when they were used.

        Raises what the database raises; what was not recorded is tried again next time.
        """
        async with self._database_lock:
            pending, self._changed = self._changed, {}
            if everything:
                pending, self._touched = self._touched | pending, {}
            names = list(pending)
            try:
                while names:
                    batch, names[:_ROWS_AT_ONCE] = names[:_ROWS_AT_ONCE], []
                    rows = [_row(pending[name]) for name in batch]
                    await trio.to_thread.run_sync(self._database.save, rows, self.tick)
                    for name in batch:
                        del pending[name]
            finally:
                self._changed = pending | self._changed

    def pages(self, summarise: Callable[[list[SegmentRow]], Summary]) -> Iterator[Summary]:
        """Return what `summarise` says of the rows on record, some at a time. An iterator for `advance`."""
        return map(summarise, self._database.pages())

    async def advance(self, pages: Iterator[Summary]) -> Summary | None:
        """Return the next of `pages`, made in a thread; None at the end, and when the database fails.

        The database is free for others between two pages.
        """
        async with self._database_lock:
            try:
                return await trio.to_thread.run_sync(next, pages, None)
            except DasfsError as error:
                self.note_failure(error)
                return None

    def note_failure(self, error: DasfsError) -> None:
        """Say once that the database fails. A cache without it works, and forgets at its end."""
        if not self._failed:
            log.warning("%s; the block cache goes on without it", error)
        self._failed = True
        self.broken = self.broken or isinstance(error, Corrupt)

    def _from_record(self, name: str) -> CachedSegment | None:
        try:
            row = self._database.load(name)
        except DasfsError as error:
            self.note_failure(error)
            return None
        if row is None:
            return None
        segment = CachedSegment(name, row.identity, row.length, bytearray(row.states), array("I", row.last_used))
        self._alive[name] = segment
        return segment

    def _keep(self, segment: CachedSegment) -> None:
        if segment.name in self._resident:
            self._resident.move_to_end(segment.name)
            return
        self._resident[segment.name] = segment
        self._resident_blocks += len(segment.states)
        while len(self._resident) > 1 and (
            self._resident_blocks > self._max_resident_blocks or len(self._resident) > RESIDENT_SEGMENTS
        ):
            _, oldest = self._resident.popitem(last=False)
            self._resident_blocks -= len(oldest.states)


def stored_size(block: int, segment_length: int) -> int:
    """Return the bytes that a block takes on the disk: whole pages of 4 KiB."""
    return -(-block_length(block, segment_length) // 4096) * 4096


def bytes_used(segment: CachedSegment) -> int:
    """Return the bytes that the blocks of `segment` take, without those that are leaving."""
    states = segment.states
    count = states.count(PRESENT) + states.count(VERIFIED)
    if not count:
        return 0
    last = len(states) - 1
    short = BLOCK_SIZE - stored_size(last, segment.length) if states[last] in (PRESENT, VERIFIED) else 0
    return count * BLOCK_SIZE - short


def _row(segment: CachedSegment) -> SegmentRow:
    return SegmentRow(
        segment.name,
        segment.identity,
        segment.length,
        bytes(segment.states.translate(_TO_RECORD)),
        segment.last_used.tobytes(),
        bytes_used(segment),
    )
