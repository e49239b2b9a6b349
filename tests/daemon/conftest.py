"""Fixtures for tests of the daemon."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemons import Daemon, daemon_at, make_store


@pytest.fixture(params=["file", "sqlite"])
def local_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a local store with an empty dataset `d`, once for each kind."""
    return make_store(f"file://{tmp_path}/store" if request.param == "file" else f"sqlite://{tmp_path}/store.db")


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """The URL of a directory store with an empty dataset `d`."""
    return make_store(f"file://{tmp_path}/store")


@pytest.fixture
def daemon_of(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """A function that makes the daemon of a store, not started yet; it is ended with the test."""
    with ExitStack() as stack:

        def make(url: str, **settings: object) -> Daemon:
            limits, store = settings.pop("limits", {}), settings.pop("stores", {})
            tables = {name: settings.pop(name) for name in ("aggregation", "collection") if name in settings}
            home = tmp_path / f"home-{len(list(tmp_path.glob('home-*')))}"
            return stack.enter_context(daemon_at(Daemon(home, url, settings, limits, tables, store)))

        yield make
