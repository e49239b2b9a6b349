"""What the kernel allows a mount: how much it reads ahead, and how many reads may be under way.

libfuse has options for it that pyfuse3 does not pass on, so it is set when the mount is there. Only root may; the mount
works without, but slower, and with 12 reads at once: when the store hangs, a thirteenth waits, also for what is cached.
"""

import contextlib
import ctypes
import logging
import os
from collections.abc import Iterator
from typing import Final

from dasfs.fuse.mountpoint import find_mount

log = logging.getLogger(__name__)

# Reads of 1 MiB instead of 128 KiB: twice as quick for one large file.
READ_AHEAD_KIB: Final = 1024
# Reads that the kernel sends without waiting for the one before: most reads are. Its default is 12. Half of what the
# mount can have in work, so that names and attributes are always answered.
MAX_BACKGROUND: Final = 512
# With so many under way the kernel stops reading ahead of its readers; three quarters, as is its default.
CONGESTION_THRESHOLD: Final = MAX_BACKGROUND * 3 // 4

# System calls, by numbers that are the same on all architectures since 5.2: libc has no names for them before 2.36.
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_FSCONFIG_CMD_CREATE: Final = 6
_CLOEXEC: Final = 1


def raise_limits(mountpoint: str) -> None:
    """Let the kernel ask the mount at `mountpoint` for more at once, as far as this process may."""
    mounted = find_mount(mountpoint)
    if mounted is None:
        return
    # Each for itself: CAP_SYS_ADMIN alone is enough for the latter and not for the former.
    with _tolerated():
        _write(f"/sys/class/bdi/{mounted.device}/read_ahead_kb", READ_AHEAD_KIB)
    with _tolerated(), _connections() as directory:
        minor = mounted.device.partition(":")[2]
        _write(f"{minor}/max_background", MAX_BACKGROUND, directory)
        _write(f"{minor}/congestion_threshold", CONGESTION_THRESHOLD, directory)


@contextlib.contextmanager
def _tolerated() -> Iterator[None]:
    """Say in the log what this process may not do, and go on."""
    try:
        yield
    except OSError as error:
        log.debug("a limit of the kernel stays as it is: %s", error)


def _write(path: str, value: int, directory: int | None = None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _connections() -> Iterator[int]:
    """Open the directory of the kernel's FUSE connections.

    systemd mounts it below /sys, containers do not. A mount of our own is attached nowhere, and goes with its
    descriptor.
    """
    context = _call(_FSOPEN, b"fusectl", _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        directory = _call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        yield directory
    finally:
        os.close(directory)


def _call(number: int, *arguments: bytes | int | None) -> int:
    """Do one system call. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
