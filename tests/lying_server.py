"""An HTTP server that answers what a test tells it to: for what real gateways do only on bad days."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

HTML = b"<!DOCTYPE html><html><body>Please log in to the <b>hotel</b> network<br></body></html>"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `length` is what Content-Length says when it is not the truth; `hang` means to say nothing.

    `slow` means to read the body of the request at 320 KiB a second.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    hang: bool = False
    slow: bool = False


@dataclass(slots=True)
class LyingServer:
    """What the server is asked and what it answers: the answers in turn, the last one for ever."""

    endpoint_url: str
    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    # Asked instead of `answers` where it is set: with the path, and the headers of the request.
    respond: Callable[[str, Mapping[str, str]], Answer] | None = None
    requests: list[str] = field(default_factory=list)
    request_headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def take(self) -> Answer:
        """Return the next answer."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up on a liar."""


@contextlib.contextmanager
def lying_server() -> Iterator[LyingServer]:
    """Run the server on a loopback port."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        state: ClassVar[LyingServer]

        def answer(self) -> None:
            self.state.times.append(time.monotonic())
            self.state.requests.append(f"{self.command} {self.path}")
            self.state.request_headers.append(dict(self.headers.items()))
            respond = self.state.respond
            answer = self.state.take() if respond is None else respond(self.path, self.headers)
            left = int(self.headers.get("Content-Length", 0))
            while answer.slow and left and not released.wait(timeout=0.05):
                data = self.rfile.read(min(left, 16384))
                left = left - len(data) if data else 0
            self.rfile.read(left)
            if answer.hang:
                released.wait(timeout=30)
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            length = len(answer.body) if answer.length is None else answer.length
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
            self.close_connection = len(answer.body) != length

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep the output of the tests clean."""

    with _Server(("127.0.0.1", 0), Handler) as server:
        Handler.state = LyingServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Handler.state
        finally:
            released.set()
            server.shutdown()
            thread.join()


def ranged(body: bytes, first: int, total: int, *, etag: str = '"tag"', length: int | None = None) -> Answer:
    """Return the answer to a ranged GET."""
    end = first + (len(body) if length is None else length) - 1
    return Answer(206, {"Content-Range": f"bytes {first}-{end}/{total}", "ETag": etag}, body, length)


def error(status: int, code: str, **headers: str) -> Answer:
    """Return an error answer as S3 gives it."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message></Error>'
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"Content-Type": "application/xml", **named}, body.encode())
