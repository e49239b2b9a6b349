"""What stands at a mount point, and taking it away.

A mount whose process died answers `ENOTCONN` until it is unmounted: dead, not empty, so that `rsync --delete`
or a training job notices. Linux only: `/proc/self/mountinfo` and `fusermount3`.
"""

import errno
import os
import re
import subprocess
from dataclasses import dataclass
from typing import Final

from dasfs.errors import AccessDenied, AlreadyExists, DasfsError, InvalidInput, NotFound

FILE_SYSTEM: Final = "fuse.dasfs"
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the kernel's table of mounts. `device` is `major:minor`, `source` a store URL for ours."""

    path: str
    file_system: str
    source: str
    device: str


def find_mount(path: str) -> Mounted | None:
    """Return what is mounted at exactly `path` (absolute), the uppermost if there are several, or None.

    Asks the kernel, not the mount, which may be dead.
    """
    return _mounts().get(path)


def own_mounts() -> list[Mounted]:
    """Return the mounts of dasfs that this process can see, by path. None of them is touched."""
    return sorted((each for each in _mounts().values() if each.file_system == FILE_SYSTEM), key=lambda each: each.path)


def file_system_of(path: str) -> str:
    """Return the type of the file system that `path` is on, by the kernel's name for it (`ext4`, `tmpfs`)."""
    mounts, place = _mounts(), os.path.realpath(path)
    while place not in mounts and place != "/":
        place = os.path.dirname(place)
    return mounts[place].file_system if place in mounts else "unknown"


def _mounts() -> dict[str, Mounted]:
    """Return what is mounted at each path: the uppermost."""
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.rstrip("\n").partition(" - ")
            fields, (file_system, source, *_) = before.split(" "), after.split(" ")
            path = _unescape(fields[4])
            found[path] = Mounted(path, file_system, _unescape(source), fields[2])
    return found


def is_dead(path: str) -> bool:
    """Return whether a mount stands at `path` whose process is gone."""
    try:
        os.statvfs(path)  # asks the mount each time; a stat may be answered from what the kernel still knows
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def prepare(path: str, *, replace: bool) -> None:
    """Make sure that a mount can stand at `path`: take away a dead one with `replace`. Raises what `check` raises."""
    if replace and is_dead(path):
        unmount(path)
    check(path, replace=False)


def check(path: str, *, replace: bool) -> str:
    """Return the absolute path of an empty directory to mount at, or with `replace` of a dead mount.

    Raises `NotFound`, `InvalidInput` (a file, or not empty), `AlreadyExists` (a mount stands there).
    """
    path = os.path.realpath(path)
    if is_dead(path):
        if replace:
            return path
        raise AlreadyExists(
            f"a mount stands at {path} whose process is gone",
            hint=f"use --replace, or run: dasfs umount {path}",
        )
    try:
        os.stat(path)
        mounted = find_mount(path)
        if mounted is not None and mounted.file_system.startswith("fuse"):
            raise AlreadyExists(f"{mounted.source} is mounted at {path} already", hint=f"run: dasfs umount {path}")
        if os.listdir(path):
            raise InvalidInput(f"the mount point {path} is not empty", hint="mount at an empty directory")
    except FileNotFoundError as error:
        if isinstance(error, DasfsError):
            raise
        raise NotFound(f"the mount point {path} does not exist", hint=f"run: mkdir -p {path}") from error
    except NotADirectoryError as error:
        raise InvalidInput(f"the mount point {path} is not a directory") from error
    except PermissionError as error:
        raise AccessDenied(f"the mount point {path} can't be read") from error
    except OSError as error:
        if isinstance(error, DasfsError):
            raise
        raise InvalidInput(f"the mount point {path} can't be used: {error.strerror}") from error
    return path


def check_outside(path: str, mountpoint: str, what: str) -> None:
    """Raise `InvalidInput` where `path` lies at or below `mountpoint`: the mount would wait for itself."""
    inner, mountpoint = os.path.realpath(path), os.path.realpath(mountpoint)
    if os.path.commonpath([inner, mountpoint]) == mountpoint:
        raise InvalidInput(f"{what} {inner} lies below the mount point {mountpoint}", hint="put it elsewhere")


def unmount(path: str, *, lazy: bool = True) -> None:
    """Unmount the mount of ours at `path`, dead or alive. Not `lazy`: only when nobody uses it.

    Raises `InvalidInput` where there is none, `DasfsError` with what fusermount3 said.
    """
    mounted = find_mount(path)
    if mounted is None:
        raise InvalidInput(f"nothing is mounted at {path}")
    if mounted.file_system != FILE_SYSTEM:
        # For root, fusermount3 would take away any file system.
        raise InvalidInput(f"what is mounted at {path} is no mount of dasfs, but {mounted.file_system}")
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError as error:
        raise NotFound("fusermount3 is not installed", hint="run: apt-get install fuse3") from error
    if done.returncode != 0 and find_mount(path) is not None:
        said = done.stderr.strip().splitlines()[-1:] or ["fusermount3 failed"]
        raise DasfsError(
            f"{path} could not be unmounted: {said[0].removeprefix('fusermount3: ')}",
            hint="end what uses it (fuser -vm shows it), or use --lazy",
        )


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
