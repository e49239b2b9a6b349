"""What a mount looks like, without a kernel: names, attributes, listings."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dasfs.cache.pages import PAGE_RECORDS
from dasfs.dataset.dataset import Dataset
from dasfs.errors import Corrupt, DasfsError, NotFound, ObjectChanged, StoreUnavailable
from dasfs.formats.manifest import RECORD, RECORD_SIZE
from dasfs.fuse.deleted import MAX_REMEMBERED
from dasfs.fuse.inodes import CONTROL_DIRECTORY, ROOT
from dasfs.fuse.tree import Entries, Listing
from dasfs.names import MAX_NUMBER
from dasfs.stores import open_store
from tests import datasets
from tests.datasets import MTIME
from tests.faulty import Fault, FaultyStore, during, healthy
from tests.parts import Parts, aggregate, opened_parts, replace


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyStore]:
    """A store with a dataset that has a gap, which can be made to fail."""
    with open_store(f"file://{tmp_path}/store") as inner:
        inner.create()
        datasets.add(inner, "set", 0, [b"a", b"bb", b""])
        datasets.add(inner, "set", 10, [b"c" * 5000], extension="tar.gz")
        faulty = FaultyStore(inner)
        yield faulty
        faulty.release()


def name(number: int, extension: str = "bin") -> str:
    return f"{number:020d}.{extension}"


async def directory(parts: Parts, dataset: str = "set") -> int:
    found = await parts.tree.lookup(ROOT, dataset)
    assert found is not None
    return found.inode


async def pages(parts: Parts, listing: Listing, position: int = 0) -> list[tuple[str, int, int]]:
    """Return name, inode and size of everything that a listing holds from a position on."""
    found: list[tuple[str, int, int]] = []
    while (page := await parts.tree.list_page(listing, position)) is not None:
        assert page.position == position
        for k, (_, _, size, _, _, extension, _) in enumerate(RECORD.iter_unpack(page.records)):
            found.append((name(page.first + k, page.extensions[extension].decode()), page.inode + k, size))
        position += len(page.records) // RECORD_SIZE
        assert len(found) < 100_000
    return found


async def names_of(listing: Listing | Entries) -> list[bytes]:
    """Return the names that a directory of other things than datapoints lists, up to its first end."""
    assert not isinstance(listing, Listing)
    return [entry.name for entry in await listing.read(0)]


async def listed(parts: Parts, dataset: str = "set") -> list[tuple[str, int, int]]:
    listing = await parts.tree.open_listing(await directory(parts, dataset))
    assert isinstance(listing, Listing)
    return await pages(parts, listing)


def test_datapoints_are_found_by_their_names(store: FaultyStore, tmp_path: Path) -> None:
    """A datapoint's name leads to its size and time; its inode leads to the same, and to where it lies."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            found = await parts.tree.lookup(await directory(parts), name(1))
            assert found is not None
            assert (found.size, found.mtime, found.is_directory, found.links) == (2, MTIME, False, 1)
            assert await parts.tree.attributes(found.inode) == found
            located = await parts.tree.locate(found.inode)
            assert (located.number, located.name, located.record.true_size) == (1, name(1), 2)

    trio.run(main)


MISSING = [
    *(name(3), name(9), name(11), name(MAX_NUMBER), name(1, "jpg"), name(10, "tar"), name(10, "gz")),
    *("1.bin", "", ".", "9" * 20 + ".bin", name(1) + "\n", name(1).rstrip("n"), "x" * 255),
]


@pytest.mark.parametrize("missing", MISSING)
def test_what_is_not_there_is_none(store: FaultyStore, tmp_path: Path, missing: str) -> None:
    """Gaps, other extensions, and names that no datapoint has, are None: neither errors nor something near."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            inode = await directory(parts)
            assert await parts.tree.lookup(inode, missing) is None
            assert parts.tree.peek_name(inode, missing) is None

    trio.run(main)


def test_what_is_in_memory_needs_no_wait(store: FaultyStore, tmp_path: Path) -> None:
    """`peek` and `peek_name` know nothing at first, and what the waiting methods know after those were asked."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            inode = await directory(parts)
            assert parts.tree.peek_name(inode, name(1)) is None
            found = await parts.tree.lookup(inode, name(1))
            assert found is not None
            peeked = parts.tree.peek_name(inode, name(1))
            assert peeked is not None
            assert peeked == parts.tree.peek(found.inode) == await parts.tree.locate(found.inode)
            assert parts.tree.peek(inode) is parts.tree.peek(ROOT) is parts.tree.peek(999) is None

    trio.run(main)


