"""What the daemon is told: one TOML file, read into one frozen tree.

Each key stands below with its default and with what reads its value; docs/daemon.md has the same table, and a test
compares them. `read` finds everything that is wrong with a file, each with its line and its key.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, TypeVar

from dasfs.config import Config, StoreConfig, StoreLocation, parse_duration, parse_size, resolve_store
from dasfs.dataset.aggregation_plan import AggregationPolicy
from dasfs.dataset.collect import Grace
from dasfs.endpoint import Address
from dasfs.errors import AccessDenied, InvalidInput, NotFound
from dasfs.formats.compression import Compression
from dasfs.names import check_dataset_name
from dasfs.stores.urls import parse_store_url
from dasfs_daemon.toml_lines import Path, find_lines

DEFAULT_FILE: Final = "/etc/dasfs/daemon.toml"
SOCKET: Final = "daemon.sock"
REQUIRED: Final = object()

T = TypeVar("T")


def setting(default: Any, parse: Callable[[Any], Any]) -> Any:
    """Return a field whose value `parse` reads, and whose `default` is written as in the file."""
    metadata = {"parse": parse, "default": default}
    if default is REQUIRED:
        return field(metadata=metadata)
    return field(default=None if default is None else parse(default), metadata=metadata)


def _text(value: Any) -> str:
    if not (isinstance(value, str) and value):
        raise InvalidInput("it must be a text in quotes")
    return str(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise InvalidInput('it must be a list of texts, as ["*.tmp", ".*"]')
    return tuple(value)


def _directory(value: Any) -> str:
    if not os.path.isabs(_text(value)):
        raise InvalidInput(f"{value!r} must be a whole path, beginning with '/'")
    return os.path.normpath(_text(value))


def _size(value: Any) -> int:
    if isinstance(value, str):
        return parse_size(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInput(f"{value!r} is not a size", hint='write it as "64MiB", "1GB" or in bytes')
    return value


def _positive_size(value: Any) -> int:
    size = _size(value)
    if size < 1:
        raise InvalidInput("it must be more than nothing")
    return size


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        return parse_duration(value).total_seconds()
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
        raise InvalidInput(f"{value!r} is not a time", hint='write it as "90s", "30m", "24h", "7d" or in seconds')
    return float(value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
        raise InvalidInput("it must be a number from 1 to 64")
    return value


def _interval(value: Any) -> float:
    seconds = _seconds(value)
    if seconds < 1:
        raise InvalidInput("it must be a second or more")
    return seconds


def _growth(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 2 <= value <= 1024:
        raise InvalidInput("it must be a number from 2 to 1024")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput("it must be true or false")
    return value


def _compression(value: Any) -> Compression:
    return Compression.parse(_text(value))


def _address(value: Any) -> Address:
    return Address.parse(_text(value))


def _url(value: Any) -> str:
    return str(parse_store_url(_text(value)))


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """One `[datasets.NAME]`. Sizes in bytes, times in seconds."""

    store: str = setting(REQUIRED, _text)
    directory: str = setting(REQUIRED, _directory)
    # None: what the dataset itself was told, which is 64 MiB unless somebody said otherwise.
    datarange_size: int | None = setting(None, _size)
    # A file is in the store half a minute after it is complete, however few there are.
    datarange_age: float = setting("30s", _seconds)
    # Longer than a program pauses between two writes of a file that it does not keep open.
    settle: float = setting("2s", _seconds)
    ignore: tuple[str, ...] = setting(
        (".*", "*.tmp", "*.part", "*.partial", "*.crdownload", "*.swp", "*~", "lost+found"), _texts
    )
    compression: Compression | None = setting(None, _compression)  # noqa: RUF009
    keep: float = setting("0s", _seconds)
    # Longer than `cp -r` needs from making a directory to the first file in it, also over a slow network.
    empty_directories: float = setting("1m", _seconds)
    scan_interval: float = setting("5m", _seconds)
    aggregate: bool = setting(True, _flag)
    collect: bool = setting(True, _flag)


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """`[limits]`, of the whole daemon. `bandwidth` is bytes a second, 0 for no limit."""

    uploads: int = setting(4, _count)
    bandwidth: int = setting(0, _size)
    minimum_free_disk: int = setting("1GiB", _size)


@dataclass(frozen=True, slots=True)
class StatusConfig:
    """`[status]`: where the daemon tells what it is doing."""

    socket: str | None = setting(None, _directory)
    listen: Address | None = setting(None, _address)  # noqa: RUF009


@dataclass(frozen=True, slots=True)
class AggregationConfig:
    """`[aggregation]`, of the whole daemon. Sizes are bytes, times are seconds."""

    target_size: int = setting("1GiB", _positive_size)
    growth: int = setting(16, _growth)
    # Plans follow this daemon's own commits within a second; this is for what other writers commit.
    interval: float = setting("10m", _interval)

    @property
    def policy(self) -> AggregationPolicy:
        return AggregationPolicy(self.target_size, self.growth)


@dataclass(frozen=True, slots=True)
class CollectionConfig:
    """`[collection]`, of the whole daemon. Times are seconds."""

    interval: float = setting("6h", _interval)
    removed: float = setting("24h", _seconds)
    uncommitted: float = setting("7d", _seconds)
    log: float = setting("90d", _seconds)

    @property
    def grace(self) -> Grace:
        return Grace(*(timedelta(seconds=each) for each in (self.removed, self.uncommitted, self.log)))


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """The whole configuration."""

    state_directory: str = setting("/var/lib/dasfs", _directory)
    spool_directory: str | None = setting(None, _directory)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    status: StatusConfig = field(default_factory=StatusConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    datasets: Mapping[str, DatasetConfig] = field(default_factory=lambda: MappingProxyType({}))
    stores: Mapping[str, StoreConfig] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def spool(self) -> str:
        """Where dataranges are packed."""
        return self.spool_directory or os.path.join(self.state_directory, "spool")

    @property
    def socket(self) -> str:
        """Where `dasfs status` asks."""
        return self.status.socket or os.path.join(self.state_directory, SOCKET)

    def location(self, dataset: str) -> StoreLocation:
        """Return where the store of a dataset is. Raises `InvalidInput` for one that is nowhere."""
        location = resolve_store(Config(stores=self.stores), self.datasets[dataset].store)
        return replace(location, url=str(parse_store_url(location.url)))


# The tables that are there once.
_SHARED: Final[Mapping[str, type[Any]]] = {
    "limits": LimitsConfig,
    "aggregation": AggregationConfig,
    "collection": CollectionConfig,
    "status": StatusConfig,
}
_STORE_PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "url": _url,
    "endpoint_url": _text,
    "profile": _text,
    "region": _text,
    "deadline": _seconds,
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong with the configuration: `file:line: key: what is wrong; what to do`."""

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class Reader:
    """Reads one file and collects what is wrong with it, so that all mistakes are told at once."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.mistakes: list[Mistake] = []
        self._lines: dict[Path, int] = {}

    def read(self) -> DaemonConfig | None:
        """Return the configuration, or None where it is too wrong to have one. Raises `NotFound`, `AccessDenied`."""
        document = self._load()
        if document is None:
            return None
        known = {each.name for each in fields(DaemonConfig)}
        self._check_keys((), document, known)
        values = self._values(DaemonConfig, (), document)
        shared = {
            name: self._table(kind, (name,), document[name]) for name, kind in _SHARED.items() if name in document
        }
        stores = self._tables("stores", document, self._store)
        datasets = self._tables("datasets", document, self._dataset)
        if not document.get("datasets"):
            self.mistake(("datasets",), "there is no [datasets.NAME]: nothing to do")
        there = {name: table for name, table in shared.items() if table is not None}
        config = DaemonConfig(**values, **there, stores=stores, datasets=datasets)
        for name, dataset in datasets.items():
            written = document.get("stores")
            if isinstance(written, dict) and dataset.store in written:
                continue  # what is wrong with it is told where it stands
            try:
                config.location(name)
            except InvalidInput as error:
                self.mistake(("datasets", name, "store"), str(error))
        return config

    def mistake(self, path: Path, message: str) -> None:
        """Note that something is wrong with the key `path`."""
        line = next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), None)
        self.mistakes.append(Mistake(self.file, line, ".".join(path), message))

    def _load(self) -> dict[str, Any] | None:
        try:
            with open(self.file, encoding="utf-8") as file:
                text = file.read()
            document = tomllib.loads(text)
        except FileNotFoundError:
            raise NotFound(f"{self.file}: no such configuration file", hint="see docs/daemon.md for one") from None
        except OSError as error:
            raise AccessDenied(f"{self.file}: can't read the configuration: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self.mistakes.append(Mistake(self.file, None, "", f"not a TOML file: {error}"))
            return None
        self._lines = find_lines(text)
        return document

    def _tables(
        self, where: str, document: Mapping[str, Any], read: Callable[[Path, Any], T | None]
    ) -> Mapping[str, T]:
        tables = document.get(where, {})
        if not isinstance(tables, dict):
            self.mistake((where,), f"it must be tables, as [{where}.NAME]")
            return MappingProxyType({})
        found = {name: read((where, name), table) for name, table in tables.items()}
        return MappingProxyType({name: each for name, each in found.items() if each is not None})

    def _dataset(self, path: Path, table: Any) -> DatasetConfig | None:
        try:
            check_dataset_name(path[-1])
        except InvalidInput as error:
            self.mistake(path, str(error))
        return self._table(DatasetConfig, path, table)

    def _store(self, path: Path, table: Any) -> StoreConfig | None:
        if not self._is_table(path, table):
            return None
        self._check_keys(path, table, _STORE_PARSERS.keys())
        values = {
            name: self._value(path, name, table, parse) for name, parse in _STORE_PARSERS.items() if name in table
        }
        if "url" not in table:
            self.mistake((*path, "url"), "it is missing")
        return StoreConfig(**values) if values.get("url") else None

    def _table(self, kind: type[T], path: Path, table: Any) -> T | None:
        """Return one table as a `kind`; None where it can't be one."""
        if not self._is_table(path, table):
            return None
        self._check_keys(path, table, {each.name for each in fields(kind)})  # type: ignore[arg-type]
        values = self._values(kind, path, table)
        return None if any(value is REQUIRED for value in values.values()) else kind(**values)

    def _values(self, kind: type[Any], path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of `kind` that `table` has; `REQUIRED` for what must be there and is not."""
        values = {}
        for each in fields(kind):
            if "parse" not in each.metadata:
                continue
            if each.name in table:
                value = self._value(path, each.name, table, each.metadata["parse"])
                if value is not None:
                    values[each.name] = value
                    continue
            if each.metadata["default"] is REQUIRED:
                values[each.name] = REQUIRED
                if each.name not in table:
                    self.mistake((*path, each.name), "it is missing")
        return values

    def _value(self, path: Path, name: str, table: Mapping[str, Any], parse: Callable[[Any], Any]) -> Any:
        try:
            return parse(table[name])
        except InvalidInput as error:
            self.mistake((*path, name), str(error))
            return None

    def _is_table(self, path: Path, value: Any) -> bool:
        if not isinstance(value, dict):
            self.mistake(path, f"it must be a table, as [{'.'.join(path)}]")
        return isinstance(value, dict)

    def _check_keys(self, path: Path, table: Mapping[str, Any], known: Any) -> None:
        for key in table:
            if key not in known:
                nearest = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)
                self.mistake((*path, key), f"unknown key; did you mean {nearest[0]!r}?")
