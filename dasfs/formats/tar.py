"""TAR: one header block a datapoint when writing, whatever tar programs write when reading.

Source: POSIX.1-2017 pax, "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format" (base-256
numbers). Written headers are one ustar block:

    offset  bytes  field             offset  bytes  field
         0    100  name                 156      1  type: '0'
       100      8  mode: 0000644        157    100  link name: empty
       108      8  uid: 0               257      8  "ustar\\0" "00"
       116      8  gid: 0               265     64  user and group name: empty
       124     12  size                 329     16  device numbers: 0
       136     12  mtime (s)            345    155  prefix: empty
       148      8  checksum             500     12  zero

Numbers are octal digits and a NUL; a size or mtime that does not fit 11 digits is in GNU base-256 (bit 7 of
the first byte set, then a big-endian two's complement), which GNU tar, bsdtar, Python and Go read.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from dasfs.errors import Corrupt, InvalidInput, Unsupported
from dasfs.formats.pax import EXTENDED_TYPES, ExtendedHeaders, parse_size, parse_time, text
from dasfs.names import DatapointName

BLOCK_SIZE: Final = 512
END_OF_ARCHIVE: Final = bytes(2 * BLOCK_SIZE)
MAX_MEMBER_NAME: Final = 100

_ZERO_BLOCK: Final = bytes(BLOCK_SIZE)
_OCTAL_LIMIT: Final = 8**11
# More than any extended attributes of a file; no writer of a broken size makes us read more than this.
_MAX_EXTENDED_HEADER: Final = 16 << 20
_SCAN_SIZE: Final = 1 << 20
_MAX_SHOWN: Final = 255  # what Linux takes for a file's name; extended headers hold names of megabytes

_HEADER: Final = struct.Struct("100s24s24s8s356s")
_MODE_AND_OWNER: Final = b"0000644\0" + b"0000000\0" * 2
_TAIL: Final = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(155 + 12)
_CONSTANT_SUM: Final = sum(_MODE_AND_OWNER) + sum(_TAIL) + 8 * ord(" ")  # the checksum field counts as spaces

REGULAR_TYPES: Final = frozenset((b"0", b"\0", b"7"))
_WITHOUT_CONTENT: Final = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))  # nothing follows their header
_TYPE_NAMES: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a directory",
    b"6": "a FIFO",
}


def padding(size: int) -> int:
    """Return how many zero bytes follow `size` bytes of content, to fill the last block."""
    return -size % BLOCK_SIZE


def encode_header(name: str, size: int, mtime: int) -> bytes:
    """Return the one header block of a regular file. The same arguments give the same bytes.

    `size` is in bytes and not negative, `mtime` in seconds since 1970 and may be negative. Raises
    `InvalidInput` for a name that does not fit its 100 bytes.
    """
    raw_name = name.encode("utf-8", "surrogateescape")
    if not 0 < len(raw_name) <= MAX_MEMBER_NAME or b"\0" in raw_name:
        raise InvalidInput(f"{name!r} can't name a TAR member", hint=f"1 to {MAX_MEMBER_NAME} bytes without a NUL")
    numbers = _encode_number(size) + _encode_number(mtime)
    # The lower half of an Adler-32 is 1 and the sum of the bytes, modulo 65521, which these 124 don't reach. It takes a
    # fifth of the time of `sum`, and to add up all 512 would take longer than the rest of this function.
    checksum = _CONSTANT_SUM + (zlib.adler32(raw_name + numbers) & 0xFFFF) - 1
    return _HEADER.pack(raw_name, _MODE_AND_OWNER, numbers, b"%06o\0 " % checksum, _TAIL)


def _encode_number(value: int) -> bytes:
    if 0 <= value < _OCTAL_LIMIT:
        return b"%011o\0" % value
    sign = b"\xff" if value < 0 else b"\x80"
    return sign + value.to_bytes(11, "big", signed=value < 0)


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member of a TAR file.

    `header_offset` is where its first block stands, extended headers included, and `header_blocks` counts
    them all. `mtime` is in whole seconds, rounded down. `type` is the type flag; see `REGULAR_TYPES`.
    """

    name: str
    header_offset: int
    header_blocks: int
    content_offset: int
    size: int
    mtime: int
    type: bytes


