"""The session: every request gets one answer, what waits holds nobody up, and it ends when it is told to."""

import errno
import struct
import time
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from dasfs.fuse.protocol import CHANGES, FuseError, Opcode, Request
from dasfs.fuse.session import PATIENCE, Session
from tests.kernel import PATIENCE_S, Kernel, SocketDevice, connected, read_body, served

NOW, WAIT, FAIL, REFUSE, DEFECT = range(10, 15)


class Files:
    """A file system of a few inodes: `NOW` is read at once, `WAIT` when `go` is set, the others go wrong."""

    def __init__(self) -> None:
        self.go = trio.Event()
        self.waiting = 0
        self.cancelled = 0
        self.forgotten: list[int] = []
        self.observed: list[tuple[int, int]] = []
        self.explained: list[Exception] = []

    def lookup_now(self, parent: int, name: bytes) -> bytes | None:
        if parent == DEFECT:
            raise ZeroDivisionError
        return b"entry of " + name if parent == NOW else None

    def read_now(self, inode: int, offset: int, size: int, uid: int, thread: int) -> bytes | None:
        if inode == DEFECT:
            raise ZeroDivisionError
        return b"%d-%d" % (offset, size) if inode == NOW else None

    def handler(self, opcode: int) -> Callable[[Request], Awaitable[bytes]] | None:
        return self.answer if opcode in (Opcode.READ, Opcode.LOOKUP, Opcode.GETATTR) else None

    async def answer(self, request: Request) -> bytes:
        if request.inode == FAIL:
            raise ValueError
        if request.inode == REFUSE:
            raise FuseError(errno.ENODATA)
        if request.inode == WAIT:
            self.waiting += 1
            try:
                await self.go.wait()
            except trio.Cancelled:
                self.cancelled += 1
                raise
        return b"waited for"

    def explain(self, request: Request, error: Exception) -> int:
        self.explained.append(error)
        return errno.ETIMEDOUT if isinstance(error, trio.TooSlowError) else errno.EIO

    def forget(self, request: Request) -> None:
        self.forgotten.append(request.inode)

    def observe(self, opcode: int, seconds: float, number: int) -> None:
        assert 0 <= seconds < 60
        self.observed.append((opcode, number))


READ = read_body(0, 5, 7)


async def blocked() -> None:
    """Return when every task waits for something that has not come yet."""
    with trio.fail_after(PATIENCE_S):
        await trio.testing.wait_all_tasks_blocked(0.01)


def test_what_is_at_hand_is_answered_at_once() -> None:
    """Reads and lookups that need no wait are answered in their order, also while others wait."""

    async def main() -> None:
        async with served(files := Files()) as kernel:
            stuck = kernel.send(Opcode.READ, WAIT, READ)
            assert await kernel.payload(Opcode.READ, NOW, READ) == b"5-7"
            assert await kernel.payload(Opcode.LOOKUP, NOW, b"name\0") == b"entry of name"
            assert not kernel.answered(stuck)
            files.go.set()
            assert (await kernel.answer(stuck)).payload == b"waited for"
            assert files.observed == [(Opcode.READ, 0), (Opcode.LOOKUP, 0), (Opcode.READ, 0)]

    trio.run(main)


def test_many_requests_wait_at_once() -> None:
    """Hundreds of requests wait at the same time, and each gets its own answer."""

    async def main() -> None:
        async with served(files := Files()) as kernel:
            stuck = []
            for _ in range(300):
                stuck.append(kernel.send(Opcode.GETATTR, WAIT, bytes(16)))
                assert await kernel.payload(Opcode.READ, NOW, READ) == b"5-7"
            await blocked()
            assert files.waiting == 300
            files.go.set()
            assert {(await kernel.answer(each)).payload for each in stuck} == {b"waited for"}

    trio.run(main)


