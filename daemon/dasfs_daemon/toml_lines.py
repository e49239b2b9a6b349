"""Where each key of a TOML document stands, which `tomllib` does not tell. Pure."""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str, ...]


def find_lines(text: str) -> dict[Path, int]:
    """Return the line, from 1, of every table and key of a document that `tomllib` accepts.

    A key is the tuple of its parts: `("datasets", "photos", "settle")`. A table stands where its first header
    or, without one, its first key stands.
    """
    lines: dict[Path, int] = {}
    table: Path = ()
    for number, statement in _statements(text):
        if statement.lstrip().startswith("["):
            table = next(_paths(tomllib.loads(statement)))
            found: Iterator[Path] = iter([table])
        else:
            found = (table + path for path in _paths(tomllib.loads(statement)))
        for path in found:
            for length in range(1, len(path) + 1):
                lines.setdefault(path[:length], number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each header and each `key = value`, which may go over several lines, with its first line."""
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        pending, start = (f"{pending}\n{line}", start) if pending else (line, number)
        try:
            tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue  # the value goes on in the next line
        yield start, pending
        pending = ""


def _paths(document: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the paths of everything in a document, outer ones last."""
    for name, value in document.items():
        inner = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
        if isinstance(inner, dict):
            yield from ((name, *path) for path in _paths(inner))
        yield (name,)
