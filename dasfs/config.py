"""What dasfs is told: one frozen tree, built once at the start of a command.

Each layer overrides the one before: defaults < configuration files < environment < flags of the command line.
The files are `/etc/dasfs/config.toml`, then `$XDG_CONFIG_HOME/dasfs/config.toml`; `--config` or
`DASFS_CONFIG` names one file that is read instead of both. A key that dasfs does not know is an error that
names it: a misspelled option must not be a default in disguise.

Only this module and `dasfs.cli` read the environment.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from dasfs.dataset.spool import DEFAULT_DIRECTORY
from dasfs.errors import AccessDenied, InvalidInput, NotFound
from dasfs.names import MAX_NUMBER
from dasfs.stores.base import StoreOptions

SYSTEM_FILE: Final = "/etc/dasfs/config.toml"

_UNITS: Final = {
    "": 1,
    "B": 1,
    **{unit + form: 1024 ** (power + 1) for power, unit in enumerate("KMGT") for form in ("", "IB")},
    **{unit + "B": 1000 ** (power + 1) for power, unit in enumerate("KMGT")},
}
_SIZE: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*([KMGT]i?B|[KMGT]|B|)", re.ASCII | re.IGNORECASE)
_DURATION: Final = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,6})?)\s*([smhd]?)", re.ASCII)
_TIME_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """One `[stores.NAME]`: where a store is, and how it is reached where boto3 does not know by itself."""

    url: str
    endpoint_url: str | None = None
    profile: str | None = None
    region: str | None = None
    deadline: float | None = None  # seconds


@dataclass(frozen=True, slots=True)
class MountConfig:
    """`[mount]`: defaults for `dasfs mount`. None: as the mount has it."""

    cache_dir: str | None = None
    cache_size: str | None = None
    refresh: float | None = None  # seconds


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. `store` is the URL or the name that stands where no `--store` is given.

    `temporary_dir` is where dataranges are packed.
    """

    store: str | None = None
    stores: Mapping[str, StoreConfig] = field(default_factory=lambda: MappingProxyType({}))
    mount: MountConfig = field(default_factory=MountConfig)
    temporary_dir: str = DEFAULT_DIRECTORY


@dataclass(frozen=True, slots=True)
class StoreLocation:
    """A store that is named completely: what `open_store` needs."""

    url: str
    options: StoreOptions


