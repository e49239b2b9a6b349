"""Original paths as names in a directory tree: which of them can be shown, and under which name.

Paths are bytes, as they were put: those that are not UTF-8 are shown as they are. A path that could leave the tree, or
that no program could open, is not shown; its datapoint then has its own name at the top.

**Concurrency:** pure functions.
"""

import re
from dataclasses import dataclass
from typing import Final

MAX_NAME: Final = 255  # NAME_MAX of Linux
MAX_PATH: Final = 4095  # PATH_MAX of Linux, without the NUL at its end

_VARIANT: Final = re.compile(rb".[^.]*?~([0-9]{1,19})(?:\..*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the tree a file stands: the path of its directory, empty for the top, and its name."""

    directory: bytes
    name: bytes


def place_of(path: bytes) -> Place | None:
    """Return where an original path stands, or None where it can't: it is empty, absolute, or too long, or a part of it
    is empty, `.`, `..`, too long, or has a NUL.
    """
    if not path or len(path) > MAX_PATH or b"\0" in path:
        return None
    if any(part in (b"", b".", b"..") or len(part) > MAX_NAME for part in path.split(b"/")):
        return None
    directory, _, name = path.rpartition(b"/")
    return Place(directory, name)


def variant(name: bytes, number: int, tildes: int = 1) -> bytes:
    """Return what a datapoint is called where another one has its name: `x~5.jpg` for number 5 and `x.jpg`."""
    dot = name.find(b".", 1)
    stem, extension = (name, b"") if dot < 0 else (name[:dot], name[dot:])
    mark = b"~" * tildes + b"%d" % number
    if len(mark) + len(extension) >= MAX_NAME:
        extension = b""
    return stem[: MAX_NAME - len(mark) - len(extension)] + mark + extension


def variant_number(name: bytes) -> int | None:
    """Return the number of the datapoint that has `name` by `variant`, if any has."""
    match = _VARIANT.fullmatch(name)
    return None if match is None else int(match[1])
