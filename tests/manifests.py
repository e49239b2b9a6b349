"""Manifests for the tests of what keeps them."""

from dasfs.formats.compression import Codec
from dasfs.formats.manifest import CHECKSUM_BLOCK_SIZE, Manifest, ManifestBuilder, Segment
from dasfs.names import DatapointNumber, DatarangeId


def make_manifest(
    first: int,
    count: int,
    counter: int = 1,
    *,
    dataset: str = "set",
    seed: int = 0,
    names: bool = False,
    extensions: tuple[str, ...] = ("jpg", "json"),
) -> Manifest:
    """Return a manifest of `count` datapoints from `first` on; `seed` changes what each of them holds."""
    builder = ManifestBuilder(dataset)
    offset = 0
    for k in range(count):
        size = (k * 7 + seed) % 3000
        builder.add(
            content_offset=offset + 512,
            stored_size=size,
            true_size=size,
            mtime=1_700_000_000 + seed + k,
            crc32=(k * 2654435761 + seed) % 2**32,
            extension=extensions[k % len(extensions)],
            codec=Codec.NONE,
            original_name=f"dir/ä {k}" if names and k % 3 else None,
        )
        offset += 512 + -(-size // 512) * 512
    identity = DatarangeId(DatapointNumber(first), DatapointNumber(first + count - 1), counter)
    half = offset // 2 // 512 * 512
    segments = [Segment(identity, 0, 0, half, _crcs(half))] if half else []
    segments.append(Segment(identity, half, half, offset - half, _crcs(offset - half)))
    return builder.build(identity, offset + 1024, segments)


def _crcs(length: int) -> bytes:
    return bytes(range(4)) * -(-length // CHECKSUM_BLOCK_SIZE)
