"""What a service manager is told, over a real socket; above all that signs of life come from the loop."""

import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from dasfs.notify import Notifier
from tests.managers import Manager, listening

# Long against the interval of the watchdog below, short against the patience of who runs the tests.
SILENCE_S = 1.0
WATCHDOG_S = 0.2


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager that listens."""
    with listening(tmp_path / "notify") as manager:
        yield manager


def run_for(seconds: float, task: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run a task for so long by a clock that jumps, then cancel it."""

    async def main() -> None:
        with trio.move_on_after(seconds):
            await task(*args)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_each_event_is_a_message(manager: Manager) -> None:
    """Readiness, status, reloading and ending are told in the words of sd_notify(3), one datagram each."""
    notifier = Notifier(manager.address)
    notifier.status("reads\n a  lot")
    notifier.ready()
    notifier.stopping()
    assert [manager.message(0) for _ in range(3)] == [{"STATUS": "reads a lot"}, {"READY": "1"}, {"STOPPING": "1"}]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    message = manager.message(0)
    assert message["RELOADING"] == "1"
    assert before <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_an_abstract_socket_is_spoken_to() -> None:
    """An address that begins with '@' is one of the abstract name space."""
    with listening("@dasfs-test-notify") as manager:
        Notifier(manager.address).ready()
        assert manager.message(0) == {"READY": "1"}


def test_nobody_is_told_without_a_manager() -> None:
    """Without an address every method does nothing, and `run` returns."""
    notifier = Notifier()
    notifier.ready()
    trio.run(notifier.run, lambda: "never asked")


def test_a_manager_that_is_gone_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A socket that nobody listens at is one warning, however often it is tried, and no error."""
    notifier = Notifier(str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            notifier.ready()
    assert len(caplog.records) == 1
    assert "READY=1" in caplog.text


def test_a_manager_that_hangs_does_not_hang_us(manager: Manager) -> None:
    """A full queue that nobody empties costs a bounded time; what does not fit is dropped."""
    notifier = Notifier(manager.address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"X=1", manager.address)
    begun = time.monotonic()
    notifier.ready()
    assert time.monotonic() - begun < 10
    assert all(message == b"X=1" for message in manager.drain())


def test_life_is_told_at_half_of_the_interval(manager: Manager) -> None:
    """With a watchdog of 8 s a sign of life comes every 4 s, and the status only where it changed."""
    statuses = iter("aabbb")
    run_for(18, Notifier(manager.address, 8.0).run, lambda: next(statuses))
    told = [manager.message(0) for _ in range(6)]
    alive = {"WATCHDOG": "1"}
    assert told == [alive | {"STATUS": "a"}, alive, alive | {"STATUS": "b"}, alive, alive, {}]


def test_status_is_told_without_a_watchdog(manager: Manager) -> None:
    """Without a watchdog nothing is said of life, and the status when it changed."""
    statuses = iter("aaab")
    run_for(16, Notifier(manager.address).run, lambda: next(statuses))
    assert [manager.message(0) for _ in range(3)] == [{"STATUS": "a"}, {"STATUS": "b"}, {}]


def test_a_loop_that_hangs_is_silent(manager: Manager) -> None:
    """While the loop is blocked no sign of life comes, though the process has other threads; then they come again."""
    hang, hangs, go_on, end = (threading.Event() for _ in range(4))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Notifier(manager.address, WATCHDOG_S).run, lambda: "")
            await trio.to_thread.run_sync(hang.wait)
            hangs.set()
            go_on.wait()  # in the loop's own thread: what a task that never yields does
            await trio.to_thread.run_sync(end.wait)
            nursery.cancel_scope.cancel()

    loop = threading.Thread(target=trio.run, args=(main,))
    loop.start()
    try:
        assert manager.message()["WATCHDOG"] == "1"
        hang.set()
        assert hangs.wait(30)
        manager.drain()
        assert manager.message(SILENCE_S) == {}
        go_on.set()
        assert manager.message()["WATCHDOG"] == "1"
    finally:
        for event in (hang, go_on, end):
            event.set()
        loop.join(30)


def test_no_life_without_proof(manager: Manager) -> None:
    """What has to be proven and is not, because it does not return, is silence."""
    proofs = iter([trio.lowlevel.checkpoint, trio.sleep_forever])

    async def prove() -> None:
        await next(proofs)()

    run_for(100, Notifier(manager.address, 8.0).run, lambda: "", prove)
    assert [manager.message(0) for _ in range(2)] == [{"WATCHDOG": "1", "STATUS": ""}, {}]
