"""The descriptor of /dev/fuse that is one mount: made, spoken through, and given back.

fusermount3 mounts, for root and for everybody else, and hands the descriptor over: it knows who may mount what where,
and what it refuses it says in words.

**Concurrency:** `receive` is for one thread; `send` for any: the kernel takes each answer whole.
"""

import array
import errno
import logging
import os
import select
import socket
import subprocess
from collections.abc import Iterable
from contextlib import closing
from typing import Final

from dasfs.errors import AccessDenied, DasfsError, NotFound, Unsupported
from dasfs.fuse.inodes import Inode
from dasfs.fuse.mountpoint import find_mount
from dasfs.fuse.protocol import (
    REQUEST_BUFFER,
    Capacity,
    Opcode,
    Request,
    TooOld,
    initialize,
    pack_answer,
    pack_invalidate_entry,
    pack_invalidate_inode,
)

log = logging.getLogger(__name__)

# The kernel asks at once when it has mounted; it is only late where the machine stands still.
INIT_TIMEOUT_S: Final = 10.0
# fusermount3 reads a few files and makes one system call.
HELPER_TIMEOUT_S: Final = 60.0
NOT_FOUND: Final = 127  # what env exits with where there is no such program
# What reading the device says when there is nothing (EAGAIN), or a request was taken back meanwhile (ENOENT).
_NOTHING: Final = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOENT})


class Device:
    """An open descriptor of /dev/fuse. `mountpoint` is empty once somebody else has unmounted it."""

    def __init__(self, descriptor: int, mountpoint: str) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.mountpoint = mountpoint
        self.buffer = bytearray(REQUEST_BUFFER)
        self._buffers = [self.buffer]

    @classmethod
    def mount(cls, mountpoint: str, options: Iterable[str], capacity: Capacity) -> "Device":
        """Mount at `mountpoint` and agree with the kernel on how to speak.

        Raises `NotFound` without fusermount3, `AccessDenied` where the kernel has no FUSE for us, `Unsupported` where
        it is too old, and `DasfsError` with what fusermount3 said.
        """
        device = cls(_fusermount(mountpoint, options), mountpoint)
        try:
            device.agree(capacity)
        except BaseException:
            device.close()
            raise
        return device

    def agree(self, capacity: Capacity) -> None:
        """Answer the kernel's INIT, which is its first request."""
        if not select.select([self.descriptor], [], [], INIT_TIMEOUT_S)[0]:
            raise DasfsError(f"the kernel did not begin to use the mount at {self.mountpoint}")
        size = self.receive()
        request = Request.parse(bytes(self.buffer[:size])) if size else None
        if request is None or request.opcode != Opcode.INIT:
            raise DasfsError(f"the mount at {self.mountpoint} was taken away at once")
        try:
            payload = initialize(request.body, capacity)
        except TooOld as error:
            raise Unsupported(str(error), hint="Linux 5.4 or newer is needed") from error
        self.send(pack_answer(request.unique, len(payload)), payload)

    def receive(self) -> int | None:
        """Read the next request into `buffer`; return its size, 0 if there is none now, None when none will come."""
        try:
            return os.readv(self.descriptor, self._buffers)
        except OSError as error:
            if error.errno in _NOTHING:
                return 0
            if error.errno == errno.ENODEV:
                self.mountpoint = ""
                return None
            raise

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        """Send one answer or notice. Raises `FileNotFoundError` when nobody waits for it any more."""
        os.writev(self.descriptor, parts)

    def drop_name(self, directory: Inode, name: bytes) -> None:
        """Let the kernel forget what `name` is in a directory. May wait for requests that are under way there."""
        self._notify(pack_invalidate_entry(directory, name))

    def drop_inode(self, inode: Inode) -> None:
        """Let the kernel forget attributes and pages of a file. May wait for reads of it that are under way."""
        self._notify(pack_invalidate_inode(inode))

    def _notify(self, notice: bytes) -> None:
        try:
            self.send(notice)
        except OSError as error:
            # The usual case: the kernel does not hold it; or the mount is gone.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise DasfsError(f"the kernel did not take a notice: {error.strerror}") from error

    def close(self) -> None:
        """Give the descriptor back and unmount, if nobody did. Who has files open gets errors from now on."""
        is_ours = self.mountpoint and not self._taken_away()
        # First: unmounting may ask the file system, which answers no more.
        os.close(self.descriptor)
        if not is_ours or find_mount(self.mountpoint) is None:
            return
        command = ["fusermount3", "-u", "-q", "-z", "--", self.mountpoint]
        try:
            subprocess.run(command, capture_output=True, timeout=HELPER_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("%s could not be unmounted: %s", self.mountpoint, error)

    def _taken_away(self) -> bool:
        """Return whether somebody else has unmounted it: what is mounted there now is not ours then."""
        poll = select.poll()
        poll.register(self.descriptor, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))


def _fusermount(mountpoint: str, options: Iterable[str]) -> int:
    """Let fusermount3 mount; return the descriptor of /dev/fuse that it sends through a socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # fusermount3 learns from its environment where to send it; `env` adds that to ours.
    command = ["env", f"_FUSE_COMMFD={theirs.fileno()}", "fusermount3", "-o", ",".join(options), "--", mountpoint]
    with closing(ours), closing(theirs):
        done = subprocess.run(
            command, pass_fds=[theirs.fileno()], capture_output=True, text=True, timeout=HELPER_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            raise _refusal(mountpoint, done.returncode, done.stderr)
        theirs.close()  # so that a helper that sent nothing is not waited for
        received = array.array("i")
        _, messages, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(received.itemsize), socket.MSG_CMSG_CLOEXEC)
        for _, _, data in messages:
            received.frombytes(data)
    if not received:
        raise DasfsError(f"fusermount3 handed no mount over for {mountpoint}")
    return received[0]


def _refusal(mountpoint: str, code: int, said: str) -> DasfsError:
    """Return the error that says why fusermount3 did not mount."""
    lines = [line.removeprefix("fusermount3: ") for line in said.strip().splitlines()]
    why = lines[-1] if lines else f"fusermount3 exited with {code}"
    if code == NOT_FOUND:
        return NotFound("fusermount3 is not installed", hint="run: apt-get install fuse3")
    if "user_allow_other" in why:
        return AccessDenied(
            f"the mount at {mountpoint} was refused: {why}", hint="put a line user_allow_other into /etc/fuse.conf"
        )
    if "/dev/fuse" in said or "device not found" in said:
        hint = "run: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
        return AccessDenied(f"the kernel has no FUSE for this process: {why}", hint=hint)
    return DasfsError(f"the mount at {mountpoint} was refused: {why}")
