"""The parts of a mount, put together as `dasfs mount` does, but without a kernel."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import trio

from dasfs.cache.blocks import BlockCache, BlockCacheOptions, open_block_cache
from dasfs.cache.catalog import Catalog
from dasfs.cache.directory import CacheDirectory
from dasfs.cache.index import IndexCache
from dasfs.cache.names_keeper import NamesKeeper
from dasfs.cache.remote import Remote
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot
from dasfs.dataset.writer import upload
from dasfs.formats.manifest import RECORD, Manifest, Segment
from dasfs.fuse.attributes import Ownership
from dasfs.fuse.content import Content
from dasfs.fuse.inodes import Inode
from dasfs.fuse.invalidation import Invalidator
from dasfs.fuse.operations import Operations
from dasfs.fuse.status import Status
from dasfs.fuse.tree import Tree
from dasfs.names import DatarangeId
from dasfs.stores import Store
from dasfs.stores.base import MIB
from tests import datasets
from tests.kernel import Kernel, served

PATIENCE_S = 20.0
END_OF_TAR = 1024


class Told:
    """A kernel that takes note of what it is told: inodes, and names with the inode of their directory."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def drop_name(self, directory: Inode, name: bytes) -> None:
        self.told.append((directory, name))

    def drop_inode(self, inode: Inode) -> None:
        self.told.append(inode)


@dataclass(frozen=True)
class Parts:
    """What a mount is made of."""

    store: Store
    index: IndexCache
    catalog: Catalog
    tree: Tree
    content: Content
    blocks: BlockCache
    invalidator: Invalidator
    operations: Operations
    # What the invalidator told the kernel.
    told: list[object]

    def served(self, *, deadline_s: float = PATIENCE_S) -> AbstractAsyncContextManager[Kernel]:
        """Let a session serve the mount, and hand out the kernel that asks it."""
        return served(self.operations, deadline_s=deadline_s)

    async def read(self, inode: int, offset: int = 0, size: int = 1 << 30) -> bytes:
        """Open and read a datapoint."""
        file = self.content.open(await self.tree.locate(inode))
        data = self.content.read_cached(file, offset, size)
        return await self.content.read(file, offset, size) if data is None else data

    async def inode(self, dataset: str, name: str) -> Inode:
        """Return the inode of a datapoint that is there."""
        directory = await self.tree.dataset_attributes(dataset)
        assert directory is not None
        found = await self.tree.lookup(directory.inode, name)
        assert found is not None
        return found.inode


@asynccontextmanager
async def opened_parts(
    store: Store,
    directory: Path,
    *,
    refresh_s: float = 3600.0,
    deadline_s: float = PATIENCE_S,
    only: str | None = None,
) -> AsyncIterator[Parts]:
    """Put a mount's parts together over `store`, with their caches below `directory`."""
    with CacheDirectory.open(str(directory / "cache")) as locked:
        index = IndexCache(locked.path("index.sqlite"))
        try:
            async with (
                open_block_cache(locked, store, BlockCacheOptions(64 * MIB, get_timeout_s=deadline_s)) as blocks,
                trio.open_nursery() as nursery,
            ):
                remote = Remote(deadline_s=deadline_s)
                catalog = Catalog(nursery, store, index, remote, refresh_s=refresh_s, only=only)
                names = NamesKeeper(nursery, catalog, index, locked.path("names"))
                tree = Tree(catalog, index, mounted_at=1_700_000_000, only=only, names=names)
                content = Content(nursery, store, remote, tree, catalog, blocks)
                status = Status(store.url, "/mnt", {}, catalog, blocks)
                operations = Operations(tree, content, status, index, Ownership(1, 2, 0o022))
                kernel = Told()
                invalidator = Invalidator(tree, content, catalog, index, kernel)
                with closing(names):
                    yield Parts(store, index, catalog, tree, content, blocks, invalidator, operations, kernel.told)
                nursery.cancel_scope.cancel()
        finally:
            index.close()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is no event of the test's
            await trio.sleep(0.005)


async def eventually(question: Callable[[], Awaitable[bool]]) -> None:
    """Return when what `question` answers is true."""
    with trio.fail_after(PATIENCE_S):
        while not await question():  # noqa: ASYNC110 - what is waited for is no event of the test's
            await trio.sleep(0.005)


def aggregate(store: Store, name: str) -> Snapshot:
    """Replace the dataranges of a dataset, which follow each other, by one, as aggregation does: segments only move."""
    dataset = Dataset(store, name)
    before = dataset.snapshot()
    first, last = before.dataranges[0].first, before.dataranges[-1].last
    merged = DatarangeId(first, last, before.last_counter + 1)
    tar, records, segments, extensions = b"", b"", [], ()
    for each in before.dataranges:
        manifest = dataset.load_manifest(each)
        assert extensions in ((), manifest.extensions)
        extensions = manifest.extensions
        for offset, *rest in RECORD.iter_unpack(manifest.records):
            records += RECORD.pack(offset + len(tar), *rest)
        segments += [
            Segment(s.origin, s.origin_offset, s.offset + len(tar), s.length, s.block_crcs) for s in manifest.segments
        ]
        tar += store.get(dataset.keys.tar(each.id))[:-END_OF_TAR]
    tar += bytes(END_OF_TAR)
    encoded = Manifest(name, merged, len(tar), extensions, records, None, tuple(segments)).encode()
    store.put(dataset.keys.manifest(merged), encoded)
    store.put(dataset.keys.tar(merged), tar)
    added = Datarange(merged, len(tar), len(encoded), before.data_size)
    change = Change(Operation.AGGREGATE, add=(added,), remove=tuple(each.id for each in before.dataranges))
    return dataset.log.commit(change, before)


def replace(store: Store, name: str, first: int, contents: list[bytes]) -> Snapshot:
    """Delete the datarange that begins at `first`, and write other contents under its numbers, in one commit."""
    dataset = Dataset(store, name)
    before = dataset.snapshot()
    old = before.find(first)
    assert old is not None
    with datasets.pack(name, first, contents) as packed:
        added = upload(store, dataset.keys, packed, before.last_counter + 1)
    return dataset.log.commit(Change(Operation.UPLOAD, add=(added,), remove=(old.id,)), before)
