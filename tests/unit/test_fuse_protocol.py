"""The wire format of FUSE, against bytes that the kernel's header says, and listings that never outgrow their room."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.formats.manifest import RECORD, Codec
from dasfs.fuse import protocol
from dasfs.fuse.attributes import Ownership, Packer
from dasfs.fuse.inodes import Inode
from dasfs.fuse.nodes import ListedPage
from dasfs.fuse.protocol import Capability, Capacity, FuseError, Request, TooOld, initialize
from dasfs.names import DatapointNumber
from tests.kernel import Entry, parse_listing

CAPACITY = Capacity(max_readahead=1 << 20, background=512)
PACKER = Packer(Ownership(1, 2, 0o022))


def initialized(major: int, minor: int, readahead: int, flags: int) -> tuple[int, ...]:
    """Return the fields of the answer to an INIT."""
    body = struct.pack("=IIIII44x", major, minor, readahead, flags, 0)
    answer = initialize(body, CAPACITY)
    assert len(answer) == 64  # struct fuse_init_out
    return struct.unpack_from("=IIIIHHIIHH", answer)


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (protocol.REQUEST, 40),
        (protocol.ANSWER, 16),
        (protocol.ATTRIBUTES, 88),
        (protocol.ENTRY, 128),
        (protocol.ATTRIBUTES_FOR, 104),
        (protocol.READ, 40),
        (protocol.OPENED, 16),
        (protocol.DIRENT, 24),
        (protocol.RELEASE, 24),
        (protocol.XATTR, 8),
        (protocol.STATFS, 80),
        (protocol.INTERRUPT, 8),
        (protocol.BATCH_FORGET, 8),
        (protocol.FORGET_ONE, 16),
        (protocol.INVALIDATE_INODE, 24),
        (protocol.INVALIDATE_ENTRY, 16),
    ],
)
def test_sizes_are_the_kernels(layout: struct.Struct, size: int) -> None:
    """Each structure is as long as in linux/fuse.h."""
    assert layout.size == size


@given(st.integers(0, 2**32 - 1))
def test_only_what_both_want_is_agreed_on(flags: int) -> None:
    """Of what the kernel offers that is taken which dasfs wants, and never what the kernel does not have."""
    agreed = initialized(7, 38, 1 << 20, flags)[3]
    assert agreed & ~flags == 0
    assert agreed & ~int(protocol.WANTED) == 0
    assert agreed == flags & protocol.WANTED


def test_what_is_agreed_on() -> None:
    """Versions and read-ahead are the smaller ones; reads of 1 MiB, and as many at once as the mount says."""
    assert initialized(7, 38, 128 << 10, 2**32 - 1)[:3] == (7, 38, 128 << 10)
    assert initialized(7, 31, 8 << 20, 0)[:3] == (7, 31, 1 << 20)
    assert initialized(7, 99, 0, 0)[:2] == (7, 38)
    *_, background, congested, max_write, granularity, max_pages, alignment = initialized(7, 38, 0, 0)
    assert (background, congested, max_write, granularity, max_pages, alignment) == (512, 384, 4096, 1, 256, 0)
    for needed in (Capability.NO_OPEN_SUPPORT, Capability.MAX_PAGES, Capability.DO_READDIRPLUS):
        assert initialized(7, 38, 0, 2**32 - 1)[3] & needed


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (7, 12), (6, 99), (0, 0)])
def test_old_kernels_are_refused(major: int, minor: int) -> None:
    """A kernel that lacks what is needed is named with its version."""
    with pytest.raises(TooOld, match=rf"{major}\.{minor}"):
        initialized(major, minor, 0, 0)


def test_a_short_init_is_understood() -> None:
    """Linux before 5.17 sends no second word of flags."""
    assert struct.unpack_from("=II", initialize(struct.pack("=IIII", 7, 31, 0, 0), CAPACITY)) == (7, 31)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=300))
def test_requests_are_parsed(opcode: int, unique: int, inode: int, body: bytes) -> None:
    """Whatever is in a request's head and body comes out."""
    data = struct.pack("=IIQQIIII", 40 + len(body), opcode, unique, inode, 11, 22, 33, 0) + body
    assert Request.parse(data) == Request(opcode, unique, inode, 11, 22, 33, body)


def test_the_bytes_of_an_entry() -> None:
    """A file's entry, byte by byte: node, generation, validity, then its attributes."""
    wanted = (
        "0700000000000100 0000000000000000 100e000000000000 100e000000000000 00000000 00000000"
        "0700000000000100 0102000000000000 0200000000000000"
        "00f1536500000000 00f1536500000000 00f1536500000000 00000000 00000000 00000000"
        "24810000 01000000 01000000 02000000 00000000 00000200 00000000"
    )
    assert PACKER.file_entry((1 << 48) + 7, 513, 0x6553F100) == bytes.fromhex(wanted.replace(" ", ""))


