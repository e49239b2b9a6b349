"""The index of a datarange: where each datapoint stands in its TAR object.

    offset  bytes  field (big-endian), one entry a datapoint, in the order of the TAR
         0      8  offset of the datapoint's first header block
         8      2  number of 512-byte header blocks (dasfs writes 1; more with PAX records or GNU long names)
        10      6  size of the content

No header, no trailer, no checksum. Source: datas3t v2, byte for byte.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dasfs.errors import Corrupt, InvalidInput
from dasfs.formats.tar import BLOCK_SIZE, END_OF_ARCHIVE, padding

INDEX_ENTRY_SIZE: Final = 16
MAX_CONTENT_SIZE: Final = 2**48 - 1

# The two last fields share one word: the blocks are its upper 16 bits, the size its lower 48.
_ENTRY = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """Where one datapoint stands. The content starts `header_blocks` * 512 bytes after `header_offset`."""

    header_offset: int
    header_blocks: int
    content_size: int

    @property
    def content_offset(self) -> int:
        return self.header_offset + self.header_blocks * BLOCK_SIZE

    @property
    def end(self) -> int:
        """The offset of the next header: the content is padded to whole blocks."""
        return self.content_offset + self.content_size + padding(self.content_size)


def encode_entry(header_offset: int, header_blocks: int, content_size: int) -> bytes:
    """Return one entry as the index object has it. Raises `InvalidInput` for a number that does not fit its field."""
    if not (0 < header_blocks < 2**16 and 0 <= content_size <= MAX_CONTENT_SIZE and 0 <= header_offset < 2**64):
        entry = IndexEntry(header_offset, header_blocks, content_size)
        raise InvalidInput(
            f"{entry} does not fit an index: at most 65535 header blocks, 2^48-1 bytes, and an offset below 2^64"
        )
    return _ENTRY.pack(header_offset, header_blocks << 48 | content_size)


def encode_index(entries: Iterable[IndexEntry]) -> bytes:
    """Return the index object. Raises what `encode_entry` raises."""
    return b"".join(encode_entry(each.header_offset, each.header_blocks, each.content_size) for each in entries)


def decode_index(data: bytes | memoryview) -> list[IndexEntry]:
    """Return the entries of an index object, which ascend and do not overlap.

    Raises `Corrupt` for a cut entry, an offset that is not on a block boundary or not behind the entry
    before it, and an entry without a header. There may be gaps: some writers do not count extended headers.
    """
    if len(data) % INDEX_ENTRY_SIZE:
        raise Corrupt(f"an index of {len(data)} bytes is cut off: its length is not a multiple of {INDEX_ENTRY_SIZE}")
    entries: list[IndexEntry] = []
    end = 0
    for offset, word in _ENTRY.iter_unpack(data):
        entry = IndexEntry(offset, word >> 48, word & MAX_CONTENT_SIZE)
        if offset < end or offset % BLOCK_SIZE or not entry.header_blocks:
            raise Corrupt(
                f"index entry {len(entries)} (offset {offset}, {entry.header_blocks} header blocks) "
                f"does not follow the entry before it, which ends at {end}"
            )
        end = entry.end
        entries.append(entry)
    return entries


def expected_tar_size(entries: Sequence[IndexEntry]) -> int:
    """Return the size of the TAR object that `entries` describe, with its 1,024 zero bytes at the end."""
    return (entries[-1].end if entries else 0) + len(END_OF_ARCHIVE)
