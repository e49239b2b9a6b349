"""The names index against a simple model: trees of paths, through revisions that add, replace, merge and delete."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dasfs.cache.names_index import NamedDirectory, NamedFile, NamePage, NamesIndex, NameSource
from dasfs.cache.names_schema import ROOT_DIRECTORY
from dasfs.cache.paths import place_of, variant
from dasfs.dataset.model import Datarange, Snapshot, nothing
from dasfs.names import MAX_NUMBER, DatapointNumber
from tests.datasets import datarange

Numbered = dict[int, bytes]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[NamesIndex]:
    opened = NamesIndex(str(tmp_path / "names.sqlite"), "id")
    yield opened
    opened.close()


def source(each: Datarange, paths: Numbered) -> NameSource:
    """Return the names of a datarange, in pages of three."""
    numbers = range(each.first, each.last + 1)
    pages = [
        NamePage(numbers[k], [paths.get(n, b"") for n in numbers[k : k + 3]], ["bin"] * len(numbers[k : k + 3]))
        for k in range(0, len(numbers), 3)
    ]
    return NameSource(each.id, pages)


def update(index: NamesIndex, dataranges: list[Datarange], paths: Numbered) -> None:
    """Bring an index to what `dataranges` and `paths` say."""
    snapshot: Snapshot = replace(nothing("set"), dataranges=tuple(sorted(dataranges, key=lambda each: each.first)))
    there = index.dataranges()
    index.update(snapshot, [source(each, paths) for each in dataranges if str(each.id) not in there], complete=True)
    index.renew()


def walk(index: NamesIndex, directory: int = ROOT_DIRECTORY, above: bytes = b"") -> dict[bytes, int]:
    """Return all files as the listings have them, two at a time, and check that lookups find the same."""
    found: dict[bytes, int] = {}
    start = 0
    while files := index.list_files(directory, start, 2):
        for each in files:
            assert above + each.name not in found
            assert index.find(directory, each.name) == each
            found[above + each.name] = each.number
        start = files[-1].number + 1
    start = 0
    while children := index.list_directories(directory, start, 2):
        for child in children:
            assert index.find(directory, child.name) == child
            assert index.has_directory(child.directory)
            below = walk(index, child.directory, above + child.name + b"/")
            assert below, "an empty directory"
            found |= below
        start = children[-1].directory + 1
    return found


def expected(dataranges: list[Datarange], paths: Numbered) -> dict[bytes, int]:
    """Return what a tree should show, computed in the simplest way."""
    placed: dict[int, bytes] = {}
    for each in dataranges:
        for number in range(each.first, each.last + 1):
            path = paths.get(number, b"")
            placed[number] = path if place_of(path) else b"%020d.bin" % number
    directories = {path[:k] for path in placed.values() for k in range(len(path)) if path[k : k + 1] == b"/"}
    shown: dict[bytes, int] = {}
    for number in sorted(placed, reverse=True):
        path = placed[number]
        if path not in shown and path not in directories:
            shown[path] = number
    for number, path in placed.items():
        if shown.get(path) != number:
            above, slash, name = path.rpartition(b"/")
            tildes = 1
            while (candidate := above + slash + variant(name, number, tildes)) in {*placed.values(), *directories}:
                tildes += 1
            shown[candidate] = number
    return shown


NAMES = st.sampled_from([b"a", b"b", b"a.jpg", b"a~1.jpg", b"a~~1.jpg", b"..", b"\xff", b""])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
SPANS = st.lists(st.integers(0, 29), max_size=8, unique=True).map(sorted)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SPANS, st.dictionaries(st.integers(0, 29), PATHS, max_size=30)), min_size=1, max_size=4))
def test_an_index_shows_every_revision_as_if_it_was_new(revisions: list[tuple[list[int], Numbered]]) -> None:
    """After any row of revisions the tree is what the last one says, found and listed alike, with nothing empty."""
    with TemporaryDirectory() as directory:
        index = NamesIndex(f"{directory}/names.sqlite", "id")
        counter = 0
        for bounds, paths in revisions:
            dataranges = []
            for first, end in zip(bounds[::2], bounds[1::2], strict=False):
                counter += 1
                dataranges.append(datarange(first, end - 1, counter))
            update(index, dataranges, paths)
            assert walk(index) == expected(dataranges, paths)
        index.close()


def test_an_aggregate_writes_nothing(index: NamesIndex, tmp_path: Path) -> None:
    """Rows of dataranges that were aggregated stay as they are, and directories keep their numbers."""
    paths = {number: b"d%d/f%d" % (number % 5, number) for number in range(100)}
    update(index, [datarange(0, 49), datarange(50, 99, 2)], paths)
    before, directory = walk(index), index.find(ROOT_DIRECTORY, b"d3")
    update(index, [datarange(0, 99, 3)], paths)
    assert walk(index) == before
    assert index.find(ROOT_DIRECTORY, b"d3") == directory


def test_the_highest_number_works(index: NamesIndex) -> None:
    """Numbers up to 2^63-1 are found and listed."""
    update(index, [datarange(MAX_NUMBER - 1, MAX_NUMBER)], {MAX_NUMBER: b"x"})
    assert walk(index) == {b"x": MAX_NUMBER, b"%020d.bin" % (MAX_NUMBER - 1): MAX_NUMBER - 1}
    assert index.find(ROOT_DIRECTORY, b"x~99999999999999999999") is None


def test_deep_paths(index: NamesIndex) -> None:
    """A path of 2,000 directories is no problem."""
    path = b"/".join([b"d"] * 2000)
    update(index, [datarange(0, 0)], {0: path})
    directory = ROOT_DIRECTORY
    for _ in range(1999):
        found = index.find(directory, b"d")
        assert isinstance(found, NamedDirectory)
        directory = found.directory
    assert index.find(directory, b"d") == NamedFile(DatapointNumber(0), b"d")


def test_what_fails_halfway_leaves_nothing(index: NamesIndex) -> None:
    """An update whose source fails changes nothing at all."""
    update(index, [datarange(0, 9)], {0: b"a"})

    def failing() -> Iterator[NamePage]:
        yield NamePage(10, [b"b"], ["bin"])
        raise InterruptedError

    with pytest.raises(InterruptedError):
        index.update(nothing("set"), [NameSource(datarange(10, 12).id, failing())], complete=True)
    assert len(walk(index)) == 10
    assert index.dataranges() == {str(datarange(0, 9).id)}


def test_an_index_belongs_to_one_dataset(tmp_path: Path) -> None:
    """What was indexed is there when it is opened again, and gone for another dataset of the same name."""
    path = str(tmp_path / "names.sqlite")
    first = NamesIndex(path, "id")
    assert not first.is_complete
    update(first, [datarange(0, 0)], {0: b"a"})
    first.close()
    again = NamesIndex(path, "id")
    assert again.is_complete
    assert walk(again) == {b"a": 0}
    again.close()
    other = NamesIndex(path, "other id")
    assert not other.is_complete
    assert walk(other) == {}
    other.close()