def load(path: str | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration: files, then environment (`DASFS_STORE`, `DASFS_CACHE_DIR`,
    `TMPDIR`).

    `path` (the flag `--config`) goes before `DASFS_CONFIG`. A file named by either must exist; the two
    standard files need not. Raises `InvalidInput` for a key or a value that can't be, `NotFound`,
    `AccessDenied`.
    """
    environ = os.environ if environ is None else environ
    named = path or environ.get("DASFS_CONFIG") or None
    config = Config()
    for each in [named] if named else standard_files(environ):
        if named or os.path.exists(each):
            config = merge_file(config, each)
    if environ.get("DASFS_STORE"):
        config = replace(config, store=environ["DASFS_STORE"])
    if environ.get("DASFS_CACHE_DIR"):
        config = replace(config, mount=replace(config.mount, cache_dir=environ["DASFS_CACHE_DIR"]))
    if environ.get("TMPDIR"):
        config = replace(config, temporary_dir=environ["TMPDIR"])
    return config


def standard_files(environ: Mapping[str, str]) -> list[str]:
    """Return the configuration files that are read where none is named, the one that wins last."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return [SYSTEM_FILE, os.path.join(home, "dasfs", "config.toml")]


def merge_file(config: Config, path: str) -> Config:
    """Return `config` overridden by one file. A `[stores.NAME]` replaces an earlier one of its name."""
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such configuration file") from None
    except OSError as error:
        raise AccessDenied(f"{path}: can't read the configuration: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: not a TOML file: {error}") from error
    _check_keys(path, "", document, _names(Config))
    stores = dict(config.stores)
    for name, table in _table(path, "stores", document.get("stores", {})).items():
        stores[name] = _store(path, name, table)
    return Config(
        store=_text(path, "store", document, config.store),
        stores=MappingProxyType(stores),
        mount=_mount(path, document, config.mount),
        temporary_dir=_text(path, "temporary_dir", document, None) or config.temporary_dir,
    )


def resolve_store(config: Config, store: str | None) -> StoreLocation:
    """Return where `store`, a URL or a name from the configuration, is; None means the configured default.

    Raises `InvalidInput` where there is no default, or no store of that name. The URL itself is not checked
    here.
    """
    wanted = store or config.store
    if not wanted:
        raise InvalidInput("no store is given", hint="use --store URL or NAME, or set DASFS_STORE")
    known = config.stores.get(wanted)
    if known is None and ":" in wanted:
        return StoreLocation(wanted, StoreOptions())
    if known is None:
        raise InvalidInput(f"{wanted!r} is neither the URL nor the name of a store", hint=_store_hint(config, wanted))
    options = StoreOptions(endpoint_url=known.endpoint_url, profile=known.profile, region=known.region)
    if known.deadline is not None:
        options = replace(options, deadline_s=known.deadline)
    return StoreLocation(known.url, options)


def parse_size(text: str) -> int:
    """Return the bytes that `64MiB`, `64M` (binary, as in coreutils), `64MB` (decimal) or `64` stand for."""
    match = _SIZE.fullmatch(text.strip())
    size = int(Fraction(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if not 1 <= size <= MAX_NUMBER:
        raise InvalidInput(f"{text!r} is not a size", hint="write it as 64MiB, 64M, 1G or in bytes")
    return size


def parse_duration(text: str) -> timedelta:
    """Return what `90s`, `30m`, `24h`, `7d` or `0` stands for. Raises `InvalidInput`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is not a time", hint="write it as 90s, 30m, 24h or 7d")
    return timedelta(**{_TIME_UNITS[match[2] or "s"]: float(match[1])})


def _store_hint(config: Config, wanted: str) -> str:
    if "/" in wanted:
        return f"a directory is written file://{os.path.abspath(wanted)}"
    if config.stores:
        return "the configuration names " + ", ".join(sorted(config.stores))
    return "use s3://bucket/prefix, file:///directory or sqlite:///file.db, or name it in the configuration file"


def _store(path: str, name: str, table: Any) -> StoreConfig:
    where = f"stores.{name}"
    table = _table(path, where, table)
    _check_keys(path, where, table, _names(StoreConfig))
    url = _text(path, f"{where}.url", table, None)
    if not url or "://" not in url:
        raise InvalidInput(f"{path}: {where}.url is missing or is not a URL")
    return StoreConfig(
        url=url,
        endpoint_url=_text(path, f"{where}.endpoint_url", table, None),
        profile=_text(path, f"{where}.profile", table, None),
        region=_text(path, f"{where}.region", table, None),
        deadline=_seconds(path, f"{where}.deadline", table, None),
    )


def _mount(path: str, document: dict[str, Any], earlier: MountConfig) -> MountConfig:
    table = _table(path, "mount", document.get("mount", {}))
    _check_keys(path, "mount", table, _names(MountConfig))
    return MountConfig(
        cache_dir=_text(path, "mount.cache_dir", table, earlier.cache_dir),
        cache_size=_text(path, "mount.cache_size", table, earlier.cache_size),
        refresh=_seconds(path, "mount.refresh", table, earlier.refresh),
    )


def _names(kind: type[Config | StoreConfig | MountConfig]) -> list[str]:
    return [each.name for each in fields(kind)]


def _check_keys(path: str, where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    known = list(known)
    for key in table:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            full = f"{where}.{key}" if where else key
            raise InvalidInput(f"{path}: unknown key {full!r}", hint=f"did you mean {nearest[0]!r}?")


def _table(path: str, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: {where} must be a table")
    return value


def _text(path: str, where: str, table: Mapping[str, Any], default: str | None) -> str | None:
    value = table.get(where.rpartition(".")[2], default)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{path}: {where} must be a text in quotes")
    return value


def _seconds(path: str, where: str, table: Mapping[str, Any], default: float | None) -> float | None:
    value = table.get(where.rpartition(".")[2], default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 86400 * 365:
        raise InvalidInput(f"{path}: {where} must be a number of seconds above 0")
    return float(value)
