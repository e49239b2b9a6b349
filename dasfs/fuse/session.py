"""Requests of the kernel, one after the other: what can be answered at once is, all else gets a task of its own.

A cached file costs the kernel two requests here: lookup and read. Its `open` is answered once with `ENOSYS`, which
means "nothing to do, and never ask again", and spares two of the four that other file systems get; an answer is one
system call, and no task, no thread and no copy of the request stands between. That is why there is no library below:
pyfuse3 can't tell the inode of a read, so it can't do without `open`, and its share of a request was three times ours.

A reader sends its next request some 30 µs after it got an answer. Going to sleep in `epoll_wait` for that, and being
woken, costs more than answering does, so after each request the device is asked for up to `LOOK_S` before the session
sleeps. When looking does not pay, because readers wait for the store or compute between, it is left out for a while; an
idle mount uses no CPU at all.

**Concurrency:** everything runs in the trio thread; `Device.send` alone is called from others, for notices. A request
that has to wait is a task, bound by the session's deadline. A reader that is killed takes its request back (INTERRUPT),
and its task is cancelled: nobody waits for a store to be rid of a process.
"""

import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from dasfs.fuse.device import Device
from dasfs.fuse.processes import is_dying
from dasfs.fuse.protocol import (
    ANSWER,
    BODY,
    CHANGES,
    HEAD,
    INTERRUPT,
    NO_ANSWER,
    READ,
    REQUEST,
    FuseError,
    Opcode,
    Request,
)

log = logging.getLogger(__name__)

LOOK_S: Final = 100e-6
# Other tasks get their turn at least this often.
TURN_S: Final = 2e-3
# After so many looks in vain the next so many waits go to sleep at once.
PATIENCE: Final = 4
PAUSE: Final = 32

# Plain numbers: comparing members of an enum costs 30 ns each.
_READ: Final = int(Opcode.READ)
_LOOKUP: Final = int(Opcode.LOOKUP)

Payload = bytes | memoryview
Waiting = Callable[[Request], Awaitable[Payload]]


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A request that waits, and the thread that sent it."""

    thread: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class FileSystem(Protocol):
    """What a session asks. Payloads are in the kernel's format."""

    def lookup_now(self, parent: int, name: bytes) -> bytes | None:
        """Return the entry `name` of a directory, or None where that has to wait. Never waits."""

    def read_now(self, inode: int, offset: int, size: int, uid: int, thread: int) -> Payload | None:
        """Return bytes of a file for a thread of a user, or None where that has to wait. Never waits."""

    def handler(self, opcode: int) -> Waiting | None:
        """Return what answers requests of a kind, or None: those are answered with `ENOSYS`, once and for all."""

    def explain(self, request: Request, error: Exception) -> int:
        """Return the errno to answer with, and say in the log what somebody should know."""

    def forget(self, request: Request) -> None:
        """Take note that the kernel has forgotten inodes."""

    def observe(self, opcode: int, seconds: float, number: int) -> None:
        """Take note of how long a request took, and of the errno that it got, or 0."""


