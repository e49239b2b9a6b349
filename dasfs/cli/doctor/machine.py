"""What a mount and the daemon need of a machine: FUSE, limits, the kernel's timeouts, CPUs, libraries.

Pure: `Machine` in, findings out. `facts` gathers one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from dasfs.cli.doctor.finding import Finding, ok, problem, warning

# 256 block files, 64 connections, 16 clients of its port, SQLite's files and what Python has open itself.
LEAST_OPEN_FILES: Final = 512
GOOD_OPEN_FILES: Final = 1024
# The daemon watches each directory of its write directories; a tree of a million files in thousands is usual.
GOOD_WATCHES: Final = 8192
# The kernel forgets events above that until the next scan; its default is 16384.
GOOD_QUEUE: Final = 16384
# FUSE 7.31, the oldest version of the protocol that a mount is written for.
LEAST_KERNEL: Final = (5, 4)
# The kernel looks at its timeouts every 15 s, so that an answer at the deadline may be seen that much later.
TIMEOUT_MARGIN_S: Final = 15.0


class Access(Enum):
    """Whether something is there, and may be used by whoever asks."""

    MISSING = auto()
    REFUSED = auto()
    USABLE = auto()


@dataclass(frozen=True, slots=True)
class Program:
    """A program that was found. `setuid_root`: whoever runs it has root's rights."""

    path: str
    setuid_root: bool


@dataclass(frozen=True, slots=True)
class Inotify:
    """The kernel's limits for one user. `instance_free`: one more could be made just now."""

    watches: int
    instances: int
    queue: int
    instance_free: bool


@dataclass(frozen=True, slots=True)
class RequestTimeouts:
    """`fs.fuse.default_request_timeout` and `fs.fuse.max_request_timeout`, in seconds; 0 is none."""

    default_s: int
    max_s: int

    @property
    def effective_s(self) -> int:
        """What counts for a mount that asks for no timeout, as those of dasfs; 0: it may take as long as it likes."""
        timeout = self.default_s or self.max_s
        return min(timeout, self.max_s) if self.max_s else timeout