def test_errors_are_answers() -> None:
    """A refusal is its errno; what else is raised is explained; changes are `EROFS` and what is unknown `ENOSYS`."""

    async def main() -> None:
        async with served(files := Files()) as kernel:
            assert await kernel.errno(Opcode.READ, REFUSE, READ) == errno.ENODATA
            assert files.explained == []
            assert await kernel.errno(Opcode.READ, FAIL, READ) == errno.EIO
            assert [type(each) for each in files.explained] == [ValueError]
            assert {await kernel.errno(opcode) for opcode in CHANGES} == {errno.EROFS}
            assert {await kernel.errno(opcode) for opcode in (Opcode.OPEN, Opcode.FLUSH, 99, 2**32 - 1)} == {
                errno.ENOSYS
            }

    trio.run(main)


def test_a_defect_in_an_answer_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """When answering at once fails, a task answers instead, and the session goes on."""

    async def main() -> None:
        async with served(Files()) as kernel:
            assert await kernel.payload(Opcode.READ, DEFECT, READ) == b"waited for"
            assert await kernel.payload(Opcode.LOOKUP, DEFECT, b"name\0") == b"waited for"
            assert await kernel.payload(Opcode.READ, NOW, READ) == b"5-7"

    trio.run(main)
    assert [each for each in caplog.records if each.levelname != "DEBUG"] == []


def test_a_deadline() -> None:
    """A request that waits too long is explained as that, and answered; its task is gone."""

    async def main() -> None:
        async with served(files := Files(), deadline_s=0.02) as kernel:
            assert await kernel.errno(Opcode.READ, WAIT, READ) == errno.ETIMEDOUT
            assert [type(each) for each in files.explained] == [trio.TooSlowError]
            assert files.cancelled == 1

    trio.run(main)


def test_a_request_that_is_taken_back() -> None:
    """A request whose reader is killed is cancelled and answered with `EINTR`, without a word; others wait on."""

    async def main() -> None:
        async with served(files := Files()) as kernel:
            taken_back, other = kernel.send(Opcode.READ, WAIT, READ), kernel.send(Opcode.READ, WAIT, READ)
            await blocked()
            kernel.interrupt(taken_back)
            assert (await kernel.answer(taken_back)).number == errno.EINTR
            assert (files.cancelled, files.explained) == (1, [])
            files.go.set()
            assert (await kernel.answer(other)).number == 0
            kernel.interrupt(other)
            kernel.interrupt(12345)
            assert await kernel.payload(Opcode.READ, NOW, READ) == b"5-7"

    trio.run(main)


def test_some_requests_want_no_answer() -> None:
    """Forgetting is noted and not answered."""

    async def main() -> None:
        async with served(files := Files()) as kernel:
            sent = [
                kernel.send(Opcode.FORGET, 5, bytes(8)),
                kernel.send(Opcode.BATCH_FORGET, 6, struct.pack("=II", 0, 0)),
                kernel.send(Opcode.DESTROY, 7),
            ]
            assert await kernel.payload(Opcode.READ, NOW, READ) == b"5-7"
            assert files.forgotten == [5, 6, 7]
            assert not any(kernel.answered(each) for each in sent)

    trio.run(main)


def test_an_answer_that_nobody_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    """That a reader is gone meanwhile is no error, at once or later; the session goes on."""

    async def main() -> None:
        async with served(files := Files()) as kernel:
            late = kernel.send(Opcode.READ, WAIT, READ)
            kernel.device.gone |= {late, late + 2}
            assert kernel.send(Opcode.READ, NOW, READ) == late + 2
            await blocked()
            files.go.set()
            assert await kernel.payload(Opcode.READ, NOW, READ) == b"5-7"
            assert len(files.observed) == 3

    trio.run(main)
    assert caplog.records == []


def test_an_answer_that_the_kernel_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """What the kernel does not take is told in the log, and the session goes on."""

    class Refusing(SocketDevice):
        def send(self, *parts: bytes | bytearray | memoryview) -> None:
            if not self.gone:
                super().send(*parts)
            else:
                self.gone.clear()
                raise OSError(errno.EINVAL, "an invalid answer")

    async def main() -> None:
        async with connected(Refusing) as kernel, trio.open_nursery() as nursery:
            session = Session(kernel.device, Files(), deadline_s=5)
            nursery.start_soon(run, session)
            kernel.device.gone.add(1)
            kernel.send(Opcode.READ, NOW, READ)
            assert await kernel.payload(Opcode.READ, NOW, READ) == b"5-7"
            session.stop()

    trio.run(main)
    assert [each.levelname for each in caplog.records] == ["ERROR"]


