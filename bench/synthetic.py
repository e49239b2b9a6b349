"""Datasets of millions of datapoints that nobody reads: log, manifests and indexes, and no TAR objects.

Mounting and listing need no more, and a terabyte of contents is left out. Sizes of files are random from 60 to 160 kB,
checksums and times too, as those of real files are; every datarange has the same ones.

    python -m bench.synthetic s3://bucket/prefix NAME 10000000
"""

import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Final

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Change, Datarange, Operation
from dasfs.dataset.writer import put_manifest
from dasfs.formats.compression import Codec
from dasfs.formats.index import IndexEntry, encode_index
from dasfs.formats.manifest import Manifest, ManifestBuilder
from dasfs.formats.segments import Segment, block_count
from dasfs.formats.tar import BLOCK_SIZE, END_OF_ARCHIVE, padding
from dasfs.names import DatapointNumber, DatarangeId
from dasfs.stores import open_store

# What aggregation makes of files of 110 kB: about a gigabyte.
PER_DATARANGE: Final = 10_000
UPLOADS: Final = 8
SMALLEST: Final = 60_000
LARGEST: Final = 160_000
EXTENSION: Final = "jpg"
START: Final = 1_600_000_000


def name(number: int) -> str:
    """Return the file name of a datapoint of such a dataset."""
    return f"{number:020d}.{EXTENSION}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """What all dataranges of one length have in common: everything but their numbers."""

    manifest: Manifest
    index: bytes
    data_size: int

    def manifest_from(self, first: int, counter: int) -> Manifest:
        last = first + self.manifest.count - 1
        identity = DatarangeId(DatapointNumber(first), DatapointNumber(last), counter)
        (segment,) = self.manifest.segments
        return replace(self.manifest, id=identity, segments=(replace(segment, origin=identity),))


@lru_cache
def pattern(dataset: str, count: int) -> Pattern:
    """Return the pattern of a datarange of so many datapoints."""
    source = random.Random(count)
    builder = ManifestBuilder(dataset)
    entries, position = [], 0
    for _ in range(count):
        size = source.randint(SMALLEST, LARGEST)
        builder.add(
            content_offset=position + BLOCK_SIZE,
            stored_size=size,
            true_size=size,
            mtime=START + source.getrandbits(24),
            crc32=source.getrandbits(32),
            extension=EXTENSION,
            codec=Codec.NONE,
            original_name=None,
        )
        entries.append(IndexEntry(position, 1, size))
        position += BLOCK_SIZE + size + padding(size)
    identity = DatarangeId(DatapointNumber(0), DatapointNumber(count - 1), 1)
    segment = Segment(identity, 0, 0, position, source.randbytes(4 * block_count(position)))
    manifest = builder.build(identity, position + len(END_OF_ARCHIVE), (segment,))
    return Pattern(manifest, encode_index(entries), manifest.data_size)


def make(store_url: str, dataset_name: str, count: int) -> None:
    """Make a dataset with so many datapoints, from number 0 on, in one commit."""
    with open_store(store_url) as store:
        dataset = Dataset(store, dataset_name)
        snapshot = dataset.log.create()

        def upload(first: int) -> Datarange:
            made = pattern(dataset_name, min(PER_DATARANGE, count - first))
            manifest, size = put_manifest(store, dataset.keys, partial(made.manifest_from, first), 1)
            store.put(dataset.keys.index(manifest.id), made.index)
            return Datarange(manifest.id, manifest.tar_size, size, made.data_size)

        with ThreadPoolExecutor(UPLOADS) as pool:
            added = tuple(pool.map(upload, range(0, count, PER_DATARANGE)))
        dataset.log.commit(Change(Operation.UPLOAD, add=added), snapshot)


def main() -> int:
    started = time.monotonic()
    make(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print(f"{time.monotonic() - started:.1f} s", file=sys.stderr)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
