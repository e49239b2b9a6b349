"""What the kernel allows a mount beyond what is agreed on when it is mounted: how much it reads ahead.

Only root may. The mount works without, but reads of large files arrive in pieces of 128 KiB.
"""

import logging
import os
from typing import Final

from dasfs.fuse.mountpoint import find_mount

log = logging.getLogger(__name__)

# Reads of 1 MiB instead of 128 KiB: twice as quick for one large file.
READ_AHEAD_KIB: Final = 1024


def raise_read_ahead(mountpoint: str) -> None:
    """Let the kernel read further ahead in files of the mount at `mountpoint`, if this process may say so."""
    mounted = find_mount(mountpoint)
    if mounted is None:
        return
    try:
        descriptor = os.open(f"/sys/class/bdi/{mounted.device}/read_ahead_kb", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, str(READ_AHEAD_KIB).encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        log.debug("the kernel's read-ahead stays as it is: %s", error)
