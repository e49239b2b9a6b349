"""The S3 store with wrong places and wrong keys, and without a network."""

import socket
import time
from pathlib import Path

import pytest

from dasfs.errors import (
    AccessDenied,
    DasfsError,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    StoreUnavailable,
)
from dasfs.stores import Store, StoreOptions, open_store
from tests.ceph import Ceph, free_port
from tests.lying_server import LyingServer

# Three attempts of half a second fit.
DEADLINE_S = 1.5
# What a busy machine may add; waiting for ever is far above it.
SLACK_S = 1.5


def read(store: Store) -> None:
    store.read_into("a", 0, memoryview(bytearray(10)))


def test_wrong_bucket(s3_environment: Ceph) -> None:
    """A bucket that does not exist is told in one line that names it, by whatever is called first."""
    with open_store("s3://no-such-bucket-here/p") as store:
        for call in (store.check, store.create, lambda: store.get("a"), lambda: list(store.list(""))):
            with pytest.raises(NotFound, match=r"no-such-bucket-here.*no such bucket") as raised:
                call()
            assert "\n" not in str(raised.value)
        with pytest.raises(NotFound, match="no such bucket"):
            store.put("a", b"")


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [("AWS_ACCESS_KEY_ID", "WRONG", "access key"), ("AWS_SECRET_ACCESS_KEY", "wrong", "secret key")],
)
def test_wrong_keys(s3_url: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, text: str) -> None:
    """Wrong keys are told as such, and which of the two it is; reading, writing and listing alike."""
    monkeypatch.setenv(variable, value)
    with open_store(s3_url) as store:
        for call in (store.check, lambda: store.get("a"), lambda: store.put("a", b""), lambda: list(store.list(""))):
            with pytest.raises(AccessDenied, match=text):
                call()
        with pytest.raises(AccessDenied):
            store.head("a")


def test_no_keys(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys, the hint names the variables."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with open_store(s3_url) as store, pytest.raises(AccessDenied, match="AWS_ACCESS_KEY_ID"):
        store.check()


def test_wrong_profile(s3_environment: Ceph) -> None:
    """A profile that does not exist is named."""
    with pytest.raises(InvalidInput, match="nobody"):
        open_store("s3://bucket", StoreOptions(profile="nobody"))


def test_wrong_endpoint(s3_environment: Ceph) -> None:
    """An endpoint that is no URL is named."""
    with pytest.raises(InvalidInput, match="not a url"):
        open_store("s3://bucket", StoreOptions(endpoint_url="not a url"))


def test_no_network(s3_environment: Ceph) -> None:
    """A port that nobody listens on is `StoreUnavailable` within the deadline, and the line names it."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    with open_store("s3://bucket", StoreOptions(endpoint_url=endpoint, deadline_s=DEADLINE_S)) as store:
        for call in (store.check, lambda: read(store), lambda: store.put("a", b"")):
            start = time.monotonic()
            with pytest.raises(StoreUnavailable, match=endpoint):
                call()
            assert time.monotonic() - start < DEADLINE_S + SLACK_S


@pytest.mark.parametrize(
    ("variable", "value", "expected", "text"),
    [
        ("AWS_ENDPOINT_URL", "https://127.0.0.1:{port}", StoreUnavailable, "SSL.*check the network"),
        ("HTTP_PROXY", "http://127.0.0.1:1", StoreUnavailable, "proxy.*check the network"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", StoreUnavailable, r"127\.0\.0\.1:1; check the network"),
        ("AWS_ACCESS_KEY_ID", "key\n", AccessDenied, "line break"),
        ("AWS_DEFAULT_REGION", "no region", InvalidInput, "region_name"),
        ("AWS_CONFIG_FILE", "{file}", InvalidInput, "config file"),
    ],
)
def test_wrong_environment(
    server: LyingServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    value: str,
    expected: type[DasfsError],
    text: str,
) -> None:
    """What is wrong with the environment is told in one line; a line that is down may be tried again."""
    (tmp_path / "config").write_text("[[[")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv(variable, value.format(port=server.endpoint_url.rpartition(":")[2], file=tmp_path / "config"))
    with (
        pytest.raises(expected, match=text) as raised,
        open_store("s3://bucket", StoreOptions(deadline_s=0.6)) as store,
    ):
        store.check()
    assert "\n" not in str(raised.value)
    assert raised.value.retryable == (expected is StoreUnavailable)


def test_listening_but_silent(s3_environment: Ceph) -> None:
    """A server that accepts and says nothing costs the deadline, not for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with open_store("s3://bucket", StoreOptions(endpoint_url=endpoint, deadline_s=DEADLINE_S)) as store:
            start = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                read(store)
            assert time.monotonic() - start < DEADLINE_S + SLACK_S
