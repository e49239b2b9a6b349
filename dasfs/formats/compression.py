"""Compression of single datapoints, where it pays.

A compressed datapoint is a TAR member that any tool reads: a zstd frame under `….zst`, an LZ4 frame under
`….lz4`, both with the content size in their header.

**Concurrency:** every function may be called from any number of threads; each thread keeps its own zstd
contexts, because making one costs more than compressing a small file.
"""

import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import lz4.frame
import zstandard

from dasfs.errors import Corrupt, InvalidInput
from dasfs.names import MAX_EXTENSION

# A compressed datapoint is decoded whole in memory before its first byte is served, which has its limit.
MAX_COMPRESSIBLE: Final = 64 << 20
MIN_GAIN: Final = 0.05  # below this the reader's time to decode is worth more than the bytes
DEFAULT_ZSTD_LEVEL: Final = 3  # zstd's own default

# Formats that are compressed inside. Not npz: numpy.savez stores its arrays as they are.
_COMPRESSED: Final = """
    7z aac apk avif br bz2 docx epub flac gif gz heic heif jar jp2 jpeg jpg jxl lz4 lzma m4a m4v mkv mov mp3
    mp4 mpeg mpg oga ogg ogv opus parquet png pptx rar tbz2 tgz txz webm webp whl wma wmv xlsx xz zip zst
    zstd
"""
COMPRESSED_EXTENSIONS: Final = frozenset(_COMPRESSED.split())


class Codec(enum.IntEnum):
    """How the stored bytes of one datapoint stand for its true bytes. The manifest has these numbers."""

    NONE = 0
    ZSTD = 1
    LZ4 = 2

    @property
    def suffix(self) -> str:
        """What the codec adds to the name of the TAR member."""
        return ("", ".zst", ".lz4")[self]


@dataclass(frozen=True, slots=True)
class Compression:
    """What a dataset's configuration asks for. `level` is 1..22 for zstd and 0 for the others."""

    codec: Codec
    level: int = 0

    @classmethod
    def parse(cls, text: str) -> "Compression":
        """Return what `none`, `zstd`, `zstd:LEVEL` or `lz4` stand for; raise `InvalidInput` for others."""
        match text.split(":"):
            case ["none"]:
                return cls(Codec.NONE)
            case ["lz4"]:
                return cls(Codec.LZ4)
            case ["zstd"]:
                return cls(Codec.ZSTD, DEFAULT_ZSTD_LEVEL)
            case ["zstd", level] if level in _ZSTD_LEVELS:
                return cls(Codec.ZSTD, int(level))
        raise InvalidInput(
            f"{text!r} is no compression", hint="use none, lz4, zstd or zstd:LEVEL with a level from 1 to 22"
        )

    def __str__(self) -> str:
        """Return what `parse` takes; the zstd level always, so that it outlives another default."""
        return f"zstd:{self.level}" if self.codec is Codec.ZSTD else self.codec.name.lower()


_ZSTD_LEVELS: Final = frozenset(str(level) for level in range(1, 23))


class _Contexts(threading.local):
    """The zstd contexts of one thread."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        found = self.compressors.get(level)
        if found is None:
            found = self.compressors[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
        return found


_contexts = _Contexts()


def compress(compression: Compression, data: bytes | memoryview, extension: str) -> tuple[Codec, bytes | memoryview]:
    """Return the codec that was used and the bytes to store: `NONE` and `data` itself where it doesn't pay.

    It doesn't pay for formats that are compressed inside (by the last part of `extension`), for a gain below
    5 %, for more than `MAX_COMPRESSIBLE` bytes, and where the codec's suffix would make the extension too
    long. The same input gives the same bytes from the same version of the codec's library.
    """
    if not _is_candidate(compression.codec, len(data), extension):
        return Codec.NONE, data
    if compression.codec is Codec.ZSTD:
        stored = _contexts.compressor(compression.level).compress(data)
    else:
        stored = lz4.frame.compress(data, store_size=True)
    if len(stored) > len(data) * (1 - MIN_GAIN):
        return Codec.NONE, data
    return compression.codec, stored


def _is_candidate(codec: Codec, size: int, extension: str) -> bool:
    if codec is Codec.NONE or not 0 < size <= MAX_COMPRESSIBLE:
        return False
    if extension.rpartition(".")[2].lower() in COMPRESSED_EXTENSIONS:
        return False
    return len((extension + codec.suffix).encode("utf-8", "surrogateescape")) <= MAX_EXTENSION


def decompress(codec: Codec, data: bytes | memoryview, true_size: int) -> bytes:
    """Return the true bytes of one datapoint, exactly `true_size` of them; raise `Corrupt` for anything else.

    No more than about `true_size` bytes of memory are taken, whatever `data` claims to hold.
    """
    if codec is Codec.NONE:
        content = bytes(data)
    else:
        decode = _decode_zstd if codec is Codec.ZSTD else _decode_lz4
        content = _translated(decode, codec, data, true_size)
    if len(content) != true_size:
        raise Corrupt(f"a datapoint holds {len(content)} bytes instead of {true_size}")
    return content


def _translated(
    decode: Callable[[bytes | memoryview, int], bytes], codec: Codec, data: bytes | memoryview, true_size: int
) -> bytes:
    try:
        return decode(data, true_size)
    # lz4 raises RuntimeError for a broken frame, ValueError and EOFError for a cut one.
    except (zstandard.ZstdError, RuntimeError, ValueError, EOFError, MemoryError) as error:
        raise Corrupt(f"a datapoint's {codec.name.lower()} frame can't be decoded: {error}") from error


def _decode_zstd(data: bytes | memoryview, true_size: int) -> bytes:
    # The decompressor allocates what the header says, so the header is asked first. -1: it says nothing.
    claimed = zstandard.frame_content_size(data)
    if claimed not in (-1, true_size):
        raise ValueError(f"its header says {claimed} bytes, expected {true_size}")
    return _contexts.decompressor.decompress(data, max_output_size=true_size, allow_extra_data=False)


def _decode_lz4(data: bytes | memoryview, true_size: int) -> bytes:
    decompressor = lz4.frame.LZ4FrameDecompressor()
    # One byte more than expected, so that too much is told from just enough.
    content: bytes = decompressor.decompress(data, max_length=true_size + 1)
    if len(content) <= true_size and (not decompressor.eof or decompressor.unused_data):
        raise ValueError("it is cut off or followed by other bytes")
    return content
