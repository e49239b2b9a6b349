"""The manifest and the index of TAR objects that are laid one behind the other. Pure.

What two manifests say stays true when their TAR objects are joined, but for offsets, numbers of extensions and
the places of names. A million records are moved in a second: column by column, without an object for each.
"""

import operator
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from dasfs.errors import InvalidInput
from dasfs.formats.index import MAX_CONTENT_SIZE
from dasfs.formats.manifest import MAX_EXTENSIONS, Manifest, NamesTable, Segment, find_problem
from dasfs.formats.records import WORDS, pack_words, unpack_words
from dasfs.formats.tar import BLOCK_SIZE, END_OF_ARCHIVE
from dasfs.names import DatarangeId

# The fifth word of a record: checksum (32 bits), extension number (16), codec (8), 0 (8).
_EXTENSION_SHIFT: Final = 16
_EXTENSION_MASK: Final = 0xFFFF << _EXTENSION_SHIFT
_MAX_HEADER_BLOCKS: Final = 2**16 - 1
_MAX_NAMES_SIZE: Final = 2**32 - 1


def joined_size(tar_sizes: Sequence[int]) -> int:
    """Return the size of the TAR object that TAR objects of these sizes make together: one end is enough for all."""
    return sum(tar_sizes) - len(END_OF_ARCHIVE) * (len(tar_sizes) - 1)


def join_manifests(manifests: Sequence[Manifest], id: DatarangeId, segments: Sequence[Segment]) -> Manifest:  # noqa: A002
    """Return the manifest of the datarange `id` whose TAR object is those of `manifests`, one behind the other.

    Each contributes its bytes but for the 1,024 zeros at its end. `segments` are those of the whole. Raises
    `InvalidInput` when the parts do not make up `id`, or have more extensions or names than one manifest holds.
    """
    extensions: dict[str, int] = {}
    records = []
    offset = 0
    for manifest in manifests:
        numbers = [extensions.setdefault(each, len(extensions)) for each in manifest.extensions]
        records.append(_shift_records(manifest.records, offset, numbers))
        offset += manifest.tar_size - len(END_OF_ARCHIVE)
    if len(extensions) > MAX_EXTENSIONS:
        raise InvalidInput(f"{id} would have more than {MAX_EXTENSIONS} extensions", hint="join fewer dataranges")
    joined = Manifest(
        manifests[0].dataset,
        id,
        offset + len(END_OF_ARCHIVE),
        tuple(extensions),
        b"".join(records),
        _join_names(manifests),
        tuple(segments),
    )
    problem = find_problem(joined)
    if problem is not None:
        raise InvalidInput(f"the manifest of {id}: {problem}")
    return joined


def make_index(manifest: Manifest) -> bytes:
    """Return the index object of a manifest's TAR object.

    The headers of a datapoint, with PAX records where another program wrote some, are all that stands between
    the datapoint before it and its content.
    """
    words = unpack_words("Q", manifest.records)
    offsets, sizes = words[0::WORDS], words[1::WORDS]
    block = BLOCK_SIZE - 1
    ends = [(offset + size + block) & ~block for offset, size in zip(offsets, sizes, strict=True)]
    starts = array("Q", (0, *ends[:-1]))
    blocks = [length // BLOCK_SIZE for length in map(operator.sub, offsets, starts)]
    if max(blocks) > _MAX_HEADER_BLOCKS or max(sizes) > MAX_CONTENT_SIZE:
        raise InvalidInput(f"the headers or the content of a datapoint of {manifest.id} are too large for an index")
    entries = array("Q", bytes(16 * len(offsets)))
    entries[0::2] = starts
    entries[1::2] = array("Q", [count << 48 | size for count, size in zip(blocks, sizes, strict=True)])
    return pack_words(entries)


def _shift_records(records: bytes, by: int, extensions: Sequence[int]) -> bytes:
    """Return packed records with all contents `by` bytes further on, and extension n as `extensions[n]`."""
    same = all(number == place for place, number in enumerate(extensions))
    if by == 0 and same:
        return records
    words = unpack_words("Q", records)
    words[0::WORDS] = array("Q", [offset + by for offset in words[0::WORDS]])
    if not same:
        last = WORDS - 1
        shifted = [number << _EXTENSION_SHIFT for number in extensions]
        words[last::WORDS] = array(
            "Q",
            [
                word & ~_EXTENSION_MASK | shifted[(word & _EXTENSION_MASK) >> _EXTENSION_SHIFT]
                for word in words[last::WORDS]
            ],
        )
    return pack_words(words)


def _join_names(manifests: Sequence[Manifest]) -> NamesTable | None:
    """Return the table of names of all; those of a manifest without one are empty. None where none has one."""
    tables = [(manifest.names, manifest.count) for manifest in manifests]
    ends = list(accumulate((len(table.names) if table else 0 for table, _ in tables), initial=0))
    if not any(table for table, _ in tables):
        return None
    if ends[-1] > _MAX_NAMES_SIZE:
        raise InvalidInput("the original names of a datarange would take 4 GiB and more", hint="join fewer dataranges")
    offsets = array("I", (0,))
    for (table, count), base in zip(tables, ends, strict=False):
        if table is None:
            offsets.extend(array("I", (base,)) * count)
        else:
            offsets.extend(array("I", [base + end for end in unpack_words("I", table.offsets)[1:]]))
    return NamesTable(pack_words(offsets), b"".join(table.names for table, _ in tables if table))
