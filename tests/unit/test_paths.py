"""Original paths as names in a tree: what can be shown, and under which name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.cache.paths import MAX_NAME, Place, place_of, variant, variant_number

IMPOSSIBLE = [
    *(b"", b"/", b"/a", b"a/", b"a//b", b".", b"..", b"a/.", b"a/..", b"../a", b"./a", b"a/../b", b"a\0b"),
    *(b"x" * 256, b"x" * 256 + b"/a", b"ab/" * 1366),
]


@pytest.mark.parametrize("path", IMPOSSIBLE)
def test_paths_that_can_not_be_shown(path: bytes) -> None:
    """A path that leads out of the tree, or that no program could open, has no place in it."""
    assert place_of(path) is None


@pytest.mark.parametrize(
    ("path", "directory", "name"),
    [
        (b"x", b"", b"x"),
        (b"a/b/c.jpg", b"a/b", b"c.jpg"),
        (b"...", b"", b"..."),
        (b"a\xff/\xfe\n.jpg", b"a\xff", b"\xfe\n.jpg"),
        (b"x" * 255 + b"/" + b"y" * 255, b"x" * 255, b"y" * 255),
    ],
)
def test_paths_as_they_are(path: bytes, directory: bytes, name: bytes) -> None:
    """Every other path is shown as it is, whatever bytes it has."""
    assert place_of(path) == Place(directory, name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"x.jpg", b"x~5.jpg"),
        (b"x.tar.gz", b"x~5.tar.gz"),
        (b"x", b"x~5"),
        (b".bashrc", b".bashrc~5"),
        (b".a.b", b".a~5.b"),
        (b"x" * 255, b"x" * 253 + b"~5"),
        (b"x" * 250 + b".jpg", b"x" * 249 + b"~5.jpg"),
        (b"x." + b"y" * 253, b"x~5"),
    ],
)
def test_names_of_those_whose_name_is_taken(name: bytes, expected: bytes) -> None:
    """The number stands before the extension, within the length that a name may have."""
    assert variant(name, 5) == expected


@given(st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & set(name)), st.integers(0, 2**63 - 1))
def test_a_variant_tells_its_number(name: bytes, number: int) -> None:
    """From a variant the number can be read back, and it is a name that can be shown."""
    for tildes in (1, 3):
        found = variant(name, number, tildes)
        assert variant_number(found) == number
        assert len(found) <= MAX_NAME
        assert place_of(found) == Place(b"", found)


@pytest.mark.parametrize("name", [b"x", b"~5", b"x~.jpg", b"x~a.jpg", b"x.jpg~5", b"", b"x~" + b"9" * 20])
def test_other_names_have_no_number(name: bytes) -> None:
    """What `variant` never makes has no number."""
    assert variant_number(name) is None
