"""The block cache against the plainest model: whatever happens, a read gives the segment's bytes."""

import os
import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import apsw
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from dasfs.cache.blocks import CachedSegment
from dasfs.cache.plan import BLOCK_SIZE
from dasfs.errors import StoreUnavailable
from dasfs.formats.manifest import Segment
from tests.blocks import DATASET, OpenedCache, block_files, content_of, disk_usage, opened_cache, segment_of, wait_until

CAPACITY = 12 * BLOCK_SIZE
CONTENTS = [content_of(blocks, seed) for seed, blocks in enumerate((0.01, 1, 2.5, 4, 7.3, 9))]

numbers = st.integers(0, len(CONTENTS) - 1)
places = st.tuples(numbers, st.floats(0, 1), st.floats(0, 1))
harms = st.tuples(numbers, st.integers(0, 2**32))
steps = st.one_of(
    st.tuples(st.just("read"), places),
    st.tuples(st.just("read"), places),
    st.tuples(st.just("read together"), st.lists(places, min_size=2, max_size=6)),
    st.tuples(st.just("prefetch"), places),
    st.tuples(st.just("bad answer"), places),
    st.tuples(st.just("outage"), places),
    st.tuples(st.just("drop"), numbers),
    st.tuples(st.just("move"), numbers),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("damage and restart"), harms),
    st.tuples(st.just("delete a file"), harms),
    st.tuples(st.just("cut a file"), harms),
)


@dataclass
class Place:
    key: str
    segment: Segment


class World:
    """A cache, and the segments that are read through it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places: dict[int, Place] = {}
        self.moves = 0
        self.stack = AsyncExitStack()
        self.opened: OpenedCache

    async def start(self) -> None:
        self.opened = await self.stack.enter_async_context(
            opened_cache(self.root, capacity=CAPACITY, open_files=2, max_get_size=3 * BLOCK_SIZE)
        )

    async def restart(self, lose_records: bool = False) -> None:
        database = self.root / "cache" / "dasfs-cache" / "blocks.db"
        # What a crash may leave: records of now, with the blocks that come and go until then in the files.
        before = _records(database) if lose_records else b""
        if lose_records:
            for number in range(len(CONTENTS)):
                await self.read((number, 0.1, 0.8))
        await self.stack.aclose()
        self.stack = AsyncExitStack()
        if before:
            database.write_bytes(before)
        await self.start()

    def handle(self, number: int) -> CachedSegment:
        if number not in self.places:
            self.places[number] = Place(*self.opened.store.add_segment(CONTENTS[number], number))
        place = self.places[number]
        return self.opened.cache.segment(DATASET, place.key, place.segment)

    async def read(self, place: tuple[int, float, float]) -> None:
        number, start, end = to_range(place)
        content = CONTENTS[number]
        assert await self.opened.read(self.handle(number), start, end) == content[start:end]

    async def do(self, step: str, what: object) -> None:
        await getattr(self, step.replace(" ", "_"))(what)
        used = self.opened.cache.statistics().bytes_used
        assert 0 <= used <= CAPACITY

    async def read_together(self, places: list[tuple[int, float, float]]) -> None:
        async with trio.open_nursery() as nursery:
            for place in places:
                nursery.start_soon(self.read, place)

    async def prefetch(self, place: tuple[int, float, float]) -> None:
        number, start, end = to_range(place)
        await self.opened.cache.prefetch(self.handle(number), start, end)

    async def bad_answer(self, place: tuple[int, float, float]) -> None:
        def spoil(key: str, offset: int, buffer: memoryview) -> None:
            self.opened.store.fault = None
            buffer[len(buffer) // 2] ^= 1

        self.opened.store.fault = spoil
        await self.read(place)
        self.opened.store.fault = None

    async def outage(self, place: tuple[int, float, float]) -> None:
        def fail(key: str, offset: int, buffer: memoryview) -> None:
            buffer[:] = bytes(len(buffer))
            raise StoreUnavailable("away")

        self.opened.store.fault = fail
        with suppress(StoreUnavailable):
            await self.read(place)
        self.opened.store.fault = None

    async def drop(self, number: int) -> None:
        if number in self.places:
            await self.opened.cache.drop(DATASET, self.places[number].segment)

    async def move(self, number: int) -> None:
        """What aggregation does to a segment."""
        self.moves += 1
        offset = self.moves * 512
        key = f"datas3t/test/dataranges/moved-{self.moves}.tar"
        self.opened.store.put(key, bytes(offset) + CONTENTS[number])
        if number in self.places:
            self.opened.store.delete([self.places[number].key])
        self.places[number] = Place(key, segment_of(CONTENTS[number], number, offset=offset))

    async def damage_and_restart(self, harm: tuple[int, int]) -> None:
        await self.restart()
        file = self.file(harm)
        if file is not None:
            await self.stack.aclose()
            with file.open("r+b") as blocks:
                blocks.seek(harm[1] % max(1, file.stat().st_size - 64))
                blocks.write(Random(harm[1]).randbytes(64))
            self.stack = AsyncExitStack()
            await self.start()

    async def delete_a_file(self, harm: tuple[int, int]) -> None:
        file = self.file(harm)
        if file is not None:
            file.unlink()

    async def cut_a_file(self, harm: tuple[int, int]) -> None:
        file = self.file(harm)
        if file is not None:
            os.truncate(file, harm[1] % max(1, file.stat().st_size))

    def file(self, harm: tuple[int, int]) -> Path | None:
        files = block_files(self.root)
        return files[harm[0] % len(files)] if files else None


def _records(database: Path) -> bytes:
    connection = apsw.Connection(str(database))
    try:
        return connection.serialize("main")
    finally:
        connection.close()


def to_range(place: tuple[int, float, float]) -> tuple[int, int, int]:
    number, start, size = place
    length = len(CONTENTS[number])
    first = int(start * length)
    return number, first, min(length, first + int(size * size * length))


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, min_size=5, max_size=25))
def test_a_read_gives_the_right_bytes_whatever_happened(script: list[tuple[str, object]]) -> None:
    """Reads, prefetches, evictions, moves, drops, restarts, crashes, bad answers and spoiled files: right bytes."""

    async def main(root: Path) -> None:
        world = World(root)
        await world.start()
        try:
            for step, what in script:
                await world.do(step, what)
            for number in range(len(CONTENTS)):
                await world.read((number, 0.0, 1.0))
            await wait_until(lambda: not world.opened.cache.statistics().recovering)
            assert disk_usage(root) <= CAPACITY
        finally:
            await world.stack.aclose()

    with tempfile.TemporaryDirectory() as root:
        trio.run(main, Path(root))
