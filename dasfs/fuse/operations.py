"""Requests of the kernel to calls of the tree and the content, and back. Translates, decides nothing.

The mount is read-only: whatever would change it is `EROFS`. Contents never change under a name and an inode stands for
one content, so that a file needs no `open`: the kernel is told that there is none, and reads by inode.

**Concurrency:** everything runs in the trio thread. `lookup_now` and `read_now` answer from the caches and never wait;
the other handlers may, and the session bounds each.
"""

import errno
import itertools
import logging
import os
from collections.abc import Callable
from time import perf_counter

import trio

from dasfs.cache.index import IndexCache
from dasfs.errors import DasfsError, InvalidInput
from dasfs.formats.manifest import RECORD_SIZE
from dasfs.fuse.announcing import XATTR as ANNOUNCING_XATTR
from dasfs.fuse.announcing import Announcer
from dasfs.fuse.attributes import ABSENT, Ownership, Packer
from dasfs.fuse.complaints import Complaints
from dasfs.fuse.content import Content
from dasfs.fuse.inodes import CONTROL_DIRECTORY, ROOT
from dasfs.fuse.metrics import Requests, render_metrics
from dasfs.fuse.nodes import Entries, Listing, datapoint_attributes
from dasfs.fuse.order import SnapshotOrder
from dasfs.fuse.own_files import OwnFiles
from dasfs.fuse.protocol import (
    BATCH_FORGET,
    FORGET_ONE,
    OPENED,
    READ,
    RELEASE,
    STATFS,
    XATTR,
    FuseError,
    Opcode,
    Request,
    xattr_answer,
)
from dasfs.fuse.session import Payload, Waiting
from dasfs.fuse.status import Status
from dasfs.fuse.top import render_top
from dasfs.fuse.tree import Tree
from dasfs.fuse.xattrs import XATTR_PREFIX, describe

log = logging.getLogger(__name__)


