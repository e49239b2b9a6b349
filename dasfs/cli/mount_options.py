"""The options of a mount: read from `-o`, from flags and from the configuration, into one value.

`-o` takes what fstab takes: our own options, and those of mount(8), systemd and fuse that mean nothing here
or are always on.
"""

import os
from collections.abc import Iterable
from typing import Final

import platformdirs

from dasfs.cli.common import parse_size
from dasfs.config import MountConfig
from dasfs.endpoint import Address
from dasfs.errors import InvalidInput
from dasfs.fuse.attributes import Ownership
from dasfs.fuse.mount_options import MountOptions

DEFAULT_CACHE_SIZE: Final = "20GiB"
DEFAULT_MEMORY: Final = "256MiB"
# Room for a few GETs of 8 MiB at once.
MIN_MEMORY: Final = 32 << 20
DEFAULT_REFRESH_S: Final = 10.0
# Below any kernel's fs.fuse.max_request_timeout that makes sense, and longer than a store's usual hiccup.
DEFAULT_DEADLINE_S: Final = 30.0

_OWN: Final = frozenset(
    (
        *("uid", "gid", "umask", "allow_other", "cache-size", "cache-dir", "refresh", "deadline", "dataset"),
        *("memory", "metrics", "ro", "verify", "control", "access-log"),
    )
)
_FLAGS: Final = frozenset({"allow_other", "ro"})
# What mount(8), fstab and systemd put there: about when and how to mount, not about what is mounted.
_IGNORED: Final = frozenset(
    {"auto", "noauto", "defaults", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "async"}
    | {"exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "diratime", "nodiratime"}
    | {"relatime", "norelatime", "strictatime", "nostrictatime", "default_permissions", "comment"}
)


def parse_options(texts: Iterable[str]) -> dict[str, str]:
    """Return the options of `-o a,b=c` (given any number of times) by name; flags have an empty value.

    `cache_size` is taken for `cache-size`. Raises `InvalidInput` for an unknown option, a missing or
    superfluous value.
    """
    options: dict[str, str] = {}
    for part in ",".join(texts).split(","):
        name, equals, value = part.partition("=")
        known = name if name in _OWN else name.replace("_", "-")
        if not name or name in _IGNORED or name.startswith(("x-", "comment=")):
            continue
        if name == "rw":
            raise InvalidInput("a mount of dasfs is read-only", hint="leave out the option rw")
        if known not in _OWN:
            raise InvalidInput(f"unknown mount option {name!r}", hint=f"there are {', '.join(sorted(_OWN))}")
        if bool(equals) == (known in _FLAGS):
            raise InvalidInput(f"the mount option {name} takes {'no' if known in _FLAGS else 'a'} value")
        options[known] = value
    return options


def build_options(mountpoint: str, options: dict[str, str], config: MountConfig, *, replace: bool) -> MountOptions:
    """Return what `options`, then the configuration, then the defaults say. Raises `InvalidInput`."""
    mountpoint = os.path.abspath(mountpoint)
    return MountOptions(
        mountpoint=mountpoint,
        cache_directory=os.path.abspath(options.get("cache-dir") or _default_cache(config, mountpoint)),
        cache_size=parse_size(options.get("cache-size") or config.cache_size or DEFAULT_CACHE_SIZE),
        refresh_s=_seconds(options, "refresh", config.refresh or DEFAULT_REFRESH_S),
        deadline_s=_seconds(options, "deadline", DEFAULT_DEADLINE_S),
        ownership=Ownership(
            uid=_identity(options, "uid", os.getuid()),
            gid=_identity(options, "gid", os.getgid()),
            umask=_octal(options.get("umask", "0")),
        ),
        allow_other="allow_other" in options,
        dataset=options.get("dataset"),
        replace=replace,
        metrics=Address.parse(options["metrics"]) if "metrics" in options else None,
        memory=_memory(options.get("memory", DEFAULT_MEMORY)),
        access_log=_file(options, "access-log"),
        control=os.path.abspath(options["control"]) if options.get("control") else None,
        verify_always=_verify(options.get("verify", "once")),
    )


def _default_cache(config: MountConfig, mountpoint: str) -> str:
    """Return a directory of this mount point's own: two mounts never share one unless they are told to."""
    name = mountpoint.strip("/").replace("%", "%25").replace("-", "%2D").replace("/", "-")
    return os.path.join(base_of_caches(config), name or "-")


def base_of_caches(config: MountConfig) -> str:
    """Return the directory below which mounts have their cache directories, where they are given none."""
    if config.cache_dir is not None:
        return os.path.abspath(config.cache_dir)
    return "/var/cache/dasfs" if os.getuid() == 0 else platformdirs.user_cache_dir("dasfs")


def _seconds(options: dict[str, str], name: str, default: float) -> float:
    given = options.get(name, default)
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0.1 <= seconds <= 86_400:
        raise InvalidInput(f"{given!r} can't be {name}", hint="give seconds, from 0.1 to 86400")
    return seconds


def _identity(options: dict[str, str], name: str, default: int) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**32 - 1:
        raise InvalidInput(f"{text!r} can't be {name}", hint="give a number")
    return int(text)


def _memory(text: str) -> int:
    memory = parse_size(text)
    if memory < MIN_MEMORY:
        raise InvalidInput(f"{text!r} can't be memory", hint=f"give at least {MIN_MEMORY >> 20}MiB")
    return memory


def _verify(text: str) -> bool:
    if text not in ("once", "always"):
        raise InvalidInput(f"{text!r} can't be verify", hint="give once or always")
    return text == "always"


def _file(options: dict[str, str], name: str) -> str | None:
    if name not in options:
        return None
    if not options[name]:
        raise InvalidInput(f"the mount option {name} names no file", hint=f"write {name}=FILE")
    return os.path.abspath(options[name])


def _octal(text: str) -> int:
    try:
        umask = int(text, 8)
    except ValueError:
        umask = -1
    if not 0 <= umask <= 0o777:
        raise InvalidInput(f"{text!r} can't be umask", hint="give three octal digits, such as 022")
    return umask
