"""The manifest holds what was put into it, in the layout that is drawn above its codec."""

import os
import random
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.errors import InvalidInput
from dasfs.formats.compression import MAX_COMPRESSIBLE, Codec
from dasfs.formats.manifest import (
    CHECKSUM_BLOCK_SIZE,
    RECORD_SIZE,
    BlockChecksums,
    Manifest,
    ManifestBuilder,
    Record,
    Segment,
)
from dasfs.formats.tar import padding
from dasfs.names import MAX_EXTENSION, DatapointNumber, DatarangeId

GOLDEN = Path(__file__).parent / "golden" / "manifest-v1.bin"


def range_id(first: int, last: int, counter: int = 1) -> DatarangeId:
    return DatarangeId(DatapointNumber(first), DatapointNumber(last), counter)


def fresh_segment(origin: DatarangeId, length: int, seed: int = 0) -> Segment:
    """A segment of a fresh upload; its checksums are made up."""
    blocks = -(-length // CHECKSUM_BLOCK_SIZE)
    return Segment(origin, 0, 0, length, random.Random(seed).randbytes(4 * blocks))


def golden_manifest() -> Manifest:
    """An aggregate of a large and a small upload: compression, original names, negative time, odd bytes."""
    builder = ManifestBuilder("my-dataset_1")
    add = builder.add
    add(
        content_offset=512,
        stored_size=0,
        true_size=0,
        mtime=0,
        crc32=0,
        extension="",
        codec=Codec.NONE,
        original_name="train/empty",
    )
    add(
        content_offset=1024,
        stored_size=100,
        true_size=1000,
        mtime=1_700_000_000,
        crc32=0xDEADBEEF,
        extension="json",
        codec=Codec.ZSTD,
        original_name=None,
    )
    add(
        content_offset=2048,
        stored_size=99,
        true_size=200,
        mtime=-1,
        crc32=1,
        extension="json",
        codec=Codec.LZ4,
        original_name=os.fsdecode(b"caf\xe9/\xff.json"),
    )
    add(
        content_offset=3072,
        stored_size=300_000,
        true_size=300_000,
        mtime=2**40,
        crc32=2,
        extension="tar.gz",
        codec=Codec.NONE,
        original_name="trän.tar.gz",
    )
    end = 3072 + 300_000 + padding(300_000)
    segments = (
        Segment(range_id(41, 42, 7), 0, 0, 1536, bytes.fromhex("00000001")),
        Segment(range_id(43, 44, 8), 512, 1536, end - 1536, bytes.fromhex("0000000200000003")),
    )
    return builder.build(range_id(41, 44, 9), end + 1024, segments)


def test_golden_file() -> None:
    """Version 1 stays what it is: the bytes of years ago are what is written today, and are read."""
    assert golden_manifest().encode() == GOLDEN.read_bytes()
    assert Manifest.decode(GOLDEN.read_bytes()) == golden_manifest()


def test_layout_is_the_drawn_one() -> None:
    """A manifest put together by hand from the table is what encode gives."""
    builder = ManifestBuilder("d")
    builder.add(
        content_offset=512,
        stored_size=5,
        true_size=6,
        mtime=-2,
        crc32=3,
        extension="txt",
        codec=Codec.ZSTD,
        original_name="a/b",
    )
    segment = Segment(range_id(7, 7, 2), 0, 0, 1024, b"\1\2\3\4")
    by_hand = b"DASFSMAN" + struct.pack(">HHQQQQ", 1, 1, 7, 7, 2, 2048) + struct.pack(">HIQ", 1, 1, 3)
    by_hand += b"\1d" + b"\3txt"
    by_hand += struct.pack(">QQQq", 512, 5, 6, -2) + b"\0\0\0\3" + b"\0\0" + b"\1" + b"\0"
    by_hand += struct.pack(">II", 0, 3) + b"a/b"
    by_hand += struct.pack(">QQQQQQ", 7, 7, 2, 0, 0, 1024) + b"\1\2\3\4"
    by_hand += struct.pack(">I", zlib.crc32(by_hand))
    assert builder.build(range_id(7, 7, 2), 2048, [segment]).encode() == by_hand
    assert RECORD_SIZE == 40


def test_records_and_names_by_position() -> None:
    """Each datapoint's record and original name is found by its position; data_size sums true sizes."""
    manifest = Manifest.decode(golden_manifest().encode())
    assert manifest.count == 4
    assert manifest.record(1) == Record(1024, 100, 1000, 1_700_000_000, 0xDEADBEEF, "json", Codec.ZSTD)
    assert manifest.record(3).extension == "tar.gz"
    assert list(manifest.iter_records()) == [manifest.record(k) for k in range(4)]
    names = [manifest.original_name(k) for k in range(4)]
    assert names == ["train/empty", None, os.fsdecode(b"caf\xe9/\xff.json"), "trän.tar.gz"]
    assert manifest.data_size == 0 + 1000 + 200 + 300_000
    assert manifest.extensions == ("", "json", "tar.gz")


@pytest.mark.parametrize("k", [-1, 4])
def test_positions_outside(k: int) -> None:
    """A position that no datapoint has is an IndexError, never another datapoint."""
    manifest = golden_manifest()
    with pytest.raises(IndexError):
        manifest.record(k)
    with pytest.raises(IndexError):
        manifest.original_name(k)


def test_segment_checksums_by_block() -> None:
    """A segment knows how many blocks it has, the last one short, and the checksum of each."""
    _, segment = golden_manifest().segments
    assert (segment.block_count, segment.crc(0), segment.crc(1)) == (2, 2, 3)
    for block in (-1, 2):
        with pytest.raises(IndexError):
            segment.crc(block)


def test_manifest_without_names_has_no_table() -> None:
    """When all numbers were given, there is nothing to keep: the table takes no byte."""
    sizes = {}
    for name in (None, "x"):
        builder = ManifestBuilder("d")
        builder.add(
            content_offset=512,
            stored_size=0,
            true_size=0,
            mtime=0,
            crc32=0,
            extension="txt",
            codec=Codec.NONE,
            original_name=name,
        )
        manifest = builder.build(range_id(0, 0), 1536, [fresh_segment(range_id(0, 0), 512)])
        assert (manifest.names is None) == (name is None)
        sizes[name] = len(manifest.encode())
    assert sizes["x"] - sizes[None] == 2 * 4 + 1


# Undecodable names arrive as os.fsdecode gives them.
extensions = st.binary(max_size=8).map(lambda raw: os.fsdecode(raw.translate(None, b"\0/")))
original_names = st.none() | st.binary(min_size=1, max_size=20).map(os.fsdecode)
datapoints = st.tuples(
    st.builds(
        Record,
        content_offset=st.just(0),
        stored_size=st.integers(0, 2**28),
        true_size=st.integers(0, MAX_COMPRESSIBLE),
        mtime=st.integers(-(2**63), 2**63 - 1),
        crc32=st.integers(0, 2**32 - 1),
        extension=extensions,
        codec=st.sampled_from(Codec),
    ),
    original_names,
)


def lay_out(records: list[Record]) -> list[Record]:
    """Place the contents one behind the other; what is not compressed has one size."""
    placed, end = [], 0
    for record in records:
        true_size = record.true_size if record.codec else record.stored_size
        placed.append(record._replace(content_offset=end + 512, true_size=true_size))
        end += 512 + record.stored_size + padding(record.stored_size)
    return placed


@given(
    points=st.lists(datapoints, min_size=1, max_size=10),
    first=st.integers(0, 2**62),
    counter=st.integers(0, 2**64 - 1),
)
def test_round_trip(points: list[tuple[Record, str | None]], first: int, counter: int) -> None:
    """Any datapoints that were added come back, and the decoded manifest encodes to the same bytes."""
    records = lay_out([record for record, _ in points])
    names = [name for _, name in points]
    builder = ManifestBuilder("d" * 128)
    for record, name in zip(records, names, strict=True):
        builder.add(**record._asdict(), original_name=name)
    own = range_id(first, first + len(points) - 1, counter)
    end = records[-1].content_offset + records[-1].stored_size + padding(records[-1].stored_size)
    data = builder.build(own, end + 1024, [fresh_segment(own, end)]).encode()
    decoded = Manifest.decode(data, dataset="d" * 128, id=own)
    assert list(decoded.iter_records()) == records
    assert [decoded.original_name(k) for k in range(decoded.count)] == names
    assert decoded.data_size == sum(record.true_size for record in records)
    assert decoded.encode() == data


BYTES = random.Random(0).randbytes(3 * CHECKSUM_BLOCK_SIZE)


@given(st.lists(st.integers(0, 2 * CHECKSUM_BLOCK_SIZE), max_size=8))
def test_block_checksums_do_not_depend_on_the_pieces(lengths: list[int]) -> None:
    """However the bytes are cut into updates, each block of 256 KiB gets its CRC-32, the short last, too."""
    checksums = BlockChecksums()
    position = 0
    for length in lengths:
        checksums.update(memoryview(BYTES)[position : position + length])
        position = min(position + length, len(BYTES))
    blocks = [BYTES[at : min(at + CHECKSUM_BLOCK_SIZE, position)] for at in range(0, position, CHECKSUM_BLOCK_SIZE)]
    assert checksums.finish() == b"".join(zlib.crc32(block).to_bytes(4, "big") for block in blocks)


def test_too_many_extensions() -> None:
    """65,535 extensions fit, one more does not, and those that are known are still taken."""
    builder = ManifestBuilder("d")

    def add(extension: str) -> None:
        builder.add(
            content_offset=512,
            stored_size=0,
            true_size=0,
            mtime=0,
            crc32=0,
            extension=extension,
            codec=Codec.NONE,
            original_name=None,
        )

    for number in range(65_535):
        add(str(number))
    assert builder.extension_count == 65_535
    with pytest.raises(InvalidInput, match="65535 extensions"):
        add("another")
    add("17")
    assert builder.extension_count == 65_535


@pytest.mark.parametrize(
    "wrong",
    [
        {"mtime": 2**63},
        {"content_offset": -1},
        {"stored_size": 2**64},
        {"crc32": 2**32},
        {"extension": "x" * (MAX_EXTENSION + 1)},
        {"extension": "a/b"},
        {"original_name": "\ud800"},
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, object]) -> None:
    """A number, an extension or a name that has no room is refused, and leaves the builder as it was."""
    right = {"content_offset": 512, "stored_size": 0, "true_size": 0, "mtime": 0, "crc32": 0}
    right |= {"extension": "txt", "codec": Codec.NONE, "original_name": "x"}
    builder = ManifestBuilder("d")
    with pytest.raises(InvalidInput):
        builder.add(**(right | wrong))
    builder.add(**right)
    assert builder.build(range_id(0, 0), 1536, [fresh_segment(range_id(0, 0), 512)]).count == 1


def test_builder_checks_what_it_builds() -> None:
    """A manifest that decode would refuse is never built."""
    with pytest.raises(InvalidInput, match="0 bytes of records for 2 datapoints"):
        ManifestBuilder("d").build(range_id(0, 1), 1536, [fresh_segment(range_id(0, 1), 512)])
    with pytest.raises(InvalidInput, match="can't name a dataset"):
        ManifestBuilder("a/b").build(range_id(0, 1), 1536, [])
