"""The parts of one mount, put together: who knows whom.

**Concurrency:** made in the mount's trio thread, before there is a mount.
"""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import trio

from dasfs.cache.blocks import BlockCache
from dasfs.cache.catalog import Catalog
from dasfs.cache.directory import CacheDirectory
from dasfs.cache.index import IndexCache
from dasfs.cache.names_keeper import NamesKeeper
from dasfs.cache.remote import Remote
from dasfs.fuse.announcements import Announcements
from dasfs.fuse.announcing import Announcer
from dasfs.fuse.content import Content
from dasfs.fuse.door import Admission, Door, SocketPlan, open_door, plan_socket
from dasfs.fuse.mount_options import MountOptions
from dasfs.fuse.operations import Operations
from dasfs.fuse.recorder import Recorder, recording
from dasfs.fuse.status import Status
from dasfs.fuse.top import open_to_observers
from dasfs.fuse.tree import Tree
from dasfs.loop import LoopCaller
from dasfs.metrics import RequestCounts
from dasfs.stores.base import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """What a mount is made of."""

    catalog: Catalog
    names: NamesKeeper
    tree: Tree
    content: Content
    status: Status
    operations: Operations
    door: Door
    socket: SocketPlan

    @contextmanager
    def opened(self, options: MountOptions) -> Iterator[None]:
        """Answer at the mount's socket and port, and write its access log, until the block ends."""
        with (
            closing(self.names),
            open_door(self.door, self.status, self.socket, options.metrics),
            recording(self.status.recorder, options.access_log),
        ):
            yield


def assemble(
    nursery: trio.Nursery,
    store: Store,
    directory: CacheDirectory,
    mountpoint: str,
    options: MountOptions,
    index: IndexCache,
    blocks: BlockCache,
) -> Parts:
    """Return the parts of a mount, none of which does anything yet."""
    remote = Remote(deadline_s=options.deadline_s)
    catalog = Catalog(nursery, store, index, remote, refresh_s=options.refresh_s, only=options.dataset)
    names = NamesKeeper(nursery, catalog, index, directory.path("names"))
    tree = Tree(catalog, index, mounted_at=int(time.time()), only=options.dataset, names=names)
    content = Content(nursery, store, remote, tree, catalog, blocks, memory=options.memory // 4)
    recorder = Recorder(tree.place_of)
    requests = store.requests or RequestCounts()
    status = Status(store.url, mountpoint, options.shown(), catalog, blocks, requests, recorder=recorder)
    operations = Operations(tree, content, status, index, options.ownership)
    door = Door(status, operations.requests)
    announcements = Announcements(nursery, catalog, index, blocks, only=options.dataset)
    content.note, status.announcements = announcements.note, announcements
    operations.follow = announcements.follow_snapshot
    operations.announcer = Announcer(announcements, LoopCaller(nursery, timeout_s=options.deadline_s))
    operations.announcer.open(door)
    open_to_observers(door, status)
    plan = plan_socket(options.control, directory.root, mountpoint, _admission(options))
    return Parts(catalog, names, tree, content, status, operations, door, plan)


def _admission(options: MountOptions) -> Admission:
    owner = options.ownership
    return Admission(os.geteuid(), options.allow_other, owner.uid, owner.gid, 0o555 & ~owner.umask)