def test_a_listing_is_whole_and_in_order(store: FaultyStore, tmp_path: Path) -> None:
    """A listing has each datapoint once, in order, with the inode and size that a lookup gives, from any position."""

    async def main() -> None:
        datasets.add(store.inner, "set", 11, [b"x" * (k % 7) for k in range(2 * PAGE_RECORDS + 5)])
        async with opened_parts(store, tmp_path) as parts:
            found = await listed(parts)
            numbers = [*range(3), *range(10, 16 + 2 * PAGE_RECORDS)]
            assert [int(each[:20]) for each, _, _ in found] == numbers
            inode = await directory(parts)
            for place in (0, 2, 3, 4, PAGE_RECORDS + 4, -1):
                looked_up = await parts.tree.lookup(inode, found[place][0])
                assert looked_up is not None
                assert (looked_up.inode, looked_up.size) == found[place][1:]
            listing = await parts.tree.open_listing(inode)
            assert isinstance(listing, Listing)
            for position in (1, 3, 4, PAGE_RECORDS, PAGE_RECORDS + 4, PAGE_RECORDS + 5, len(found) - 1, len(found)):
                assert await pages(parts, listing, position) == found[position:]

    trio.run(main)


def test_the_mounts_own_directory(store: FaultyStore, tmp_path: Path) -> None:
    """`.dasfs` is found by name and listed nowhere; the root counts its directories."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            tree = parts.tree
            control = await tree.lookup(ROOT, ".dasfs")
            assert control is not None
            assert (control.inode, control.is_directory) == (CONTROL_DIRECTORY, True)
            assert await tree.lookup(CONTROL_DIRECTORY, "other") is None
            assert await names_of(await tree.open_listing(CONTROL_DIRECTORY)) == []
            assert await names_of(await tree.open_listing(ROOT)) == [b"set"]
            assert (await tree.attributes(ROOT)).links == 3
            assert await tree.dataset_names() == ["set"]

    trio.run(main)


def test_one_dataset_at_the_root(store: FaultyStore, tmp_path: Path) -> None:
    """With `only` the root is the dataset's directory: its datapoints are there, and no datasets."""

    async def main() -> None:
        async with opened_parts(store, tmp_path, only="set") as parts:
            found = await parts.tree.lookup(ROOT, name(1))
            assert found is not None
            assert found.size == 2
            assert await parts.tree.lookup(ROOT, "set") is None
            control = await parts.tree.lookup(ROOT, ".dasfs")
            assert control is not None
            listing = await parts.tree.open_listing(ROOT)
            assert isinstance(listing, Listing)
            assert len(await pages(parts, listing)) == 4
            assert (await parts.tree.attributes(ROOT)).is_directory

    trio.run(main)


@pytest.mark.parametrize("inode", [0, 4, 16, 99, 1 << 48, 2**63])
def test_an_unknown_inode_is_not_found(store: FaultyStore, tmp_path: Path, inode: int) -> None:
    """An inode that the mount never gave is `NotFound`, whatever is asked of it."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            with pytest.raises(NotFound):
                await parts.tree.locate(inode)
            with pytest.raises(NotFound):
                await parts.tree.attributes(inode)
            assert await parts.tree.lookup(inode, name(1)) is None
            assert await names_of(await parts.tree.open_listing(inode)) == []

    trio.run(main)


def test_a_missing_manifest_is_an_error_and_no_gap(store: FaultyStore, tmp_path: Path) -> None:
    """Datapoints whose manifest is missing are `Corrupt`; a listing gives all others before it raises that."""

    async def main() -> None:
        snapshot = Dataset(store.inner, "set").snapshot()
        store.inner.delete([Dataset(store.inner, "set").keys.manifest(snapshot.dataranges[0].id)])
        async with opened_parts(store, tmp_path) as parts:
            inode = await directory(parts)
            with pytest.raises(Corrupt):
                await parts.tree.lookup(inode, name(1))
            assert await parts.tree.lookup(inode, name(10, "tar.gz")) is not None
            assert await parts.tree.lookup(inode, name(5)) is None
            listing = await parts.tree.open_listing(inode)
            assert isinstance(listing, Listing)
            page = await parts.tree.list_page(listing, 0)
            assert page is not None
            assert (page.first, page.position) == (10, 3)
            with pytest.raises(Corrupt):
                await parts.tree.list_page(listing, 4)

    trio.run(main)


def test_a_listing_goes_on_in_what_replaced_its_manifests(store: FaultyStore, tmp_path: Path) -> None:
    """Where the manifests of its snapshot are gone, a listing reads the newest ones, and lists what it would have."""

    async def main() -> None:
        datasets.add(store.inner, "runs", 0, [b"1", b"22"])
        datasets.add(store.inner, "runs", 2, [b"333", b"4444"])
        datasets.add(store.inner, "runs", 4, [b"55555"])
        old = Dataset(store.inner, "runs").snapshot().dataranges
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(parts.invalidator.prepare)
            listing = await parts.tree.open_listing(await directory(parts, "runs"))
            assert isinstance(listing, Listing)
            aggregate(store.inner, "runs")
            store.inner.delete([Dataset(store.inner, "runs").keys.manifest(each.id) for each in old])
            found = await pages(parts, listing)
            assert found == await listed(parts, "runs")
            assert len(found) == 5

    trio.run(main)


def test_a_listing_in_an_outage_goes_on_afterwards(store: FaultyStore, tmp_path: Path) -> None:
    """A store that is away stops a listing with its error; nothing is left out when it is gone on with later."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            listing = await parts.tree.open_listing(await directory(parts))
            assert isinstance(listing, Listing)
            store.plan = during(Fault.FAIL, "get")
            with pytest.raises(StoreUnavailable):
                await parts.tree.list_page(listing, 0)
            store.plan = healthy
            assert len(await pages(parts, listing)) == 4

    trio.run(main)


