"""A mount's port for Prometheus: `/metrics`, `/status.json`, `/health`, `/live`.

**Concurrency:** `open_door` belongs to the trio thread; answers are made in the threads of `dasfs.endpoint`, and what
they show in the trio thread. A main loop that is stuck is told as such within `LOOP_TIMEOUT_S`.
"""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http import HTTPStatus
from typing import Final

from dasfs.endpoint import JSON, Address, Answer, open_port, text_answer
from dasfs.fuse.metrics import Requests, render_metrics
from dasfs.fuse.status import Status
from dasfs.loop import LoopQuestion
from dasfs.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

# Far above what any step of the main loop takes, and below the 10 s that Prometheus waits.
LOOP_TIMEOUT_S: Final = 3.0


class Door:
    """What a mount answers over HTTP. Made in the trio thread."""

    def __init__(self, status: Status, requests: Requests) -> None:
        ask = partial(LoopQuestion, timeout_s=LOOP_TIMEOUT_S)
        self._metrics = ask(lambda: render_metrics(status, requests, process=True))
        self._status = ask(status.render)
        self._problems = ask(lambda: list(status.problems()))

    def answer(self, path: str) -> Answer | None:
        """Return what is at `path`. Raises what asking the main loop raises."""
        match path:
            case "/metrics":
                return Answer(HTTPStatus.OK, self._metrics.ask(), CONTENT_TYPE)
            case "/status.json":
                return Answer(HTTPStatus.OK, self._status.ask(), JSON)
            case "/health":
                problems = [str(each) for each in self._problems.ask()]
                status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
                return text_answer(status, *(problems or ["ok"]))
            case "/live":
                self._problems.ask()
                return text_answer(HTTPStatus.OK, "ok")
        return None


@contextmanager
def open_door(address: Address | None, status: Status, requests: Requests) -> Iterator[None]:
    """Answer at `address`, if there is one, until the block ends. Raises what `open_port` raises."""
    if address is None:
        yield
        return
    with closing(open_port(address, Door(status, requests).answer)) as endpoint:
        log.info("metrics are at %s", endpoint.name)
        yield
