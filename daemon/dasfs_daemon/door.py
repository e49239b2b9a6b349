"""Where the daemon is asked how it is: `/status.json`, `/metrics`, `/health`, `/live`, on a socket and on a port.

**Concurrency:** `open` and `close` are called one at a time; answers are made in the threads of `dasfs.endpoint`, and
the state in the trio thread. A main loop that is stuck is told as such within `LOOP_TIMEOUT_S`.
"""

import json
import logging
from collections.abc import Callable, Iterator
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

from dasfs.endpoint import JSON, Address, Answer, Endpoint, open_port, open_socket, text_answer
from dasfs.errors import DasfsError
from dasfs.loop import LoopQuestion
from dasfs.metrics import CONTENT_TYPE, render
from dasfs_daemon.config import DaemonConfig
from dasfs_daemon.metrics import samples
from dasfs_daemon.state import DaemonState, as_json

log = logging.getLogger(__name__)

# Far above what any step of the main loop takes, below the 10 s that Prometheus waits, and below what `dasfs status`
# waits, so that it can say who is stuck.
LOOP_TIMEOUT_S: Final = 3.0


class Door:
    """The daemon's endpoints. Made in the trio thread."""

    def __init__(self, state: Callable[[], DaemonState]) -> None:
        self._state = LoopQuestion(state, timeout_s=LOOP_TIMEOUT_S)
        self._endpoints: dict[str | Address, Endpoint] = {}

    def open(self, config: DaemonConfig) -> None:
        """Be where `config` says, and nowhere else. Blocks for a moment.

        Raises what opening an endpoint raises; then everything is as it was.
        """
        wanted: set[str | Address] = {config.socket}
        if config.status.listen is not None:
            wanted.add(config.status.listen)
        opened: dict[str | Address, Endpoint] = {}
        try:
            for place in wanted - self._endpoints.keys():
                opened[place] = (
                    open_socket(place, self.answer) if isinstance(place, str) else open_port(place, self.answer)
                )
        except DasfsError:
            for endpoint in opened.values():
                endpoint.close()
            raise
        for place in self._endpoints.keys() - wanted:
            self._endpoints.pop(place).close()
        self._endpoints |= opened
        for endpoint in opened.values():
            log.info("status and metrics are at %s", endpoint.name)

    def answer(self, path: str) -> Answer | None:
        """Return what is at `path`. Raises what asking the main loop raises."""
        match path:
            case "/status.json":
                return Answer(HTTPStatus.OK, json.dumps(as_json(self._state.ask()), indent=2).encode() + b"\n", JSON)
            case "/metrics":
                return Answer(HTTPStatus.OK, render(samples(self._state.ask()), process=True), CONTENT_TYPE)
            case "/health":
                problems = list(_problems(self._state.ask()))
                status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
                return text_answer(status, *(problems or ["ok"]))
            case "/live":
                self._state.ask()
                return text_answer(HTTPStatus.OK, "ok")
        return None

    def close(self) -> None:
        for endpoint in self._endpoints.values():
            endpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _problems(state: DaemonState) -> Iterator[str]:
    """Yield what is wrong, a line each."""
    for problem in state.problems:
        yield _line("daemon", problem.message, problem.hint)
    for dataset in state.datasets:
        for problem in dataset.problems:
            yield _line(dataset.name, problem.message, problem.hint)


def _line(where: str, message: str, hint: str | None) -> str:
    return " ".join(f"{where}: {message}{'; ' if hint else ''}{hint or ''}".split())
