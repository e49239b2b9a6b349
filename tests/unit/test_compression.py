"""Datapoints are compressed where it pays, into frames that other programs read."""

import io
import os
import random
import subprocess
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dasfs.errors import Corrupt, InvalidInput
from dasfs.formats import compression
from dasfs.formats.compression import Codec, Compression, compress, decompress
from dasfs.names import MAX_EXTENSION

TEXT = b"All work and no play makes Jack a dull boy.\n" * 200
BOTH = pytest.mark.parametrize("name", ["zstd", "lz4"])


def compressed(name: str, data: bytes = TEXT, extension: str = "txt") -> tuple[Codec, bytes]:
    codec, stored = compress(Compression.parse(name), data, extension)
    return codec, bytes(stored)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("none", Compression(Codec.NONE, 0)),
        ("lz4", Compression(Codec.LZ4, 0)),
        ("zstd", Compression(Codec.ZSTD, 3)),
        ("zstd:1", Compression(Codec.ZSTD, 1)),
        ("zstd:22", Compression(Codec.ZSTD, 22)),
    ],
)
def test_configuration_text(text: str, meaning: Compression) -> None:
    """Each spelling has its meaning, and what a Compression prints means the same."""
    assert Compression.parse(text) == meaning
    assert Compression.parse(str(meaning)) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gzip",
        "ZSTD",
        "zstd:",
        "zstd:0",
        "zstd:23",
        "zstd:03",
        "zstd:-1",
        "zstd:3:4",
        "lz4:1",
        "none:",
        "²",
    ],
)
def test_other_configuration_texts_are_refused(text: str) -> None:
    """What is no compression is refused with the list of those that are."""
    with pytest.raises(InvalidInput, match="use none, lz4, zstd or zstd:LEVEL"):
        Compression.parse(text)


@BOTH
@given(data=st.binary(max_size=3000).map(lambda data: data * 3))
def test_round_trip(name: str, data: bytes) -> None:
    """Whatever is stored gives the true bytes again."""
    codec, stored = compressed(name, data)
    assert decompress(codec, stored, len(data)) == data
    assert codec is Codec.NONE or len(stored) <= len(data) * 0.95


@BOTH
def test_memoryviews_are_taken(name: str) -> None:
    """A slice of a larger buffer is compressed and decompressed without a copy by the caller."""
    codec, stored = compress(Compression.parse(name), memoryview(b"x" + TEXT)[1:], "txt")
    assert decompress(codec, memoryview(b"x" + stored)[1:], len(TEXT)) == TEXT


@pytest.mark.parametrize("name", ["zstd", "zstd:19", "lz4"])
def test_other_programs_read_it(tmp_path: Path, name: str) -> None:
    """What `tar -x` takes out of a datarange is a file that others decompress: here libarchive's bsdcat."""
    codec, stored = compressed(name)
    member = tmp_path / f"00000000000000000001.txt{codec.suffix}"
    member.write_bytes(stored)
    assert subprocess.run(["bsdcat", member], capture_output=True, check=True).stdout == TEXT


def test_frames_say_their_content_size() -> None:
    """The header of a frame has the true size, and a streaming reader reads it."""
    _, stored = compressed("zstd")
    assert zstandard.frame_content_size(stored) == len(TEXT)
    assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(stored)).read() == TEXT
    _, stored = compressed("lz4")
    assert lz4.frame.get_frame_info(stored)["content_size"] == len(TEXT)


def test_higher_levels_are_used() -> None:
    """The level of the configuration reaches the compressor."""
    words = random.Random(1).choices(TEXT.split(), k=20_000)
    data = b" ".join(words)
    assert len(compressed("zstd:19", data)[1]) < len(compressed("zstd:1", data)[1])


@BOTH
@pytest.mark.parametrize("extension", ["jpg", "JPG", "png", "mp4", "json.gz", "tar.ZST", "a.b.lz4", "zip"])
def test_compressed_formats_stay(name: str, extension: str) -> None:
    """Nothing that is compressed inside, by the last part of its extension in any case, is tried again."""
    assert compress(Compression.parse(name), TEXT, extension) == (Codec.NONE, TEXT)


