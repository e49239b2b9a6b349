"""The bytes of datapoints: from the block cache, from the store on a miss, decoded if compressed.

Every byte that leaves here was checked: blocks against their CRC-32 by the block cache, decoded datapoints
against the CRC-32 of their true bytes. An open file stays readable while its dataset goes on: when aggregation has
replaced the object under it, reading goes on in the new one.

**Concurrency:** one trio thread. `read_cached` never waits and is the hot path; `read` waits for the store,
and its caller bounds the wait. Reading ahead happens in tasks of the mount's nursery.
"""

import logging
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import trio
from isal import isal_zlib

from dasfs.cache.blocks import BlockCache, CachedSegment, Data
from dasfs.cache.catalog import Catalog
from dasfs.cache.index import ManifestView
from dasfs.cache.remote import Remote, SingleFlight
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.errors import Corrupt, DasfsError, NotFound, ObjectChanged
from dasfs.formats.compression import MAX_COMPRESSIBLE, Codec, decompress
from dasfs.fuse.inodes import Inode
from dasfs.fuse.prefetch import ReadAhead
from dasfs.fuse.tree import MAX_MOVES, Located, Tree
from dasfs.names import DatarangeId, DatasetKeys
from dasfs.stores.base import Store

log = logging.getLogger(__name__)

# Whole datapoints that are kept for their next read: one of the largest that are ever compressed.
WHOLE_MEMORY: Final = MAX_COMPRESSIBLE
# Above this size decoding is worth a thread: zstd decodes it in about 0.2 ms, a hop costs 0.05 ms.
DECODE_INLINE: Final = 128 << 10
# Files at hand: those that so many readers read at the same time, and more.
MAX_FILES: Final = 4096
# Dataranges whose segments are at hand without asking the block cache.
MAX_PIECES_OF: Final = 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """The stretch `[start, end)` of a TAR object that is one segment."""

    start: int
    end: int
    segment: CachedSegment


class OpenFile:
    """A datapoint that is read. Its stored bytes are `[start, end)` of its TAR object.

    `base` is where its datarange starts in the `layout` of its snapshot; `ahead` follows the readers of its dataset.
    """

    __slots__ = ("ahead", "base", "end", "is_plain", "layout", "located", "pieces", "start")

    def __init__(self, located: Located, pieces: tuple[Piece, ...], layout: "Layout", ahead: ReadAhead) -> None:
        record = located.record
        self.located = located
        self.pieces = pieces
        self.layout = layout
        self.ahead = ahead
        self.base = layout.base(located.datarange)
        self.is_plain = record.codec is Codec.NONE
        self.start = record.content_offset
        self.end = record.content_offset + record.stored_size


class Layout:
    """Where the dataranges of one snapshot start when they are laid end to end, in bytes."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.starts = (0, *accumulate(datarange.tar_size for datarange in snapshot.dataranges))

    @property
    def total(self) -> int:
        return self.starts[-1]

    def base(self, datarange: Datarange) -> int:
        place = self.snapshot.place(datarange.id.first)
        assert place is not None
        return self.starts[place]

    def stretches(self, start: int, end: int) -> list[tuple[Datarange, int, int]]:
        """Return what `[start, end)` covers: dataranges with start and end in their TAR objects."""
        found = []
        for place in range(max(bisect_right(self.starts, start) - 1, 0), len(self.snapshot.dataranges)):
            base, datarange = self.starts[place], self.snapshot.dataranges[place]
            if base >= end:
                break
            found.append((datarange, max(start - base, 0), min(end - base, datarange.tar_size)))
        return found


class WholeDatapoints:
    """The datapoints that were lately read as a whole, in a bounded amount of memory."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._data: OrderedDict[Inode, bytes] = OrderedDict()

    def __contains__(self, inode: Inode) -> bool:
        return inode in self._data

    def get(self, inode: Inode) -> bytes | None:
        data = self._data.get(inode)
        if data is not None:
            self._data.move_to_end(inode)
        return data

    def put(self, inode: Inode, data: bytes) -> None:
        self.forget(inode)
        self._data[inode] = data
        self._size += len(data)
        while self._size > self._capacity and len(self._data) > 1:
            self.forget(next(iter(self._data)))

    def forget(self, inode: Inode) -> None:
        self._size -= len(self._data.pop(inode, b""))


