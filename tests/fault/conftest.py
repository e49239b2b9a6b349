"""The fixtures of the tests that mount, for the faults that need a mount."""

from tests.mount.conftest import local_store, local_url, mounted

__all__ = ["local_store", "local_url", "mounted"]
