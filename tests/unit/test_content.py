"""The bytes of open datapoints: right, whole, and readable for as long as they are open."""

import random
import threading
from collections.abc import Iterator
from dataclasses import replace as changed
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import nothing
from dasfs.errors import Corrupt, ObjectChanged, StoreUnavailable
from dasfs.fuse.content import MAX_FILES, Layout, WholeDatapoints
from dasfs.fuse.inodes import Inode
from dasfs.names import DatasetKeys
from dasfs.stores import open_store
from tests import datasets
from tests.datasets import datarange
from tests.faulty import Fault, FaultyStore, during, healthy
from tests.parts import PATIENCE_S, Parts, aggregate, opened_parts, replace, wait_until

CONTENTS = [random.Random(number).randbytes(number * 30_000) for number in range(30)]


def name(number: int) -> str:
    return f"{number:020d}.bin"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyStore]:
    """A store with a dataset of three dataranges, which can be made to fail."""
    with open_store(f"file://{tmp_path}/store") as inner:
        inner.create()
        for first in (0, 10, 20):
            datasets.add(inner, "set", first, CONTENTS[first : first + 10])
        faulty = FaultyStore(inner)
        yield faulty
        faulty.release()


def test_every_datapoint_reads_right(store: FaultyStore, tmp_path: Path) -> None:
    """Whatever is asked of a datapoint, its bytes come back, fewer at its end, and none behind it."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            for number, content in enumerate(CONTENTS):
                inode = await parts.inode("set", name(number))
                for offset, size in ((0, 1 << 30), (1, 100), (len(content) - 1, 10), (len(content), 1), (10**9, 5)):
                    offset = max(offset, 0)
                    assert await parts.read(inode, offset, size) == content[offset : offset + size]

    trio.run(main)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_datapoints_read_right(store: FaultyStore, tmp_path: Path, compression: str) -> None:
    """A compressed datapoint is decoded once for all its reads, also for those that come at the same time."""

    async def main() -> None:
        contents = [b"", b"x" * 300_000, bytes(range(256)) * 40]
        datasets.add(store.inner, "packed", 0, contents, compression=compression)
        async with opened_parts(store, tmp_path) as parts:
            for number, content in enumerate(contents):
                inode = await parts.inode("packed", name(number))
                found: dict[int, bytes] = {}

                async def read(offset: int, inode: Inode = inode, found: dict[int, bytes] = found) -> None:
                    found[offset] = await parts.read(inode, offset, 1000)

                async with trio.open_nursery() as nursery:
                    for offset in range(0, 300_000, 50_000):
                        nursery.start_soon(read, offset)
                assert found == {offset: content[offset : offset + 1000] for offset in found}
            assert store.count("read_into") <= 2

    trio.run(main)


def test_reading_spans_segments(store: FaultyStore, tmp_path: Path) -> None:
    """An aggregate consists of several segments; what lies in any of them is read, and ahead across all of them."""

    async def main() -> None:
        aggregate(store.inner, "set")
        async with opened_parts(store, tmp_path) as parts:
            for number, content in enumerate(CONTENTS):
                assert await parts.read(await parts.inode("set", name(number))) == content
            located = await parts.tree.locate(await parts.inode("set", name(15)))
            assert len(located.view.segments) == 3

    trio.run(main)


def test_an_open_file_goes_on_in_the_aggregate(store: FaultyStore, tmp_path: Path) -> None:
    """When aggregation replaced and collected the object under an open file, reading goes on in the new object."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(parts.invalidator.prepare)
            located = await parts.tree.locate(await parts.inode("set", name(29)))
            file = parts.content.open(located)
            aggregate(store.inner, "set")
            store.inner.delete([DatasetKeys("set").tar(located.datarange.id)])
            assert await parts.content.read(file, 0, 1 << 30) == CONTENTS[29]
            assert file.located.datarange.first == 0

    trio.run(main)