@dataclass(frozen=True, slots=True)
class Library:
    """A library that dasfs needs: the least version, and the one that is there."""

    name: str
    least: str
    found: str | None

    @property
    def is_enough(self) -> bool:
        return self.found is not None and _numbers(self.found) >= _numbers(self.least)


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of a machine, as far as this user may know it. None: the kernel has no such thing, or hides it."""

    is_root: bool
    fuse_device: Access
    fusermount: Program | None
    user_allow_other: bool
    kernel: str
    open_files: int
    open_files_hard: int
    inotify: Inotify | None
    timeouts: RequestTimeouts | None
    cpus: float
    python: str
    libraries: tuple[Library, ...]


def check_machine(machine: Machine, deadline_s: float) -> Iterator[Finding]:
    """Yield a finding for each thing. `deadline_s` is that of a mount."""
    for check in _CHECKS:
        yield check(machine)
    yield check_timeouts(machine.timeouts, deadline_s)


def check_device(machine: Machine) -> Finding:
    name = "/dev/fuse"
    match machine.fuse_device:
        case Access.USABLE:
            return ok(name, "it is there and can be opened")
        case Access.REFUSED:
            return problem(name, "this user may not open it, so it can't mount", "as root: chmod 666 /dev/fuse")
        case Access.MISSING:
            return problem(
                name,
                "it is not there, so nothing can be mounted",
                "as root: modprobe fuse; a container needs --device /dev/fuse --cap-add SYS_ADMIN",
            )


def check_fusermount(machine: Machine) -> Finding:
    name = "fusermount3"
    program = machine.fusermount
    if program is None:
        return problem(name, "it is not installed, so mounts can't be taken away", "as root: apt-get install fuse3")
    if program.setuid_root:
        return ok(name, f"{program.path} is installed and setuid root")
    hint = f"as root: chown root {program.path}; chmod u+s {program.path}"
    if machine.is_root:
        return warning(name, f"{program.path} is not setuid root, so only root can mount", hint)
    return problem(name, f"{program.path} is not setuid root, so this user can't mount", hint)


def check_allow_other(machine: Machine) -> Finding:
    name = "allow_other"
    if machine.user_allow_other:
        return ok(name, "/etc/fuse.conf has user_allow_other, so every user may mount for others")
    if machine.is_root:
        return ok(name, "root may mount for others; other users only with user_allow_other in /etc/fuse.conf")
    return warning(
        name,
        "this user can't mount for others with -o allow_other",
        "as root: echo user_allow_other >> /etc/fuse.conf",
    )


def check_kernel(machine: Machine) -> Finding:
    if _numbers(machine.kernel) >= LEAST_KERNEL:
        return ok("kernel", f"Linux {machine.kernel}")
    least = ".".join(map(str, LEAST_KERNEL))
    return problem("kernel", f"Linux {machine.kernel} is older than what mounts are made for", f"use {least} or newer")


def check_open_files(machine: Machine) -> Finding:
    name, limit = "open files", machine.open_files
    if limit >= GOOD_OPEN_FILES:
        return ok(name, f"a process may have {limit:,} open", limit=limit)
    hint = f"run: ulimit -n {min(65536, machine.open_files_hard)}"
    if machine.open_files_hard < GOOD_OPEN_FILES:
        hint = "raise nofile in /etc/security/limits.conf, or LimitNOFILE= of the unit"
    message = f"a process may have {limit:,} open, and a mount needs up to {LEAST_OPEN_FILES}"
    return (problem if limit < LEAST_OPEN_FILES else warning)(name, message, hint, limit=limit)


def check_inotify(machine: Machine) -> Finding:
    name, limits = "inotify", machine.inotify
    if limits is None:
        return warning(name, "the kernel has none here, so the daemon finds files by scans only", "use another kernel")
    if not limits.instance_free:
        return problem(
            name,
            f"this user has no instance left ({limits.instances}), so the daemon finds files by scans only",
            f"as root: sysctl -w fs.inotify.max_user_instances={max(512, 2 * limits.instances)}",
        )
    if limits.watches < GOOD_WATCHES:
        return warning(
            name,
            f"a user may watch {limits.watches:,} directories; the daemon scans what is above that",
            f"as root: sysctl -w fs.inotify.max_user_watches={16 * GOOD_WATCHES}",
        )
    if limits.queue < GOOD_QUEUE:
        return warning(
            name,
            f"the queue holds {limits.queue:,} events; when many files come at once the daemon has to scan for them",
            f"as root: sysctl -w fs.inotify.max_queued_events={4 * GOOD_QUEUE}",
        )
    return ok(name, f"{limits.watches:,} watches, {limits.instances:,} instances, {limits.queue:,} events a user")


def check_timeouts(timeouts: RequestTimeouts | None, deadline_s: float) -> Finding:
    """Say whether the kernel aborts a mount whose operations may take `deadline_s`."""
    name = "kernel timeouts"
    if timeouts is None or not timeouts.effective_s:
        return ok(name, "the kernel sets requests of a mount no timeout")
    effective, needed = timeouts.effective_s, deadline_s + TIMEOUT_MARGIN_S
    if effective >= needed:
        return ok(name, f"the kernel aborts a mount after {effective} s, its deadline is {deadline_s:g} s")
    least = int(-(-needed // 1))
    named = {"default_request_timeout": timeouts.default_s, "max_request_timeout": timeouts.max_s}
    values = " ".join(f"fs.fuse.{each}={least}" for each, value in named.items() if 0 < value < needed)
    shorter = effective - TIMEOUT_MARGIN_S
    instead = f", or mount with -o deadline={shorter:g}" if shorter >= 1 else ""
    return problem(
        name,
        f"the kernel aborts a whole mount when one request takes {effective} s, and the deadline is {deadline_s:g} s",
        f"as root: sysctl -w {values}{instead}",
    )


def check_cpus(machine: Machine) -> Finding:
    cpus = machine.cpus
    told = f"{cpus:g} CPU" if cpus == 1 else f"{cpus:g} CPUs"
    if cpus >= 2:
        return ok("CPUs", f"{told} may be used", cpus=cpus)
    message = f"{told} may be used: a mount and its readers take turns, at half the speed"
    return warning("CPUs", message, "give it two or more", cpus=cpus)


def check_libraries(machine: Machine) -> Finding:
    name = "libraries"
    wrong = [each for each in machine.libraries if not each.is_enough]
    if not wrong:
        found = ", ".join(f"{each.name} {each.found}" for each in machine.libraries)
        return ok(name, f"Python {machine.python}, {found}")
    said = ", ".join(
        f"{each.name} is missing" if each.found is None else f"{each.name} {each.found} is older than {each.least}"
        for each in wrong
    )
    wanted = " ".join(f"'{each.name}>={each.least}'" for each in wrong)
    return problem(name, said, f"run: python -m pip install {wanted}")


_CHECKS: Final[tuple[Callable[[Machine], Finding], ...]] = (
    check_device,
    check_fusermount,
    check_allow_other,
    check_kernel,
    check_open_files,
    check_inotify,
    check_cpus,
    check_libraries,
)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: `3.5.0rc1` as 3, 5, 0."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
