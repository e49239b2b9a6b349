"""The tests of dasfs, and what they share."""

import pkgutil

import pytest

# What the shared parts assert is shown with its values, as in a test itself.
pytest.register_assert_rewrite(*(f"tests.{module.name}" for module in pkgutil.iter_modules(__path__)))
