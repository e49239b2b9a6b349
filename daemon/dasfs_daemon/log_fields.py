"""What a log line of the daemon carries beside its words, so that a journal can be searched: `DASFS_DATASET=photos`.

docs/systemd.md has the same list, and a test compares them.
"""

from collections.abc import Mapping
from typing import TypeAlias, TypedDict, Unpack

LogFields: TypeAlias = Mapping[str, str | int | float]


class Fields(TypedDict, total=False):
    """The fields that there are; each becomes `DASFS_` and its name in capitals."""

    dataset: str
    first: int
    last: int
    files: int
    bytes: int
    revision: int
    seconds: float
    path: str
    problem: str  # the key of a `Problem`


def log_fields(**fields: Unpack[Fields]) -> dict[str, str | int | float]:
    """Return what a call of a logger takes as `extra`."""
    return {f"DASFS_{name.upper()}": value for name, value in fields.items() if isinstance(value, str | int | float)}