@dataclass(frozen=True, slots=True)
class DatarangeMember:
    """One datapoint of a TAR file that can be a datarange."""

    name: DatapointName
    member: TarMember


@dataclass(frozen=True, slots=True)
class _Header:
    """The fields of one header block that matter here."""

    name: str
    size: int
    mtime: int
    type: bytes


def read_members(file: BinaryIO) -> Iterator[TarMember]:
    """Yield the members of a seekable TAR file, in order, each after its content was found to be all there.

    Reads what GNU tar, bsdtar and Python's tarfile write: ustar, PAX, GNU long names, base-256 numbers, v7,
    any padding with zeros at the end. Every read seeks first, so the caller may read from `file` between two
    members. Members that are no regular files are yielded, too.

    Raises `Corrupt`, naming member and offset, for a wrong checksum, a malformed header, a file that ends too
    early or lacks the two zero blocks, and for bytes after them (two files joined by cat: the second would be
    lost silently); `Unsupported` for sparse members. An `OSError` of `file` passes unchanged.
    """
    file_size = file.seek(0, 2)
    extended = ExtendedHeaders()
    offset, previous = 0, "the start"
    while (block := _read_block(file, offset, previous)) != _ZERO_BLOCK:
        header = _parse_header(block, offset, previous)
        if header.type in EXTENDED_TYPES:
            extended.take(offset, header.type, _read_extended(file, offset, header, file_size))
            offset += BLOCK_SIZE + header.size + padding(header.size)
            continue
        member = _make_member(header, offset, extended)
        if member.content_offset + member.size > file_size:
            raise Corrupt(
                f"{_shown(member.name)}: the file ends at {file_size}, within the content, "
                f"which should end at {member.content_offset + member.size}"
            )
        yield member
        offset = member.content_offset + member.size + padding(member.size)
        previous = _shown(member.name)
        extended.forget()
    if extended.pending:
        raise Corrupt(f"after {previous}: an extended header at {extended.first_offset} belongs to no member")
    _check_end(file, offset, file_size, previous)


def read_datarange(file: BinaryIO) -> Iterator[DatarangeMember]:
    """Yield the datapoints of a TAR file that can be a datarange: regular files, numbers ascending by one.

    A leading `./` of names is dropped. Raises `InvalidInput`, naming the member, for a directory, a link, a
    name that is no datapoint's, a gap, a duplicate, a wrong order, and for a file without members; else what
    `read_members` raises.
    """
    expected: int | None = None
    for member in read_members(file):
        if member.type not in REGULAR_TYPES:
            kind = _TYPE_NAMES.get(member.type, f"a member of type {member.type!r}")
            raise InvalidInput(f"{_shown(member.name)}: {kind}; a datarange holds regular files only")
        name = DatapointName.parse(member.name.removeprefix("./"))
        if name is None:
            raise InvalidInput(
                f"{_shown(member.name)}: not the name of a datapoint",
                hint="20 digits, a dot and an extension, no directory",
            )
        if expected is not None and name.number != expected:
            order = _describe_order(name.number, expected)
            raise InvalidInput(f"{_shown(member.name)}: expected number {expected}: {order}")
        expected = name.number + 1
        yield DatarangeMember(name, member)
    if expected is None:
        raise InvalidInput("the TAR file has no members", hint="a datarange has at least one datapoint")


def _describe_order(number: int, expected: int) -> str:
    if number > expected:
        return "a gap"
    return "a duplicate" if number == expected - 1 else "wrong order or a duplicate"


def _read_block(file: BinaryIO, offset: int, previous: str) -> bytes:
    file.seek(offset)
    block = file.read(BLOCK_SIZE)
    if len(block) < BLOCK_SIZE:
        end = offset + len(block)
        raise Corrupt(f"after {previous}: the file ends at {end} without an end-of-archive mark")
    return block


