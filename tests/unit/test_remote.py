"""Calling a store from the mount: in a thread, with a deadline, once for many."""

import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from dasfs.cache.remote import Remote, SingleFlight
from dasfs.errors import DasfsError, DeadlineExceeded, NotFound
from tests.parts import PATIENCE_S, wait_until


def stuck(release: threading.Event) -> Callable[[], str]:
    """Return a call that does not come back until it is released."""

    def call() -> str:
        assert release.wait(PATIENCE_S)
        return "late"

    return call


def test_a_call_returns_what_its_function_returns() -> None:
    """Arguments go in and the result comes out; it ran in another thread."""

    async def main() -> None:
        remote = Remote(deadline_s=PATIENCE_S)
        assert await remote.call(lambda a, *, b: (a, b), 1, b=2) == (1, 2)
        assert await remote.call(threading.get_ident) != threading.get_ident()

    trio.run(main)


def test_a_call_raises_what_its_function_raises() -> None:
    """An error of the store comes out as it is."""

    def fail() -> None:
        raise NotFound("no such object")

    async def main() -> None:
        with pytest.raises(NotFound, match="no such object"):
            await Remote(deadline_s=PATIENCE_S).call(fail)

    trio.run(main)


def test_a_call_that_is_stuck_ends_at_its_deadline() -> None:
    """Who calls gets `DeadlineExceeded`; the next call works."""
    release = threading.Event()

    async def main() -> None:
        remote = Remote(deadline_s=0.05)
        try:
            with trio.fail_after(PATIENCE_S), pytest.raises(DeadlineExceeded, match="did not answer"):
                await remote.call(stuck(release))
            assert await remote.call(lambda: "next") == "next"
        finally:
            release.set()

    trio.run(main)


def test_stuck_calls_hold_their_threads() -> None:
    """As many calls as there may be at once, all stuck, leave none for another until one of them ends."""
    release = threading.Event()

    async def main() -> None:
        remote = Remote(deadline_s=0.05, calls=2)
        try:
            for _ in range(2):
                with pytest.raises(DeadlineExceeded):
                    await remote.call(stuck(release))
            with pytest.raises(DeadlineExceeded):
                await remote.call(lambda: "no thread is left")
        finally:
            release.set()
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    assert await remote.call(lambda: "again") == "again"
                    return
                except DeadlineExceeded:
                    await trio.lowlevel.checkpoint()

    trio.run(main)


class Work:
    """Something that several tasks want: counts how often it is begun, and ends when it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = 0
        self.end = trio.Event()
        self.error = error

    async def __call__(self) -> None:
        self.begun += 1
        await self.end.wait()
        if self.error is not None:
            raise self.error


def test_many_who_want_the_same_get_it_done_once() -> None:
    """Of many tasks with the same key one begins the work, and all wait for its end; later it is begun again."""

    async def main() -> None:
        work = Work()
        async with trio.open_nursery() as nursery:
            flights: SingleFlight[str] = SingleFlight(nursery)
            for _ in range(5):
                nursery.start_soon(flights.run, "key", work)
            await trio.testing.wait_all_tasks_blocked()
            assert work.begun == 1
            work.end.set()
        assert work.begun == 1
        async with trio.open_nursery() as nursery:
            await SingleFlight[str](nursery).run("key", work)
        assert work.begun == 2

    trio.run(main)


def test_other_keys_are_other_work() -> None:
    """Tasks with different keys do not wait for each other."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            flights: SingleFlight[str] = SingleFlight(nursery)
            slow, quick = Work(), Work()
            quick.end.set()
            nursery.start_soon(flights.run, "slow", slow)
            await flights.run("quick", quick)
            assert (slow.begun, quick.begun) == (1, 1)
            slow.end.set()

    trio.run(main)


def test_all_who_wait_get_the_error() -> None:
    """An error of the work is raised in every task that waits for it; then the work can be begun again."""

    async def main() -> None:
        work = Work(NotFound("gone"))
        told: list[str] = []

        async def want(flights: SingleFlight[str]) -> None:
            try:
                await flights.run("key", work)
            except NotFound as error:
                told.append(str(error))

        async with trio.open_nursery() as nursery:
            flights: SingleFlight[str] = SingleFlight(nursery)
            for _ in range(3):
                nursery.start_soon(want, flights)
            await trio.testing.wait_all_tasks_blocked()
            work.end.set()
            await wait_until(lambda: len(told) == 3)
            work.error = None
            await flights.run("key", work)
        assert told == ["gone"] * 3

    trio.run(main)


def test_who_leaves_does_not_stop_the_work() -> None:
    """When the first of two who wait is cancelled, the second gets the result."""

    async def main() -> None:
        work, done = Work(), trio.Event()

        async def want(flights: SingleFlight[str]) -> None:
            await flights.run("key", work)
            done.set()

        async with trio.open_nursery() as nursery:
            flights: SingleFlight[str] = SingleFlight(nursery)
            with trio.move_on_after(0.01):
                await flights.run("key", work)
            nursery.start_soon(want, flights)
            await trio.testing.wait_all_tasks_blocked()
            work.end.set()
            with trio.fail_after(PATIENCE_S):
                await done.wait()
        assert work.begun == 1

    trio.run(main)


def test_a_defect_does_not_end_the_mount(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody expected is logged, and comes out as an error of ours."""

    async def main() -> None:
        work = Work(ZeroDivisionError("oops"))
        work.end.set()
        async with trio.open_nursery() as nursery:
            with pytest.raises(DasfsError, match="oops"):
                await SingleFlight[str](nursery).run("key", work)

    trio.run(main)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
