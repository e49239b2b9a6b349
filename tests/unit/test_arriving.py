"""What a GET has brought so far is read while the rest is on its way."""

import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from dasfs.cache.block_fetch import Fetch
from dasfs.cache.block_table import CachedSegment
from dasfs.cache.plan import BLOCK_SIZE
from dasfs.errors import StoreUnavailable
from tests.blocks import PATIENCE_S, OpenedCache, WatchedStore, content_of, opened_cache, segment_of, wait_until

BLOCKS = 4


@contextmanager
def slowly(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[memoryview], None]
) -> Iterator["Line"]:
    """Let what the store reads arrive as far as a test says."""
    line = Line()

    def read_arriving(key: str, offset: int, buffer: memoryview, arrived: Callable[[int], None]) -> None:
        store.read_into(key, offset, buffer)
        rest = bytes(buffer[:])
        buffer[:] = bytes(len(buffer))
        place = 0
        for end in line.arrivals():
            buffer[place:end] = rest[place:end]
            place = end
            spoil(buffer)
            arrived(end)

    monkeypatch.setattr(store, "read_arriving", read_arriving)
    try:
        yield line
    finally:
        line.let(BLOCKS * BLOCK_SIZE)


class Line:
    """How far bytes have come. After `cut` there are no more."""

    def __init__(self) -> None:
        self._places: list[int] = []
        self._cut = False
        self._changed = threading.Condition()

    def let(self, place: int) -> None:
        with self._changed:
            self._places.append(place)
            self._changed.notify_all()

    def cut(self) -> None:
        with self._changed:
            self._cut = True
            self._changed.notify_all()

    def arrivals(self) -> Iterator[int]:
        place = 0
        while place < BLOCKS * BLOCK_SIZE:
            with self._changed:
                assert self._changed.wait_for(lambda: self._places or self._cut, PATIENCE_S)
                if not self._places:
                    raise StoreUnavailable("cut")
                place = self._places.pop(0)
            yield place


def _segment(content: bytes) -> CachedSegment:
    segment = CachedSegment("name", "identity", len(content), bytearray(BLOCKS), array("I", [0] * BLOCKS))
    segment.block_crcs = segment_of(content).block_crcs
    return segment


async def begin(nursery: trio.Nursery, opened: OpenedCache, segment: CachedSegment) -> None:
    """Begin one GET of all blocks."""
    nursery.start_soon(opened.cache.prefetch, segment, 0, segment.length)
    await wait_until(lambda: len(segment.in_flight) == BLOCKS)


def nothing(buffer: memoryview) -> None:
    """Leave what arrives as it is."""


def test_first_bytes_are_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is read once it is there and right; one that is half there is waited for."""

    async def main() -> None:
        content = content_of(BLOCKS)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)
            with slowly(opened.store, monkeypatch, nothing) as line:
                async with trio.open_nursery() as nursery:
                    await begin(nursery, opened, segment)
                    line.let(BLOCK_SIZE + 100)
                    assert await opened.read(segment, 5, 1005) == content[5:1005]
                    # The one who comes later does not even have to wait.
                    assert opened.cache.read_cached(segment, 0, BLOCK_SIZE) == content[:BLOCK_SIZE]
                    assert opened.cache.read_cached(segment, 0, BLOCK_SIZE + 1) is None
                    with trio.move_on_after(0.05) as waiting:
                        await opened.read(segment, BLOCK_SIZE, BLOCK_SIZE + 1)
                    assert waiting.cancelled_caught
                    line.let(3 * BLOCK_SIZE)
                    assert (
                        await opened.read(segment, BLOCK_SIZE, 3 * BLOCK_SIZE) == content[BLOCK_SIZE : 3 * BLOCK_SIZE]
                    )
                    line.let(BLOCKS * BLOCK_SIZE)
                assert opened.cache.read_cached(segment, 0, segment.length) == content
            assert len(opened.store.reads) == 1

    trio.run(main)


def test_a_wrong_block_holds_up_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is not read; it is fetched again at the end, and all are right."""

    def spoil(buffer: memoryview) -> None:
        buffer[BLOCK_SIZE + 7] ^= 1

    async def main() -> None:
        content = content_of(BLOCKS)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)
            with slowly(opened.store, monkeypatch, spoil) as line:
                async with trio.open_nursery() as nursery:
                    await begin(nursery, opened, segment)
                    line.let(3 * BLOCK_SIZE)
                    assert await opened.read(segment, 0, BLOCK_SIZE) == content[:BLOCK_SIZE]
                    assert opened.cache.read_cached(segment, BLOCK_SIZE, BLOCK_SIZE + 10) is None
                    assert opened.cache.read_cached(segment, 2 * BLOCK_SIZE, 2 * BLOCK_SIZE + 10) is None
                    line.let(BLOCKS * BLOCK_SIZE)
                assert await opened.read_all(segment) == content
            assert opened.cache.statistics().verification_failures == 1

    trio.run(main)


