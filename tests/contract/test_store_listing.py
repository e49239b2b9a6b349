"""What every store promises about listing, deleting, and the place itself."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dasfs.errors import InvalidInput
from dasfs.stores import Store, open_store

# In byte order. `-`, `.` sort before the slash, digits and letters after it: where walking directories goes wrong.
KEYS = [
    "a",
    "a-b/x",
    "a.b",
    "a.b.c/d",
    "b/",
    "b/-",
    "b/.x/y",
    "b/a/1",
    "b/a/2",
    "b/a0",
    "b/b/1",
    "b0",
    "c/d/e/f",
]
KEYS = sorted(key for key in KEYS if not key.endswith("/"))


def fill(store: Store, keys: list[str]) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: store.put(key, key.encode()), keys))


def keys_of(store: Store, prefix: str, after: str = "") -> list[str]:
    return [info.key for info in store.list(prefix, after=after)]


def test_empty_store(store: Store) -> None:
    """A new store has nothing, and that is no error."""
    assert keys_of(store, "") == []
    assert keys_of(store, "a/b/") == []
    assert list(store.list_prefixes("")) == []
    assert list(store.list_prefixes("a/")) == []


def test_list_in_key_order(store: Store) -> None:
    """Keys come in byte order of the whole key, each with its size and ETag."""
    fill(store, KEYS)
    infos = list(store.list(""))
    assert [info.key for info in infos] == KEYS
    for info in infos:
        head = store.head(info.key)
        assert (info.size, info.etag) == (len(info.key), head.etag)
        assert info.modified.utcoffset() == datetime.now(UTC).utcoffset()


def test_list_every_prefix_after_every_key(store: Store) -> None:
    """Prefix and start together select just the keys that fit both."""
    fill(store, KEYS)
    for prefix in ("", "a", "a.", "b", "b/", "b/a", "b/a/", "c/d/e/f", "c/d/e/f/", "nothing"):
        for after in ("", "a", "a.b", "a/", "b/", "b/a", "b/a/1", "b/a/1x", "b/zz", "c", "zzz"):
            expected = [key for key in KEYS if key.startswith(prefix) and key > after]
            assert keys_of(store, prefix, after) == expected, (prefix, after)


def test_list_more_than_a_page(store: Store) -> None:
    """A listing goes on over the pages of S3, and starts anywhere in them."""
    keys = [f"log/{number:020d}.json" for number in range(1201)]
    fill(store, keys)
    assert keys_of(store, "log/") == keys
    assert keys_of(store, "log/", after=keys[1100]) == keys[1101:]
    assert keys_of(store, "log/", after=keys[-1]) == []
    store.delete(keys)
    assert keys_of(store, "") == []


def test_list_prefixes(store: Store) -> None:
    """The next segments are told once each, in the order of their keys, and objects are none."""
    fill(store, [*KEYS, "b/a/3/4"])
    assert list(store.list_prefixes("")) == ["a-b", "a.b.c", "b", "c"]
    assert list(store.list_prefixes("b/")) == [".x", "a", "b"]
    assert list(store.list_prefixes("b/a/")) == ["3"]
    assert list(store.list_prefixes("c/d/e/")) == []
    with pytest.raises(InvalidInput, match="slash"):
        list(store.list_prefixes("b"))


def test_prefix_goes_with_its_last_object(store: Store) -> None:
    """When all objects below a segment are deleted, the segment is gone."""
    fill(store, ["sets/one/a/1", "sets/two/a/1"])
    store.delete(["sets/one/a/1"])
    assert list(store.list_prefixes("sets/")) == ["two"]


def test_delete_is_repeatable(store: Store) -> None:
    """Deleting what is not there is no error, and hits nothing else."""
    fill(store, ["a/b", "a/c"])
    store.delete(iter(["a/b", "nothing", "a", "a/b/c", "x/y/z"]))
    store.delete(["a/b"])
    store.delete([])
    assert keys_of(store, "") == ["a/c"]


def test_delete_large(store: Store) -> None:
    """An object of many chunks is deleted, and its key can be taken again."""
    store.put_stream("a", [bytes(40 << 20)])
    store.delete(["a"])
    assert keys_of(store, "") == []
    store.put_if_absent("a", b"new")
    assert store.get("a") == b"new"


def test_list_while_deleting(store: Store) -> None:
    """Keys may be deleted as they are listed; none is left out."""
    keys = [f"k/{number:03d}" for number in range(30)]
    fill(store, keys)
    seen = []
    for info in store.list("k/"):
        seen.append(info.key)
        store.delete([info.key])
    assert seen == keys
    assert keys_of(store, "") == []


def test_check_and_create_are_repeatable(store: Store, store_url: str) -> None:
    """Checking and creating what is there changes nothing."""
    store.put("a", b"1")
    store.check()
    store.create()
    store.create()
    assert store.get("a") == b"1"
    assert store.url == store_url


def test_stores_share_a_place(store: Store, store_url: str) -> None:
    """What one open store writes, another one sees at once."""
    with open_store(store_url) as other:
        store.put("a", b"1")
        assert other.get("a") == b"1"
        other.delete(["a"])
        assert keys_of(store, "") == []


SEGMENTS = st.text(st.sampled_from("ab-./09~ "), min_size=1, max_size=3).filter(
    lambda text: "/" not in text and text not in (".", "..")
)
KEY_SETS = st.sets(st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join), max_size=12)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=KEY_SETS, prefix=st.text("ab-/", max_size=3), after=st.text("ab-./09~", max_size=4))
def test_list_any_keys(store: Store, keys: set[str], prefix: str, after: str) -> None:
    """For any keys, prefix and start the listing is what sorting and filtering them gives."""
    # Where an object is, no other can lie below it in a directory.
    held = sorted(key for key in keys if not any(other.startswith(f"{key}/") for other in keys))
    store.delete([info.key for info in store.list("")])
    for key in held:
        store.put(key, b"")
    if prefix.startswith("/") or "//" in prefix:
        with pytest.raises(InvalidInput):
            list(store.list(prefix, after=after))
    else:
        expected = [key for key in held if key.startswith(prefix) and key > after]
        assert keys_of(store, prefix, after) == expected