class Operations:
    """The handlers of one mount: a `FileSystem` for a session."""

    def __init__(self, tree: Tree, content: Content, status: Status, index: IndexCache, ownership: Ownership) -> None:
        self.complaints = Complaints(log)
        self.requests = Requests()
        self.observe = self.requests.observe
        self.announcer: Announcer | None = None
        # Is told of each order in which somebody opens files.
        self.follow: Callable[[SnapshotOrder], None] | None = None
        self._tree = tree
        self._content = content
        self._status = status
        self._index = index
        self._recorder = status.recorder
        self._packer = Packer(ownership)
        self._own = OwnFiles(
            {
                "status.json": status.render,
                "metrics": lambda: render_metrics(status, self.requests, process=False),
                "top.json": lambda: render_top(status),
            }
        )
        self._directories: dict[int, Listing | Entries] = {}
        self._next_handle = itertools.count(1)
        self._handlers: dict[int, Waiting] = {
            Opcode.LOOKUP: self.lookup,
            Opcode.GETATTR: self.getattr,
            Opcode.READ: self.read,
            Opcode.STATFS: self.statfs,
            Opcode.GETXATTR: self.getxattr,
            Opcode.LISTXATTR: self.listxattr,
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.READDIRPLUS: self.readdir,
            Opcode.RELEASEDIR: self.releasedir,
        }

    # What a session asks for

    def lookup_now(self, parent: int, name: bytes) -> bytes | None:
        located = self._tree.peek_name(parent, os.fsdecode(name))
        if located is None:
            return None
        record = located.record
        if located.name_kept_s is None:
            return self._packer.file_entry(located.inode, record.true_size, record.mtime)
        if located.order is not None and self.follow is not None:
            self.follow(located.order.order)
        return self._packer.entry(datapoint_attributes(located))

    def read_now(self, inode: int, offset: int, size: int, uid: int, thread: int) -> Payload | None:
        begun = perf_counter() if self._recorder.on else 0.0
        file = self._content.find(inode)
        if file is None:
            located = self._tree.peek(inode)
            if located is None:
                return None
            file = self._content.open(located)
        data = self._content.read_cached(file, offset, size)
        if data is not None:
            self._status.count_read(len(data))
            if self._recorder.on:
                self._recorder.read(thread, uid, inode, offset, len(data), perf_counter() - begun, hit=True)
        return data

    def handler(self, opcode: int) -> Waiting | None:
        return self._handlers.get(opcode)

    def explain(self, request: Request, error: Exception) -> int:
        what = Opcode(request.opcode).name.lower()
        if isinstance(error, DasfsError):
            if error.errno_value not in (errno.ENOENT, errno.ESTALE):
                self.complaints.add(what, error)
            return error.errno_value
        if isinstance(error, trio.TooSlowError):
            self.complaints.add(what, "not done within the deadline")
            return errno.ETIMEDOUT
        log.error("unexpected error in %s", what, exc_info=error)
        return errno.EIO

    def forget(self, request: Request) -> None:
        if request.opcode == Opcode.FORGET:
            self._own.forget(request.inode)
        elif request.opcode == Opcode.BATCH_FORGET:
            for inode, _ in FORGET_ONE.iter_unpack(request.body[BATCH_FORGET.size :]):
                self._own.forget(inode)

    # Names and attributes

    async def lookup(self, request: Request) -> bytes:
        name = os.fsdecode(request.body[:-1])
        if request.inode == CONTROL_DIRECTORY:
            made = self._own.look_up(name)
            # Made anew each time, so the kernel must not remember its name.
            if made is None:
                return ABSENT
            return self._packer.file_entry(*made, self._tree.mounted_at, kept_s=0, name_kept_s=0)
        found = await self._tree.lookup(request.inode, name)
        return ABSENT if found is None else self._packer.entry(found)

    async def getattr(self, request: Request) -> bytes:
        own = self._own.content(request.inode)
        if own is not None:
            return self._packer.own_attributes(request.inode, len(own), self._tree.mounted_at)
        return self._packer.attributes(await self._tree.attributes(request.inode))

    async def statfs(self, _request: Request) -> bytes:
        totals = self._status.totals()
        return STATFS.pack(-(-totals.data_size // 4096), 0, 0, totals.datapoints, 0, 4096, 255, 4096, 0)

    async def listxattr(self, request: Request) -> bytes:
        wanted, _ = XATTR.unpack_from(request.body)
        names = await describe(self._tree, self._status, self._index, request.inode)
        return xattr_answer(wanted, b"".join(name + b"\0" for name in names))

    async def getxattr(self, request: Request) -> bytes:
        wanted, _ = XATTR.unpack_from(request.body)
        name = request.body[XATTR.size : -1]
        if not name.startswith(b"user."):
            # Not ENODATA: `ls -l` asks for security labels of each file until it hears that there are none here.
            raise FuseError(errno.EOPNOTSUPP)
        if not name.startswith(XATTR_PREFIX):
            raise FuseError(errno.ENODATA)
        if name.startswith(ANNOUNCING_XATTR):
            value = await self._announce(request.inode, name)
        else:
            value = (await describe(self._tree, self._status, self._index, request.inode)).get(name)
        if value is None:
            raise FuseError(errno.ENODATA)
        return xattr_answer(wanted, value)

    async def _announce(self, inode: int, name: bytes) -> bytes | None:
        dataset = self._tree.dataset_of(inode)
        if self.announcer is None or (dataset is None and inode != ROOT):
            return None
        return await self.announcer.attribute(dataset, name)

    # Files

    async def read(self, request: Request) -> Payload:
        _, offset, size, *_ = READ.unpack_from(request.body)
        own = self._own.content(request.inode)
        if own is not None:
            return own[offset : offset + size]
        with self._recorder.wait(request.pid, request.uid, request.inode, offset, size) as wait:
            file = self._content.find(request.inode) or self._content.open(await self._tree.locate(request.inode))
            data = await self._content.read(file, offset, size)
            wait.size = len(data)
        self._status.count_read(len(data))
        return data

    # Directories

    async def opendir(self, request: Request) -> bytes:
        opened = await self._tree.open_listing(request.inode)
        handle = next(self._next_handle)
        self._directories[handle] = opened
        return OPENED.pack(handle, 0, 0)

    async def readdir(self, request: Request) -> bytes:
        """Answer READDIR and READDIRPLUS, which wants each entry's attributes too."""
        handle, position, room, *_ = READ.unpack_from(request.body)
        listing = self._directories[handle]
        attributes = request.opcode == Opcode.READDIRPLUS
        if isinstance(listing, Listing):
            return await self._list_datapoints(listing, position, room, attributes=attributes)
        return await self._list_entries(listing, position, room, attributes=attributes)

    async def releasedir(self, request: Request) -> bytes:
        handle, *_ = RELEASE.unpack_from(request.body)
        del self._directories[handle]
        return b""

    async def _list_entries(self, listing: Entries, position: int, room: int, *, attributes: bool) -> bytes:
        parts: list[bytes] = []
        while True:
            try:
                entries = await listing.read(position)
            except DasfsError:
                if parts:
                    break  # what was found goes out first; the kernel asks again and gets the error then
                raise
            if not entries:
                break
            for each in entries:
                packed = self._packer.listed(each, attributes=attributes)
                if len(packed) > room:
                    return b"".join(parts)
                parts.append(packed)
                position, room = each.next, room - len(packed)
        return b"".join(parts)

    async def _list_datapoints(self, listing: Listing, position: int, room: int, *, attributes: bool) -> bytes:
        parts: list[bytes] = []
        while True:
            try:
                page = await self._tree.list_page(listing, position)
            except DasfsError:
                if parts:
                    break  # what was found goes out first; the kernel asks again and gets the error then
                raise
            if page is None:
                break
            entries, count = self._packer.page(page, room, attributes=attributes)
            if count == 0 and not parts:
                raise InvalidInput("the kernel has no room for one name")
            parts.append(entries)
            position, room = page.position + count, room - len(entries)
            if count < len(page.records) // RECORD_SIZE:
                break
        return b"".join(parts)
