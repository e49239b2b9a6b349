"""Verify finds every kind of damage and names the datapoint."""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Snapshot
from dasfs.dataset.verify import Problem, verify
from dasfs.dataset.writer import DatarangeWriter
from dasfs.formats.compression import Compression
from dasfs.formats.tar import encode_header
from dasfs.stores import Store, open_store
from tests.datasets import MTIME, add, damage

BLOCK = 1 << 18
CONTENTS = [b"zero", os.urandom(700), b"", os.urandom(3 * BLOCK), b"a" * 5000, b"last"]


class Place:
    """A dataset of two dataranges, of which the second one gets damaged."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.dataset = Dataset(store, "birds")
        add(store, "birds", 0, [b"untouched"])
        self.snapshot: Snapshot = add(store, "birds", 10, CONTENTS, compression="zstd:3", extension="txt")
        self.range = self.snapshot.dataranges[1]
        self.tar = self.dataset.keys.tar(self.range.id)
        self.index = self.dataset.keys.index(self.range.id)
        self.manifest = self.dataset.keys.manifest(self.range.id)
        self.records = list(self.dataset.load_manifest(self.range).iter_records())

    def problems(self) -> list[Problem]:
        return list(verify(self.store, "birds", self.snapshot))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with open_store(f"file://{tmp_path}/store") as opened:
        opened.create()
        yield Place(opened)


def told(problems: list[Problem]) -> list[tuple[int, int]]:
    return [(each.first, each.last) for each in problems]


def test_an_intact_dataset_has_no_problem(place: Place) -> None:
    """Nothing is found where nothing is wrong, whatever is compressed or empty."""
    assert place.problems() == []


@pytest.mark.parametrize("k", [0, 1, 3, 5])
def test_a_flipped_bit_in_a_content_names_its_datapoint(place: Place, k: int) -> None:
    """One wrong byte of a datapoint is one problem, of this datapoint."""
    record = place.records[k]
    offset = record.content_offset + record.stored_size - 1
    old = place.store.get(place.tar)[offset]
    damage(place.store, place.tar, offset, bytes([old ^ 1]))
    (problem,) = place.problems()
    assert (problem.first, problem.last, problem.key) == (10 + k, 10 + k, place.tar)
    assert "CRC-32" in problem.message
    assert str(problem).startswith(f"datapoint {10 + k}: its CRC-32 is ")


def test_a_damaged_compressed_datapoint_is_named(place: Place) -> None:
    """A zstd frame that can't be decoded is a problem of its datapoint."""
    assert place.records[4].codec
    damage(place.store, place.tar, place.records[4].content_offset, b"\0\0\0\0")
    (problem,) = place.problems()
    assert (problem.first, "zstd frame" in problem.message) == (14, True)


@pytest.mark.parametrize("k", range(6))
def test_a_damaged_header_names_its_datapoint(place: Place, k: int) -> None:
    """A TAR header that fails its checksum is told; the datapoints behind it are still checked."""
    damage(place.store, place.tar, place.records[k].content_offset - 512 + 10, b"?")
    damage(place.store, place.tar, place.records[5].content_offset, b"LAST")
    problems = place.problems()
    assert told(problems) == [(10 + k, 10 + k), (15, 15)]
    assert "checksum" in problems[0].message


def test_a_valid_header_that_says_something_else_is_told(place: Place) -> None:
    """A header with a right checksum but another name, size or time than the manifest's is a problem."""
    record = place.records[1]
    damage(place.store, place.tar, record.content_offset - 512, encode_header(f"{11:020d}.txt", 700, MTIME + 1))
    problems = place.problems()
    assert told(problems) == [(11, 11)]
    assert "its TAR header says" in problems[0].message


def test_damage_in_padding_names_the_neighbourhood(place: Place) -> None:
    """A wrong byte between datapoints fails a block's checksum; the datapoints of the block are named."""
    record = place.records[0]
    damage(place.store, place.tar, record.content_offset + record.stored_size, b"?")
    (problem,) = place.problems()
    assert "fail their checksum" in problem.message
    assert problem.first == 10
    assert problem.last < 15


def test_a_damaged_end_of_archive_is_told(place: Place) -> None:
    """The 1,024 zero bytes are checked, too."""
    damage(place.store, place.tar, place.range.tar_size - 5, b"?")
    (problem,) = place.problems()
    assert (problem.first, "end-of-archive" in problem.message) == (15, True)


