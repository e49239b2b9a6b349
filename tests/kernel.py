"""The kernel's side of /dev/fuse, played by a test: a session serves a socket instead, one packet a request.

Answers and notices are read as the kernel reads them: by the lengths and fields of its own header.
"""

import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from dasfs.fuse.device import Device
from dasfs.fuse.protocol import Opcode
from dasfs.fuse.session import FileSystem, Session

PATIENCE_S: Final = 20.0
ROOM: Final = 4096

_ATTRIBUTES: Final = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY: Final = struct.Struct("=QQQQII")
_DIRENT: Final = struct.Struct("=QQII")
_HEAD: Final = struct.Struct("=IiQ")


@dataclass(frozen=True)
class Answer:
    """What came back: an errno or 0, and the payload."""

    number: int
    payload: bytes


@dataclass(frozen=True)
class Stat:
    """Attributes, as in `struct fuse_attr`."""

    inode: int
    size: int
    blocks: int
    mtime: int
    mode: int
    links: int
    uid: int
    gid: int

    @classmethod
    def parse(cls, data: bytes) -> "Stat":
        inode, size, blocks, _, mtime, _, _, _, _, mode, links, uid, gid, *_ = _ATTRIBUTES.unpack(data)
        return cls(inode, size, blocks, mtime, mode, links, uid, gid)


@dataclass(frozen=True)
class Entry:
    """What a lookup found, and for how many seconds its name and its attributes may be kept."""

    inode: int
    name_valid_s: int
    attributes_valid_s: int
    stat: Stat

    @classmethod
    def parse(cls, data: bytes) -> "Entry":
        inode, _, name_valid_s, attributes_valid_s, *_ = _ENTRY.unpack_from(data)
        return cls(inode, name_valid_s, attributes_valid_s, Stat.parse(data[_ENTRY.size :]))


@dataclass(frozen=True)
class Listed:
    """One entry of a listing. `position` is where the next one begins; with READDIRPLUS there is an `entry`."""

    name: bytes
    inode: int
    position: int
    kind: int
    entry: Entry | None


def parse_listing(data: bytes, *, attributes: bool) -> list[Listed]:
    """Return the entries of a listing; fails where there is a byte too few or too many."""
    found, at = [], 0
    while at < len(data):
        entry = None
        if attributes:
            entry = Entry.parse(data[at : at + _ENTRY.size + _ATTRIBUTES.size])
            at += _ENTRY.size + _ATTRIBUTES.size
        inode, position, size, kind = _DIRENT.unpack_from(data, at)
        at += _DIRENT.size
        name = data[at : at + size]
        assert (len(name), data[at + size : at + size + -size % 8]) == (size, bytes(-size % 8))
        found.append(Listed(name, inode, position, kind, entry))
        at += size + -size % 8
    assert at == len(data)
    return found