def _check_end(file: BinaryIO, offset: int, file_size: int, previous: str) -> None:
    """Check that at least two zero blocks stand at `offset`, and nothing but zeros to the end of the file."""
    if file_size < offset + len(END_OF_ARCHIVE):
        raise Corrupt(f"after {previous}: the end-of-archive mark at {offset} is cut off, after one zero block")
    file.seek(offset)
    while chunk := file.read(_SCAN_SIZE):
        if chunk.strip(b"\0"):
            at = offset + len(chunk) - len(chunk.lstrip(b"\0"))
            raise Corrupt(f"after {previous}: bytes at {at}, behind the end-of-archive mark: are two files joined?")
        offset += len(chunk)


def _parse_header(block: bytes, offset: int, previous: str) -> _Header:
    name = text(block[:100])
    where = f"{_shown(name)} (header at {offset}, after {previous})"
    if not _has_valid_checksum(block):
        if offset == 0:
            raise Corrupt("this is no TAR file: its first header has a wrong checksum", hint="is it compressed?")
        raise Corrupt(f"{where}: the header's checksum is wrong")
    if block[257:263] == b"ustar\0" and (prefix := text(block[345:500])):
        name = f"{prefix}/{name}"
    kind = block[156:157]
    if kind == b"\0" and name.endswith("/"):
        kind = b"5"  # v7 had no type for directories
    size = _parse_number(block[124:136], where)
    if size < 0:
        raise Corrupt(f"{where}: its size is negative")
    return _Header(name, size, _parse_number(block[136:148], where), kind)


def _has_valid_checksum(block: bytes) -> bool:
    try:
        checksum = int(block[148:156].partition(b"\0")[0], 8)
    except ValueError:
        return False
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if checksum == unsigned:
        return True
    # Some old programs added the bytes up as signed numbers.
    return checksum == unsigned - 256 * sum(byte > 127 for byte in block)


def _parse_number(raw: bytes, where: str) -> int:
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    if raw[0] == 0xFF:
        return int.from_bytes(raw, "big", signed=True)
    digits = raw.partition(b"\0")[0].strip()
    if not digits:
        return 0
    try:
        return int(digits, 8)
    except ValueError:
        raise Corrupt(f"{where}: {digits!r} is no octal number") from None


def _read_extended(file: BinaryIO, offset: int, header: _Header, file_size: int) -> bytes:
    if header.size > _MAX_EXTENDED_HEADER:
        raise Corrupt(f"the extended header at {offset} has {header.size} bytes, more than {_MAX_EXTENDED_HEADER}")
    if offset + BLOCK_SIZE + header.size > file_size:
        raise Corrupt(f"the file ends at {file_size}, within the extended header at {offset}")
    file.seek(offset + BLOCK_SIZE)
    return file.read(header.size)


def _make_member(header: _Header, offset: int, extended: ExtendedHeaders) -> TarMember:
    """Return the member whose own header block stands at `offset`, with what its extended headers say."""
    records = extended.records()
    name = header.name if extended.long_name is None else extended.long_name
    name = text(records["path"]) if "path" in records else name
    where = f"{_shown(name)} (header at {offset})"
    if header.type == b"S" or any(key.startswith("GNU.sparse.") for key in records):
        raise Unsupported(f"{where}: sparse members are not read", hint="pack without --sparse")
    size = parse_size(records["size"]) if "size" in records else header.size
    mtime = parse_time(records["mtime"]) if "mtime" in records else header.mtime
    if size is None or mtime is None:
        raise Corrupt(f"{where}: the size or mtime in its PAX records is no number that it can be")
    first = offset if extended.first_offset is None else extended.first_offset
    return TarMember(
        name=name,
        header_offset=first,
        header_blocks=(offset - first) // BLOCK_SIZE + 1,
        content_offset=offset + BLOCK_SIZE,
        size=0 if header.type in _WITHOUT_CONTENT else size,
        mtime=mtime,
        type=header.type,
    )


def _shown(name: str) -> str:
    """Return a name as it may stand in a message of one line: `name` itself unless it has odd characters."""
    if len(name) > _MAX_SHOWN:
        name = f"{name[:_MAX_SHOWN]}..."
    return name if name.isprintable() and name else repr(name)
