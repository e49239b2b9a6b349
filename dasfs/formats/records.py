"""The tables of a manifest that have one entry a datapoint: packed records and original names.

Both stay packed in memory, 40 bytes a datapoint, and are checked column by column: a million objects of
Python would take a hundred times the memory, and seconds. The layout is drawn in `dasfs.formats.manifest`.
"""

import functools
import operator
import struct
import sys
from array import array
from dataclasses import dataclass
from typing import Final, NamedTuple

from dasfs.formats.compression import MAX_COMPRESSIBLE, Codec
from dasfs.formats.tar import BLOCK_SIZE, END_OF_ARCHIVE
from dasfs.names import DatarangeId

RECORD: Final = struct.Struct(">QQQqIHBx")
RECORD_SIZE: Final = RECORD.size

# Seen as 64-bit words, five a record: content offset, stored size, true size, mtime, and the rest.
WORDS: Final = RECORD_SIZE // 8
_CODEC_AT: Final = 38
_RESERVED_AT: Final = 39


class Record(NamedTuple):
    """What the manifest says about one datapoint. Sizes and offsets are in bytes. A tuple: made at each lookup."""

    content_offset: int
    stored_size: int
    true_size: int
    mtime: int  # seconds since 1970
    crc32: int  # of the true bytes
    extension: str  # without the codec's suffix
    codec: Codec


@dataclass(frozen=True, slots=True)
class NamesTable:
    """The original paths of the datapoints: count + 1 big-endian u32 `offsets` into `names`."""

    offsets: bytes
    names: bytes

    def path(self, k: int) -> bytes:
        """Return the original path of datapoint k; empty where it has none."""
        start, end = struct.unpack_from(">II", self.offsets, k * 4)
        return self.names[start:end]


def sum_true_sizes(records: bytes) -> int:
    """Return the sum of the true sizes of packed records."""
    return sum(unpack_words("Q", records)[2::WORDS])


def find_record_problem(records: bytes, id: DatarangeId, extension_count: int, tar_size: int) -> str | None:  # noqa: A002
    """Return the first promise of the format that packed records break, as one line, or None. Pure."""
    count = id.last - id.first + 1
    if count < 1 or len(records) != count * RECORD_SIZE:
        return f"it has {len(records)} bytes of records for {count} datapoints"
    codecs = records[_CODEC_AT::RECORD_SIZE]
    if unknown := codecs.translate(None, bytes(Codec)):
        return f"datapoint {id.first + codecs.index(unknown[0])} has the unknown codec {unknown[0]}"
    if any(records[_RESERVED_AT::RECORD_SIZE]):
        return "a reserved byte of a record is not 0"
    words = unpack_words("Q", records)
    if max(word >> 16 & 0xFFFF for word in words[4::WORDS]) >= extension_count:
        return "a record has the number of an extension that is not listed"
    offsets, stored, true = words[0::WORDS], words[1::WORDS], words[2::WORDS]
    if stored != true:
        for k, codec in enumerate(codecs):
            if not codec and stored[k] != true[k]:
                return f"datapoint {id.first + k} has two sizes, but is not compressed"
            if codec and true[k] > MAX_COMPRESSIBLE:
                return f"datapoint {id.first + k} is compressed, but too large for that: {true[k]} bytes"
    return _find_place_problem(offsets, stored, id.first, tar_size - len(END_OF_ARCHIVE))


def _find_place_problem(offsets: "array[int]", sizes: "array[int]", first: int, tar_end: int) -> str | None:
    """Check that the contents stand one behind the other, on block boundaries, with room for headers."""
    if functools.reduce(operator.or_, offsets) % BLOCK_SIZE:
        return "the content of a datapoint does not start on a block boundary"
    end = 0
    for k, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        if offset < end + BLOCK_SIZE:
            return f"datapoint {first + k} starts at {offset}, but what stands before it ends at {end}"
        end = offset + size
    if end > tar_end:
        return f"its datapoints end at {end}, but there is room up to {tar_end}"
    return None


def find_name_problem(names: NamesTable, count: int) -> str | None:
    """Return how a table of names fails to fit `count` datapoints, or None. Pure."""
    if len(names.offsets) != (count + 1) * 4:
        return f"its table of names has {len(names.offsets)} bytes of offsets for {count} datapoints"
    offsets = unpack_words("I", names.offsets)
    if offsets[0] != 0 or offsets[-1] != len(names.names):
        return "the offsets of its names do not cover them"
    if any(map(operator.gt, offsets, offsets[1:])):
        return "the offsets of its names do not ascend"
    return None


def unpack_words(typecode: str, data: bytes) -> "array[int]":
    """Return big-endian words (Q: 64 bits, I: 32) without a step of Python for each of them."""
    words = array(typecode, data)
    if sys.byteorder == "little":
        words.byteswap()
    return words


def pack_words(words: "array[int]") -> bytes:
    """Return words as big-endian bytes; `words` itself is of no use afterwards."""
    if sys.byteorder == "little":
        words.byteswap()
    return words.tobytes()
