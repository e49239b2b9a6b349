"""Waiting for requests: quick while they come, asleep while they don't, and never two readers of one request."""

import os
from collections.abc import Iterator

import pyfuse3
import pytest
import trio

from dasfs.fuse.waiting import PATIENCE, PAUSE, Watch


class Session:
    """A pipe that stands for the FUSE session, and counts how often its waiter went to sleep."""

    def __init__(self) -> None:
        self.receiving, self._sending = os.pipe()
        self.sleeps = 0
        self.ended = False
        self.false_alarms = 0

    def send(self) -> None:
        os.write(self._sending, b"x")

    def receive(self) -> None:
        assert os.read(self.receiving, 1) == b"x"

    async def sleep(self) -> bool:
        self.sleeps += 1
        if self.false_alarms:
            self.false_alarms -= 1
            return True
        await trio.lowlevel.wait_readable(self.receiving)
        return not self.ended

    def close(self) -> None:
        os.close(self.receiving)
        os.close(self._sending)


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session()
    yield session
    session.close()


async def take(watch: Watch, session: Session, count: int = 1) -> None:
    """Send and receive requests one after the other, as one quick reader causes them."""
    for _ in range(count):
        session.send()
        with trio.fail_after(5):
            assert await watch.wait()
        session.receive()


def test_the_first_request_is_waited_for_asleep(session: Session) -> None:
    """Nothing has come yet, so nothing says that something will come soon."""

    async def main() -> None:
        await take(Watch(session.receiving, session.sleep), session)
        assert session.sleeps == 1

    trio.run(main)


def test_requests_that_follow_soon_are_seen_without_sleeping(session: Session) -> None:
    """A reader that goes from file to file is answered without a sleep between."""

    async def main() -> None:
        watch = Watch(session.receiving, session.sleep)
        await take(watch, session, 200)
        assert session.sleeps == 1

    trio.run(main)


def test_a_request_that_another_task_took_is_not_read_twice(session: Session) -> None:
    """Who is woken looks again before it says that there is a request: reading would block the process."""

    async def main() -> None:
        watch = Watch(session.receiving, session.sleep)
        session.false_alarms = 3
        with trio.move_on_after(0.05) as waiting:
            await watch.wait()
        assert waiting.cancelled_caught
        assert session.sleeps == 4

    trio.run(main)


def test_looking_in_vain_is_given_up_for_a_while(session: Session) -> None:
    """Readers that always take long cost a few looks now and then, not one for each request."""

    async def main() -> None:
        watch = Watch(session.receiving, session.sleep)
        looks = 0
        for _ in range(PATIENCE + PAUSE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.wait)
                while session.sleeps == looks:  # it sleeps before the next request is there
                    await trio.lowlevel.checkpoint()
                looks = session.sleeps
                session.send()
            session.receive()
        session.send()
        assert await watch.wait()
        assert session.sleeps == looks + 1, "it slept although the request was there: looking is paused"

    trio.run(main)


def test_other_tasks_get_their_turn_while_requests_keep_coming(session: Session) -> None:
    """What the mount does beside, such as taking in fetched blocks, goes on under load."""

    async def main() -> None:
        watch = Watch(session.receiving, session.sleep)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            with trio.fail_after(30):
                while turns < 5:
                    await take(watch, session, 100)
            nursery.cancel_scope.cancel()
        assert session.sleeps < 5

    trio.run(main)


def test_the_end_of_the_session_ends_the_wait(session: Session) -> None:
    """A mount that is taken away has no more requests."""

    async def main() -> None:
        watch = Watch(session.receiving, session.sleep)
        session.ended = True
        session.send()
        assert not await watch.wait()

    trio.run(main)


def test_the_installed_pyfuse3_has_what_is_replaced() -> None:
    """A version of pyfuse3 that waits in another way costs half the speed: that must not go unnoticed."""
    assert callable(vars(pyfuse3)["_wait_fuse_readable"])
