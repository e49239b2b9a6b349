"""A store whose answers a test decides, and segments in it, for the tests of the block cache."""

import random
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import trio

from dasfs.cache.blocks import BlockCache, BlockCacheOptions, CachedSegment, open_block_cache
from dasfs.cache.directory import CacheDirectory
from dasfs.cache.plan import BLOCK_SIZE
from dasfs.formats.manifest import BlockChecksums, Segment
from dasfs.names import DatapointNumber, DatarangeId
from dasfs.stores.base import MIB
from dasfs.stores.directory import DirectoryStore
from dasfs.stores.urls import Scheme, StoreUrl

DATASET: Final = "5a3c7d1e-0000-4000-8000-000000000001"
# What a test waits for at most; nothing takes that long.
PATIENCE_S: Final = 20.0

Fault = Callable[[str, int, memoryview], None]


class WatchedStore(DirectoryStore):
    """A directory store that counts its reads, and lets a test change what each brings.

    `fault(key, offset, buffer)` runs after each read; it may spoil the buffer, or raise. While `hold()` is on,
    reads wait in their threads.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(StoreUrl(Scheme.DIRECTORY, str(root)))
        self.create()
        self.reads: list[tuple[str, int, int]] = []
        self.fault: Fault | None = None
        self._open = threading.Event()
        self._open.set()

    def read_into(self, key: str, offset: int, buffer: memoryview, *, etag: str | None = None) -> None:
        self.reads.append((key, offset, len(buffer)))
        fault = self.fault
        assert self._open.wait(PATIENCE_S)
        super().read_into(key, offset, buffer, etag=etag)
        if fault is not None:
            fault(key, offset, buffer)

    @contextmanager
    def hold(self) -> Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def add_segment(self, content: bytes, number: int = 0, *, before: int = 1536) -> tuple[str, Segment]:
        """Write an object whose bytes from `before` on are a segment; return its key and the segment."""
        origin = DatarangeId(DatapointNumber(number), DatapointNumber(number), number + 1)
        key = f"datas3t/test/dataranges/{origin}.tar"
        self.put(key, bytes(before) + content + bytes(1024))
        return key, segment_of(content, number, offset=before)


def segment_of(content: bytes, number: int = 0, *, offset: int = 0) -> Segment:
    """Return the segment that `content` is; `number` tells segments apart."""
    checksums = BlockChecksums()
    checksums.update(content)
    origin = DatarangeId(DatapointNumber(number), DatapointNumber(number), number + 1)
    return Segment(origin, 1536, offset, len(content), checksums.finish())


def content_of(blocks: float, seed: int = 0) -> bytes:
    """Return random bytes, `blocks` blocks of them; the last may be a part."""
    return random.Random(seed).randbytes(int(blocks * BLOCK_SIZE))


class OpenedCache:
    """A block cache with the store below it."""

    def __init__(self, cache: BlockCache, store: WatchedStore) -> None:
        self.cache = cache
        self.store = store

    def segment(self, content: bytes, number: int = 0) -> CachedSegment:
        key, segment = self.store.add_segment(content, number)
        return self.cache.segment(DATASET, key, segment)

    async def read(self, segment: CachedSegment, start: int, end: int) -> bytes:
        return bytes(await self.cache.read(segment, start, end, trio.current_time() + PATIENCE_S))

    async def read_all(self, segment: CachedSegment) -> bytes:
        return await self.read(segment, 0, segment.length)


@asynccontextmanager
async def opened_cache(
    path: Path,
    *,
    capacity: int = 64 * MIB,
    directory: Path | None = None,
    get_timeout_s: float = PATIENCE_S,
    **options: float,
) -> AsyncIterator[OpenedCache]:
    """Open a cache below `path` (or in `directory`) over the store in `path`."""
    settings = BlockCacheOptions(capacity, get_timeout_s=get_timeout_s, **options)  # type: ignore[arg-type]
    with (
        WatchedStore(path / "store") as store,
        CacheDirectory.open(str(directory or path / "cache")) as locked,
    ):
        async with open_block_cache(locked, store, settings) as cache:
            yield OpenedCache(cache, store)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what it waits for is not always a task's doing
            await trio.sleep(0.005)


@contextmanager
def mounted_disk(kind: str, path: Path, options: str) -> Iterator[Path]:
    """A file system of its own (`tmpfs`, `ramfs`) at `path`. Needs root."""
    path.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", options, "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def block_files(path: Path) -> list[Path]:
    return sorted((path / "cache" / "dasfs-cache" / "blocks").glob("??/*.blk"))


def disk_usage(path: Path) -> int:
    """Return the bytes that all block files below `path` take on the disk."""
    return sum(file.stat().st_blocks * 512 for file in path.glob("**/*.blk"))
