"""What a new snapshot makes untrue, and what the kernel is told about it."""

from collections.abc import Iterator
from dataclasses import replace as changed
from pathlib import Path

import pytest
import trio

from dasfs.cache.pages import PAGE_RECORDS
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import nothing
from dasfs.errors import StoreUnavailable
from dasfs.fuse.inodes import ROOT
from dasfs.fuse.invalidation import pages, replaced
from dasfs.stores import open_store
from tests import datasets
from tests.datasets import datarange
from tests.faulty import Fault, FaultyStore, during
from tests.parts import Parts, aggregate, opened_parts, replace, wait_until

COUNT = PAGE_RECORDS + 10


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyStore]:
    """A store with a dataset of two dataranges, the first of which takes more than a page."""
    with open_store(f"file://{tmp_path}/store") as inner:
        inner.create()
        datasets.add(inner, "set", 0, [b"%d" % number for number in range(COUNT)])
        datasets.add(inner, "set", COUNT, [b"x", b"y"])
        faulty = FaultyStore(inner)
        yield faulty
        faulty.release()


def name(number: int) -> str:
    return f"{number:020d}.bin"


async def change(parts: Parts, count: int) -> None:
    """Show the newest snapshot, and wait until the kernel was told so many things."""
    parts.catalog.subscribe(parts.invalidator.prepare)
    await parts.catalog.refresh_now("set")
    await wait_until(lambda: len(parts.told) >= count)


def test_what_is_replaced() -> None:
    """Dataranges that are not live any more are replaced; all of them where the dataset is another one."""
    one, two, three = datarange(0, 9), datarange(10, 19, 2), datarange(0, 9, 3)
    before = changed(nothing("set"), dataset_id="a", dataranges=(one, two))
    assert replaced(before, before) == ()
    assert replaced(before, changed(before, dataranges=(one, two, datarange(20, 29)))) == ()
    assert replaced(before, changed(before, dataranges=(three, two))) == (one,)
    assert replaced(before, changed(before, dataranges=())) == (one, two)
    assert replaced(before, changed(before, dataset_id="b")) == (one, two)


@pytest.mark.parametrize(("first", "last"), [(0, 0), (5, 4 + PAGE_RECORDS), (0, PAGE_RECORDS), (7, 5000)])
def test_pages_cover_each_number_once(first: int, last: int) -> None:
    """Pages are at most as large as they may be, follow each other, and hold each number once."""
    found = list(pages(first, last))
    assert [number for start, end in found for number in range(start, end + 1)] == list(range(first, last + 1))
    assert all(end - start < PAGE_RECORDS for start, end in found)


def test_deleted_names_are_dropped(store: FaultyStore, tmp_path: Path) -> None:
    """The kernel is told every name and inode of a deleted datarange that it may hold, with the inode that it knows."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            inodes = {number: await parts.inode("set", name(number)) for number in (0, PAGE_RECORDS, COUNT - 1)}
            directory = parts.tree.directory_inode("set")
            Dataset(store.inner, "set").delete_datarange(0, COUNT - 1)
            await change(parts, 2 * COUNT)
            assert len(parts.told) == 2 * COUNT
            for number, inode in inodes.items():
                assert inode in parts.told
                assert (directory, name(number).encode()) in parts.told

    trio.run(main)


def test_what_nobody_looked_at_needs_no_word(store: FaultyStore, tmp_path: Path) -> None:
    """Of a datarange whose manifest was never fetched the kernel can't know anything: it is told nothing."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            await parts.inode("set", name(COUNT))
            Dataset(store.inner, "set").delete_datarange(0, COUNT - 1)
            await change(parts, 0)
            Dataset(store.inner, "set").delete_datarange(COUNT, COUNT + 1)
            await change(parts, 4)
            assert len(parts.told) == 4

    trio.run(main)


def test_what_stays_the_same_is_kept(store: FaultyStore, tmp_path: Path) -> None:
    """Aggregation tells the kernel nothing and renews no inode, though all dataranges were replaced."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            inodes = [await parts.inode("set", name(number)) for number in (0, COUNT - 1, COUNT)]
            aggregate(store.inner, "set")
            await change(parts, 0)
            assert [await parts.inode("set", name(number)) for number in (0, COUNT - 1, COUNT)] == inodes
            assert parts.tree.lives("set") == ()
            assert parts.told == []

    trio.run(main)


def test_what_was_written_anew_is_dropped(store: FaultyStore, tmp_path: Path) -> None:
    """Of a datarange that was written anew, what lies between the first and the last difference is dropped."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            old = {number: await parts.inode("set", name(number)) for number in (4, 5, 1027, 1028)}
            contents = [b"%d" % number for number in range(COUNT)]
            contents[5], contents[1027] = b"V", b"others"
            replace(store.inner, "set", 0, contents)
            await change(parts, 2 * 1023)
            assert len(parts.told) == 2 * 1023
            new = {number: await parts.inode("set", name(number)) for number in old}
            assert [number for number in old if old[number] != new[number]] == [5, 1027]
            assert old[5] in parts.told
            assert old[4] not in parts.told

    trio.run(main)


def test_a_deleted_dataset_takes_its_directory_along(store: FaultyStore, tmp_path: Path) -> None:
    """The kernel forgets the directory of a deleted dataset, and everything in it that it may hold."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            await parts.inode("set", name(COUNT))
            Dataset(store.inner, "set").delete()
            await change(parts, 5)
            assert parts.told[-1] == (ROOT, b"set")
            assert len(parts.told) == 5

    trio.run(main)


def test_a_dataset_that_was_created_anew_shares_no_inode(store: FaultyStore, tmp_path: Path) -> None:
    """All numbers of a dataset that was deleted and created again get other inodes, looked at before or not."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            old = await parts.inode("set", name(COUNT))
            Dataset(store.inner, "set").delete()
            datasets.add(store.inner, "set", 0, [b"%d" % number for number in range(COUNT + 2)])
            await change(parts, 4)
            assert await parts.inode("set", name(COUNT)) != old

    trio.run(main)


def test_no_change_without_the_manifests_that_it_needs(store: FaultyStore, tmp_path: Path) -> None:
    """Whether a datapoint is the same can't be told while the store is away: the change is not shown then."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            await parts.inode("set", name(0))
            before = parts.catalog.known("set")
            assert before is not None
            snapshot = before.snapshot
            after = aggregate(store.inner, "set")
            store.plan = during(Fault.FAIL, "get")
            with pytest.raises(StoreUnavailable):
                await parts.invalidator.prepare(snapshot, after)
            assert parts.told == []

    trio.run(main)


def test_a_change_that_is_overtaken_is_passed_over(store: FaultyStore, tmp_path: Path) -> None:
    """When a snapshot's own manifests are gone before it was compared, the next one is shown, and nothing is lost."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(parts.invalidator.prepare)
            inode = await parts.inode("set", name(COUNT))
            assert await parts.read(inode) == b"x"
            passing = aggregate(store.inner, "set").dataranges[0]
            keys = Dataset(store.inner, "set").keys
            snapshots = []

            def overtake(operation: str, key: str, _number: int) -> Fault | None:
                if key == keys.manifest(passing.id) and not snapshots:
                    datasets.add(store.inner, "set", COUNT + 2, [b"z"])
                    snapshots.append(aggregate(store.inner, "set"))
                    store.inner.delete([keys.manifest(passing.id), keys.tar(passing.id)])
                return None

            store.plan = overtake
            state = await parts.catalog.refresh_now("set")
            assert state is not None
            assert [state.snapshot] == snapshots
            assert await parts.read(inode) == b"x"
            assert parts.told == []

    trio.run(main)
