"""Asking the trio thread from outside: an answer, or in bounded time the word that there is none."""

import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from dasfs.errors import DasfsError, DeadlineExceeded
from dasfs.loop import LoopQuestion
from tests.mounts import in_thread

TIMEOUT_S = 0.05
PATIENCE_S = 30.0


def during(question: Callable[[], object], body: Callable[[LoopQuestion[object]], None], timeout_s: float) -> None:
    """Run `body` in a thread while the loop runs."""

    async def main() -> None:
        await trio.to_thread.run_sync(body, LoopQuestion(question, timeout_s=timeout_s))

    trio.run(main)


def test_the_answer_comes_from_the_trio_thread() -> None:
    """The question runs in the trio thread, and its answer comes back."""
    answers = []
    during(threading.get_ident, lambda question: answers.append(question.ask()), PATIENCE_S)
    assert answers == [threading.get_ident()]


def test_an_error_comes_back() -> None:
    """What the question raises is raised where it was asked, and the next one is asked anew."""
    outcomes = iter([ValueError("no"), None])

    def question() -> str:
        error = next(outcomes)
        if error is not None:
            raise error
        return "yes"

    def body(asked: LoopQuestion[object]) -> None:
        with pytest.raises(ValueError, match="no"):
            asked.ask()
        assert asked.ask() == "yes"

    during(question, body, PATIENCE_S)


def test_a_stuck_loop() -> None:
    """While the loop is stuck, every asker hears so within the timeout, and the loop is left with one callback."""
    free = threading.Event()
    asked: list[int] = []
    heard: list[str] = []

    def body(question: LoopQuestion[None]) -> None:
        for _ in range(3):
            try:
                question.ask()
            except DeadlineExceeded as error:
                heard.append(error.message)
        free.set()

    async def main() -> None:
        question = LoopQuestion(lambda: asked.append(1), timeout_s=TIMEOUT_S)
        thread = threading.Thread(target=body, args=(question,), daemon=True)
        thread.start()
        assert free.wait(PATIENCE_S)  # in the trio thread: nothing else of it runs meanwhile
        thread.join()
        await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    assert heard == ["the main loop did not answer within 0.05 s"] * 3
    assert asked == [1]


def test_a_loop_that_has_ended() -> None:
    """After the end of the loop the answer is an error at once."""
    questions: list[LoopQuestion[None]] = []

    async def main() -> None:
        questions.append(LoopQuestion(lambda: None, timeout_s=PATIENCE_S))

    trio.run(main)
    with pytest.raises(DasfsError, match="has ended"):
        in_thread(questions[0].ask)