class Content:
    """Opens and reads the datapoints of one mount."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: Store,
        remote: Remote,
        tree: Tree,
        catalog: Catalog,
        blocks: BlockCache,
        *,
        memory: int = WHOLE_MEMORY,
    ) -> None:
        self._nursery = nursery
        self._store = store
        self._remote = remote
        self._tree = tree
        self._catalog = catalog
        self._blocks = blocks
        self._layouts: dict[str, Layout] = {}
        self._ahead: dict[str, ReadAhead] = {}
        self._whole = WholeDatapoints(memory)
        self._pieces_of: OrderedDict[tuple[str, DatarangeId], tuple[Piece, ...]] = OrderedDict()
        self._flights: SingleFlight[Inode] = SingleFlight(nursery)
        self._files: dict[int, OpenFile] = {}
        # Is told of each datapoint that somebody begins to read: its dataset and number.
        self.note: Callable[[str, int], None] | None = None

    def find(self, inode: int) -> OpenFile | None:
        """Return a datapoint that was read lately. It is never outdated: an inode stands for one content."""
        return self._files.get(inode)

    def open(self, located: Located) -> OpenFile:
        """Return a datapoint to read from, and keep it for `find`. Reads nothing."""
        if len(self._files) >= MAX_FILES:
            self._files.clear()  # a few µs for each that is still read; keeping an order costs that at every read
        file = self._files[located.inode] = self._make_file(located)
        return file

    def _make_file(self, located: Located) -> OpenFile:
        layout = self._layouts.get(located.snapshot.dataset)
        if layout is None or layout.snapshot is not located.snapshot:
            layout = self._layouts[located.snapshot.dataset] = Layout(located.snapshot)
        dataset, record = located.snapshot.dataset, located.record
        start, end = record.content_offset, record.content_offset + record.stored_size
        ahead = self._ahead.get(dataset)
        if ahead is None:
            ahead = self._ahead[dataset] = ReadAhead()
        return OpenFile(located, self._pieces(located.snapshot, located.view, start, end), layout, ahead)

    def read_cached(self, file: OpenFile, offset: int, size: int) -> Data | None:
        """Return `size` bytes from `offset` (fewer at the end), or None where that needs waiting."""
        if offset == 0 and self.note is not None:
            self.note(file.located.snapshot.dataset, file.located.number)
        if not file.is_plain:
            if offset == 0:
                self._read_ahead(file, file.start, file.end)
            data = self._whole.get(file.located.inode)
            return None if data is None else data[offset : offset + size]
        start = file.start + offset
        end = start + size
        if end > file.end:
            end = file.end
            if start >= end:
                return b""
        self._read_ahead(file, start, end)
        piece = file.pieces[0]
        if end <= piece.end:
            return self._blocks.read_cached(piece.segment, start - piece.start, end - piece.start)
        return None

    async def read(self, file: OpenFile, offset: int, size: int) -> Data:
        """Return `size` bytes from `offset` (fewer at the end), from the store where they are not cached.

        Raises `Corrupt`, `StoreUnavailable`, and `ObjectChanged` when the datapoint is not what it was at
        `open`.
        """
        for _ in range(MAX_MOVES):
            located = file.located
            try:
                return await self._read(file, offset, size)
            except (NotFound, ObjectChanged) as error:
                if file.located is located:  # else another reader of this file moved it meanwhile
                    await self._move_on(file, error)
        return await self._read(file, offset, size)

    def forget(self, inode: Inode) -> None:
        """Drop what is kept of a datapoint that was deleted."""
        self._whole.forget(inode)

    async def _read(self, file: OpenFile, offset: int, size: int) -> Data:
        record, inode = file.located.record, file.located.inode
        if record.codec is Codec.NONE and inode not in self._whole:
            start = record.content_offset + offset
            end = min(start + size, record.content_offset + record.true_size)
            try:
                return await self._read_tar(file, start, end)
            except Corrupt as error:
                if record.stored_size > MAX_COMPRESSIBLE:
                    raise
                log.debug("a block of %s is damaged, the datapoint may be whole: %s", file.located.name, error)
        while (data := self._whole.get(inode)) is None:
            await self._flights.run(inode, lambda: self._load_whole(file))
        return data[offset : offset + size]

    async def _read_tar(self, file: OpenFile, start: int, end: int) -> Data:
        parts = []
        for piece in file.pieces:
            first, last = max(start, piece.start), min(end, piece.end)
            if first < last:
                begin, stop = first - piece.start, last - piece.start
                parts.append(await self._blocks.read(piece.segment, begin, stop, trio.current_effective_deadline()))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _load_whole(self, file: OpenFile) -> None:
        """Fetch, decode and check a datapoint as a whole, and keep it for its readers."""
        record, name = file.located.record, file.located.name
        stored = await self._read_stored(file)
        try:
            if record.true_size <= DECODE_INLINE:
                data = decompress(record.codec, stored, record.true_size)
            else:
                data = await trio.to_thread.run_sync(decompress, record.codec, stored, record.true_size)
        except Corrupt as error:
            raise Corrupt(f"{file.located.snapshot.dataset} {name}: {error}") from error
        if isal_zlib.crc32(data) != record.crc32:
            raise Corrupt(f"{file.located.snapshot.dataset} {name} is not what was stored")
        self._whole.put(file.located.inode, data)

    async def _read_stored(self, file: OpenFile) -> Data:
        """Return a datapoint's stored bytes; straight from the store where a block that it shares is damaged.

        Those are not checked yet.
        """
        record, size = file.located.record, file.located.record.stored_size
        try:
            return await self._read_tar(file, record.content_offset, record.content_offset + size)
        except Corrupt:
            buffer = bytearray(size)
            key = DatasetKeys(file.located.snapshot.dataset).tar(file.located.datarange.id)
            await self._remote.call(self._store.read_into, key, record.content_offset, memoryview(buffer))
            return bytes(buffer)

    async def _move_on(self, file: OpenFile, error: DasfsError) -> None:
        """Point `file` to where its bytes are now, after an object was not there or not the same."""
        before = file.located
        await self._catalog.refresh_now(before.snapshot.dataset)
        try:
            located = await self._tree.locate(before.inode) if self._tree.is_current(before.inode) else None
        except NotFound:
            located = None
        if located is None:
            raise ObjectChanged(f"{before.name} of {before.snapshot.dataset} was deleted") from error
        same = (before.record.crc32, before.record.true_size) == (
            located.record.crc32,
            located.record.true_size,
        )
        if located.snapshot.dataset_id != before.snapshot.dataset_id or not same:
            raise ObjectChanged(f"{before.name} of {before.snapshot.dataset} was written anew") from error
        key = DatasetKeys(located.snapshot.dataset).tar(located.datarange.id)
        if located.datarange.id == before.datarange.id and all(each.segment.tar_key == key for each in file.pieces):
            raise Corrupt(f"{before.snapshot.dataset} {before.datarange.id}: {error}") from error
        # Who read ahead by an older snapshot may have let the segments read from an older object since.
        self._pieces_of.pop((located.snapshot.dataset_id, located.datarange.id), None)
        moved = self._make_file(located)
        file.located, file.pieces, file.layout, file.base = located, moved.pieces, moved.layout, moved.base
        file.start, file.end = moved.start, moved.end

    def _pieces(self, snapshot: Snapshot, view: ManifestView, start: int, end: int) -> tuple[Piece, ...]:
        """Return the pieces of a TAR object that hold `[start, end)`."""
        key = (snapshot.dataset_id, view.id)
        pieces = self._pieces_of.get(key)
        if pieces is None:
            tar_key = DatasetKeys(snapshot.dataset).tar(view.id)
            pieces = self._pieces_of[key] = tuple(
                Piece(
                    each.offset,
                    each.offset + each.length,
                    self._blocks.segment(snapshot.dataset_id, tar_key, each),
                )
                for each in view.segments
            )
            if len(self._pieces_of) > MAX_PIECES_OF:
                self._pieces_of.popitem(last=False)
        if len(pieces) == 1:
            return pieces
        first = max(bisect_right(pieces, start, key=_start) - 1, 0)
        return pieces[first : bisect_left(pieces, end, key=_start)]

    def _read_ahead(self, file: OpenFile, start: int, end: int) -> None:
        """Take note of a read of `[start, end)` in its TAR object, and begin to fetch what that makes worth it."""
        ahead, base = file.ahead, file.base
        stretch = ahead.note(base + start, base + end, base + file.start, base + file.end)
        if stretch is not None:
            self._nursery.start_soon(self._fetch_ahead, file.layout, *stretch)
        if ahead.fill_due:
            stretch = ahead.fill(file.layout.total, self._blocks.capacity)
            if stretch is not None:
                self._nursery.start_soon(self._fetch_ahead, file.layout, *stretch)

    async def _fetch_ahead(self, layout: Layout, start: int, end: int) -> None:
        try:
            for datarange, first, last in layout.stretches(start, end):
                view = await self._catalog.view(layout.snapshot, datarange)
                for piece in self._pieces(layout.snapshot, view, first, last):
                    begin, stop = max(first, piece.start), min(last, piece.end)
                    self._nursery.start_soon(
                        self._blocks.prefetch, piece.segment, begin - piece.start, stop - piece.start
                    )
        except DasfsError as error:
            log.debug("reading ahead in %s failed: %s", layout.snapshot.dataset, error)


def _start(piece: Piece) -> int:
    return piece.start
