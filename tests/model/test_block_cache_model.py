"""The block cache against the plainest model: whatever happens, a read gives the segment's bytes."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import apsw
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dasfs.cache.blocks import CachedSegment
from dasfs.cache.plan import BLOCK_SIZE
from dasfs.errors import NoSpace, StoreUnavailable
from dasfs.formats.manifest import Segment
from tests.blocks import (
    DATASET,
    OpenedCache,
    block_files,
    content_of,
    disk_usage,
    mounted_disk,
    opened_cache,
    segment_of,
    wait_until,
)

EXAMPLES = int(os.environ.get("DASFS_MODEL_EXAMPLES", "40"))
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
    st.tuples(st.just("crash"), st.lists(places, max_size=4)),
    st.tuples(st.just("damage records"), harms),
    st.tuples(st.just("damage the database"), harms),
    st.tuples(st.just("fill the disk"), st.integers(0, 5)),
    st.tuples(st.just("free the disk"), st.none()),
)


@dataclass
class Place:
    key: str
    segment: Segment


class World:
    """A cache, and the segments that are read through it."""

    def __init__(self, root: Path, disk: Path) -> None:
        self.root = root
        self.disk = disk
        self.places: dict[int, Place] = {}
        self.moves = 0
        # How much is there is read from records that somebody may have changed; the bytes themselves are proven.
        self.spoiled = False
        self.stack = AsyncExitStack()
        self.opened: OpenedCache

    async def start(self) -> None:
        """Open the cache; where a full disk refuses that, after making room."""
        opening = partial(opened_cache, self.root, directory=self.disk / "cache", open_files=2)
        try:
            self.opened = await self.stack.enter_async_context(opening(capacity=CAPACITY, max_get_size=3 * BLOCK_SIZE))
        except NoSpace:
            assert self.filler.exists()
            await self.free_the_disk(None)
            self.opened = await self.stack.enter_async_context(opening(capacity=CAPACITY, max_get_size=3 * BLOCK_SIZE))

    async def stop(self) -> None:
        await self.stack.aclose()
        self.stack = AsyncExitStack()

    @property
    def filler(self) -> Path:
        return self.disk / "filler"

    @property
    def database(self) -> Path:
        return self.disk / "cache" / "dasfs-cache" / "blocks.db"

    async def restart(self, lose_records: bool = False) -> None:
        # What a crash may leave: records of now, with the blocks that come and go until then in the files.
        before = _records(self.database) if lose_records else b""
        if lose_records:
            for number in range(len(CONTENTS)):
                await self.read((number, 0.1, 0.8))
        await self.stop()
        if before:
            await self.free_the_disk(None)  # the test itself writes here
            self.database.write_bytes(before)
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
        assert self.spoiled or 0 <= used <= CAPACITY

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
            await self.stop()
            with suppress(OSError), file.open("r+b") as blocks:  # on a full disk
                blocks.seek(harm[1] % max(1, file.stat().st_size - 64))
                blocks.write(Random(harm[1]).randbytes(64))
            await self.start()

    async def delete_a_file(self, harm: tuple[int, int]) -> None:
        file = self.file(harm)
        if file is not None:
            file.unlink()

    async def cut_a_file(self, harm: tuple[int, int]) -> None:
        file = self.file(harm)
        if file is not None:
            os.truncate(file, harm[1] % max(1, file.stat().st_size))

    async def crash(self, places: list[tuple[int, float, float]]) -> None:
        """Go on with what is on the disk at some moment, while `places` are being read, without closing anything."""
        cache, copy = self.disk / "cache", self.root / "copy"
        async with trio.open_nursery() as nursery:
            for place in places:
                nursery.start_soon(self.read, place)
            await trio.lowlevel.checkpoint()
            copy_directory(cache, copy)
        await self.stop()
        shutil.rmtree(cache)
        copy_directory(copy, cache)
        shutil.rmtree(copy)
        await self.start()

    async def damage_records(self, harm: tuple[int, int]) -> None:
        """Let the records of a segment say something else, in a shape that fits or not."""
        await self.stop()
        self.spoiled = True
        random = Random(harm[1])
        with suppress(apsw.FullError, apsw.SQLError, apsw.NotADBError, apsw.CorruptError):
            connection = apsw.Connection(str(self.database))
            try:
                rows = connection.execute("SELECT segment_id, length(states) FROM segment").fetchall()
                for segment_id, count in rows[harm[0] % max(1, len(rows)) :][:1]:
                    states = bytes(random.choices((0, 1), k=count)) if harm[1] % 4 else random.randbytes(count)
                    connection.execute("UPDATE segment SET states = ? WHERE segment_id = ?", (states, segment_id))
                    if harm[1] % 3 == 0:
                        statement = "UPDATE segment SET last_used = ? WHERE segment_id = ?"
                        connection.execute(statement, (random.randbytes(4 * count - harm[1] % 2), segment_id))
            finally:
                connection.close()
        await self.start()

    async def damage_the_database(self, harm: tuple[int, int]) -> None:
        await self.stop()
        self.spoiled = True
        random = Random(harm[1])
        size = self.database.stat().st_size if self.database.exists() else 0
        if size:
            with self.database.open("r+b") as file:
                file.seek(random.randrange(size))
                if harm[0] % 2:
                    file.truncate()
                else:
                    with suppress(OSError):
                        file.write(random.randbytes(200))
        await self.start()

    async def fill_the_disk(self, free_blocks: int) -> None:
        """Leave room for a few blocks on the cache's disk, or for none."""
        status = os.statvfs(self.disk)
        size = status.f_bavail * status.f_frsize - free_blocks * BLOCK_SIZE
        if size > 0:
            with self.filler.open("ab") as file:
                os.posix_fallocate(file.fileno(), file.tell(), size)

    async def free_the_disk(self, _what: None) -> None:
        self.filler.unlink(missing_ok=True)

    def file(self, harm: tuple[int, int]) -> Path | None:
        files = block_files(self.disk)
        return files[harm[0] % len(files)] if files else None


def copy_directory(source: Path, target: Path) -> None:
    """Copy all of a directory, holes as holes; on a full disk, as much as there is room for."""
    subprocess.run(["cp", "-a", "--sparse=always", str(source), str(target)], check=False, stderr=subprocess.DEVNULL)


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


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of its own with not much more room than the cache may take."""
    with mounted_disk("tmpfs", tmp_path_factory.mktemp("model") / "disk", f"size={CAPACITY * 2}") as disk:
        yield disk


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(steps, min_size=5, max_size=25))
def test_a_read_gives_the_right_bytes_whatever_happened(small_disk: Path, script: list[tuple[str, object]]) -> None:
    """Reads, evictions, moves, drops, crashes, bad answers, spoiled files and records, a full disk: right bytes."""

    async def main(root: Path, disk: Path) -> None:
        world = World(root, disk)
        await world.start()
        try:
            for step, what in script:
                await world.do(step, what)
            await world.free_the_disk(None)
            for number in range(len(CONTENTS)):
                await world.read((number, 0.0, 1.0))
            await wait_until(lambda: not world.opened.cache.statistics().recovering)
            assert world.spoiled or disk_usage(disk) <= CAPACITY
        finally:
            await world.stack.aclose()

    with tempfile.TemporaryDirectory() as root:
        for left in small_disk.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        trio.run(main, Path(root), small_disk)
