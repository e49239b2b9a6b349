"""Store URLs: what is right is taken, and what is wrong is told with the right form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.errors import InvalidInput
from dasfs.stores import Scheme, StoreUrl, open_store, parse_store_url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket", StoreUrl(Scheme.S3, "bucket")),
        ("s3://bucket/", StoreUrl(Scheme.S3, "bucket")),
        ("s3://my.bucket-1/a/b/", StoreUrl(Scheme.S3, "my.bucket-1", "a/b")),
        ("file:///data/store", StoreUrl(Scheme.DIRECTORY, "/data/store")),
        ("file:///data/a b%20/../c/", StoreUrl(Scheme.DIRECTORY, "/data/c")),
        ("file:////data", StoreUrl(Scheme.DIRECTORY, "/data")),
        ("file:///", StoreUrl(Scheme.DIRECTORY, "/")),
        ("sqlite:///data/file.db", StoreUrl(Scheme.SQLITE, "/data/file.db")),
    ],
)
def test_right_urls(text: str, expected: StoreUrl) -> None:
    """Each form names its place; what is written of the place parses to itself."""
    assert parse_store_url(text) == expected
    assert parse_store_url(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("s3:/bucket", "did you mean s3://bucket?"),
        ("s3:bucket/p", "did you mean s3://bucket/p?"),
        ("s4://x", "did you mean s3://x?"),
        ("S3://bucket", "did you mean s3://bucket?"),
        ("s3://", "write s3://bucket[/prefix]"),
        ("s3:///prefix", "write s3://bucket[/prefix]"),
        ("s3:", "write s3://bucket[/prefix]"),
        ("s3://Bucket", "3 to 63 characters"),
        ("s3://b", "3 to 63 characters"),
        ("s3://my_bucket", "3 to 63 characters"),
        ("s3://my..bucket", "3 to 63 characters"),
        ("s3://bucket:9000", "3 to 63 characters"),
        ("s3://bucket/a//b", "write s3://bucket[/prefix]"),
        ("s3://bucket/../b", "write s3://bucket[/prefix]"),
        ("S3bucket", "a store is s3://bucket[/prefix], file:///directory or sqlite:///file.db"),
        ("", "a store is s3://"),
        ("http://bucket", "a store is s3://"),
        ("file://", "write file:///directory"),
        ("fil:///data", "did you mean file:///data?"),
        ("file:/data", "did you mean file:///data?"),
        ("sqlite3:///x.db", "did you mean sqlite:///x.db?"),
        ("sqlite:///data/", "write sqlite:///file.db"),
        ("sqlite://", "write sqlite:///file.db"),
        ("/data/store", "did you mean file:///data/store?"),
        ("/data/store.db", "did you mean sqlite:///data/store.db?"),
        ("file:///a\0b", "write file:///directory"),
    ],
)
def test_wrong_urls(text: str, hint: str) -> None:
    """A URL with a typo is refused in one line that brings the right form."""
    with pytest.raises(InvalidInput) as raised:
        parse_store_url(text)
    assert raised.value.hint is not None
    assert hint in raised.value.hint
    assert "\n" not in str(raised.value)


def test_relative_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is refused, and the hint has the absolute one."""
    monkeypatch.chdir("/")
    with pytest.raises(InvalidInput, match="did you mean file:///some/dir"):
        parse_store_url("file://some/dir")


@given(st.text(max_size=30))
def test_any_text(text: str) -> None:
    """Any text is a URL that means itself, or `InvalidInput`."""
    try:
        place = parse_store_url(text)
    except InvalidInput:
        return
    assert parse_store_url(str(place)) == place


def test_opening_touches_nothing() -> None:
    """A store can be opened whether it exists or not."""
    for url in ("file:///no/such/directory", "sqlite:///no/such/file.db"):
        with open_store(url) as store:
            assert store.url == url
