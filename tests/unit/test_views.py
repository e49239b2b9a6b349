"""Virtual directories without a kernel: their names, and what reading ahead learns from them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dasfs.errors import NotReady, StoreUnavailable
from dasfs.formats.manifest import RECORD, RECORD_SIZE
from dasfs.fuse.inodes import ROOT
from dasfs.fuse.order import SeededOrder
from dasfs.fuse.tree import Entries, Listing, Located
from dasfs.fuse.views import ViewName
from dasfs.stores import open_store
from tests import datasets
from tests.faulty import Fault, FaultyStore, during, healthy
from tests.parts import Parts, aggregate, opened_parts, replace


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyStore]:
    with open_store(f"file://{tmp_path}/store") as inner:
        inner.create()
        datasets.add(inner, "set", 0, [b"0", b"1"])
        datasets.add(inner, "set", 10, [b"10", b"11", b"12"], extension="jpg")
        datasets.add_named(inner, "named", 0, {"a/x.jpg": b"x", "a/y.jpg": b"y", "b": b"b"})
        faulty = FaultyStore(inner)
        yield faulty
        faulty.release()


@pytest.mark.parametrize(
    ("name", "only", "expected"),
    [
        ("photos@17", None, ViewName("photos", revision=17)),
        ("photos@names", None, ViewName("photos", names=True)),
        ("photos@shuffle=0", None, ViewName("photos", seed=0)),
        ("photos@17@shuffle=5", None, ViewName("photos", revision=17, seed=5)),
        ("@17", "photos", ViewName("photos", revision=17)),
        ("@17@shuffle=5", "photos", ViewName("photos", revision=17, seed=5)),
        *((name, None, None) for name in ("photos", "photos@", "@17", "photos@17@names", "photos@1٣", "p.q@1")),
        *((name, None, None) for name in ("photos@1\n", "photos@shuffle=18446744073709551616", "x" * 129 + "@1")),
        *((name, "photos", None) for name in ("photos@17", "@", "photos", "", "@@1")),
    ],
)
def test_names_of_views(name: str, only: str | None, expected: ViewName | None) -> None:
    """Each view has one name, and every other name is none."""
    assert ViewName.parse(name, only) == expected


async def view(parts: Parts, name: str) -> int:
    found = await parts.tree.lookup(ROOT, name)
    assert found is not None
    assert found.is_directory
    return found.inode


async def entries(parts: Parts, directory: int) -> list[str]:
    """Return the names that a virtual directory lists, whatever its kind."""
    listing: Listing | Entries = await parts.tree.open_listing(directory)
    found: list[str] = []
    position = 0
    if isinstance(listing, Listing):
        while (page := await parts.tree.list_page(listing, position)) is not None:
            for k, fields in enumerate(RECORD.iter_unpack(page.records)):
                found.append(f"{page.first + k:020d}.{page.extensions[fields[5]].decode()}")
            position = page.position + len(page.records) // RECORD_SIZE
        return found
    while batch := await listing.read(position):
        found += [each.name.decode() for each in batch]
        assert [each.next for each in batch] == sorted(each.next for each in batch)
        position = batch[-1].next
    return found


def test_a_shuffled_file_tells_its_place(store: FaultyStore, tmp_path: Path) -> None:
    """What is opened in a shuffled directory carries the order and the place, so that the next can be fetched."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            directory = await view(parts, "set@shuffle=3")
            names = await entries(parts, directory)
            numbers = [0, 1, 10, 11, 12]
            for place, name in enumerate(names):
                found = parts.tree.peek_name(directory, name)
                assert found is not None
                opened = parts.tree.peek(found.inode)
                assert opened is not None
                for each in (found, opened):
                    assert each.order is not None
                    assert each.order.place == place
                    assert each.order.order.number_at(place) == each.number == numbers[SeededOrder(5, 3)[place]]
                    assert each.order.order.place_of(each.number) == place
                assert await parts.read(found.inode) == b"%d" % found.number
            assert (await parts.tree.locate(found.inode)).order is None

    trio.run(main)


def test_seeds_share_inodes(store: FaultyStore, tmp_path: Path) -> None:
    """A datapoint has one inode in all orders of a revision, so that the kernel keeps its bytes once."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            inodes = []
            for name in ("set@shuffle=1", "set@shuffle=2", "set@3@shuffle=1", "set@3"):
                directory = await view(parts, name)
                found = [await parts.tree.lookup(directory, each) for each in await entries(parts, directory)]
                inodes.append(sorted(each.inode for each in found if each is not None))
            assert inodes[0] == inodes[1] == inodes[2] == inodes[3]
            assert len(set(inodes[0])) == 5

    trio.run(main)


def test_plain_files_have_no_order(store: FaultyStore, tmp_path: Path) -> None:
    """What is found in a dataset's own directory, or by its original path, has no place in an order."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            top = await view(parts, "named@names")
            below = await parts.tree.lookup(top, "a")
            assert below is not None
            assert below.is_directory
            assert await parts.tree.lookup(below.inode, "x.jpg") is not None
            located: Located | None = parts.tree.peek_name(below.inode, "x.jpg")
            assert located is not None
            assert (located.order, located.pin, located.number) == (None, None, 0)
            assert located.inode == await parts.inode("named", f"{0:020d}.jpg")

    trio.run(main)


def test_a_pinned_datapoint_is_peeked_where_it_lies_now(store: FaultyStore, tmp_path: Path) -> None:
    """A pinned datapoint that was only moved is read out of the newest datarange; one written anew, where it was."""

    async def main() -> None:
        datasets.add(store.inner, "runs", 0, [b"a"])
        datasets.add(store.inner, "runs", 1, [b"b"])
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(parts.invalidator.prepare)
            directory = await view(parts, "runs@3")
            found = await parts.tree.lookup(directory, f"{1:020d}.bin")
            assert found is not None
            aggregate(store.inner, "runs")
            await parts.catalog.refresh_now("runs")
            located = await parts.tree.locate(found.inode)
            assert (located.datarange.first, located.datarange.last) == (0, 1)
            assert parts.tree.peek(found.inode) == located
            replace(store.inner, "runs", 0, [b"new", b"newer"])
            await parts.catalog.refresh_now("runs")
            located = await parts.tree.locate(found.inode)
            assert (located.record.true_size, located.snapshot.revision) == (1, 3)
            assert await parts.read(found.inode) == b"b"

    trio.run(main)


def test_names_in_an_outage(store: FaultyStore, tmp_path: Path) -> None:
    """An index that can't be built for an outage says so, and is built afterwards; one that was built goes on."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            assert await parts.tree.lookup(ROOT, "named") is not None
            store.plan = during(Fault.FAIL, "get")
            with pytest.raises((StoreUnavailable, NotReady)):
                await parts.tree.lookup(ROOT, "named@names")
            store.plan = healthy
            top = await view(parts, "named@names")
            assert await entries(parts, top) == ["a", "b"]
            store.plan = during(Fault.FAIL, "get", "list")
            assert await entries(parts, top) == ["a", "b"]

    trio.run(main)


def test_an_index_that_takes_too_long(store: FaultyStore, tmp_path: Path) -> None:
    """Who waits for an index hears in time that it is being built; that goes on, and the next one finds it."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            assert await parts.tree.lookup(ROOT, "named") is not None
            store.plan = during(Fault.HANG, "get")
            with trio.fail_after(1.0), pytest.raises(NotReady, match="is being built"):
                await parts.tree.lookup(ROOT, "named@names")
            store.plan = healthy
            store.release()
            assert await entries(parts, await view(parts, "named@names")) == ["a", "b"]

    trio.run(main)
