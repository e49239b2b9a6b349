"""An HTTP proxy before an S3 gateway: it writes down every exchange, and goes wrong where a test tells it to.

**Concurrency:** a thread for each connection forwards; `exchanges` only grows; the test may set `choose` at any time.
"""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import unquote, urlsplit

_CHUNK = 1 << 18
_TIMEOUT_S = 60.0
# Of one connection, not of a request; Expect was answered by this server.
_NOT_FORWARDED = frozenset({"connection", "keep-alive", "transfer-encoding", "expect", "content-length"})


class Trouble(Enum):
    """What goes wrong with one exchange."""

    REFUSE = auto()  # 503, and nothing is done
    LOSE = auto()  # it is done, and the connection ends without an answer
    CUT = auto()  # the answer ends somewhere in its body
    DAMAGE = auto()  # a byte of an object that is read is another
    HANG = auto()  # nothing is said for `hang_s`, then the connection ends


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer. `key` is without the bucket; `sent` and `received` are the bytes of the bodies."""

    method: str
    key: str
    query: str
    range: tuple[int, int] | None  # [start, end)
    copied: bool
    sent: int
    received: int
    status: int


Choice = Callable[[str, str], Trouble | None]


def nothing(_method: str, _path: str) -> Trouble | None:
    """The choice of a gateway that works."""
    return None


def at_random(seed: int, share: float) -> Choice:
    """Return a choice that hits a `share` of all requests, with each kind of trouble as often as with the others."""
    generator, lock = random.Random(seed), threading.Lock()

    def choose(_method: str, _path: str) -> Trouble | None:
        with lock:
            return generator.choice(list(Trouble)) if generator.random() < share else None

    return choose


@dataclass
class GatewayProxy:
    """What passed, and what shall go wrong with what comes."""

    url: str
    target: tuple[str, int]
    choose: Choice = nothing
    # Shorter than any deadline: what hangs beyond it is a matter of tests of its own.
    hang_s: float = 0.5
    exchanges: list[Exchange] = field(default_factory=list)
    troubles: dict[Trouble, int] = field(default_factory=lambda: dict.fromkeys(Trouble, 0))
    ended: threading.Event = field(default_factory=threading.Event)

    def tar_reads(self) -> list[Exchange]:
        """Return the reads of TAR objects so far."""
        return [each for each in self.exchanges if each.method == "GET" and each.key.endswith(".tar")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: ClassVar[GatewayProxy]

    def setup(self) -> None:
        super().setup()
        self.gateway = HTTPConnection(*self.proxy.target, timeout=_TIMEOUT_S)

    def finish(self) -> None:
        self.gateway.close()
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        trouble = self.proxy.choose(self.command, self.path)
        if trouble is not None:
            self.proxy.troubles[trouble] += 1
        if trouble is Trouble.HANG:
            self.proxy.ended.wait(self.proxy.hang_s)
            self.close_connection = True
        elif trouble is Trouble.REFUSE:
            self._refuse()
        else:
            self._answer(self._ask(body), len(body), trouble)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the output of the tests clean."""

    def _ask(self, body: bytes) -> HTTPResponse:
        """Return the gateway's answer; on a new connection where it closed the old one meanwhile."""
        for last in (False, True):
            try:
                self.gateway.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _NOT_FORWARDED:
                        self.gateway.putheader(name, value)
                self.gateway.putheader("Content-Length", str(len(body)))
                self.gateway.endheaders(body)
                return self.gateway.getresponse()
            except (HTTPException, ConnectionError):
                self.gateway.close()
                if last:
                    raise
        raise AssertionError

    def _answer(self, answer: HTTPResponse, sent: int, trouble: Trouble | None) -> None:
        length = int(answer.headers["Content-Length"] or 0) if "Content-Length" in answer.headers else None
        if length is None or trouble is not None:
            whole = answer.read()
            pieces: Iterator[bytes] = iter([whole])
            length = len(whole) if length is None else length
        else:
            pieces = iter(lambda: answer.read(_CHUNK), b"")
        if trouble is Trouble.LOSE:
            self._note(answer.status, sent, 0)
            self.close_connection = True
            return
        self._write_head(answer, length)
        received = 0
        for piece in pieces:
            data = self._spoil(piece, answer.status, trouble)
            self.wfile.write(data)
            received += len(data)
        if trouble is Trouble.CUT:
            self.close_connection = True
        self._note(answer.status, sent, received)

    def _spoil(self, data: bytes, status: int, trouble: Trouble | None) -> bytes:
        if trouble is Trouble.CUT:
            return data[: random.randrange(len(data))] if data else data
        # A listing has no checksum: what is damaged there TCP and TLS have to find.
        is_object = self.command == "GET" and "?" not in self.path and status in (200, 206)
        if trouble is Trouble.DAMAGE and data and is_object:
            place = random.randrange(len(data))
            return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        return data

    def _write_head(self, answer: HTTPResponse, length: int) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in _NOT_FORWARDED:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _refuse(self) -> None:
        body = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please wait.</Message></Error>"
        self.send_response_only(503, "Slow Down")
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _note(self, status: int, sent: int, received: int) -> None:
        parts = urlsplit(self.path)
        asked = self.headers.get("Range", "").removeprefix("bytes=").split("-")
        span = (int(asked[0]), int(asked[1]) + 1) if len(asked) == 2 else None
        _, _, key = unquote(parts.path).removeprefix("/").partition("/")
        copied = "x-amz-copy-source" in self.headers
        self.proxy.exchanges.append(Exchange(self.command, key, parts.query, span, copied, sent, received, status))


class _Server(ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A client or the gateway went away: both are part of what is tested."""


@contextlib.contextmanager
def gateway_proxy(target_url: str) -> Iterator[GatewayProxy]:
    """Run a proxy before `target_url` on a loopback port."""
    parts = urlsplit(target_url)

    class Handler(_Handler):
        pass

    with _Server(("127.0.0.1", 0), Handler) as server:
        proxy = GatewayProxy(f"http://127.0.0.1:{server.server_port}", (parts.hostname or "", parts.port or 80))
        Handler.proxy = proxy
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.ended.set()
            server.shutdown()
            thread.join()