async def run(session: Session, grace_s: float = 0.0) -> None:
    await session.run(grace_s=grace_s)


def test_it_ends_when_the_mount_is_taken_away() -> None:
    """`run` returns by itself, and what waits then is cancelled after its grace."""

    async def main() -> None:
        files = Files()
        async with connected() as kernel, trio.open_nursery() as nursery:
            session = Session(kernel.device, files, deadline_s=60)
            nursery.start_soon(run, session)
            kernel.send(Opcode.READ, WAIT, READ)
            await blocked()
            assert session.under_way == 1
            kernel.unmount()
        assert (files.cancelled, session.under_way) == (1, 0)

    trio.run(main)


@pytest.mark.parametrize("in_time", [True, False])
def test_stop_lets_what_waits_end(in_time: bool) -> None:
    """After `stop` no request is taken; those under way may end within the grace, and are answered either way."""

    async def main() -> None:
        files = Files()
        async with connected() as kernel, trio.open_nursery() as nursery:
            session = Session(kernel.device, files, deadline_s=60)
            nursery.start_soon(run, session, PATIENCE_S if in_time else 0.02)
            stuck = kernel.send(Opcode.READ, WAIT, READ)
            await blocked()
            session.stop()
            if in_time:
                await trio.testing.wait_all_tasks_blocked()
                late = kernel.send(Opcode.READ, NOW, READ)
                await trio.testing.wait_all_tasks_blocked()
                assert not kernel.answered(late)
                files.go.set()
            answer = await kernel.answer(stuck)
            assert answer.number == (0 if in_time else errno.EINTR)
        assert files.cancelled == (0 if in_time else 1)

    trio.run(main)


class Flood(SocketDevice):
    """A device that never runs dry."""

    def receive(self) -> int:
        self.calls += 1
        request = struct.pack("=IIQQIIII", 40 + len(READ), Opcode.READ, 8, NOW, 0, 0, 0, 0) + READ
        self.buffer[: len(request)] = request
        return len(request)

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        pass


def test_others_get_their_turn_under_a_flood() -> None:
    """When requests never end, other tasks are run all the same, within milliseconds."""

    async def main() -> None:
        async with connected(Flood) as kernel, trio.open_nursery() as nursery:
            session = Session(kernel.device, Files(), deadline_s=5)
            nursery.start_soon(run, session)
            begun = time.perf_counter()
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            assert time.perf_counter() - begun < 10
            assert kernel.device.calls > 100
            session.stop()

    trio.run(main)


async def calls_of_one_read(kernel: Kernel) -> int:
    """Return how often the device is asked for one request and until the session sleeps again."""
    await blocked()
    before = kernel.device.calls
    unique = kernel.send(Opcode.READ, NOW, READ)
    await blocked()
    assert kernel.answered(unique)
    return kernel.device.calls - before


def test_an_idle_session_sleeps() -> None:
    """While nobody asks the device is not looked at, before the first request and after the last."""

    async def main() -> None:
        async with served(Files()) as kernel:
            await blocked()
            before = kernel.device.calls
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert kernel.device.calls == before <= 1
            await calls_of_one_read(kernel)
            before = kernel.device.calls
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert kernel.device.calls == before

    trio.run(main)


def test_looking_in_vain_is_left_out() -> None:
    """Who asks rarely is looked out for a few times, and then not: the session sleeps right after its answer."""

    async def main() -> None:
        async with served(Files()) as kernel:
            for _ in range(PATIENCE):
                await calls_of_one_read(kernel)
            assert [await calls_of_one_read(kernel) for _ in range(5)] == [2] * 5

    trio.run(main)
