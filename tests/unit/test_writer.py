"""Packing datapoints: the bytes of the TAR, its index and its manifest, and what is refused."""

import errno
import io
import os
import resource
import signal
import tarfile
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dasfs.dataset.spool import CHUNK_SIZE, MEMORY_LIMIT, Spool
from dasfs.dataset.writer import DatarangeWriter
from dasfs.errors import DasfsError, InvalidInput, NoSpace, NotFound, ObjectChanged
from dasfs.formats.compression import Codec, Compression, decompress
from dasfs.formats.index import decode_index, expected_tar_size
from dasfs.formats.segments import CHECKSUM_BLOCK_SIZE
from dasfs.names import MAX_NUMBER
from tests.datasets import MTIME, pack

NONE = Compression.parse("none")


def tar_of(contents: Sequence[bytes], first: int = 0, **options: str) -> bytes:
    with pack("birds", first, contents, **options) as packed:  # type: ignore[arg-type]
        return b"".join(packed.chunks())


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=8), st.integers(0, MAX_NUMBER - 10))
def test_any_tar_program_reads_what_was_packed(contents: list[bytes], first: int) -> None:
    """Python's tarfile finds the same names and contents, in order, and exactly 1,024 zero bytes at the end."""
    data = tar_of(contents, first)
    with tarfile.open(fileobj=io.BytesIO(data), format=tarfile.USTAR_FORMAT) as archive:
        members = archive.getmembers()
        files = [archive.extractfile(each) for each in members]
        assert [file.read() for file in files if file] == contents
    assert [each.name for each in members] == [f"{first + k:020d}.bin" for k in range(len(contents))]
    assert {(each.mode, each.uid, each.gid, each.mtime) for each in members} == {(0o644, 0, 0, MTIME)}
    end = members[-1].offset_data + -(-len(contents[-1]) // 512) * 512
    assert data[end:] == bytes(1024)


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=8))
def test_index_and_manifest_say_where_everything_is(contents: list[bytes]) -> None:
    """Offsets, sizes, checksums and times of index and manifest are those of the TAR."""
    with pack("birds", 7, contents, names={8: "a/ü.bin"}) as packed:
        data = b"".join(packed.chunks())
        entries, manifest = decode_index(packed.index), packed.manifest(3)
    assert len(data) == packed.tar_size == expected_tar_size(entries) == manifest.tar_size
    for k, content in enumerate(contents):
        record, entry = manifest.record(k), entries[k]
        assert (record.content_offset, record.stored_size) == (entry.content_offset, entry.content_size)
        assert data[record.content_offset :][: record.stored_size] == content
        assert (record.true_size, record.crc32, record.mtime) == (len(content), zlib.crc32(content), MTIME)
    assert packed.data_size == manifest.data_size == sum(map(len, contents))
    assert packed.named == (len(contents) > 1) == (manifest.names is not None)


@pytest.mark.parametrize("size", [1, CHECKSUM_BLOCK_SIZE - 512, CHECKSUM_BLOCK_SIZE, 3 * CHUNK_SIZE + 5])
def test_the_segment_has_a_checksum_for_each_block(size: int) -> None:
    """The one segment covers the TAR without its trailer, and each of its block checksums is that of the bytes."""
    with pack("birds", 0, [os.urandom(size)]) as packed:
        data = b"".join(packed.chunks())
        manifest = packed.manifest(9)
    (segment,) = manifest.segments
    assert (segment.origin, segment.origin_offset, segment.offset) == (manifest.id, 0, 0)
    assert segment.length == len(data) - 1024
    blocks = [data[:-1024][at : at + CHECKSUM_BLOCK_SIZE] for at in range(0, segment.length, CHECKSUM_BLOCK_SIZE)]
    assert [segment.crc(number) for number in range(segment.block_count)] == [zlib.crc32(each) for each in blocks]