def test_a_cut_tar_names_what_is_lost(place: Place) -> None:
    """A TAR that ends early: the datapoints that are not in it are named, those before are checked."""
    place.store.put(place.tar, place.store.get(place.tar)[: place.records[3].content_offset + 100])
    problems = place.problems()
    assert told(problems) == [(10, 15), (13, 15)]
    assert "the manifest says" in problems[0].message
    assert "ends before it" in problems[1].message


def test_a_tar_that_grew_is_told(place: Place) -> None:
    """Bytes behind the end are a problem even when they are zeros."""
    place.store.put(place.tar, place.store.get(place.tar) + bytes(512))
    assert told(place.problems()) == [(10, 15)]


@pytest.mark.parametrize("kind", ["tar", "index", "manifest"])
def test_a_missing_object_is_told(place: Place, kind: str) -> None:
    """Each of the three objects is missed; the other datarange is not blamed."""
    key = getattr(place, kind)
    place.store.delete([key])
    (problem,) = place.problems()
    assert (problem.key, problem.first, problem.last) == (key, 10, 15)


@pytest.mark.parametrize("cut", [1, 16])
def test_a_short_index_is_told_and_the_tar_still_checked(place: Place, cut: int) -> None:
    """An index that is cut off does not hide damage of the TAR."""
    place.store.put(place.index, place.store.get(place.index)[:-cut])
    damage(place.store, place.tar, place.records[0].content_offset, b"ZERO")
    problems = place.problems()
    assert [(each.key, each.first) for each in problems] == [(place.index, 10), (place.tar, 10)]


def test_a_wrong_index_entry_names_its_datapoint(place: Place) -> None:
    """An entry that points elsewhere than the manifest is a problem of its datapoint."""
    damage(place.store, place.index, 16 * 5 + 15, b"\x03")
    (problem,) = place.problems()
    assert (problem.key, problem.first, problem.last) == (place.index, 15, 15)


@pytest.mark.parametrize("offset", [0, 9, 60, 100, -1])
def test_a_damaged_manifest_is_told(place: Place, offset: int) -> None:
    """Any wrong byte of a manifest fails its own checksum or its version."""
    data = bytearray(place.store.get(place.manifest))
    data[offset] ^= 0xFF
    place.store.put(place.manifest, bytes(data))
    (problem,) = place.problems()
    assert (problem.key, problem.first, problem.last) == (place.manifest, 10, 15)


def test_a_manifest_that_is_not_the_committed_one_is_told(place: Place) -> None:
    """The log says sizes; a valid manifest with others is a problem."""
    wrong = replace(place.range, data_size=place.range.data_size + 1)
    place.snapshot = replace(place.snapshot, dataranges=(place.snapshot.dataranges[0], wrong))
    (problem,) = place.problems()
    assert "the log says" in problem.message


def test_a_whole_tar_of_other_content_is_told_for_each_datapoint(place: Place) -> None:
    """An object that was replaced by another valid TAR of the same shape is found out everywhere."""
    with DatarangeWriter("birds", Compression.parse("none")) as writer:
        for number, record in enumerate(place.records, 10):
            suffix = record.codec.suffix
            content = io.BytesIO(b"\x55" * record.stored_size)
            writer.add(number, f"txt{suffix}", MTIME, content, record.stored_size)
        with writer.finish() as packed:
            place.store.put(place.tar, b"".join(packed.chunks()))
    assert [each.first for each in place.problems()] == [10, 11, 13, 14, 15]


def test_an_empty_datapoint_at_the_very_end_is_checked(place: Place) -> None:
    """A damaged header behind the last byte of content is found, also after an earlier header was lost."""
    # The first one ends where a range of 8 MiB ends, so nothing but its own header makes the second one be
    # read.
    snapshot = add(place.store, "fish", 0, [bytes((8 << 20) - 512), b""])
    tar = Dataset(place.store, "fish").keys.tar(snapshot.dataranges[0].id)
    damage(place.store, tar, 3, b"?")
    damage(place.store, tar, (8 << 20) + 3, b"?")
    assert told(list(verify(place.store, "fish", snapshot))) == [(0, 0), (1, 1)]


def test_damage_everywhere_ends_with_all_of_it_told(place: Place) -> None:
    """Several problems in one datarange are all told."""
    corrupt: list[Callable[[], None]] = [
        lambda: damage(place.store, place.tar, place.records[1].content_offset, b"\0\1\2\3\4"),
        lambda: damage(place.store, place.tar, place.records[3].content_offset + 2 * BLOCK, b"\0\1\2\3\4"),
        lambda: damage(place.store, place.index, 15, b"\x09"),
    ]
    for each in corrupt:
        each()
    assert told(place.problems()) == [(10, 10), (11, 11), (13, 13)]