@BOTH
def test_small_gain_stays(name: str) -> None:
    """What would shrink by less than 5 % is stored as it is, and the caller's own object comes back."""
    for data in (b"", b"x", os.urandom(10_000), os.urandom(10_000) + bytes(300)):
        codec, stored = compress(Compression.parse(name), data, "txt")
        assert codec is Codec.NONE
        assert stored is data


@BOTH
def test_large_datapoints_stay_seekable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A datapoint above the limit is not compressed, one at the limit is."""
    monkeypatch.setattr(compression, "MAX_COMPRESSIBLE", len(TEXT) - 1)
    assert compressed(name)[0] is Codec.NONE
    monkeypatch.setattr(compression, "MAX_COMPRESSIBLE", len(TEXT))
    assert compressed(name)[0] is not Codec.NONE


@BOTH
def test_extension_must_leave_room_for_the_suffix(name: str) -> None:
    """The member's name with `.zst` or `.lz4` still fits its TAR header, else the bytes stay."""
    assert compressed(name, extension="x" * (MAX_EXTENSION - 4))[0] is not Codec.NONE
    assert compressed(name, extension="x" * (MAX_EXTENSION - 3))[0] is Codec.NONE
    assert compressed(name, extension="ä" * 38)[0] is Codec.NONE


def test_no_compression() -> None:
    """Configured `none`, the bytes stay."""
    assert compress(Compression.parse("none"), TEXT, "txt") == (Codec.NONE, TEXT)


@BOTH
def test_threads_compress_at_once(name: str) -> None:
    """Many threads get what one thread gets."""
    inputs = [TEXT + bytes([number]) * number for number in range(64)]

    def round_trip(data: bytes) -> bytes:
        codec, stored = compressed(name, data)
        return decompress(codec, stored, len(data))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(round_trip, inputs)) == inputs


@pytest.mark.parametrize("name", ["none", "zstd", "lz4"])
@pytest.mark.parametrize("difference", [-1, 1, 1000])
def test_wrong_size_is_corrupt(name: str, difference: int) -> None:
    """Anything but the exact number of bytes is an error."""
    codec, stored = compressed(name)
    with pytest.raises(Corrupt, match="a datapoint"):
        decompress(codec, stored, len(TEXT) + difference)


@BOTH
def test_cut_or_continued_frames_are_corrupt(name: str) -> None:
    """A frame that lacks bytes, or has some after its end, is no datapoint."""
    codec, stored = compressed(name)
    for damaged in (b"", stored[:3], stored[:-1], stored[: len(stored) // 2], stored + b"x", stored + stored):
        with pytest.raises(Corrupt, match="frame can't be decoded"):
            decompress(codec, damaged, len(TEXT))


@BOTH
@given(position=st.integers(0), mask=st.integers(1, 255))
def test_damage_is_corrupt_or_has_the_right_size(name: str, position: int, mask: int) -> None:
    """A changed byte gives Corrupt, or bytes of the right number for the CRC-32 of the manifest to judge."""
    codec, stored = compressed(name)
    damaged = bytearray(stored)
    damaged[position % len(stored)] ^= mask
    try:
        content = decompress(codec, bytes(damaged), len(TEXT))
    except Corrupt:
        return
    assert len(content) == len(TEXT)


def frame_without_size(name: str, data: bytes) -> bytes:
    if name == "zstd":
        return zstandard.ZstdCompressor(write_content_size=False).compress(data)
    return bytes(lz4.frame.compress(data, store_size=False))


@BOTH
def test_frames_without_content_size_are_read(name: str) -> None:
    """Another writer may leave the size out of the header."""
    assert decompress(Codec[name.upper()], frame_without_size(name, TEXT), len(TEXT)) == TEXT


def frame_with_size(name: str, data: bytes) -> bytes:
    return zstandard.compress(data) if name == "zstd" else bytes(lz4.frame.compress(data, store_size=True))


@BOTH
@pytest.mark.parametrize("make", [frame_with_size, frame_without_size])
def test_bombs_take_no_memory(name: str, make: Callable[[str, bytes], bytes]) -> None:
    """A small frame of 64 MiB that claims to be a datapoint of 1,000 bytes is refused in little memory."""
    bomb = make(name, bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            decompress(Codec[name.upper()], bomb, 1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
