"""The wire format of FUSE: what the kernel sends through /dev/fuse, and what it takes. Bytes and values, no I/O.

    request    u32 length, u32 opcode, u64 unique, u64 inode, u32 uid, u32 gid, u32 pid, u32 padding, then the body
    answer     u32 length, i32 -errno, u64 unique, then the payload
    notice     an answer whose unique is 0 and whose errno is the kind of the notice

All numbers are in the machine's byte order. Source: include/uapi/linux/fuse.h of Linux, version 7.38 of the protocol
(Linux 6.2); newer kernels speak it, and older ones back to 7.31 (Linux 5.4) have all that is used here.
"""

import errno
import os
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 38
OLDEST_MINOR: Final = 31
# The largest read that is asked for: 256 pages, which is the kernel's own limit
# for a mount without privileges.
MAX_PAGES: Final = 256
# The kernel refuses one below 8 KiB (FUSE_MIN_READ_BUFFER), or without room for a write, which nobody sends.
REQUEST_BUFFER: Final = 4096 + 8192

REQUEST: Final = Struct("=IIQQIIII")
ANSWER: Final = Struct("=IiQ")
ATTRIBUTES: Final = Struct("=QQQQQQIIIIIIIIII")
# nodeid, generation, entry_valid, attr_valid, their nanoseconds; then the attributes
ENTRY: Final = Struct("=QQQQII" + "QQQQQQIIIIIIIIII")
# attr_valid, its nanoseconds, padding; then the attributes
ATTRIBUTES_FOR: Final = Struct("=QII" + "QQQQQQIIIIIIIIII")
# fh, offset, size, read_flags, lock_owner, flags, padding
READ: Final = Struct("=QQIIQII")
# fh, open_flags, padding
OPENED: Final = Struct("=QII")
# inode, the position behind this entry, length of the name, type; then the name, filled up to 8 bytes
DIRENT: Final = Struct("=QQII")
# fh, flags, release_flags, lock_owner
RELEASE: Final = Struct("=QIIQ")
# size, padding; then the name, for GETXATTR
XATTR: Final = Struct("=II")
STATFS: Final = Struct("=QQQQQIIII24x")
INTERRUPT: Final = Struct("=Q")
# count, padding; then as many pairs of an inode and how often its lookups are forgotten
BATCH_FORGET: Final = Struct("=II")
FORGET_ONE: Final = Struct("=QQ")
# major, minor, max_readahead, flags, flags2
INIT: Final = Struct("=IIIII")
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
# map_alignment, flags2, reserved
INITIALIZED: Final = Struct("=IIIIHHIIHHI28x")
INVALIDATE_INODE: Final = Struct("=Qqq")
# parent, length of the name, flags; then the name and a zero
INVALIDATE_ENTRY: Final = Struct("=QII")

BODY: Final = REQUEST.size
HEAD: Final = ANSWER.size

NOTICE_INVALIDATE_INODE: Final = 2
NOTICE_INVALIDATE_ENTRY: Final = 3


class Opcode(IntEnum):
    """What the kernel asks for. Those that would change something are in `CHANGES`."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    GETXATTR = 22
    LISTXATTR = 23
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    READDIRPLUS = 44


# setattr, symlink, mknod, mkdir, unlink, rmdir, rename, link, write, setxattr, removexattr, create, fallocate, rename2,
# copy_file_range, tmpfile
CHANGES: Final = frozenset({4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51})
NO_ANSWER: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.DESTROY})


class Capability(IntFlag):
    """What is agreed on in INIT, of what dasfs wants."""

    ASYNC_READ = 1 << 0  # several reads of one file at once
    ATOMIC_O_TRUNC = 1 << 3
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14  # names alone for who asks for no attributes: `ls -f`, `find`
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    NO_OPEN_SUPPORT = 1 << 17  # the kernel takes ENOSYS for "never ask again"


WANTED: Final = sum(Capability)


class FuseError(Exception):
    """An answer that is an errno, without a word in the log."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `body` is what follows the head; `pid` is the thread that asks, 0 for the kernel itself."""

    opcode: int
    unique: int
    inode: int
    uid: int
    gid: int
    pid: int
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> "Request":
        _, opcode, unique, inode, uid, gid, pid, _ = REQUEST.unpack_from(data)
        return cls(opcode, unique, inode, uid, gid, pid, data[BODY:])


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a mount takes from the kernel. `max_readahead` is bytes; `background` counts reads under way."""

    max_readahead: int
    background: int


class TooOld(Exception):
    """The kernel's version of the protocol lacks what is needed."""


def initialize(body: bytes, capacity: Capacity) -> bytes:
    """Return the payload that answers an INIT whose body is `body`. Raises `TooOld`."""
    major, minor, max_readahead, flags, *_ = INIT.unpack(body[: INIT.size].ljust(INIT.size, b"\0"))
    if (major, minor) < (MAJOR, OLDEST_MINOR):
        raise TooOld(f"the kernel speaks version {major}.{minor} of the FUSE protocol")
    return INITIALIZED.pack(
        MAJOR,
        min(minor, MINOR),
        min(max_readahead, capacity.max_readahead),
        flags & WANTED,
        capacity.background,
        capacity.background * 3 // 4,  # from here on the kernel stops reading ahead; its own default, too
        4096,  # max_write: nobody writes, and this keeps the buffer for requests small
        1,  # time_gran: nanoseconds
        MAX_PAGES,
        0,
        0,
    )


def pack_answer(unique: int, size: int, number: int = 0) -> bytes:
    """Return the head of an answer whose payload has `size` bytes, or that is the errno `number`."""
    return ANSWER.pack(HEAD + size, -number, unique)


def pack_dirent(inode: int, position: int, kind: int, name: bytes) -> bytes:
    """Return one entry of a listing. `position` is where the next one begins; `kind` as in `st_mode >> 12`."""
    size = len(name)
    return DIRENT.pack(inode, position, size, kind) + name + bytes(-size % 8)


def pack_invalidate_entry(parent: int, name: bytes) -> bytes:
    """Return the notice that `name` in `parent` is not what it was."""
    payload = INVALIDATE_ENTRY.pack(parent, len(name), 0) + name + b"\0"
    return ANSWER.pack(HEAD + len(payload), NOTICE_INVALIDATE_ENTRY, 0) + payload


def pack_invalidate_inode(inode: int) -> bytes:
    """Return the notice that all that is kept of `inode`, attributes and pages, is to be dropped."""
    payload = INVALIDATE_INODE.pack(inode, 0, 0)
    return ANSWER.pack(HEAD + len(payload), NOTICE_INVALIDATE_INODE, 0) + payload


def xattr_answer(wanted: int, value: bytes) -> bytes:
    """Return the payload for who has room for `wanted` bytes of `value`; 0 asks for its size."""
    if wanted == 0:
        return XATTR.pack(len(value), 0)
    if len(value) > wanted:
        raise FuseError(errno.ERANGE)
    return value