class SocketDevice(Device):
    """A device whose descriptor is a socket. It counts what is read from it; `taken_away` is ENODEV, as of the kernel.

    Answers to requests in `gone` are ENOENT: nobody waits for them.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "")
        self.calls = 0
        self.taken_away = False
        self.gone: set[int] = set()

    def receive(self) -> int | None:
        self.calls += 1
        return None if self.taken_away else super().receive()

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        if _HEAD.unpack_from(parts[0])[2] in self.gone:
            raise FileNotFoundError(errno.ENOENT, "nobody waits")
        super().send(*parts)


@dataclass
class Kernel:
    """One end of the socket: sends requests, and reads what comes back."""

    socket: socket.socket
    device: SocketDevice
    notices: list[tuple[int, bytes]] = field(default_factory=list)
    _unique: int = 0
    _answers: dict[int, Answer] = field(default_factory=dict)

    def send(self, opcode: int, inode: int = 1, body: bytes = b"", *, uid: int = 0, gid: int = 0, pid: int = 1) -> int:
        """Send a request and return its number."""
        self._unique += 2
        head = struct.pack("=IIQQIIII", 40 + len(body), opcode, self._unique, inode, uid, gid, pid, 0)
        self.socket.send(head + body)
        return self._unique

    def answered(self, unique: int) -> bool:
        """Return whether a request's answer has come."""
        while True:
            try:
                data = self.socket.recv(2 << 20)
            except BlockingIOError:
                return unique in self._answers
            length, number, answered = _HEAD.unpack_from(data)
            assert length == len(data)
            if answered == 0:
                self.notices.append((number, data[_HEAD.size :]))
            else:
                assert answered not in self._answers, "two answers to one request"
                self._answers[answered] = Answer(-number, data[_HEAD.size :])

    async def answer(self, unique: int) -> Answer:
        """Wait for the answer to a request."""
        with trio.fail_after(PATIENCE_S):
            while not self.answered(unique):  # noqa: ASYNC110 - what is waited for is no event of the test's
                await trio.sleep(0.0005)
        return self._answers.pop(unique)

    async def call(self, opcode: int, inode: int = 1, body: bytes = b"") -> Answer:
        """Send a request and return its answer."""
        return await self.answer(self.send(opcode, inode, body))

    async def errno(self, opcode: int, inode: int = 1, body: bytes = b"") -> int:
        return (await self.call(opcode, inode, body)).number

    async def payload(self, opcode: int, inode: int = 1, body: bytes = b"") -> bytes:
        """Return the payload of an answer that must be no error."""
        answer = await self.call(opcode, inode, body)
        assert answer.number == 0, os.strerror(answer.number)
        return answer.payload

    async def lookup(self, parent: int, name: bytes) -> Entry:
        return Entry.parse(await self.payload(Opcode.LOOKUP, parent, name + b"\0"))

    async def getattr(self, inode: int) -> tuple[Stat, int]:
        """Return the attributes of an inode, and for how many seconds they may be kept."""
        data = await self.payload(Opcode.GETATTR, inode, bytes(16))
        return Stat.parse(data[16:]), struct.unpack_from("=Q", data)[0]

    async def read(self, inode: int, offset: int = 0, size: int = 4096) -> bytes:
        return await self.payload(Opcode.READ, inode, read_body(0, offset, size))

    async def list(self, inode: int, *, attributes: bool = True, room: int = ROOM) -> list[Listed]:
        """List a directory from its beginning to its end, as the kernel does it for `ls`."""
        handle = struct.unpack_from("=Q", await self.payload(Opcode.OPENDIR, inode, bytes(8)))[0]
        opcode = Opcode.READDIRPLUS if attributes else Opcode.READDIR
        found: list[Listed] = []
        while True:
            at = found[-1].position if found else 0
            page = await self.payload(opcode, inode, read_body(handle, at, room))
            assert len(page) <= room
            if not page:
                break
            found += parse_listing(page, attributes=attributes)
        assert await self.payload(Opcode.RELEASEDIR, inode, struct.pack("=QIIQ", handle, 0, 0, 0)) == b""
        return found

    def interrupt(self, unique: int) -> None:
        """Take a request back, as the kernel does for a process that is killed."""
        self.send(Opcode.INTERRUPT, 0, struct.pack("=Q", unique))

    def unmount(self) -> None:
        """Take the mount away under the session."""
        self.device.taken_away = True
        self.socket.shutdown(socket.SHUT_RDWR)


def read_body(handle: int, offset: int, size: int) -> bytes:
    """Return the body of READ, READDIR and READDIRPLUS."""
    return struct.pack("=QQIIQII", handle, offset, size, 0, 0, 0, 0)


def xattr_body(size: int, name: bytes = b"") -> bytes:
    """Return the body of GETXATTR, or LISTXATTR without a name."""
    return struct.pack("=II", size, 0) + (name + b"\0" if name else b"")


@asynccontextmanager
async def connected(make: Callable[[int], SocketDevice] = SocketDevice) -> AsyncIterator[Kernel]:
    """Hand out a kernel and the device that it speaks to, which nobody serves yet."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    device = make(theirs.detach())
    with ours:
        try:
            yield Kernel(ours, device)
        finally:
            device.close()


@asynccontextmanager
async def served(files: FileSystem, *, deadline_s: float = PATIENCE_S) -> AsyncIterator[Kernel]:
    """Let a session serve `files`, and hand out the kernel that asks it."""
    async with connected() as kernel, trio.open_nursery() as nursery:
        session = Session(kernel.device, files, deadline_s=deadline_s)

        async def run() -> None:
            await session.run(grace_s=0)

        nursery.start_soon(run)
        yield kernel
        session.stop()
