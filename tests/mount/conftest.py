"""Fixtures for tests that mount."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dasfs.stores import Store, open_store
from tests.mounts import Mounter, mounting


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounter]:
    """A function that mounts a store and returns the mount; all are taken away at the end."""
    with mounting(tmp_path) as mounter:
        yield mounter


@pytest.fixture
def local_url(tmp_path: Path) -> str:
    """The URL of an empty directory store, which needs no server."""
    url = f"file://{tmp_path}/store"
    with open_store(url) as opened:
        opened.create()
    return url


@pytest.fixture
def local_store(local_url: str) -> Iterator[Store]:
    """An empty directory store, to change while it is mounted."""
    with open_store(local_url) as opened:
        yield opened
