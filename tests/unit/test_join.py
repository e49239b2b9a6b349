"""Manifest and index of joined TAR objects: what packing everything at once would have given."""

import time
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.aggregation_parts import join_segments
from dasfs.dataset.writer import DatarangeWriter, PackedDatarange
from dasfs.errors import InvalidInput
from dasfs.formats.compression import Codec, Compression
from dasfs.formats.index import IndexEntry, decode_index
from dasfs.formats.join import join_manifests, joined_size, make_index
from dasfs.formats.manifest import RECORD, Manifest, ManifestBuilder, Segment
from dasfs.formats.segments import block_count
from tests.datasets import datarange_id


@dataclass(frozen=True)
class Given:
    """One datapoint to pack."""

    content: bytes
    extension: str
    mtime: int
    name: str | None


DATAPOINTS = st.builds(
    Given,
    st.one_of(st.binary(max_size=2000), st.integers(0, 3000).map(bytes)),
    st.sampled_from(["jpg", "json", "", "tar.gz", "é"]),
    st.integers(-(2**31), 2**40),
    st.one_of(st.none(), st.sampled_from(["a/b.jpg", "ü", "x" * 300, "\udcff"])),
)


def pack(datapoints: list[Given], first: int, compression: str) -> PackedDatarange:
    with DatarangeWriter("d", Compression.parse(compression)) as writer:
        for number, each in enumerate(datapoints, first):
            writer.add(number, each.extension, each.mtime, each.content, original_name=each.name)
        return writer.finish()


def join(manifests: list[Manifest]) -> Manifest:
    identity = datarange_id(manifests[0].id.first, manifests[-1].id.last, 9)
    return join_manifests(manifests, identity, join_segments(identity, [each.segments for each in manifests], {}))


@given(st.lists(st.lists(DATAPOINTS, min_size=1, max_size=5), min_size=1, max_size=5), st.integers(0, 2**60))
def test_joined_is_as_if_packed_at_once(groups: list[list[Given]], first: int) -> None:
    """Index, records, extensions and names are byte for byte those of one fresh datarange with all datapoints."""
    manifests, number, index_sizes = [], first, 0
    for group in groups:
        with pack(group, number, "zstd") as packed:
            manifests.append(packed.manifest(1))
            index_sizes += len(packed.index)
        number += len(group)
    joined = join(manifests)
    with pack([each for group in groups for each in group], first, "zstd") as packed:
        fresh = packed.manifest(9)
        assert make_index(joined) == packed.index
    assert replace(joined, segments=fresh.segments) == fresh
    assert Manifest.decode(joined.encode()) == joined
    assert joined.tar_size == joined_size([each.tar_size for each in manifests])


def test_the_headers_of_other_programs_are_counted() -> None:
    """A datapoint with PAX records before it has several header blocks in the index."""
    builder = ManifestBuilder("d")
    for offset, size in ((1536, 700), (3072, 0), (5120, 10)):
        builder.add(
            content_offset=offset,
            stored_size=size,
            true_size=size,
            mtime=0,
            crc32=0,
            extension="x",
            codec=Codec.NONE,
            original_name=None,
        )
    segment = Segment(datarange_id(0, 2), 0, 0, 5632, bytes(4))
    index = decode_index(make_index(builder.build(datarange_id(0, 2), 5632 + 1024, [segment])))
    assert index == [IndexEntry(0, 3, 700), IndexEntry(2560, 1, 0), IndexEntry(3072, 4, 10)]


def test_what_does_not_make_up_the_whole_is_refused() -> None:
    """A gap between manifests can't become a manifest."""
    with pack([Given(b"x", "a", 0, None)], 0, "none") as one, pack([Given(b"x", "a", 0, None)], 2, "none") as two:
        manifests = [one.manifest(1), two.manifest(1)]
    with pytest.raises(InvalidInput, match="bytes of records for 3 datapoints"):
        join(manifests)


def test_a_million_records_are_joined_in_a_moment() -> None:
    """Joining is done by columns: a million datapoints take about a second, not ten."""
    count, parts = 10_000, []
    records = b"".join(RECORD.pack(512 + k * 1024, 400, 400, 7, k, k % 2, 0) for k in range(count))
    for number in range(100):
        identity, size = datarange_id(number * count, (number + 1) * count - 1), count * 1024
        segment = Segment(identity, 0, 0, size, bytes(4 * block_count(size)))
        extensions = ("jpg", "txt") if number % 2 else ("txt", "jpg")
        parts.append(Manifest("d", identity, size + 1024, extensions, records, None, (segment,)))
    started = time.process_time()
    joined = join(parts)
    index = make_index(joined)
    assert time.process_time() - started < 4  # 1 on an idle machine
    assert (joined.count, len(index)) == (1_000_000, 16_000_000)
    assert joined.record(999_999) == parts[-1].record(count - 1)._replace(content_offset=512 + 999_999 * 1024)
