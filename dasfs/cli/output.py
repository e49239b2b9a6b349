"""How commands write: data to stdout, talk to stderr; for people on a terminal, for programs elsewhere."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import click

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a listing. `size` columns hold bytes: with units on a terminal, plain numbers elsewhere."""

    name: str
    right: bool = False
    size: bool = False


def write_json(value: Any) -> None:
    """Write one JSON document to stdout."""
    click.echo(json.dumps(value, indent=2, default=_jsonable))


def _jsonable(value: object) -> str:
    if isinstance(value, datetime):
        return format_time(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[str | int]]) -> None:
    """Write a listing to stdout: a table on a terminal; elsewhere a tab-separated line a row, no heading."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(str(cell) for cell in row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column.name, justify="right" if column.right or column.size else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(column, value) for column, value in zip(columns, row, strict=True)))
    Console(highlight=False, markup=False).print(table)


def _cell(column: Column, value: str | int) -> str:
    if isinstance(value, str):
        return value
    return format_size(value) if column.size else f"{value:,}" if column.right else str(value)


def write_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Write what is known of one thing to stdout, a line a field, aligned."""
    width = max(len(name) for name, _ in fields) + 2
    for name, value in fields:
        click.echo(f"{name + ':':<{width}}{value}")


def say(message: str) -> None:
    """Tell the user something that is not data."""
    click.echo(message, err=True)


def format_size(size: float) -> str:
    """Return bytes as people read them: `1.5 GiB`."""
    if size < 1000:
        return f"{size:.0f} B"
    power = 0
    # Three digits at most: 1,000 KiB is told as 1.0 MiB.
    while size >= 999.95 and power < len(_UNITS):
        size /= 1024
        power += 1
    return f"{size:.1f} {_UNITS[power - 1]}"


def format_time(time: datetime) -> str:
    """Return a time as ISO 8601 in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def format_span(first: int, last: int) -> str:
    """Return datapoints as `17..3136`, or one alone as `17`."""
    return str(first) if first == last else f"{first}..{last}"


def format_spans(spans: Sequence[tuple[int, int]], limit: int = 5) -> str:
    """Return several stretches of datapoints, and how many more there are behind the first `limit`."""
    shown = ", ".join(format_span(*span) for span in spans[:limit])
    return shown if len(spans) <= limit else f"{shown} and {len(spans) - limit:,} more"


def count_of(count: int, noun: str) -> str:
    """Return `1 file`, `3,120 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def skipped_files(count: int) -> str:
    """Return the end of a sentence that says how many files were there already, if any."""
    return f"; {count_of(count, 'file')} {'was' if count == 1 else 'were'} there already" if count else ""
