"""What every store promises about single objects: whole and ranged reads, writes, sizes, ETags, errors."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from dasfs.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, ObjectChanged
from dasfs.stores import Store

MIB = 1 << 20


def read(store: Store, key: str, offset: int, length: int, etag: str | None = None) -> bytes:
    buffer = bytearray(length)
    store.read_into(key, offset, memoryview(buffer), etag=etag)
    return bytes(buffer)


@pytest.mark.parametrize("size", [0, 1, 1000, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 3 * MIB + 7])
def test_put_is_read_back(store: Store, size: int) -> None:
    """What was put is what comes back, also when it is empty, and around the size of a chunk."""
    data = random.Random(size).randbytes(size)
    store.put("some/object", data)
    assert store.get("some/object") == data
    assert store.head("some/object").size == size


def test_put_describes_the_object(store: Store) -> None:
    """A put returns what a head says then."""
    written = store.put("a", b"hello")
    seen = store.head("a")
    assert (written.key, written.size, written.etag) == ("a", 5, seen.etag) == (seen.key, seen.size, seen.etag)
    assert abs(written.modified - seen.modified) < timedelta(seconds=3)


def test_modified_is_now_in_utc(store: Store) -> None:
    """The time of an object is that of its write."""
    store.put("a", b"hello")
    modified = store.head("a").modified
    assert modified.utcoffset() == timedelta(0)
    assert abs(modified - datetime.now(UTC)) < timedelta(seconds=30)


def test_put_replaces(store: Store) -> None:
    """A second put replaces the content, and the ETag tells."""
    first = store.put("a", b"one" * MIB)
    second = store.put("a", b"two")
    assert store.get("a") == b"two"
    assert first.etag != second.etag == store.head("a").etag


def test_same_size_other_etag(store: Store) -> None:
    """Contents of one size have different ETags, however fast they follow each other."""
    etags = {store.put("a", bytes([value]) * 100).etag for value in range(20)}
    assert len(etags) == 20


@pytest.mark.parametrize("key", ["missing", "a/b/missing", "there/below", "the"])
def test_missing_object(store: Store, key: str) -> None:
    """Every way to read what is not there says `NotFound`, also beside and below an object."""
    store.put("there", b"1")
    with pytest.raises(NotFound, match=key):
        store.head(key)
    with pytest.raises(NotFound, match=key):
        store.get(key)
    with pytest.raises(NotFound, match=key):
        read(store, key, 0, 1)


def test_parent_is_no_object(store: Store) -> None:
    """The beginning of a key is not an object."""
    store.put("a/b", b"1")
    with pytest.raises(NotFound):
        store.head("a")
    with pytest.raises(NotFound):
        store.get("a")
    with pytest.raises(NotFound):
        read(store, "a", 0, 1)


def test_get_refuses_what_is_too_large(store: Store) -> None:
    """An object above `max_size` is not read into memory."""
    store.put("a", bytes(1001))
    assert len(store.get("a", max_size=1001)) == 1001
    with pytest.raises(Corrupt, match="1001"):
        store.get("a", max_size=1000)


def test_ranges_anywhere(store: Store) -> None:
    """A range is read exactly, wherever it begins and ends: inside chunks, across them, to the end."""
    size = 2 * MIB + 12345
    data = random.Random(1).randbytes(size)
    etag = store.put("a", data).etag
    chunk = 256 << 10
    cases = [(0, 1), (size - 1, 1), (0, size), (chunk - 1, 2), (chunk, chunk), (chunk - 5, 2 * chunk + 9)]
    generator = random.Random(2)
    for _ in range(20):
        start = generator.randrange(size)
        cases.append((start, generator.randrange(1, size - start + 1)))
    for offset, length in cases:
        assert read(store, "a", offset, length, etag) == data[offset : offset + length], (offset, length)


def test_range_into_a_slice(store: Store) -> None:
    """Only the caller's slice is written to, and a buffer of another item size works."""
    store.put("a", b"0123456789abcdef")
    buffer = bytearray(b"-" * 12)
    store.read_into("a", 4, memoryview(buffer)[2:10])
    assert buffer == b"--456789ab--"
    wide = memoryview(bytearray(8)).cast("I")
    store.read_into("a", 0, wide)
    assert wide.tobytes() == b"01234567"


def test_empty_range(store: Store) -> None:
    """A buffer without length needs nothing of the store."""
    store.put("empty", b"")
    assert read(store, "empty", 0, 0) == b""


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (9, 2), (10, 1), (11, 1), (10**12, 5)])
def test_range_past_the_end(store: Store, offset: int, length: int) -> None:
    """A range that the object does not fill is `Corrupt`: never a short read, never zeroes."""
    store.put("a", b"0123456789")
    with pytest.raises(Corrupt):
        read(store, "a", offset, length)


def test_range_of_an_empty_object(store: Store) -> None:
    """An empty object has no byte to read."""
    store.put("empty", b"")
    with pytest.raises(Corrupt):
        read(store, "empty", 0, 1)


def test_range_of_a_changed_object(store: Store) -> None:
    """With an ETag, only that very object is read."""
    etag = store.put("a", b"old old").etag
    assert read(store, "a", 0, 3, etag) == b"old"
    store.put("a", b"new new")
    with pytest.raises(ObjectChanged):
        read(store, "a", 0, 3, etag)


def test_put_if_absent_once(store: Store) -> None:
    """The second writer is told, and changes nothing."""
    info = store.put_if_absent("log/1", b"first")
    with pytest.raises(AlreadyExists, match="log/1"):
        store.put_if_absent("log/1", b"second")
    assert store.get("log/1") == b"first"
    assert store.head("log/1").etag == info.etag


def test_put_if_absent_after_delete(store: Store) -> None:
    """A key that was deleted is free."""
    store.put("a", b"1")
    store.delete(["a"])
    store.put_if_absent("a", b"2")
    assert store.get("a") == b"2"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "ä", "a\nb", "x" * 1025, "y" * 256])
def test_keys_that_no_store_can_hold(store: Store, key: str) -> None:
    """A key that would mean something else in another store is refused by all, for reading and for writing."""
    for call in (store.head, store.get):
        with pytest.raises(InvalidInput):
            call(key)
    with pytest.raises(InvalidInput):
        read(store, key, 0, 1)
    with pytest.raises(InvalidInput):
        store.put(key, b"")
    with pytest.raises(InvalidInput):
        store.put_if_absent(key, b"")
    with pytest.raises(InvalidInput):
        store.put_stream(key, [b""])
    with pytest.raises(InvalidInput):
        store.compose(key, [b""])
    with pytest.raises(InvalidInput):
        store.delete([key])


@pytest.mark.parametrize("key", ["a b", "a+b", "a%2Fb", "a=b&c", "~x", "#1", "a?b", "'\"", "...", "-rf", "[x]*", "\\"])
def test_odd_keys(store: Store, key: str) -> None:
    """Characters that mean something to shells, URLs or SQL are only characters."""
    store.put(f"odd/{key}", key.encode())
    assert store.get(f"odd/{key}") == key.encode()
    assert [info.key for info in store.list("odd/")] == [f"odd/{key}"]
    store.delete([f"odd/{key}"])
    assert list(store.list("")) == []
