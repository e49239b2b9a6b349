"""Looking at this machine: what `machine` judges. Needs no rights, and changes nothing."""

import contextlib
import ctypes
import os
import platform
import re
import resource
import shutil
import stat
from importlib import metadata
from typing import Final

from dasfs.cli.doctor.machine import Access, Inotify, Library, Machine, Program, RequestTimeouts

FUSE_CONFIGURATION: Final = "/etc/fuse.conf"
# What is compiled, talks to the kernel or to a store; the others are told by pip.
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9][0-9.]*)")
_CLOEXEC: Final = 0o2000000


def look_at_machine() -> Machine:
    """Return what is known of this machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(
        is_root=os.geteuid() == 0,
        fuse_device=_access("/dev/fuse"),
        fusermount=_find("fusermount3"),
        user_allow_other=_allows_other(),
        kernel=platform.release(),
        open_files=_limit(soft),
        open_files_hard=_limit(hard),
        inotify=_inotify(),
        timeouts=look_at_timeouts(),
        cpus=_cpus(),
        python=platform.python_version(),
        libraries=_libraries(),
    )


def look_at_timeouts() -> RequestTimeouts | None:
    """Return the kernel's timeouts for FUSE; None where it has none (before Linux 6.15)."""
    default = _read_number("/proc/sys/fs/fuse/default_request_timeout")
    most = _read_number("/proc/sys/fs/fuse/max_request_timeout")
    if default is None and most is None:
        return None
    return RequestTimeouts(default or 0, most or 0)


def _access(path: str) -> Access:
    try:
        # Opening it makes no connection: that needs a mount.
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError):
        return Access.MISSING
    except OSError as error:
        # ENODEV, ENXIO: the node is there, and no module behind it.
        return Access.REFUSED if isinstance(error, PermissionError) else Access.MISSING
    return Access.USABLE


def _find(name: str) -> Program | None:
    # Where it is for root and for services, though a user's PATH may leave it out.
    path = shutil.which(name) or shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if path is None:
        return None
    status = os.stat(path)
    return Program(path, status.st_uid == 0 and bool(status.st_mode & stat.S_ISUID))


def _allows_other() -> bool:
    try:
        with open(FUSE_CONFIGURATION, encoding="utf-8", errors="replace") as file:
            return any(line.partition("#")[0].strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def _limit(value: int) -> int:
    return (1 << 63) - 1 if value == resource.RLIM_INFINITY else value


def _inotify() -> Inotify | None:
    names = ("max_user_watches", "max_user_instances", "max_queued_events")
    values = [_read_number(f"/proc/sys/fs/inotify/{name}") for name in names]
    watches, instances, queue = (value or 0 for value in values)
    if None in values:
        return None
    descriptor = ctypes.CDLL(None).inotify_init1(_CLOEXEC)
    if descriptor >= 0:
        os.close(descriptor)
    return Inotify(watches, instances, queue, instance_free=descriptor >= 0)


def _cpus() -> float:
    """Return how many CPUs this process may use: those that it may run on, and what its control group allows."""
    quotas = [float(len(os.sched_getaffinity(0)))]
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            group = next((line.split("::", 1)[1].strip() for line in file if line.startswith("0::")), "")
        while group:
            with contextlib.suppress(OSError, ValueError), open(f"/sys/fs/cgroup{group}/cpu.max") as file:
                quota, period = file.read().split()
                quotas.append(int(quota) / int(period))
            group = group.rpartition("/")[0] if group != "/" else ""
    return round(min(quotas), 2)


def _libraries() -> tuple[Library, ...]:
    found = []
    for requirement in metadata.requires("dasfs") or ():
        match = _REQUIREMENT.match(requirement)
        if match is None or "extra ==" in requirement:
            continue
        try:
            version: str | None = metadata.version(match[1])
        except metadata.PackageNotFoundError:
            version = None
        found.append(Library(match[1], match[2], version))
    return tuple(found)


def _read_number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
