"""What the commands share: their settings, the types of their arguments, and opening a store."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from dasfs import config as configuration
from dasfs.config import parse_duration as parse_duration
from dasfs.config import parse_size as parse_size
from dasfs.errors import InvalidInput
from dasfs.names import MAX_NUMBER, check_dataset_name

if TYPE_CHECKING:
    from dasfs.formats.compression import Compression
    from dasfs.stores.base import Store

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class Settings:
    """What the root command was told. The configuration is read at first use: `--help` needs none."""

    config_file: str | None = None

    @cached_property
    def config(self) -> configuration.Config:
        return configuration.load(self.config_file)


@dataclass(frozen=True, slots=True)
class NumberRange:
    """Datapoints `first..last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def parse_number(text: str) -> int:
    """Return a datapoint's number; leading zeros are fine. Raises `InvalidInput`, also above 2^63-1."""
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"{text!r} is not a datapoint's number")
    number = int(text) if len(text.lstrip("0")) < 30 else MAX_NUMBER + 1
    if number > MAX_NUMBER:
        raise InvalidInput(f"{text} is above {MAX_NUMBER} (2^63-1), the highest number a datapoint can have")
    return number


def parse_range(text: str) -> NumberRange:
    """Return what `FIRST` or `FIRST-LAST` stands for; also `FIRST..LAST`, as the messages write it."""
    first, dash, last = text.replace("..", "-", 1).partition("-")
    numbers = NumberRange(parse_number(first), parse_number(last if dash else first))
    if numbers.last < numbers.first:
        raise InvalidInput(f"{text}: the last number is below the first")
    return numbers


def parse_compression(text: str) -> "Compression":
    """Return what `none`, `lz4`, `zstd` or `zstd:LEVEL` stands for. Raises `InvalidInput`."""
    from dasfs.formats.compression import Compression

    return Compression.parse(text)


class Parsed(click.ParamType[Any]):
    """A parameter that one of the functions above reads; what it raises goes through to the user as it is."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        return self._parse(value) if isinstance(value, str) else value


class StoreType(click.ParamType[str]):
    """A store's URL or name; the names of the configuration complete."""

    name = "store"

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        settings = ctx.find_object(Settings) or Settings()
        names = [*settings.config.stores, "s3://", "file:///", "sqlite:///"]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


SIZE: Final = Parsed("size", parse_size)
NUMBER: Final = Parsed("number", parse_number)
RANGE: Final = Parsed("first[-last]", parse_range)
DURATION: Final = Parsed("time", parse_duration)
COMPRESSION: Final = Parsed("compression", parse_compression)
DATASET: Final = Parsed("dataset", check_dataset_name)
STORE: Final = StoreType()


def store_option(command: Command) -> Command:
    """Add `--store`."""
    return click.option(
        "--store", "-s", type=STORE, metavar="STORE", help="URL or name of the store. Default: $DASFS_STORE."
    )(command)


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")(command)


def yes_option(command: Command) -> Command:
    """Add `--yes`."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)


def dataset_argument(command: Command) -> Command:
    """Add the argument DATASET."""
    return click.argument("dataset", type=DATASET, metavar="DATASET")(command)


@contextmanager
def opened_store(settings: Settings, store: str | None, *, create: bool = False) -> "Iterator[Store]":
    """Open the store that `--store` or the configuration names, for a `with` block.

    Its place is made where `create` is true and it is ours to make; otherwise a store that is not there,
    can't be reached or refuses is told here, before anything is done.
    """
    from dasfs.stores import open_store

    location = configuration.resolve_store(settings.config, store)
    with open_store(location.url, location.options) as opened:
        if create:
            opened.create()
        opened.check()
        yield opened


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal; raise `InvalidInput` where nobody can answer, and `click.Abort` for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput(f"{question.rstrip('?')}: there is no terminal to ask on", hint="add --yes")
    click.confirm(question, abort=True, err=True)