def test_a_get_that_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for what did not come is told, or fetches it; nothing of the GET is read any more."""

    async def main() -> None:
        content = content_of(BLOCKS)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)
            with slowly(opened.store, monkeypatch, nothing) as line:
                async with trio.open_nursery() as nursery:
                    await begin(nursery, opened, segment)
                    line.let(BLOCK_SIZE)
                    assert await opened.read(segment, 0, 10) == content[:10]
                    line.cut()
                assert opened.cache.statistics().fetch_errors == 1
                assert segment.recent == {}
                assert opened.cache.read_cached(segment, 0, 10) is None
                with pytest.raises(StoreUnavailable, match="cut"):
                    await opened.read_all(segment)

    trio.run(main)


def test_waiting_never_misses_a_block() -> None:
    """However the thread that fetches and those that wait get in each other's way, each block is told of."""
    content = content_of(BLOCKS)

    async def main() -> None:
        for _ in range(200):
            fetch = await _fetch_in_a_thread(content)
            assert fetch.has(BLOCKS - 1)

    trio.run(main)


async def _fetch_in_a_thread(content: bytes) -> Fetch:
    """Let a thread bring block by block while a task waits for each but the last."""
    fetch = Fetch(_segment(content), range(BLOCKS), "key", 0)
    data = memoryview(content)
    token = trio.lowlevel.current_trio_token()

    def bring() -> None:
        for block in range(BLOCKS):
            fetch.arrive(data, lambda: token.run_sync_soon(fetch.wake), (block + 1) * BLOCK_SIZE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, bring)
        for block in range(BLOCKS - 1):
            with trio.fail_after(PATIENCE_S):
                await fetch.wait_for(block)
            assert fetch.has(block)
    return fetch


def test_a_prefetch_without_room_is_done_for_who_waits(tmp_path: Path) -> None:
    """What is fetched ahead and has no room in the cache is left alone; not so if a reader waits for it already."""

    async def main() -> None:
        contents = [content_of(2, seed) for seed in range(3)]
        async with opened_cache(tmp_path, capacity=4 * BLOCK_SIZE) as opened:
            segments = [opened.segment(content, number) for number, content in enumerate(contents)]
            async with trio.open_nursery() as nursery:
                with opened.store.hold():
                    for segment in segments[:2]:
                        nursery.start_soon(opened.cache.prefetch, segment, 0, segment.length)
                        await wait_until(lambda segment=segment: len(segment.in_flight) == 2)
                    await wait_until(lambda: len(opened.store.reads) == 2)
                    assert await opened.cache.prefetch(segments[2], 0, segments[2].length) == 0
                    nursery.start_soon(opened.cache.prefetch, segments[2], 0, segments[2].length)
                    while not segments[2].in_flight:
                        await trio.lowlevel.checkpoint()
                    (fetch,) = set(segments[2].in_flight.values())
                    nursery.start_soon(opened.read_all, segments[2])
                    await wait_until(lambda: len(opened.store.reads) == 3)
                    assert fetch.is_wanted
            assert opened.cache.statistics().fetch_errors == 1

    trio.run(main)
