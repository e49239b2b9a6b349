"""Packing datapoints into one datarange, and putting it into a store.

The TAR is packed into a local file first, so that its size, its index and its manifest are known before
anything is sent. Until somebody commits what `upload` returns, nobody sees it.

**Concurrency:** a `DatarangeWriter` and what it packed are for one thread at a time; any number of them may
be at work.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from isal import isal_zlib

from dasfs.dataset.exclusive import put_new
from dasfs.dataset.local import Source, open_source, read_into
from dasfs.dataset.model import Datarange
from dasfs.dataset.spool import CHUNK_SIZE, DEFAULT_DIRECTORY, Spool
from dasfs.errors import AlreadyExists, Conflict, Corrupt, DasfsError, InvalidInput, NotFound, ObjectChanged
from dasfs.formats.compression import MAX_COMPRESSIBLE, Codec, Compression, compress
from dasfs.formats.index import encode_entry
from dasfs.formats.manifest import Manifest, ManifestBuilder
from dasfs.formats.segments import Segment
from dasfs.formats.tar import BLOCK_SIZE, END_OF_ARCHIVE, encode_header, padding
from dasfs.names import MAX_NUMBER, DatapointNumber, DatarangeId, DatasetKeys
from dasfs.stores.base import Store

# A counter that is taken was taken by another writer of the same range just now; not many of those are to
# be expected.
MAX_COUNTER_TRIES: Final = 100

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class PackedDatarange:
    """One datarange, ready to be put under any counter. Close it, or use it in a `with`, to free its file."""

    first: DatapointNumber
    last: DatapointNumber
    tar_size: int
    data_size: int
    named: bool
    index: bytes
    _builder: ManifestBuilder
    _block_crcs: bytes
    _spool: Spool

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    def manifest(self, counter: int) -> Manifest:
        """Return the manifest for `counter`: the whole TAR is one segment, of which this is the origin."""
        identity = DatarangeId(self.first, self.last, counter)
        length = self.tar_size - len(END_OF_ARCHIVE)
        return self._builder.build(identity, self.tar_size, (Segment(identity, 0, 0, length, self._block_crcs),))

    def chunks(self, progress: Progress | None = None) -> Iterator[bytes | memoryview]:
        """Yield the TAR from its start; `progress` is told the size of each chunk that was taken."""
        for chunk in self._spool.pieces():
            yield chunk
            if progress is not None:
                progress(len(chunk))

    def spill(self) -> None:
        """Give the memory back, for an upload that has to wait; raises `NoSpace` and the like, and keeps it then."""
        self._spool.spill()

    def close(self) -> None:
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DatarangeWriter:
    """Packs datapoints with consecutive numbers into one datarange.

    Close it, or use it in a `with`: that throws away what was not finished. After an error within a
    datapoint it can only be closed.
    """

    def __init__(
        self, dataset: str, compression: Compression, spool_dir: str = DEFAULT_DIRECTORY, expected_size: int = 0
    ) -> None:
        """`expected_size`: as many bytes as the TAR will have at most, where that is known; see `Spool`."""
        self._compression = compression
        self._compresses = compression.codec is not Codec.NONE
        self._builder = ManifestBuilder(dataset)
        self._index = bytearray()
        self._first: int | None = None
        self._next = 0
        self._data_size = 0
        self._named = False
        self._intact = True
        self._spool: Spool | None = Spool(spool_dir, expected_size)

    @property
    def count(self) -> int:
        return 0 if self._first is None else self._next - self._first

    @property
    def tar_size(self) -> int:
        """The size that the TAR object would have now."""
        return self._open_spool().size + len(END_OF_ARCHIVE)

    def add(
        self,
        number: int,
        extension: str,
        mtime: int,
        source: BinaryIO | bytes,
        size: int | None = None,
        original_name: str | None = None,
    ) -> int:
        """Add one datapoint and return the CRC-32 of its content.

        `mtime` is in seconds since 1970. A `source` that is a file needs its `size`; it is read from where
        it stands to its end, and must end there. Raises `InvalidInput` for a number that does not follow
        the one before it, `ObjectChanged` for a file of another size, and `NoSpace`.
        """
        spool = self._open_spool()
        self._check_number(number)
        self._intact = False
        if not isinstance(source, bytes):
            if size is None:
                raise InvalidInput(f"datapoint {number}: a file needs its size")
            if not self._compresses or size > MAX_COMPRESSIBLE:
                crc32 = self._add_stream(spool, number, extension, mtime, source, size, original_name)
                self._added(number)
                return crc32
            source = _read_exactly(source, size, number)
        crc32 = self._add_bytes(spool, number, extension, mtime, source, original_name)
        self._added(number)
        return crc32

    def add_source(self, number: int, source: Source, original_name: str | None = None) -> int:
        """Add one local file and return the CRC-32 of its content. Raises what reading it and what `add` raises."""
        size = source.size
        if self._compresses or size > CHUNK_SIZE:
            with open_source(source) as file:
                return self.add(number, source.extension, source.mtime, file, size, original_name)
        spool = self._open_spool()
        self._check_number(number)
        self._intact = False
        # Straight to where it belongs, without a copy.
        end = BLOCK_SIZE + size
        room = spool.room(end + padding(size))
        content = room[BLOCK_SIZE:end]
        read_into(source, content)
        crc32 = isal_zlib.crc32(content)
        room[:BLOCK_SIZE] = encode_header(f"{number:020d}.{source.extension}", size, source.mtime)
        room[end:] = bytes(len(room) - end)
        self._describe(spool.size, size, size, source.mtime, crc32, source.extension, Codec.NONE, original_name)
        spool.advance(len(room))
        self._added(number)
        return crc32

    def finish(self) -> PackedDatarange:
        """Write the end of the TAR and return the whole datarange, which owns the local file from now on."""
        spool = self._open_spool()
        if self._first is None:
            raise InvalidInput("a datarange has at least one datapoint")
        tar_size = self.tar_size
        self._intact = False
        block_crcs = spool.finish(END_OF_ARCHIVE)
        self._spool = None
        return PackedDatarange(
            first=DatapointNumber(self._first),
            last=DatapointNumber(self._next - 1),
            tar_size=tar_size,
            data_size=self._data_size,
            named=self._named,
            index=bytes(self._index),
            _builder=self._builder,
            _block_crcs=block_crcs,
            _spool=spool,
        )

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_spool(self) -> Spool:
        if self._spool is None or not self._intact:
            raise InvalidInput("this datarange is finished, or failed before")
        return self._spool

    def _check_number(self, number: int) -> None:
        if not 0 <= number <= MAX_NUMBER:
            raise InvalidInput(f"{number} can't be a datapoint's number", hint=f"0 to {MAX_NUMBER} (2^63-1)")
        if self._first is not None and number != self._next:
            raise InvalidInput(f"datapoint {number} does not follow {self._next - 1}: a datarange has no gap")

    def _added(self, number: int) -> None:
        if self._first is None:
            self._first = number
        self._next = number + 1
        self._intact = True

    def _add_bytes(
        self, spool: Spool, number: int, extension: str, mtime: int, data: bytes, original_name: str | None
    ) -> int:
        codec, stored = compress(self._compression, data, extension) if self._compresses else (Codec.NONE, data)
        crc32 = isal_zlib.crc32(data)
        size = len(stored)
        header = encode_header(f"{number:020d}.{extension}{codec.suffix}", size, mtime)
        self._describe(spool.size, size, len(data), mtime, crc32, extension, codec, original_name)
        spool.write(header, stored, bytes(padding(size)))
        return crc32

    def _add_stream(
        self,
        spool: Spool,
        number: int,
        extension: str,
        mtime: int,
        source: BinaryIO,
        size: int,
        original_name: str | None,
    ) -> int:
        """Add a file that is too large to be held in memory."""
        start = spool.size
        spool.write(encode_header(f"{number:020d}.{extension}", size, mtime))
        crc32, left = 0, size
        while left:
            room = spool.room(min(left, CHUNK_SIZE))
            count = _read_into(source, room, number)
            if not count:
                raise _changed(number, size, size - left)
            crc32 = isal_zlib.crc32(room[:count], crc32)
            spool.advance(count)
            left -= count
        if _read(source, 1, number):
            raise _changed(number, size, size + 1)
        spool.write(bytes(padding(size)))
        self._describe(start, size, size, mtime, crc32, extension, Codec.NONE, original_name)
        return crc32

    def _describe(
        self,
        header_offset: int,
        stored_size: int,
        true_size: int,
        mtime: int,
        crc32: int,
        extension: str,
        codec: Codec,
        original_name: str | None,
    ) -> None:
        """Note one datapoint for the index and the manifest."""
        self._builder.add(
            content_offset=header_offset + BLOCK_SIZE,
            stored_size=stored_size,
            true_size=true_size,
            mtime=mtime,
            crc32=crc32,
            extension=extension,
            codec=codec,
            original_name=original_name,
        )
        self._index += encode_entry(header_offset, 1, stored_size)
        self._data_size += true_size
        self._named = self._named or bool(original_name)


def _read_into(source: BinaryIO, room: memoryview, number: int) -> int:
    with _reading(number):
        return cast("RawIOBase", source).readinto(room) or 0


def _read(source: BinaryIO, size: int, number: int) -> bytes:
    with _reading(number):
        return source.read(size)


@contextmanager
def _reading(number: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, DasfsError):
            raise
        raise DasfsError(f"datapoint {number} can't be read: {error.strerror or error}") from error


def _read_exactly(source: BinaryIO, size: int, number: int) -> bytes:
    # One byte more than it should have, so that growth is noticed by the same call.
    data = _read(source, size + 1, number)
    if len(data) != size:
        raise _changed(number, size, len(data))
    return data


def _changed(number: int, expected: int, found: int) -> ObjectChanged:
    more = "or more " if found > expected else ""
    return ObjectChanged(
        f"datapoint {number} changed while it was packed: it had {expected} bytes, {found} {more}were read",
        hint="try again when nobody writes to it",
    )


def put_manifest(
    store: Store, keys: DatasetKeys, build: Callable[[int], Manifest], counter: int
) -> tuple[Manifest, int]:
    """Put the manifest that `build` returns for the first free counter from `counter` on; return it and its size.

    The key is the caller's from then on: whoever wants the same numbers and counter finds it taken. Raises
    `Conflict` where 100 counters in a row are taken.
    """
    for each in range(counter, counter + MAX_COUNTER_TRIES):
        manifest = build(each)
        encoded = manifest.encode()
        try:
            put_new(store, keys.manifest(manifest.id), encoded)
        except AlreadyExists:
            continue
        return manifest, len(encoded)
    raise Conflict(
        f"no free counter from {counter} on for datapoints {manifest.id.first}-{manifest.id.last} of {keys.dataset}"
    )


def upload(
    store: Store, keys: DatasetKeys, packed: PackedDatarange, counter: int, progress: Progress | None = None
) -> Datarange:
    """Put the manifest, the TAR and the index of one datarange into the store, and return what to commit.

    `counter` is the first one to try: one more than the snapshot's `last_counter`. One that is taken by
    another writer is skipped, so that no object is ever written twice. `progress` is told the bytes that
    were handed to the store. Nothing is cleaned up after an error: `collect` does that, whoever left it.
    """
    manifest, manifest_size = put_manifest(store, keys, packed.manifest, counter)
    info = store.put_stream(keys.tar(manifest.id), packed.chunks(progress))
    if info.size != packed.tar_size:
        raise Corrupt(f"{info.key}: the store has {info.size} bytes of it, {packed.tar_size} were sent")
    store.put(keys.index(manifest.id), packed.index)
    return Datarange(manifest.id, packed.tar_size, manifest_size, packed.data_size, packed.named)


def is_uploaded(store: Store, keys: DatasetKeys, datarange: Datarange) -> bool:
    """Return whether the three objects of an uploaded datarange are still there, with their sizes.

    Ask before committing what another process or an earlier day uploaded: after 7 days `collect` takes it
    for left over.
    """
    try:
        sizes = [store.head(key(datarange.id)).size for key in (keys.tar, keys.manifest, keys.index)]
    except NotFound:
        return False
    return sizes == [datarange.tar_size, datarange.manifest_size, datarange.count * 16]