def test_the_bytes_of_a_name() -> None:
    """A name in a listing is filled up with zeros to 8 bytes; one that fits gets none."""
    wanted = "0700000000000100 0300000000000000 05000000 08000000 612e6a7067 000000"
    assert protocol.pack_dirent((1 << 48) + 7, 3, 8, b"a.jpg") == bytes.fromhex(wanted.replace(" ", ""))
    assert protocol.pack_dirent(1, 1, 4, b"12345678")[24:] == b"12345678"


def test_the_bytes_of_notices() -> None:
    """Notices have no request; a name ends with a zero; an inode is dropped from its first byte to its last."""
    wanted = "25000000 03000000 0000000000000000 0500000000000000 04000000 00000000 6e616d65 00"
    assert protocol.pack_invalidate_entry(5, b"name") == bytes.fromhex(wanted.replace(" ", ""))
    wanted = "28000000 02000000 0000000000000000 0900000000000000 0000000000000000 0000000000000000"
    assert protocol.pack_invalidate_inode(9) == bytes.fromhex(wanted.replace(" ", ""))


def test_the_head_of_an_answer() -> None:
    """An answer says its whole length, and an errno below zero."""
    assert struct.unpack("=IiQ", protocol.pack_answer(77, 100)) == (116, 0, 77)
    assert struct.unpack("=IiQ", protocol.pack_answer(77, 0, errno.EIO)) == (16, -errno.EIO, 77)


@given(st.binary(max_size=100), st.integers(0, 120))
def test_extended_attributes_fit(value: bytes, room: int) -> None:
    """A value comes whole or not at all; room for 0 bytes asks for the size."""
    if room == 0:
        assert protocol.xattr_answer(room, value) == struct.pack("=II", len(value), 0)
    elif room < len(value):
        with pytest.raises(FuseError) as caught:
            protocol.xattr_answer(room, value)
        assert caught.value.errno == errno.ERANGE
    else:
        assert protocol.xattr_answer(room, value) == value


def page_of(sizes: list[int], extensions: list[str], first: int, *, live: bool = True) -> ListedPage:
    records = b"".join(
        RECORD.pack(512, size, size, 1_700_000_000, 0, k % len(extensions), Codec.NONE.value)
        for k, size in enumerate(sizes)
    )
    inode = Inode((1 << 48) + first)
    return ListedPage(first, DatapointNumber(first), inode, tuple(each.encode() for each in extensions), records, live)


pages = st.builds(
    page_of,
    st.lists(st.integers(0, 1 << 40), min_size=1, max_size=60),
    st.lists(st.sampled_from(["bin", "j", "tar.gz", "x" * 100]), min_size=1, max_size=4),
    st.integers(0, 1 << 40),
)


@given(pages, st.integers(0, 8192), st.booleans())
def test_a_stretch_fits_its_room(page: ListedPage, room: int, attributes: bool) -> None:
    """However large the room, what is packed fits, is whole, and continues where the page does."""
    data, count = PACKER.page(page, room, attributes=attributes)
    assert len(data) <= room
    found = parse_listing(data, attributes=attributes)
    assert len(found) == count
    for k, each in enumerate(found):
        assert (each.inode, each.position, each.kind) == (page.inode + k, page.position + k + 1, 8)
        assert each.name.startswith(b"%020d." % (page.first + k))


@given(pages)
def test_entries_of_listings_are_those_of_lookups(page: ListedPage) -> None:
    """What a listing says of a datapoint is what a lookup says; what is outdated must not be kept."""
    data, count = PACKER.page(page, 1 << 20, attributes=True)
    records = list(RECORD.iter_unpack(page.records))
    assert count == len(records)
    for k, each in enumerate(parse_listing(data, attributes=True)):
        assert each.entry == Entry.parse(PACKER.file_entry(page.inode + k, records[k][2], records[k][3]))


def test_what_is_outdated_is_not_kept() -> None:
    """A datapoint that was replaced since its listing began is shown with no validity."""
    data, _ = PACKER.page(page_of([1], ["bin"], 5, live=False), 4096, attributes=True)
    (listed,) = parse_listing(data, attributes=True)
    assert listed.entry is not None
    assert (listed.entry.name_valid_s, listed.entry.attributes_valid_s) == (0, 0)