def test_readers_of_one_file_move_on_together(store: FaultyStore, tmp_path: Path) -> None:
    """When the object under an open file is gone, a read that hears of it after another one had moved goes on, too."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(parts.invalidator.prepare)
            located = await parts.tree.locate(await parts.inode("set", name(29)))
            file = parts.content.open(located)
            aggregate(store.inner, "set")
            old = DatasetKeys("set").tar(located.datarange.id)
            store.inner.delete([old])
            moved = threading.Event()

            def late(operation: str, key: str, _number: int) -> Fault | None:
                if key == old and operation == "read_into" and store.count("read_into") == 1:
                    moved.wait(PATIENCE_S)
                return None

            store.plan = late
            found: list[bytes] = []

            async def read(offset: int) -> None:
                found.append(await parts.content.read(file, offset, 1000))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, 0)
                await wait_until(lambda: store.count("read_into") == 1)
                nursery.start_soon(read, 600_000)
                await wait_until(lambda: len(found) == 1)
                moved.set()
            assert found == [CONTENTS[29][600_000:601_000], CONTENTS[29][:1000]]

    trio.run(main)


def test_an_older_snapshot_leads_nobody_astray(store: FaultyStore, tmp_path: Path) -> None:
    """When somebody who still went by an old snapshot was the last to say where a segment is, readers find it again."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(parts.invalidator.prepare)
            before = await parts.tree.locate(await parts.inode("set", name(29)))
            aggregate(store.inner, "set")
            await parts.catalog.refresh_now("set")
            file = parts.content.open(await parts.tree.locate(before.inode))
            old = DatasetKeys("set").tar(before.datarange.id)
            parts.blocks.segment(before.snapshot.dataset_id, old, before.view.segments[0])
            store.inner.delete([old])
            assert await parts.content.read(file, 0, 1 << 30) == CONTENTS[29]

    trio.run(main)


def test_what_is_cached_moves_with_its_segment(store: FaultyStore, tmp_path: Path) -> None:
    """Blocks that were fetched before an aggregation need no GET after it."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(parts.invalidator.prepare)
            for number in range(30):
                await parts.read(await parts.inode("set", name(number)))
            await wait_until(lambda: parts.blocks.statistics().in_flight == 0)
            aggregate(store.inner, "set")
            await parts.catalog.refresh_now("set")
            gets = store.count("read_into")
            for number, content in enumerate(CONTENTS):
                assert await parts.read(await parts.inode("set", name(number))) == content
            assert store.count("read_into") == gets

    trio.run(main)


async def lose(parts: Parts, store: FaultyStore, number: int, *, rewrite: bool) -> None:
    """Delete or rewrite a datapoint's datarange, and its object with it."""
    located = await parts.tree.locate(await parts.inode("set", name(number)))
    first = int(located.datarange.first)
    if rewrite:
        replace(store.inner, "set", first, [b"other"] * 10)
    else:
        Dataset(store.inner, "set").delete_datarange(first, first + 9)
    store.inner.delete([DatasetKeys("set").tar(located.datarange.id)])


@pytest.mark.parametrize("rewrite", [False, True])
def test_an_open_file_whose_bytes_are_gone(store: FaultyStore, tmp_path: Path, rewrite: bool) -> None:
    """When a datapoint was deleted or written anew and its object is gone, reading it is `ESTALE`: no other bytes."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(parts.invalidator.prepare)
            file = parts.content.open(await parts.tree.locate(await parts.inode("set", name(29))))
            await lose(parts, store, 29, rewrite=rewrite)
            with pytest.raises(ObjectChanged):
                await parts.content.read(file, 0, 10)

    trio.run(main)


def test_an_object_that_is_missing(store: FaultyStore, tmp_path: Path) -> None:
    """A TAR object that the newest snapshot names and that is not there is damage, not a gap."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            inode = await parts.inode("set", name(25))
            store.inner.delete([DatasetKeys("set").tar((await parts.tree.locate(inode)).datarange.id)])
            with pytest.raises(Corrupt):
                await parts.read(inode)

    trio.run(main)


def test_what_was_read_lately_is_at_hand(store: FaultyStore, tmp_path: Path) -> None:
    """A datapoint that was opened is found by its inode, until there were many others; what holds it reads on."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            located = await parts.tree.locate(await parts.inode("set", name(3)))
            assert parts.content.find(located.inode) is None
            file = parts.content.open(located)
            assert parts.content.find(located.inode) is file
            for number in range(MAX_FILES):
                parts.content.open(located._replace(inode=Inode(number)))
            assert parts.content.find(located.inode) is None
            assert await parts.content.read(file, 0, 1 << 30) == CONTENTS[3]

    trio.run(main)


def test_reading_in_order_is_read_ahead_of(store: FaultyStore, tmp_path: Path) -> None:
    """Who reads the numbers in order finds the next ones fetched already, also those of the next dataranges."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            for number in range(10):
                await parts.read(await parts.inode("set", name(number)))
            wanted = sum(len(content) for content in CONTENTS[:12])
            await wait_until(lambda: parts.blocks.statistics().bytes_fetched >= wanted)
            await wait_until(lambda: parts.blocks.statistics().in_flight == 0)
            for number in (10, 11):
                file = parts.content.open(await parts.tree.locate(await parts.inode("set", name(number))))
                assert parts.content.read_cached(file, 0, 1 << 30) == CONTENTS[number]

    trio.run(main)


