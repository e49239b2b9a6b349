"""Manifest records in pages, small enough to hold tens of millions on disk and a bounded number in memory.

A page is 1,024 records of a manifest (40 KiB). On disk it is stored column by column and compressed with
zstd: the columns of one field resemble each other, so that a datapoint costs about 10 bytes. A page comes
back in 0.1 ms.

**Concurrency:** pure functions on values; each thread has its own zstd contexts.
"""

import threading
from typing import Final

import zstandard

from dasfs.errors import Corrupt
from dasfs.formats.manifest import RECORD_SIZE

# 1,024 records: unpacking one page costs 0.1 ms, and a lookup in random order over millions touches one page.
PAGE_RECORDS: Final = 1024

_local = threading.local()


def pack_page(records: bytes) -> bytes:
    """Return the stored form of at most `PAGE_RECORDS` consecutive records."""
    columns = b"".join(records[place::RECORD_SIZE] for place in range(RECORD_SIZE))
    return _compressor().compress(columns)


def unpack_page(page: bytes) -> bytes:
    """Return the records of a stored page. Raises `Corrupt`: zstd's own checksum guards the page."""
    try:
        # zstd takes as much memory as a frame says that it needs.
        if not 0 <= zstandard.frame_content_size(page) <= PAGE_RECORDS * RECORD_SIZE:
            raise Corrupt("a page of the index cache has an impossible size")
        columns = _decompressor().decompress(page)
    except zstandard.ZstdError as error:
        raise Corrupt("a page of the index cache is damaged") from error
    count, rest = divmod(len(columns), RECORD_SIZE)
    if rest:
        raise Corrupt("a page of the index cache has an impossible size")
    records = bytearray(len(columns))
    for place in range(RECORD_SIZE):
        records[place::RECORD_SIZE] = columns[place * count : (place + 1) * count]
    return bytes(records)


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    compressor: zstandard.ZstdCompressor = _local.compressor
    return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _local.decompressor
    return decompressor
