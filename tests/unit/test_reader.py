"""Objects of a store as files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.reader import ObjectFile
from dasfs.stores import Store, open_store

CONTENT = os.urandom(1000)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path: Path = tmp_path_factory.mktemp("reader")
    with open_store(f"file://{path}/store") as opened:
        opened.create()
        opened.put("object", CONTENT)
        opened.put("empty", b"")
        yield opened


@given(
    st.integers(50, 1200),
    st.lists(st.tuples(st.integers(0, 1100), st.integers(-1, 1100)), max_size=10),
)
def test_reads_anywhere_return_what_is_there(place: Store, window: int, reads: list[tuple[int, int]]) -> None:
    """Any sequence of seeks and reads, with any window, gives the bytes that a local file would give."""
    with ObjectFile(place, "object", window_size=window) as file:
        for offset, size in reads:
            assert file.seek(offset) == offset
            expected = CONTENT[offset:] if size < 0 else CONTENT[offset : offset + size]
            assert file.read(size) == expected
            assert file.tell() == offset + len(expected)


@given(st.integers(50, 1200), st.lists(st.integers(1, 300), min_size=1))
def test_an_observer_sees_each_byte_once_and_in_order(place: Store, window: int, sizes: list[int]) -> None:
    """Reading from start to end in whatever steps shows the whole object to the observer."""
    seen = bytearray()
    with ObjectFile(place, "object", window_size=window, observe=seen.extend) as file:
        for size in sizes:
            file.read(size)
        file.read()
    assert bytes(seen) == CONTENT


def test_an_empty_object_reads_as_nothing(place: Store) -> None:
    """An object of size 0 is a file without bytes."""
    with ObjectFile(place, "empty") as file:
        assert (file.size, file.read(), file.read(5)) == (0, b"", b"")


def test_the_next_window_is_fetched_ahead(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one window is used the next one is asked for, each exactly once."""
    asked: list[int] = []
    real = place.read_into

    def read_into(key: str, offset: int, buffer: memoryview, *, etag: str | None = None) -> None:
        asked.append(offset)
        real(key, offset, buffer, etag=etag)

    monkeypatch.setattr(place, "read_into", read_into)
    with ObjectFile(place, "object", window_size=250) as file:
        file.read(1)
    assert asked == [0, 250]
    asked.clear()
    with ObjectFile(place, "object", window_size=250) as file:
        assert file.read() == CONTENT
    assert asked == [0, 250, 500, 750]
