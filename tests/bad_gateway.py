"""An HTTP proxy before an S3 gateway that serves a share of all requests badly, as gateways do on their worst days.

A bad request gets one of: 503 or 500 without being done, a connection that is cut before or after it was done, half
of an answer, or silence until the client gives up.
"""

import contextlib
import http.client
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>later</Message></Error>'
_BROKEN = b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>oh</Message></Error>'
# Headers of one hop.
_OWN = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


class Trouble(Enum):
    """What happens to one request."""

    BUSY = auto()
    BROKEN = auto()
    CUT = auto()  # nothing was done
    LOST = auto()  # it was done, and nobody hears of it
    HALF = auto()  # it was done, and half of the answer arrives
    SILENCE = auto()  # nothing was done, and the connection stays open


@dataclass(slots=True)
class BadGateway:
    """The proxy. `share` of all requests meet one of `troubles`; both may be changed at any time."""

    url: str
    share: float = 0.0
    troubles: tuple[Trouble, ...] = tuple(Trouble)
    served: int = 0
    troubled: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(8))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(self) -> Trouble | None:
        """Return what happens to the next request."""
        with self._lock:
            self.served += 1
            if self._random.random() >= self.share:
                return None
            self.troubled += 1
            return self._random.choice(self.troubles)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.state = BadGateway(f"http://127.0.0.1:{self.server_port}")
        self.released = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        trouble = self.server.state.choose()
        if trouble is Trouble.SILENCE:
            self.server.released.wait(timeout=30)
        if trouble in (Trouble.SILENCE, Trouble.CUT):
            self.close_connection = True
        elif trouble in (Trouble.BUSY, Trouble.BROKEN):
            code, page = (503, _BUSY) if trouble is Trouble.BUSY else (500, _BROKEN)
            self._answer(code, [("Content-Type", "application/xml")], page, len(page))
        else:
            self._forward(body, trouble)

    def _forward(self, body: bytes, trouble: Trouble | None) -> None:
        with contextlib.closing(http.client.HTTPConnection(*self.server.target, timeout=60)) as connection:
            # Not `request`, which would add headers that were not signed.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _OWN:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
        if trouble is Trouble.LOST:
            self.close_connection = True
            return
        length = int(answer.headers.get("Content-Length", len(data)))
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OWN]
        half = trouble is Trouble.HALF
        self._answer(answer.status, headers, data[: len(data) // 2] if half else data, length)
        self.close_connection = half

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, length: int) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if status != HTTPStatus.NO_CONTENT:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = serve  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the output of the tests clean."""


@contextlib.contextmanager
def bad_gateway(target_url: str) -> Iterator[BadGateway]:
    """Run a proxy before `target_url` that serves everything well until it is told otherwise."""
    parts = urlsplit(target_url)
    with _Server((parts.hostname or "", parts.port or 80)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.state
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
