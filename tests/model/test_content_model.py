"""The bytes of a mount while its dataset is aggregated, deleted, rewritten and collected at once, against a model."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dasfs.errors import NotFound, ObjectChanged
from dasfs.fuse.content import OpenFile
from dasfs.stores import Store, open_store
from tests.changing import COUNT, PLACES, ChangingDataset, numbers, shares, writings
from tests.faulty import Fault, FaultyStore, healthy
from tests.parts import Parts, opened_parts
from tests.strict import merging_below

EXAMPLES = int(os.environ.get("DASFS_MODEL_EXAMPLES", "40"))
ranges = st.tuples(shares, shares)
steps = st.one_of(
    st.tuples(st.just("write"), writings),
    st.tuples(st.just("refresh"), st.none()),
    st.tuples(st.just("read"), st.tuples(numbers, ranges)),
    st.tuples(st.just("open"), numbers),
    st.tuples(st.just("read held"), ranges),
    st.tuples(st.just("read disturbed"), st.tuples(numbers, ranges, st.integers(1, 6), writings)),
    st.tuples(st.just("read held disturbed"), st.tuples(ranges, st.integers(1, 6), writings)),
)


@dataclass
class Held:
    """An open file, what it held then, and how often its number had been deleted."""

    number: int
    file: OpenFile
    content: bytes
    deletions: int


@dataclass
class Mount:
    """The parts of a mount, and what it may answer."""

    parts: Parts
    store: FaultyStore
    world: ChangingDataset
    held: list[Held] = field(default_factory=list)

    async def do(self, step: str, what: object) -> None:
        await getattr(self, step.replace(" ", "_"))(what)

    async def write(self, writing: tuple[str, float, str | None]) -> None:
        self.world.write(*writing)

    async def refresh(self, _what: None) -> None:
        await self.parts.catalog.refresh_now("set")
        self.world.refreshed()

    async def read(self, what: tuple[int, tuple[float, float]]) -> None:
        """Look a datapoint up and read it: bytes that it had since the last refresh, or an error that says why not."""
        number, place = what
        try:
            inode = await self.parts.inode("set", f"{number:020d}.bin")
            located = await self.parts.tree.locate(inode)
        except (AssertionError, NotFound):
            assert None in self.world.since[number], f"{number} is not found"
            return
        file = self.parts.content.open(located)
        await self.read_file(file, place, self.world.since[number])

    async def open(self, number: int) -> None:
        await self.refresh(None)
        if number in self.world.live:
            located = await self.parts.tree.locate(await self.parts.inode("set", f"{number:020d}.bin"))
            file = self.parts.content.open(located)
            self.held.append(Held(number, file, self.world.live[number], self.world.deletions[number]))

    async def read_held(self, place: tuple[float, float]) -> None:
        """Read what is open: the bytes that it had then; an error only where it is no longer there."""
        for each in self.held:
            try:
                await self.read_file(each.file, place, {each.content})
            except ObjectChanged:
                assert self.world.deletions[each.number] > each.deletions, f"{each.number} is still there"

    async def read_disturbed(self, what: tuple[int, tuple[float, float], int, tuple[str, float, str | None]]) -> None:
        number, place, at, writing = what
        with self.disturbed(at, writing):
            await self.read((number, place))

    async def read_held_disturbed(self, what: tuple[tuple[float, float], int, tuple[str, float, str | None]]) -> None:
        place, at, writing = what
        with self.disturbed(at, writing):
            await self.read_held(place)

    async def read_file(self, file: OpenFile, place: tuple[float, float], wanted: set[bytes | None]) -> None:
        size = file.located.record.true_size
        offset = int(place[0] * size)
        length = int(place[1] * (size - offset)) + 1
        try:
            data = self.parts.content.read_cached(file, offset, length)
            if data is None:
                data = await self.parts.content.read(file, offset, length)
        except ObjectChanged:
            if len(wanted) > 1:
                return
            raise
        fitting = [each for each in wanted if each is not None and len(each) == size]
        assert data in [each[offset : offset + length] for each in fitting]

    def disturbed(self, at: int, writing: tuple[str, float, str | None]) -> "Disturbance":
        return Disturbance(self.store, at, lambda: self.world.write(*writing))


@dataclass
class Disturbance:
    """Within a `with` block, something happens at the `at`th operation of the store."""

    store: FaultyStore
    at: int
    action: Callable[[], None]

    def __enter__(self) -> None:
        left = self.at

        def plan(_operation: str, _key: str, _number: int) -> Fault | None:
            nonlocal left
            left -= 1
            if left == 0:
                self.action()
            return None

        self.store.plan = plan

    def __exit__(self, *_error: object) -> None:
        self.store.plan = healthy


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=4, max_size=20))
def test_what_is_read_is_what_was_put_or_says_that_it_is_gone(script: list[tuple[str, object]]) -> None:
    """Datapoints that live read right wherever their bytes went; of others the old bytes, `ENOENT` or `ESTALE`."""

    async def main(directory: Path, inner: Store) -> None:
        store = FaultyStore(inner)
        world = ChangingDataset(inner)
        async with opened_parts(store, directory) as parts:
            parts.catalog.subscribe(parts.invalidator.prepare)
            mount = Mount(parts, store, world)
            for step, what in script:
                await mount.do(step, what)
            await mount.refresh(None)
            for number in range(PLACES * COUNT):
                await mount.read((number, (0.0, 1.0)))
            await mount.read_held((0.0, 1.0))

    with (
        tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory,
        open_store(f"file://{directory}/store") as inner,
        merging_below(50_000),
    ):
        inner.create()
        trio.run(main, Path(directory), inner)
