"""A damaged manifest is Corrupt, one of another version Unsupported, and never anything else."""

import random
import re
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.errors import Corrupt, Unsupported
from dasfs.formats.compression import Codec
from dasfs.formats.manifest import (
    RECORD,
    RECORD_SIZE,
    Manifest,
    ManifestBuilder,
    NamesTable,
    Segment,
)
from dasfs.names import DatapointNumber, DatarangeId

ID = DatarangeId(DatapointNumber(10), DatapointNumber(12), 5)


def make_manifest() -> Manifest:
    builder = ManifestBuilder("data")
    for k, extension in enumerate(("txt", "json", "txt")):
        builder.add(
            content_offset=512 + 1024 * k,
            stored_size=500,
            true_size=500 if k else 700,
            mtime=k,
            crc32=k,
            extension=extension,
            codec=Codec.NONE if k else Codec.ZSTD,
            original_name=f"name{k}",
        )
    segments = [Segment(ID, 0, 0, 1024, b"abcd"), Segment(ID, 1024, 1024, 2048, b"efgh")]
    return builder.build(ID, 3072 + 1024, segments)


MANIFEST = make_manifest()
DATA = MANIFEST.encode()


def with_checksum(body: bytes) -> bytes:
    return body + struct.pack(">I", zlib.crc32(body))


def changed_record(k: int, **changes: int) -> bytes:
    fields = ["content_offset", "stored_size", "true_size", "mtime", "crc32", "extension", "codec"]
    values = dict(zip(fields, RECORD.unpack_from(MANIFEST.records, k * RECORD_SIZE), strict=True)) | changes
    records = bytearray(MANIFEST.records)
    RECORD.pack_into(records, k * RECORD_SIZE, *values.values())
    return bytes(records)


def changed_byte(records: bytes, position: int, value: int) -> bytes:
    return records[:position] + bytes((value,)) + records[position + 1 :]


def segment(offset: int, length: int, crcs: bytes = b"abcd", origin: DatarangeId = ID) -> Segment:
    return Segment(origin, offset, offset, length, crcs)


BROKEN_PROMISES = {
    "bad-dataset": (replace(MANIFEST, dataset="a/b"), "'a/b' can't name a dataset"),
    "bad-extension": (replace(MANIFEST, extensions=("txt", "a/b")), "'a/b' can't be an extension"),
    "same-extension": (replace(MANIFEST, extensions=("txt", "txt")), "listed twice"),
    "few-extensions": (replace(MANIFEST, extensions=("txt",)), "an extension that is not listed"),
    "huge-tar": (replace(MANIFEST, tar_size=2**63), "TAR size 9223372036854775808 is impossible"),
    "short-tar": (replace(MANIFEST, tar_size=4095), "segments end at 3072, not 1024 before the end of 4095"),
    "tiny-tar": (replace(MANIFEST, tar_size=3000), "datapoints end at 3060, but there is room up to 1976"),
    "codec": (replace(MANIFEST, records=changed_record(1, codec=3)), "datapoint 11 has the unknown codec 3"),
    "reserved": (replace(MANIFEST, records=changed_byte(MANIFEST.records, 79, 1)), "a reserved byte"),
    "extension": (replace(MANIFEST, records=changed_record(2, extension=2)), "extension that is not listed"),
    "two-sizes": (replace(MANIFEST, records=changed_record(1, true_size=501)), "datapoint 11 has two sizes"),
    "too-large": (
        replace(MANIFEST, records=changed_record(0, true_size=2**27)),
        "datapoint 10 is compressed, but",
    ),
    "off-blocks": (replace(MANIFEST, records=changed_record(1, content_offset=1537)), "not start on a block"),
    "overlap": (
        replace(MANIFEST, records=changed_record(1, content_offset=512)),
        "datapoint 11 starts at 512",
    ),
    "no-header": (replace(MANIFEST, records=changed_record(0, content_offset=0)), "datapoint 10 starts at 0"),
    "outside": (
        replace(MANIFEST, records=changed_record(2, stored_size=513, true_size=513)),
        "datapoints end at 3073, but there is room up to 3072",
    ),
    "names-descend": (
        replace(MANIFEST, names=NamesTable(struct.pack(">4I", 0, 9, 5, 10), b"0123456789")),
        "names do not ascend",
    ),
    "names-start": (
        replace(MANIFEST, names=NamesTable(struct.pack(">4I", 1, 5, 9, 10), b"0123456789")),
        "do not cover them",
    ),
    "names-end": (
        replace(MANIFEST, names=NamesTable(struct.pack(">4I", 0, 5, 9, 9), b"0123456789")),
        "do not cover them",
    ),
    "no-segment": (replace(MANIFEST, segments=()), "segments end at 0"),
    "segment-gap": (replace(MANIFEST, segments=(segment(0, 1024), segment(1536, 1536))), "instead of 1024"),
    "segment-empty": (replace(MANIFEST, segments=(segment(0, 0, b""), segment(0, 3072))), "of 0 bytes"),
    "segment-short": (replace(MANIFEST, segments=(segment(0, 3071),)), "segments end at 3071"),
    "segment-origin": (
        replace(MANIFEST, segments=(segment(0, 3072, origin=DatarangeId(ID.last, ID.first, 1)),)),
        "impossible origin",
    ),
    "range": (
        replace(MANIFEST, id=DatarangeId(ID.last, ID.first, 1)),
        "range 12-10 is impossible",
    ),
    "many-records": (
        replace(MANIFEST, id=DatarangeId(ID.first, DatapointNumber(2**62), 1)),
        "too short: the records should have",
    ),
}


