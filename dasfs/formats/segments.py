"""Segments: stretches of TAR bytes that one upload wrote, with a CRC-32 for each block of 256 KiB.

A segment keeps its identity (its origin) when aggregation moves it into another object, and its blocks are
counted from its own start, so checksums and cached blocks move with it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from isal import isal_zlib

from dasfs.formats.tar import END_OF_ARCHIVE
from dasfs.names import MAX_NUMBER, DatarangeId

# One ranged GET costs about as much for 256 KiB as for 1 KiB, and 16 bytes of checksums a MiB are few.
CHECKSUM_BLOCK_SIZE: Final = 1 << 18

_CRC = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Segment:
    """`[offset, offset + length)` of one TAR object.

    It was first written at `origin_offset` of `origin`'s TAR object: the two are its identity. `block_crcs`
    has 4 bytes, big-endian, for each block; the last block may be short.
    """

    origin: DatarangeId
    origin_offset: int
    offset: int
    length: int
    block_crcs: bytes

    @property
    def block_count(self) -> int:
        return block_count(self.length)

    def crc(self, block: int) -> int:
        """Return the CRC-32 of block number `block`, counted from 0 at the start of the segment."""
        if not 0 <= block < self.block_count:
            raise IndexError(f"block {block} of a segment of {self.block_count} blocks")
        value: int = _CRC.unpack_from(self.block_crcs, block * _CRC.size)[0]
        return value


def block_count(length: int) -> int:
    """Return how many blocks cover `length` bytes."""
    return -(-length // CHECKSUM_BLOCK_SIZE)


class BlockChecksums:
    """The block checksums of one segment, computed while its bytes are written.

    **Concurrency:** for one thread; the bytes come in order.
    """

    def __init__(self) -> None:
        self._finished = bytearray()
        self._crc = 0
        self._room = CHECKSUM_BLOCK_SIZE  # how much the block at hand can still take

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the bytes (any number of them) that follow those of the last call."""
        if len(data) >= self._room:
            view = memoryview(data)
            position = 0
            while len(view) - position >= self._room:
                end = position + self._room
                self._finished += _CRC.pack(isal_zlib.crc32(view[position:end], self._crc))
                self._crc, self._room, position = 0, CHECKSUM_BLOCK_SIZE, end
            data = view[position:]
        self._crc = isal_zlib.crc32(data, self._crc)
        self._room -= len(data)

    def finish(self) -> bytes:
        """Return the `block_crcs` of all bytes so far. More may follow."""
        if self._room == CHECKSUM_BLOCK_SIZE:
            return bytes(self._finished)
        return bytes(self._finished) + _CRC.pack(self._crc)


def find_segment_problem(segments: Sequence[Segment], tar_size: int) -> str | None:
    """Return how `segments` fail to cover a TAR object up to its zero bytes at the end, or None. Pure."""
    end = 0
    for segment in segments:
        origin = segment.origin
        if not 0 <= origin.first <= origin.last <= MAX_NUMBER or not 0 <= segment.origin_offset <= MAX_NUMBER:
            return f"the segment at {segment.offset} has an impossible origin"
        if segment.offset != end or segment.length <= 0:
            return f"a segment of {segment.length} bytes starts at {segment.offset} instead of {end}"
        if len(segment.block_crcs) != segment.block_count * _CRC.size:
            return f"the segment at {segment.offset} has too few or too many checksums"
        end += segment.length
    if end != tar_size - len(END_OF_ARCHIVE):
        return f"its segments end at {end}, not {len(END_OF_ARCHIVE)} before the end of {tar_size} bytes"
    return None