def test_files_and_bytes_give_the_same_tar(tmp_path: Path) -> None:
    """Whether a datapoint comes as bytes, as a small file or as one that is streamed makes no difference."""
    contents = [b"small", os.urandom(CHUNK_SIZE + 1), os.urandom(5 * CHUNK_SIZE), b""]
    with DatarangeWriter("birds", NONE) as writer:
        for number, content in enumerate(contents):
            path = tmp_path / str(number)
            path.write_bytes(content)
            with path.open("rb") as file:
                assert writer.add(number, "bin", MTIME, file, len(content)) == zlib.crc32(content)
        assert writer.count == 4
        size = writer.tar_size
        with writer.finish() as packed:
            assert b"".join(packed.chunks()) == tar_of(contents)
            assert packed.tar_size == size


@pytest.mark.parametrize("text", ["zstd:3", "lz4"])
def test_compression_is_by_datapoint_and_only_where_it_pays(text: str) -> None:
    """What shrinks is stored compressed, under a name that says so; what does not is stored as it is."""
    contents = [b"a" * 10_000, os.urandom(1000), b""]
    with pack("birds", 0, contents, extension="txt", compression=text) as packed:
        data, manifest = b"".join(packed.chunks()), packed.manifest(1)
    codec = Compression.parse(text).codec
    assert [each.codec for each in manifest.iter_records()] == [codec, Codec.NONE, Codec.NONE]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = [each.partition(".")[2] for each in archive.getnames()]
    assert names == [f"txt{codec.suffix}", "txt", "txt"]
    for record, content in zip(manifest.iter_records(), contents, strict=True):
        stored = data[record.content_offset :][: record.stored_size]
        assert decompress(record.codec, stored, record.true_size) == content
        assert record.crc32 == zlib.crc32(content)


def test_the_progress_adds_up_to_the_tar(tmp_path: Path) -> None:
    """Whoever watches an upload is told each byte once, also when it is sent a second time."""
    with pack("birds", 0, [os.urandom(3 * CHUNK_SIZE)]) as packed:
        for _ in range(2):
            told: list[int] = []
            assert sum(map(len, packed.chunks(told.append))) == sum(told) == packed.tar_size


def test_numbers_have_no_gap() -> None:
    """A number that does not follow the one before is refused, and the right one can still be added."""
    with DatarangeWriter("birds", NONE) as writer:
        writer.add(5, "bin", MTIME, b"x")
        for wrong in (5, 7, 4, -1, MAX_NUMBER + 1):
            with pytest.raises(InvalidInput):
                writer.add(wrong, "bin", MTIME, b"x")
        writer.add(6, "bin", MTIME, b"x")
        with writer.finish() as packed:
            assert (packed.first, packed.last, packed.count) == (5, 6, 2)


@pytest.mark.parametrize(
    ("said", "found"), [(10, 9), (10, 11), (0, 1), (5 * CHUNK_SIZE, 1), (CHUNK_SIZE * 2, CHUNK_SIZE * 2 + 1)]
)
def test_a_file_that_changes_while_it_is_packed_is_noticed(said: int, found: int) -> None:
    """A file that is shorter or longer than it was said to be never gets into a datarange."""
    with DatarangeWriter("birds", NONE) as writer:
        with pytest.raises(ObjectChanged, match="datapoint 3 changed while it was packed"):
            writer.add(3, "bin", MTIME, io.BytesIO(bytes(found)), said)
        with pytest.raises(InvalidInput, match="failed before"):
            writer.add(4, "bin", MTIME, b"x")


def test_a_file_that_can_not_be_read_is_one_clear_error() -> None:
    """An I/O error of a source names the datapoint."""

    class Broken(io.BytesIO):
        def readinto(self, buffer: object, /) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with DatarangeWriter("birds", NONE) as writer, pytest.raises(DasfsError, match="datapoint 3 can't be read: Input"):
        writer.add(3, "bin", MTIME, Broken(), 100)


@pytest.mark.parametrize("extension", ["a/b", "x" * 80, "nul\0"])
def test_an_extension_that_can_not_be_is_refused(extension: str) -> None:
    """What no header and no file system can hold is wrong usage."""
    with DatarangeWriter("birds", NONE) as writer, pytest.raises(InvalidInput):
        writer.add(0, extension, MTIME, b"x")


def test_an_empty_datarange_is_refused() -> None:
    """There is no datarange without a datapoint."""
    with DatarangeWriter("birds", NONE) as writer, pytest.raises(InvalidInput):
        writer.finish()


