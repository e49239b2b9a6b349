"""The memory of the block cache: the bytes of GETs that are under way, and of those that came lately.

What has just come is read next, most of the time. It is in the cache's files then, but taking it from where the GET put
it spares a call to the kernel and a copy: a tenth of what a cold file costs.

**Concurrency:** used in the mount's trio thread only.
"""

from collections import deque

import trio

from dasfs.cache.block_fetch import Fetch
from dasfs.cache.block_table import CachedSegment
from dasfs.cache.plan import BLOCK_SIZE


class ByteBudget:
    """Bounds bytes that are in flight. What is larger than the whole budget goes alone."""

    def __init__(self, limit: int) -> None:
        self.used = 0
        self.limit = limit
        self._waiting = trio.lowlevel.ParkingLot()

    async def acquire(self, size: int) -> None:
        """Return when there is room for `size` bytes. `release` them afterwards."""
        await trio.lowlevel.checkpoint()
        while self.used and self.used + size > self.limit:
            await self._waiting.park()
        self.used += size

    def release(self, size: int) -> None:
        self.used -= size
        self._waiting.unpark_all()


class BlockMemory(ByteBudget):
    """What GETs hold in memory: `used` by those under way, and `kept` of those that came lately, which make room.

    With `keep` off nothing is kept.
    """

    def __init__(self, limit: int, *, keep: bool = True) -> None:
        super().__init__(limit)
        self.kept = 0
        self._keeps = keep
        self._recent: deque[Fetch] = deque()

    async def acquire(self, size: int) -> None:
        await super().acquire(size)
        self._make_room()

    def show(self, fetch: Fetch) -> None:
        """Let what a GET brings be read from memory as it comes. `keep` or `hide` it at its end."""
        if self._keeps:
            fetch.segment.recent.update(dict.fromkeys(fetch.blocks, fetch))

    def hide(self, fetch: Fetch) -> None:
        """Let a GET be read from memory no more."""
        recent = fetch.segment.recent
        for block in fetch.blocks:
            if recent.get(block) is fetch:
                del recent[block]

    def keep(self, fetch: Fetch) -> None:
        """Let what a finished GET brought be read from memory, for as long as there is room."""
        if self._keeps:
            self._recent.append(fetch)
            self.kept += fetch.size
            self._make_room()

    def find(self, segment: CachedSegment, start: int, end: int) -> memoryview | None:
        """Return the bytes `[start, end)` of a segment if one GET brought them lately. Costs 0.3 µs."""
        fetch = segment.recent.get(start // BLOCK_SIZE)
        if fetch is None or end > fetch.checked or fetch.data is None:
            return None
        return fetch.data[start - fetch.start : end - fetch.start]

    def forget(self, segment: CachedSegment) -> None:
        """Read a segment's blocks from its file again: it is not what it was thought to be."""
        segment.recent.clear()

    def _make_room(self) -> None:
        while self._recent and self.used + self.kept > self.limit:
            fetch = self._recent.popleft()
            self.kept -= fetch.size
            self.hide(fetch)