@pytest.mark.parametrize("promise", BROKEN_PROMISES)
def test_broken_promise(promise: str) -> None:
    """Each promise of the format that a manifest breaks is told, though its checksum is right."""
    manifest, message = BROKEN_PROMISES[promise]
    with pytest.raises(Corrupt, match=re.escape(message)):
        Manifest.decode(manifest.encode())


def test_another_dataset_s_manifest() -> None:
    """A manifest under the wrong dataset or key is not taken for what stands there."""
    assert Manifest.decode(DATA, dataset="data", id=ID) == MANIFEST
    with pytest.raises(Corrupt, match="it belongs to dataset 'data', not 'other'"):
        Manifest.decode(DATA, dataset="other")
    with pytest.raises(Corrupt, match=f"the manifest of {ID}: it stands under the key of"):
        Manifest.decode(DATA, id=DatarangeId(ID.first, ID.last, 6))


def test_another_version() -> None:
    """A later version is Unsupported, by its number, even when its checksum stands elsewhere."""
    later = DATA[:8] + b"\0\2" + DATA[10:]
    with pytest.raises(Unsupported, match=f"the manifest of {ID}: it has version 2.*update dasfs"):
        Manifest.decode(later, id=ID)


def test_something_else() -> None:
    """What is no manifest at all is told by its first bytes."""
    with pytest.raises(Corrupt, match="begins with b'<html><b'"):
        Manifest.decode(b"<html><body>404 Not Found</body></html>" + bytes(100))


def test_unknown_flags_and_bytes_after_the_end() -> None:
    """A flag that version 1 does not have, and bytes that nothing announces, are refused."""
    with pytest.raises(Corrupt, match="flags 0x3"):
        Manifest.decode(with_checksum(DATA[:11] + b"\3" + DATA[12:-4]))
    with pytest.raises(Corrupt, match="1 bytes follow"):
        Manifest.decode(with_checksum(DATA[:-4] + b"x"))


def test_every_truncation_is_corrupt() -> None:
    """No beginning of a manifest is taken for a manifest, whether its checksum was made right or not."""
    for size in range(len(DATA)):
        with pytest.raises(Corrupt):
            Manifest.decode(DATA[:size])
    for size in range(len(DATA) - 4):
        with pytest.raises(Corrupt):
            Manifest.decode(with_checksum(DATA[:size]))


@given(position=st.integers(0, len(DATA) - 1), mask=st.integers(1, 255))
def test_every_changed_byte_is_noticed(position: int, mask: int) -> None:
    """A changed byte is Corrupt, or Unsupported where it changes the version."""
    damaged = changed_byte(DATA, position, DATA[position] ^ mask)
    with pytest.raises(Unsupported if position in (8, 9) else Corrupt):
        Manifest.decode(damaged)


@given(
    position=st.integers(0, len(DATA)),
    removed=st.integers(0, 50),
    inserted=st.binary(max_size=50) | st.integers(0, 2**64 - 1).map(lambda number: number.to_bytes(8, "big")),
)
def test_damage_under_a_right_checksum(position: int, removed: int, inserted: bytes) -> None:
    """Whatever stands under a right checksum is refused, or is exactly what its encoding gives."""
    damaged = with_checksum(DATA[:-4][:position] + inserted + DATA[:-4][position + removed :])
    try:
        manifest = Manifest.decode(damaged)
    except (Corrupt, Unsupported):
        return
    assert manifest.encode() == damaged
    assert len([manifest.original_name(k) for k in range(manifest.count)]) == len(list(manifest.iter_records()))


@given(st.binary(max_size=300))
def test_garbage(garbage: bytes) -> None:
    """Bytes behind the magic that nobody wrote are refused."""
    with pytest.raises((Corrupt, Unsupported)):
        Manifest.decode(with_checksum(b"DASFSMAN\0\1" + garbage))


def test_a_million_datapoints_are_checked_column_by_column() -> None:
    """The last of a million records is checked, and reading one of them parses no other."""
    count = 1_000_000
    own = DatarangeId(DatapointNumber(0), DatapointNumber(count - 1), 1)
    records = b"".join(RECORD.pack(512 + 1024 * k, 512, 512, 0, k, 0, 0) for k in range(count))
    crcs = random.Random(1).randbytes(4 * (-(-count * 1024 // (1 << 18))))
    whole = Manifest("data", own, count * 1024 + 1024, ("x",), records, None, (Segment(own, 0, 0, count * 1024, crcs),))
    decoded = Manifest.decode(whole.encode())
    assert decoded.record(count - 1).crc32 == count - 1
    assert decoded.data_size == count * 512
    damaged = replace(whole, records=records[:-2] + b"\7\0")
    with pytest.raises(Corrupt, match="datapoint 999999 has the unknown codec 7"):
        Manifest.decode(damaged.encode())
