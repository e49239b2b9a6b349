"""FUSE requests to calls of the tree and the content, and back. Translates, decides nothing.

The mount is read-only: whatever would change it is `EROFS`. Contents never change under a name, so the kernel
may keep entries, attributes and pages for long.

**Concurrency:** pyfuse3 calls the handlers as tasks of one trio thread. A handler that finds everything in
the caches returns without a checkpoint; every other one is bound by the mount's deadline. No exception but
`FUSEError` may leave a handler, since pyfuse3 ends the mount on any other: `_translated` stands before each.
"""

import errno
import functools
import itertools
import logging
import os
import stat
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Concatenate, Final, NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio

from dasfs.cache.index import IndexCache
from dasfs.errors import DasfsError, NotFound, ObjectChanged
from dasfs.formats.manifest import RECORD, RECORD_SIZE
from dasfs.fuse.complaints import Complaints
from dasfs.fuse.content import Content, OpenFile
from dasfs.fuse.inodes import METRICS_FILE, OWN_FILES, ROOT, TOP_FILE, Inode
from dasfs.fuse.metrics import Requests, render_metrics
from dasfs.fuse.status import Status
from dasfs.fuse.top import render_top
from dasfs.fuse.tree import Attributes, ListedPage, Listing, Tree, datapoint_attributes
from dasfs.fuse.xattrs import XATTR_PREFIX, describe

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Names and attributes never change; what is deleted is invalidated when the mount learns of it.
LONG_S: Final = 3600.0
# "Not there" may become "there" with the next commit.
NEGATIVE_S: Final = 1.0
BLOCK_SIZE: Final = 512  # of st_blocks, fixed by POSIX
# The handlers that are measured, in the order in which they stand below.
_MEASURED: Final[list[str]] = []
PREFERRED_IO: Final = 128 << 10  # st_blksize: what cp and cat read at once, and the largest FUSE request by default


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who owns what the mount shows, and which permissions are taken away."""

    uid: int
    gid: int
    umask: int


@dataclass(slots=True)
class _RootListing:
    """An open root directory: names as they were when it was opened."""

    names: list[str]


class _Text:
    """An open file of the mount's own, read at once when it was opened."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def _translated(
    handler: "Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]]",
) -> "Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]]":
    """Let only `FUSEError` out of a handler, and measure how long it takes, which costs 0.3 µs."""
    place = len(_MEASURED)
    _MEASURED.append(handler.__name__)

    @functools.wraps(handler)
    async def guarded(self: "Operations", /, *args: P.args, **kwargs: P.kwargs) -> T:
        begun = perf_counter()
        try:
            return await handler(self, *args, **kwargs)
        except pyfuse3.FUSEError as error:
            self.requests.fail(place, error.errno)
            raise
        except DasfsError as error:
            if error.errno_value not in (errno.ENOENT, errno.ESTALE):
                self.complaints.add(handler.__name__, error)
            self.requests.fail(place, error.errno_value)
            raise pyfuse3.FUSEError(error.errno_value) from error
        except trio.TooSlowError as error:
            self.complaints.add(handler.__name__, "not done within the deadline")
            self.requests.fail(place, errno.ETIMEDOUT)
            raise pyfuse3.FUSEError(errno.ETIMEDOUT) from error
        except Exception as error:
            log.exception("unexpected error in %s", handler.__name__)
            self.requests.fail(place, errno.EIO)
            raise pyfuse3.FUSEError(errno.EIO) from error
        finally:
            self._observe[place](perf_counter() - begun)

    return guarded


