"""What is wrong with a configuration on this host: directories that can't be, and stores that don't answer.

`find_nonsense` and `find_clashes` are mistakes with which the daemon does not start. What may be over in a minute (a
directory that is not mounted yet, a store that is away) only `find_absences` tells: the daemon waits for it.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Snapshot
from dasfs.errors import DasfsError, InvalidInput, NotFound
from dasfs.stores import Scheme, open_store, parse_store_url
from dasfs_daemon.config import DaemonConfig, Reader

MOUNT_TYPE: Final = "fuse.dasfs"
# For `--check`: somebody waits at a terminal.
CHECK_DEADLINE_S: Final = 10.0
# What the unit of systemd hides, or has its own of: a directory there is seen by everybody but the daemon.
HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
# The uploads of a busy day take no longer, and nobody gains room by deleting sooner what was left behind.
SHORTEST_UNCOMMITTED_S: Final = 3600.0


def find_nonsense(reader: Reader, config: DaemonConfig) -> None:
    """Note values that are fine each, and do harm together."""
    collection = config.collection
    if collection.log < collection.removed:
        reader.mistake(
            ("collection", "log"),
            "it is shorter than `removed`: a commit would go before it is known when its dataranges may",
        )
    if collection.uncommitted < SHORTEST_UNCOMMITTED_S:
        reader.mistake(
            ("collection", "uncommitted"),
            "it must be an hour or more: what is uploaded for longer than that would be deleted before its commit",
        )
    for name, dataset in config.datasets.items():
        if dataset.datarange_size is not None:
            _check_target(reader, config, name, dataset.datarange_size)


def _check_target(reader: Reader, config: DaemonConfig, name: str, datarange_size: int) -> None:
    target = config.aggregation.target_size
    if config.datasets[name].aggregate and target < datarange_size:
        reader.mistake(
            ("aggregation", "target_size"),
            f"its {target:,} bytes are less than the {datarange_size:,} of a datarange of {name}: nothing is joined; "
            f"make it larger, or say aggregate = false for {name}",
        )


def find_clashes(reader: Reader, config: DaemonConfig) -> None:
    """Note directories that lie in each other, in a mount of dasfs, or hold the daemon's own files or a store."""
    directories = {name: os.path.realpath(each.directory) for name, each in config.datasets.items()}
    own = {"the state directory": config.state_directory, "the spool directory": config.spool}
    mounts = list(_mount_points())
    for number, (name, directory) in enumerate(directories.items()):
        key = ("datasets", name, "directory")
        for other, place in list(directories.items())[:number]:
            if place == directory:
                reader.mistake(key, f"{directory} is the directory of {other}, too; give each its own")
            elif _is_below(place, directory) or _is_below(directory, place):
                reader.mistake(key, f"{directory} and {place} of {other} lie in each other; give each its own")
        for what, place in own.items():
            if _is_below(os.path.realpath(place), directory):
                reader.mistake(key, f"{what} {place} lies in it, and would be packed; put it elsewhere")
        for mount in mounts:
            if _is_below(directory, mount):
                reader.mistake(
                    key, f"{directory} lies in the dasfs mount {mount}, which is read-only; use a local disk"
                )
        store = _local_store(config, name)
        if store is not None and (_is_below(store, directory) or _is_below(directory, store)):
            reader.mistake(key, f"{directory} and the store {store} lie in each other; put one elsewhere")


def find_absences(reader: Reader, config: DaemonConfig) -> None:
    """Note directories that are not there or can't be used, stores that don't answer, and missing datasets."""
    for key, place in (("state_directory", config.state_directory), ("spool_directory", config.spool)):
        nearest = place
        while not os.path.exists(nearest):
            nearest = os.path.dirname(nearest)
        if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK | os.X_OK):
            reader.mistake((key,), f"{place} can't be written by this user")
    for name, dataset in config.datasets.items():
        try:
            check_directory(dataset.directory)
        except DasfsError as error:
            reader.mistake(("datasets", name, "directory"), str(error))
        try:
            config.location(name)
        except InvalidInput:
            continue  # told where it was read
        try:
            snapshot = check_dataset(config, name)
            if dataset.datarange_size is None:
                _check_target(reader, config, name, snapshot.configuration.datarange_size)
        except DasfsError as error:
            reader.mistake(("datasets", name, "store"), str(error))


def check_directory(directory: str) -> None:
    """Raise `DasfsError` unless files of a write directory can be read and removed."""
    if not os.path.isdir(directory):
        what = "is not a directory" if os.path.lexists(directory) else "is missing"
        hint = f"mount it, or run: mkdir -p {directory}"
        if any(_is_below(directory, each) for each in HIDDEN):
            hint += "; if it is there, systemd hides it from the daemon: see docs/systemd.md"
        raise NotFound(f"the write directory {directory} {what}", hint=hint)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise DasfsError(
            f"the write directory {directory} can't be read and written by this user",
            hint="files are removed from it once they are in the store: allow both, see docs/systemd.md",
        )


def check_dataset(config: DaemonConfig, name: str) -> Snapshot:
    """Return what a dataset is. Raises `DasfsError` unless its store answers and has it."""
    location = config.location(name)
    options = replace(location.options, deadline_s=min(location.options.deadline_s, CHECK_DEADLINE_S))
    with open_store(location.url, options) as store:
        store.check()
        try:
            return Dataset(store, name).writable()
        except NotFound as error:
            raise NotFound(error.message, hint=f"run: dasfs dataset create {name} --store {store.url}") from error


def _is_below(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory


def _local_store(config: DaemonConfig, name: str) -> str | None:
    """Return the directory of a `file://` store, or the file of a `sqlite://` one."""
    try:
        url = parse_store_url(config.location(name).url)
    except DasfsError:
        return None
    return None if url.scheme is Scheme.S3 else os.path.realpath(url.place)


def _mount_points() -> Iterator[str]:
    """Yield where dasfs is mounted on this host."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            if fields[2] == MOUNT_TYPE:
                # Spaces and the like stand there as octal escapes of bytes.
                yield os.fsdecode(os.fsencode(fields[1]).decode("unicode_escape").encode("latin-1"))
