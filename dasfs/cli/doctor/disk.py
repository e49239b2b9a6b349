"""The disk of a block cache: whether there is room, whether it can give space back, how quick it is.

What is written for that has no name and is gone with the process, however that ends.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

from dasfs.cache.block_files import can_punch
from dasfs.cli.doctor.finding import Finding, ok, problem, warning
from dasfs.cli.output import format_size
from dasfs.fuse.mountpoint import file_system_of

# What is written and read for the speed: more than a disk's own cache hides, less than anybody waits for.
PROBE_SIZE: Final = 32 << 20
_PIECE: Final = 1 << 20
# Below this the databases of the caches have no room to work.
LEAST_FREE: Final = 256 << 20
# A link of 1 Gbit/s brings 120 MB/s: a slower cache would hold up what comes from the store.
GOOD_SPEED: Final = 100e6
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "lustre", "gpfs", "beegfs"})


@dataclass(frozen=True, slots=True)
class Speed:
    """Bytes a second."""

    write: float
    read: float


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk below a cache directory, which need not exist yet. Sizes are bytes; `cached` is what the cache has.

    `punches` and `speed` are None where this user may not write, or there is no room.
    """

    directory: str
    file_system: str
    free: int
    cached: int
    writable: bool
    punches: bool | None
    speed: Speed | None


def check_disk(disk: Disk, capacity: int) -> Iterator[Finding]:
    """Yield what is found. `capacity` is how large the block cache may get."""
    yield check_space(disk, capacity)
    yield check_file_system(disk)
    if disk.speed is not None:
        yield check_speed(disk.directory, disk.speed)


def check_space(disk: Disk, capacity: int) -> Finding:
    name, where = "cache space", disk.directory
    if not disk.writable:
        return problem(name, f"this user may not write to {where}", "give another --cache-dir, or make it writable")
    room = disk.free + disk.cached
    told = f"{format_size(disk.free)} free at {where}"
    if room >= capacity:
        return ok(name, f"{told}, for a cache of {format_size(capacity)}", free=disk.free)
    hint = f"make room, or mount with --cache-size {max(1, room * 9 // 10 >> 30)}GiB or another --cache-dir"
    if disk.free < LEAST_FREE:
        return problem(name, f"only {told}", hint, free=disk.free)
    return warning(name, f"only {told}, for a cache of {format_size(capacity)}", hint, free=disk.free)


def check_file_system(disk: Disk) -> Finding:
    name, where, kind = "cache disk", disk.directory, disk.file_system
    if kind in _IN_MEMORY:
        return warning(name, f"{where} is {kind}: the cache takes memory, and is gone with a restart", _ELSEWHERE)
    if kind in _REMOTE or kind.startswith("fuse"):
        return warning(name, f"{where} is {kind}, which is slower than a disk and keeps locks less well", _ELSEWHERE)
    if kind == "overlay":
        return warning(
            name, f"{where} is in the layer of a container, and is gone with it", "give the container a volume for it"
        )
    if disk.punches is False:
        return warning(
            name,
            f"{where} is {kind}, which can't give back parts of files: eviction is crude",
            "use ext4, XFS or btrfs",
        )
    return ok(name, f"{where} is {kind}" + (", which can give back parts of files" if disk.punches else ""))


def check_speed(where: str, speed: Speed) -> Finding:
    told = f"{where} writes about {speed.write / 1e6:,.0f} MB/s and reads {speed.read / 1e6:,.0f} MB/s"
    measured = {"write_bytes_per_second": speed.write, "read_bytes_per_second": speed.read}
    if min(speed.write, speed.read) >= GOOD_SPEED:
        return ok("cache speed", told, **measured)
    return warning("cache speed", f"{told}: what comes from the store may be quicker", _ELSEWHERE, **measured)


_ELSEWHERE: Final = "give a --cache-dir on a local disk"


def look_at_disk(directory: str) -> Disk:
    """Return what is known of the disk of `directory`, which is not made. Takes a second, more on a slow disk."""
    existing = directory
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize
    writable = os.access(existing, os.W_OK | os.X_OK)
    punches, speed = None, None
    if writable and free > 2 * PROBE_SIZE:
        # Another user's quota or a read-only disk shows only here.
        try:
            with tempfile.TemporaryFile(dir=existing, prefix=".dasfs-doctor-", buffering=0) as file:
                speed = _measure(file)
                punches = can_punch(file.fileno())
        except OSError:
            writable = False
    return Disk(directory, file_system_of(existing), free, _cached(directory), writable, punches, speed)


def _measure(file: IO[bytes]) -> Speed:
    """Write a file and read it again, both past the kernel's memory as far as it lets itself be asked."""
    piece, descriptor = os.urandom(_PIECE), file.fileno()
    begun = time.perf_counter()
    for _ in range(PROBE_SIZE // _PIECE):
        os.write(descriptor, piece)
    os.fdatasync(descriptor)
    written = time.perf_counter() - begun
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    for offset in range(0, PROBE_SIZE, _PIECE):
        os.pread(descriptor, _PIECE, offset)
    return Speed(PROBE_SIZE / written, PROBE_SIZE / (time.perf_counter() - begun))


def _cached(directory: str) -> int:
    """Return how much the cache in `directory` holds already, as far as this user may see it."""
    total = 0
    for root, _, files in os.walk(os.path.join(directory, "dasfs-cache")):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(root, name)).st_blocks * 512
    return total