class Session:
    """Serves one device. `deadline_s` bounds each request that waits."""

    def __init__(self, device: Device, files: FileSystem, *, deadline_s: float) -> None:
        self._device = device
        self._files = files
        self._deadline_s = deadline_s
        self._under_way: dict[int, _UnderWay] = {}
        self._loop = trio.CancelScope()
        # On one core a look only keeps the reader from sending what is looked for.
        self._may_look = len(os.sched_getaffinity(0)) > 1
        # A request came since the last look in vain: then, and only then, the next may come soon.
        self._awake = False
        self._in_vain = 0
        self._pause = 0

    @property
    def under_way(self) -> int:
        """How many requests wait for something."""
        return len(self._under_way)

    async def run(self, *, grace_s: float) -> None:
        """Answer requests until the mount is taken away or `stop` is called; what waits then has `grace_s` to end."""
        async with trio.open_nursery() as nursery:
            with self._loop:
                await self._serve(nursery)
            nursery.cancel_scope.deadline = trio.current_time() + grace_s

    def stop(self) -> None:
        """Take no more requests."""
        self._loop.cancel()

    async def _serve(self, nursery: trio.Nursery) -> None:
        receive, answer_now, clock = self._device.receive, self._answer_now, time.perf_counter
        turn_ends = clock() + TURN_S
        size: int | None = 0
        while True:
            size = receive()
            if not size and size is not None:
                size = self._look()
            if not size and size is not None:
                await trio.lowlevel.wait_readable(self._device.descriptor)
                turn_ends = clock() + TURN_S
                self._awake = self._may_look
                continue
            if size is None:
                return
            if not answer_now():
                self._begin(nursery, size)
            if clock() > turn_ends:
                await trio.lowlevel.checkpoint()
                turn_ends = clock() + TURN_S

    def _look(self) -> int | None:
        """Ask for the next request for up to `LOOK_S`, where that may pay; return what `Device.receive` returns."""
        if not self._awake:
            return 0
        if self._pause:
            self._pause -= 1
            return 0
        end = time.perf_counter() + LOOK_S
        while (size := self._device.receive()) == 0:
            if time.perf_counter() > end:
                self._awake = False
                self._in_vain += 1
                if self._in_vain >= PATIENCE:
                    self._in_vain, self._pause = 0, PAUSE
                return 0
        self._in_vain = 0
        return size

    def _answer_now(self) -> bool:
        """Answer the request in the buffer if nothing has to be waited for; return whether that is so."""
        begun = time.perf_counter()
        buffer = self._device.buffer
        length, opcode, unique, inode, uid, _, thread, _ = REQUEST.unpack_from(buffer)
        data: Payload | None
        try:
            if opcode == _READ:
                _, offset, size, *_ = READ.unpack_from(buffer, BODY)
                data = self._files.read_now(inode, offset, size, uid, thread)
            elif opcode == _LOOKUP:
                data = self._files.lookup_now(inode, bytes(buffer[BODY : length - 1]))
            else:
                return False
        except Exception:  # a defect of ours must not end the mount: what waits tells of it once more
            log.debug("answering at once failed", exc_info=True)
            return False
        if data is None:
            return False
        self._send(ANSWER.pack(HEAD + len(data), 0, unique), data)
        self._files.observe(opcode, time.perf_counter() - begun, 0)
        return True

    def _begin(self, nursery: trio.Nursery, size: int) -> None:
        """Answer the request in the buffer, or let a task do it."""
        request = Request.parse(bytes(memoryview(self._device.buffer)[:size]))
        handler = self._files.handler(request.opcode)
        if handler is not None:
            self._under_way[request.unique] = waiting = _UnderWay(request.pid)
            nursery.start_soon(self._answer, request, handler, waiting.scope)
        elif request.opcode == Opcode.INTERRUPT:
            self._interrupt(*INTERRUPT.unpack_from(request.body))
        elif request.opcode in NO_ANSWER:
            self._files.forget(request)
        else:
            self._send(ANSWER.pack(HEAD, -(errno.EROFS if request.opcode in CHANGES else errno.ENOSYS), request.unique))

    def _interrupt(self, unique: int) -> None:
        """Give a request up whose reader is being killed.

        The kernel asks for that at any signal. But who reads a file does not expect `EINTR`, so all others wait on.
        """
        waiting = self._under_way.get(unique)
        if waiting is not None and is_dying(waiting.thread):
            waiting.scope.cancel()

    async def _answer(self, request: Request, handler: Waiting, scope: trio.CancelScope) -> None:
        begun = time.perf_counter()
        payload: Payload = b""
        number = errno.EINTR  # what stands when the reader is gone meanwhile
        try:
            with scope, trio.fail_after(self._deadline_s):
                payload, number = await handler(request), 0
        except FuseError as error:
            number = error.errno
        except Exception as error:  # noqa: BLE001  # whatever it is, a reader waits for an answer
            number = self._files.explain(request, error)
        finally:
            del self._under_way[request.unique]
        self._send(ANSWER.pack(HEAD + len(payload), -number, request.unique), payload)
        self._files.observe(request.opcode, time.perf_counter() - begun, number)

    def _send(self, *parts: Payload) -> None:
        try:
            self._device.send(*parts)
        except OSError as error:
            # Nobody waits for it any more, or the mount was taken away, which reading the device will tell. What else
            # the kernel does not take, it ends with EIO.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                log.exception("the kernel did not take an answer")