async def follow(parts: Parts, dataset: str = "set") -> None:
    """Show the newest snapshot, as the catalog and the invalidator do it in a mount."""
    parts.catalog.subscribe(parts.invalidator.prepare)
    await parts.catalog.refresh_now(dataset)


def test_a_content_has_one_inode(store: FaultyStore, tmp_path: Path) -> None:
    """A number that is written anew gets another inode; the old one leads to what was, never to the new content."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            old = await parts.inode("set", name(1))
            replace(store.inner, "set", 0, [b"new", b"contents", b"here"])
            await follow(parts)
            new = await parts.inode("set", name(1))
            assert new != old
            assert (await parts.tree.attributes(new)).size == 8
            assert parts.tree.peek(old) is None
            assert (await parts.tree.locate(old)).record.true_size == (await parts.tree.attributes(old)).size == 2

    trio.run(main)


def test_aggregation_changes_no_inode(store: FaultyStore, tmp_path: Path) -> None:
    """When dataranges are aggregated, every inode leads to the same datapoint, and the kernel is told nothing."""

    async def main() -> None:
        datasets.add(store.inner, "runs", 0, [b"1", b"22"])
        datasets.add(store.inner, "runs", 2, [b"333"])
        async with opened_parts(store, tmp_path) as parts:
            before = await listed(parts, "runs")
            aggregate(store.inner, "runs")
            await follow(parts, "runs")
            assert await listed(parts, "runs") == before
            located = await parts.tree.locate(before[2][1])
            assert (located.datarange.first, located.datarange.last) == (0, 2)
            assert parts.told == []

    trio.run(main)


def test_an_old_listing_gives_old_inodes_that_must_not_be_kept(store: FaultyStore, tmp_path: Path) -> None:
    """A listing that was begun before a change goes on with what was then; what was replaced is marked as not live."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            before = await listed(parts)
            listing = await parts.tree.open_listing(await directory(parts))
            assert isinstance(listing, Listing)
            replace(store.inner, "set", 0, [b"new", b"contents", b"here"])
            await follow(parts)
            assert await pages(parts, listing) == before
            live = {
                page.first: page.live for page in [await parts.tree.list_page(listing, at) for at in (0, 3)] if page
            }
            assert live == {0: False, 10: True}
            assert (await listed(parts))[0] != before[0]

    trio.run(main)


def test_a_dataset_that_is_gone(store: FaultyStore, tmp_path: Path) -> None:
    """Of a deleted dataset nothing is found any more by name; its datapoints lead on, for who has them open."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            folder, inode = await directory(parts), await parts.inode("set", name(1))
            Dataset(store.inner, "set").delete()
            await follow(parts)
            assert await parts.tree.lookup(ROOT, "set") is None
            assert await parts.tree.lookup(folder, name(1)) is None
            assert (await parts.tree.locate(inode)).record.true_size == 2
            for question in (parts.tree.attributes(folder), parts.tree.open_listing(folder)):
                with pytest.raises(DasfsError):
                    await question

    trio.run(main)


def test_a_number_that_had_many_lives(store: FaultyStore, tmp_path: Path) -> None:
    """Each inode that a number ever had leads to its own content, until there were too many deletions: stale then."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            parts.catalog.subscribe(parts.invalidator.prepare)
            inodes = [await parts.inode("set", name(0))]
            for size in range(2, MAX_REMEMBERED + 3):
                replace(store.inner, "set", 0, [bytes(size), b"bb", b""])
                await parts.catalog.refresh_now("set")
                inodes.append(await parts.inode("set", name(0)))
            with pytest.raises(ObjectChanged):
                await parts.tree.locate(inodes[0])
            sizes = [(await parts.tree.attributes(inode)).size for inode in inodes[1:]]
            assert sizes == list(range(2, MAX_REMEMBERED + 3))

    trio.run(main)


def test_a_deleted_datapoint_whose_manifest_is_gone(store: FaultyStore, tmp_path: Path) -> None:
    """What was deleted and then collected before anybody read it is stale, which is no damage; an outage is told."""

    async def main() -> None:
        async with opened_parts(store, tmp_path) as parts:
            old = await parts.tree.locate(await parts.inode("set", name(1)))
            Dataset(store.inner, "set").delete_datarange(0, 2)
            await follow(parts)
            parts.catalog.rebuild()
            store.plan = during(Fault.FAIL)
            with pytest.raises(StoreUnavailable):
                await parts.tree.locate(old.inode)
            store.plan = healthy
            store.inner.delete([Dataset(store.inner, "set").keys.manifest(old.datarange.id)])
            with pytest.raises(ObjectChanged):
                await parts.tree.locate(old.inode)

    trio.run(main)