def test_a_file_needs_its_size() -> None:
    """The header stands before the content, so the size has to be said."""
    with DatarangeWriter("birds", NONE) as writer, pytest.raises(InvalidInput, match="needs its size"):
        writer.add(0, "bin", MTIME, io.BytesIO(b"x"))


def test_a_finished_writer_takes_nothing_more() -> None:
    """After `finish`, and after an error, adding is refused instead of writing into what others hold."""
    with DatarangeWriter("birds", NONE) as writer:
        writer.add(0, "bin", MTIME, b"x")
        writer.finish().close()
        for attempt in (lambda: writer.add(1, "bin", MTIME, b"x"), writer.finish):
            with pytest.raises(InvalidInput, match="finished"):
                attempt()


def test_a_full_disk_is_told_with_the_way_out() -> None:
    """When the temporary file can't grow, the error says where it is and how to have it elsewhere."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * CHUNK_SIZE, before[1]))
    try:
        with (
            DatarangeWriter("birds", NONE) as writer,
            pytest.raises(NoSpace, match=r"temporary file in .*; set TMPDIR"),
        ):
            for number in range(8):
                writer.add(number, "bin", MTIME, bytes(CHUNK_SIZE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_missing_directory_for_temporary_files_is_named(tmp_path: Path) -> None:
    """The directory that does not exist is in the message, as soon as something does not fit into memory."""
    with closing(Spool(str(tmp_path / "nowhere"))) as spool, pytest.raises(NotFound, match="nowhere"):
        spool.write(bytes(3 * CHUNK_SIZE))


@pytest.mark.parametrize(("expected_size", "spilled"), [(0, False), (20 * CHUNK_SIZE, False), (20 * CHUNK_SIZE, True)])
def test_a_spool_gives_back_what_was_written(tmp_path: Path, expected_size: int, spilled: bool) -> None:
    """In memory or in a file: any range, and all of it in pieces, with the checksums of its blocks."""
    data = os.urandom(17 * CHUNK_SIZE + 99)
    with closing(Spool(str(tmp_path), expected_size)) as spool:
        for start in range(0, len(data), 700_001):
            spool.write(data[start : start + 700_001])
        assert spool.size == len(data)
        crcs = spool.finish(b"the end")
        if spilled:
            spool.spill()
        assert spool.read(0, spool.size) == b"".join(spool.pieces()) == data + b"the end"
        assert spool.read(CHUNK_SIZE - 5, 10) == data[CHUNK_SIZE - 5 :][:10]
    blocks = [data[at : at + CHECKSUM_BLOCK_SIZE] for at in range(0, len(data), CHECKSUM_BLOCK_SIZE)]
    assert crcs == b"".join(zlib.crc32(each).to_bytes(4, "big") for each in blocks)


def test_what_can_not_be_spilled_stays_in_memory(tmp_path: Path) -> None:
    """Where there is no room in the directory, nothing is lost."""
    data = os.urandom(3 * CHUNK_SIZE)
    with closing(Spool(str(tmp_path / "nowhere"), 4 * CHUNK_SIZE)) as spool:
        spool.write(data)
        spool.finish(b"")
        with pytest.raises(NotFound):
            spool.spill()
        assert b"".join(spool.pieces()) == data


def test_memory_for_spools_is_bounded(tmp_path: Path) -> None:
    """What is more than all spools together may take goes through a file, and memory that was freed is used again."""
    spools = [Spool(str(tmp_path / "nowhere"), MEMORY_LIMIT // 2) for _ in range(3)]
    for spool in spools[:2]:
        spool.write(bytes(3 * CHUNK_SIZE))
    with pytest.raises(NotFound):
        spools[2].write(bytes(3 * CHUNK_SIZE))
    for spool in spools:
        spool.close()
    with closing(Spool(str(tmp_path / "nowhere"), MEMORY_LIMIT)) as spool:
        spool.write(bytes(3 * CHUNK_SIZE))


def test_nothing_is_left_in_the_directory_for_temporary_files(tmp_path: Path) -> None:
    """The spool has no name: whatever kills the process, the directory stays empty."""
    with DatarangeWriter("birds", NONE, str(tmp_path)) as writer:
        writer.add(0, "bin", MTIME, bytes(3 * CHUNK_SIZE))
        assert list(tmp_path.iterdir()) == []