class Operations(pyfuse3.Operations):
    """The handlers of one mount. `deadline_s` bounds each that has to wait."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(
        self,
        tree: Tree,
        content: Content,
        status: Status,
        index: IndexCache,
        ownership: Ownership,
        *,
        deadline_s: float,
    ) -> None:
        super().__init__()
        self.complaints = Complaints(log)
        self.requests = Requests(_MEASURED)
        self._observe = [each.observe for each in self.requests.latencies]
        self._tree = tree
        self._content = content
        self._status = status
        self._recorder = status.recorder
        # The thread and the user that opened a file: pyfuse3 does not tell who reads.
        self._openers: dict[int, tuple[int, int]] = {}
        self._index = index
        self._ownership = ownership
        self._deadline_s = deadline_s
        self._file_mode = stat.S_IFREG | (0o444 & ~ownership.umask)
        self._directory_mode = stat.S_IFDIR | (0o555 & ~ownership.umask)
        self._handles: dict[int, OpenFile | _Text] = {}
        self._directories: dict[int, Listing | _RootListing] = {}
        self._next_handle = itertools.count(1)

    # Names and attributes

    @_translated
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        text = os.fsdecode(name)
        located = self._tree.peek_name(parent_inode, text)
        if located is not None:
            return self._entry(datapoint_attributes(located))
        with trio.fail_after(self._deadline_s):
            found = await self._tree.lookup(parent_inode, text)
        return _absent() if found is None else self._entry(found)

    @_translated
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        located = self._tree.peek(inode)
        if located is not None:
            return self._entry(datapoint_attributes(located))
        if inode in OWN_FILES:
            return self._entry(self._tree.own_attributes(Inode(inode)))
        try:
            with trio.fail_after(self._deadline_s):
                return self._entry(await self._tree.attributes(inode))
        except (NotFound, ObjectChanged):
            opened = self._content.opened(inode)
            if opened is None:
                raise
            return self._entry(datapoint_attributes(opened))

    @_translated
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        totals = self._status.totals()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = -(-totals.data_size // 4096)
        data.f_bfree = data.f_bavail = 0
        data.f_files = totals.datapoints
        data.f_ffree = data.f_favail = 0
        data.f_namemax = 255
        return data

    @_translated
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        return list(await self._xattrs(inode))

    @_translated
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        if not name.startswith(b"user."):
            # Not ENODATA: `ls -l` asks for security labels of each file until it hears that there are none here.
            raise pyfuse3.FUSEError(errno.EOPNOTSUPP)
        if not name.startswith(XATTR_PREFIX):
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        value = (await self._xattrs(inode)).get(name)
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value

    # Files

    @_translated
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND):
            raise pyfuse3.FUSEError(errno.EROFS)
        handle = next(self._next_handle)
        if inode in OWN_FILES:
            self._handles[handle] = _Text(self._own_content(inode))
            # Its size is not known before it is read, so that reads go on to the end whatever stat said.
            return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(handle), direct_io=True)
        located = self._tree.peek(inode)
        if located is None:
            with trio.fail_after(self._deadline_s):
                located = await self._tree.locate(inode)
        self._handles[handle] = self._content.open(located)
        self._openers[handle] = (ctx.pid, ctx.uid)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(handle), keep_cache=True)

    @_translated
    async def read(self, fh: int, off: int, size: int) -> bytes:
        file = self._handles[fh]
        if isinstance(file, _Text):
            return file.data[off : off + size]
        begun = perf_counter()
        data = self._content.read_cached(file, off, size)
        if data is None:
            with self._recorder.wait(*self._openers[fh], file.located.inode, off, size) as wait:
                with trio.fail_after(self._deadline_s):
                    data = await self._content.read(file, off, size)
                wait.size = len(data)
        elif self._recorder.on:
            seconds = perf_counter() - begun
            self._recorder.read(*self._openers[fh], file.located.inode, off, len(data), seconds, hit=True)
        self._status.count_read(len(data))
        return data

    @_translated
    async def release(self, fh: int) -> None:
        file = self._handles.pop(fh)
        if isinstance(file, OpenFile):
            self._content.close(file)
            del self._openers[fh]

    @_translated
    async def flush(self, fh: int) -> None:
        # Answered once like this, the kernel never asks again: one request less for every close.
        raise pyfuse3.FUSEError(errno.ENOSYS)

    # Directories

    @_translated
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        with trio.fail_after(self._deadline_s):
            listing = await self._tree.open_listing(inode)
            opened = listing if listing is not None else _RootListing(await self._root_names(inode))
        handle = next(self._next_handle)
        self._directories[handle] = opened
        return handle

    @_translated
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._directories[fh]
        with trio.fail_after(self._deadline_s):
            if isinstance(listing, Listing):
                await self._list_datapoints(listing, start_id, token)
            else:
                await self._list_root(listing, start_id, token)

    @_translated
    async def releasedir(self, fh: int) -> None:
        del self._directories[fh]

    async def _root_names(self, inode: int) -> list[str]:
        return await self._tree.dataset_names() if inode == ROOT else []

    async def _list_root(self, listing: _RootListing, start: int, token: pyfuse3.ReaddirToken) -> None:
        for place in range(start, len(listing.names)):
            name = listing.names[place]
            found = await self._tree.dataset_attributes(name)
            if found is None:
                continue  # it was deleted since the directory was opened
            if not pyfuse3.readdir_reply(token, os.fsencode(name), self._entry(found), place + 1):
                return

    async def _list_datapoints(self, listing: Listing, start: int, token: pyfuse3.ReaddirToken) -> None:
        position = start
        while True:
            try:
                page = await self._tree.list_page(listing, position)
            except DasfsError:
                if position > start:
                    return  # what was found goes out first; the kernel asks again and gets the error then
                raise
            if page is None:
                return
            listed = self._list_page(page, token)
            position = page.position + listed
            if listed < len(page.records) // RECORD_SIZE:
                return

    def _list_page(self, page: ListedPage, token: pyfuse3.ReaddirToken) -> int:
        """Hand a page's entries to the kernel; return how many it took.

        One object serves them all: 4 µs an entry.
        """
        entry = self._blank(self._file_mode, links=1)
        if not page.live:
            entry.entry_timeout = entry.attr_timeout = 0
        reply = pyfuse3.readdir_reply
        number, inode, position = page.first, page.inode, page.position
        for k, (_, _, size, mtime, _, extension, _) in enumerate(RECORD.iter_unpack(page.records)):
            entry.st_ino = pyfuse3.InodeT(inode + k)
            entry.st_size = size
            entry.st_blocks = -(-size // BLOCK_SIZE)
            entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = mtime * 1_000_000_000
            if not reply(token, b"%020d.%b" % (number + k, page.extensions[extension]), entry, position + k + 1):
                return k
        return len(page.records) // RECORD_SIZE

    # Helpers

    def _own_content(self, inode: int) -> bytes:
        if inode == METRICS_FILE:
            return render_metrics(self._status, self.requests, process=False)
        if inode == TOP_FILE:
            return render_top(self._status)
        return self._status.render()

    async def _xattrs(self, inode: int) -> dict[bytes, bytes]:
        with trio.fail_after(self._deadline_s):
            return await describe(self._tree, self._status, self._index, inode)

    def _blank(self, mode: int, *, links: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.entry_timeout = entry.attr_timeout = LONG_S
        entry.st_mode = pyfuse3.ModeT(mode)
        entry.st_nlink = links
        entry.st_uid = self._ownership.uid
        entry.st_gid = self._ownership.gid
        entry.st_blksize = PREFERRED_IO
        return entry

    def _entry(self, found: Attributes) -> pyfuse3.EntryAttributes:
        entry = self._blank(self._directory_mode if found.is_directory else self._file_mode, links=found.links)
        entry.st_ino = pyfuse3.InodeT(found.inode)
        is_own = found.inode in OWN_FILES
        size = len(self._own_content(found.inode)) if is_own else found.size
        entry.st_size = size
        entry.st_blocks = -(-size // BLOCK_SIZE)
        entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = found.mtime * 1_000_000_000
        if found.is_directory or is_own:
            # A directory's mtime and link count change with every commit, and what is measured all the time.
            entry.attr_timeout = entry.entry_timeout = NEGATIVE_S
        return entry


async def _refuse(*_: object) -> NoReturn:
    raise pyfuse3.FUSEError(errno.EROFS)


# The mount is `ro`, so the kernel refuses these itself, unless root remounts it.
for _change in (
    *("create", "link", "mkdir", "mknod", "removexattr", "rename"),
    *("rmdir", "setattr", "setxattr", "symlink", "unlink", "write"),
):
    setattr(Operations, _change, _refuse)


def _absent() -> pyfuse3.EntryAttributes:
    """Return the entry that lets the kernel remember for a moment that a name is not there."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = NEGATIVE_S
    return entry