def test_compressed_datapoints_are_read_ahead_of(store: FaultyStore, tmp_path: Path) -> None:
    """Who reads compressed datapoints in order waits for the first two; the others are fetched together."""
    contents = [random.Random(k).randbytes(120_000) + bytes(120_000) for k in range(40)]

    async def main() -> None:
        datasets.add(store.inner, "packed", 0, contents, compression="zstd")
        async with opened_parts(store, tmp_path) as parts:
            for number in range(2):
                assert await parts.read(await parts.inode("packed", name(number))) == contents[number]
            await wait_until(lambda: parts.blocks.statistics().bytes_fetched > 2_000_000)

    trio.run(main)


def test_an_epoch_at_random_fills_the_cache(store: FaultyStore, tmp_path: Path) -> None:
    """Who reads at random has the rest of the dataset fetched too, and no byte of it twice."""
    contents = [random.Random(k).randbytes(100_000) for k in range(300)]

    async def main() -> None:
        datasets.add(store.inner, "large", 0, contents)
        size = Dataset(store.inner, "large").snapshot().dataranges[0].tar_size
        order = random.Random(4).sample(range(300), 300)
        async with opened_parts(store, tmp_path) as parts:
            for number in order[:150]:
                assert await parts.read(await parts.inode("large", name(number))) == contents[number]
            await wait_until(lambda: parts.blocks.statistics().in_flight == 0)
            assert parts.blocks.statistics().bytes_fetched > size * 0.9
            for number in order[150:]:
                assert await parts.read(await parts.inode("large", name(number))) == contents[number]
            assert parts.blocks.statistics().bytes_fetched <= size

    trio.run(main)


def test_reading_ahead_fails_silently(store: FaultyStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the store goes away, reading ahead ends without a word; what is cached is read on, and all comes back."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            inodes = [await parts.inode("set", name(number)) for number in range(30)]
            assert await parts.read(inodes[1]) == CONTENTS[1]
            store.plan = during(Fault.FAIL)
            for number in (1, 1, 1, 1):
                assert await parts.read(inodes[number]) == CONTENTS[number]
            with pytest.raises(StoreUnavailable):
                await parts.read(inodes[29])
            await wait_until(lambda: parts.blocks.statistics().in_flight == 0)
            store.plan = healthy
            assert [await parts.read(inode) for inode in inodes] == CONTENTS

    trio.run(main)
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


@given(st.lists(st.integers(2048, 5000), min_size=1, max_size=8), st.integers(0, 40_000), st.integers(0, 9000))
def test_a_layout_covers_every_byte_once(sizes: list[int], start: int, length: int) -> None:
    """A stretch of all dataranges laid end to end is cut at their borders: nothing is left out and nothing doubled."""
    ranges = tuple(datarange(k * 10, k * 10 + 9, size=size) for k, size in enumerate(sizes))
    layout = Layout(changed(nothing("set"), dataranges=ranges))
    assert [layout.base(each) for each in ranges] == [sum(sizes[:k]) for k in range(len(sizes))]
    found = layout.stretches(start, start + length)
    covered = [layout.base(each) + byte for each, first, end in found for byte in (first, end - 1) if end > first]
    assert sum(end - first for _, first, end in found) == max(0, min(start + length, sum(sizes)) - start)
    assert covered == sorted(covered)


def test_whole_datapoints_are_kept_in_bounded_memory() -> None:
    """What was used least lately is forgotten first; one that is larger than the bound is kept for its reader alone."""
    whole = WholeDatapoints(100)
    for number in range(4):
        whole.put(Inode(number), bytes(30))
    assert [Inode(number) in whole for number in range(4)] == [False, True, True, True]
    assert whole.get(Inode(1)) == bytes(30)
    whole.put(Inode(5), bytes(30))
    assert [Inode(number) in whole for number in (1, 2, 3, 5)] == [True, False, True, True]
    whole.put(Inode(6), bytes(1000))
    assert whole.get(Inode(6)) == bytes(1000)
    assert Inode(1) not in whole
    whole.put(Inode(6), bytes(10))
    whole.forget(Inode(6))
    whole.forget(Inode(6))
    for number in range(3):
        whole.put(Inode(number), bytes(33))
    assert all(Inode(number) in whole for number in range(3))
