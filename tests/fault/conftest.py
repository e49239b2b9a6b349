"""The fixtures of the tests of faults: those of mounts, for what needs one, and a server that lies."""

from collections.abc import Iterator

import pytest

from tests.lying_server import LyingServer, lying_server
from tests.mount.conftest import local_store, local_url, mounted

__all__ = ["local_store", "local_url", "mounted"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingServer]:
    """A server that lies, to which boto3's environment leads."""
    with lying_server() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint_url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield running
