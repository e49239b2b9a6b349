"""The index is datas3t's, byte for byte."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.errors import Corrupt, InvalidInput
from dasfs.formats.index import IndexEntry, decode_index, encode_index, expected_tar_size
from dasfs.formats.tar import END_OF_ARCHIVE, encode_header, padding, read_datarange

# Sizes of the contents, first number, TAR size, index: computed by hand and by datas3t's own indexer.
VECTORS = {
    "empty, 5 and 600 bytes": (
        (0, 5, 600),
        1,
        4096,
        "00000000000000000001000000000000 00000000000002000001000000000005 00000000000006000001000000000258",
    ),
    "one full block": ((512,), 7, 2048, "00000000000000000001000000000200"),
    "around one block": (
        (511, 512, 513, 1024),
        0,
        6144,
        """000000000000000000010000000001ff 00000000000004000001000000000200
           00000000000008000001000000000201 0000000000000e000001000000000400""",
    ),
    "aggregate of two": (
        (0, 5, 600, 512),
        1,
        5120,
        """00000000000000000001000000000000 00000000000002000001000000000005
           00000000000006000001000000000258 0000000000000c000001000000000200""",
    ),
}


@pytest.mark.parametrize("vector", VECTORS)
def test_index_of_a_tar(vector: str) -> None:
    """A TAR that dasfs writes has the size, and its members the index, that datas3t computes."""
    sizes, first, tar_size, expected = VECTORS[vector]
    archive = io.BytesIO()
    for number, size in enumerate(sizes, first):
        archive.write(encode_header(f"{number:020d}.json.zst", size, 0) + bytes(size + padding(size)))
    archive.write(END_OF_ARCHIVE)
    members = [entry.member for entry in read_datarange(archive)]
    entries = [IndexEntry(member.header_offset, member.header_blocks, member.size) for member in members]
    assert encode_index(entries) == bytes.fromhex(expected)
    assert decode_index(bytes.fromhex(expected)) == entries
    assert expected_tar_size(entries) == tar_size == len(archive.getvalue())


@pytest.mark.parametrize(
    ("entry", "encoded", "tar_size"),
    [
        (IndexEntry(1024, 1, 2048), "00000000000004000001000000000800", 4608),
        (IndexEntry(0, 1, 2**40), "00000000000000000001010000000000", 1099511629312),
        (IndexEntry(0, 1, 2**48 - 1), "00000000000000000001ffffffffffff", 2**48 + 1536),
        (IndexEntry(512, 3, 5), "00000000000002000003000000000005", 3584),
    ],
)
def test_single_entries(entry: IndexEntry, encoded: str, tar_size: int) -> None:
    """Large sizes, offsets that are not 0 and more than one header block keep their places in the entry."""
    assert encode_index([entry]) == bytes.fromhex(encoded)
    assert decode_index(bytes.fromhex(encoded)) == [entry]
    assert expected_tar_size([entry]) == tar_size


def test_index_of_nothing() -> None:
    """No entries are no bytes, and describe the empty TAR: two zero blocks."""
    assert encode_index([]) == b""
    assert decode_index(b"") == []
    assert expected_tar_size([]) == 1024


@pytest.mark.parametrize(
    "entry",
    [
        IndexEntry(0, 0, 0),
        IndexEntry(0, 2**16, 0),
        IndexEntry(0, 1, -1),
        IndexEntry(0, 1, 2**48),
        IndexEntry(-1, 1, 0),
        IndexEntry(2**64, 1, 0),
    ],
)
def test_numbers_that_do_not_fit(entry: IndexEntry) -> None:
    """A number too large for its field is refused, never truncated."""
    with pytest.raises(InvalidInput, match="does not fit an index"):
        encode_index([entry])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("0000000000000000000100000000020000", "17 bytes is cut off"),
        ("0000000000000000000100000000000100000000000002000001000000000000", "entry 1 .* ends at 1024"),
        ("0000000000000400000100000000000000000000000000000001000000000000", "entry 1 .* ends at 1536"),
        ("00000000000000000000000000000000", "entry 0 .*0 header blocks"),
        ("00000000000000010001000000000000", "entry 0 .offset 1,"),
    ],
    ids=["cut", "overlap", "descending", "no-header", "off-the-blocks"],
)
def test_index_that_can_not_be_right(data: str, message: str) -> None:
    """A damaged index is refused with the entry that is wrong."""
    with pytest.raises(Corrupt, match=message):
        decode_index(bytes.fromhex(data))


sizes_and_blocks = st.lists(st.tuples(st.integers(0, 2**48 - 1), st.integers(1, 2**16 - 1)), max_size=20)


@given(sizes_and_blocks)
def test_round_trip(members: list[tuple[int, int]]) -> None:
    """Any entries that follow each other come back."""
    entries: list[IndexEntry] = []
    for size, blocks in members:
        entries.append(IndexEntry(entries[-1].end if entries else 0, blocks, size))
    assert decode_index(encode_index(entries)) == entries


@given(st.binary(max_size=200))
def test_whatever_is_decoded_is_encoded_again(data: bytes) -> None:
    """Any bytes are either refused as corrupt, or are exactly the encoding of what was decoded."""
    try:
        entries = decode_index(data)
    except Corrupt:
        return
    assert encode_index(entries) == data
