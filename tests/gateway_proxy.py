"""An HTTP proxy before an S3 gateway: it writes down every exchange, and goes wrong where a test tells it to.

**Concurrency:** a thread for each connection forwards; `exchanges` only grows; the test may set `choose` at any time.
"""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from tests.lying_server import HTML

_CHUNK = 1 << 18
_TIMEOUT_S = 60.0
# Of one connection, not of a request; Expect was answered by this server.
_NOT_FORWARDED = frozenset({"connection", "keep-alive", "transfer-encoding", "expect", "content-length"})


class Trouble(Enum):
    """What goes wrong with one exchange."""

    REFUSE = auto()  # 503, and nothing is done
    REFUSE_FOR_LONG = auto()  # 503 with a Retry-After of a second
    FAIL = auto()  # 500
    LOSE = auto()  # it is done, and the connection ends without an answer
    CUT = auto()  # the answer ends somewhere in its body
    SHORT = auto()  # the same, and its head says that this is all
    LONG = auto()  # more bytes than there are
    DAMAGE = auto()  # a byte of an object that is read is another
    OTHER_BYTES = auto()  # all of them are
    OTHER_ETAG = auto()  # the head names another version
    PAGE = auto()  # 200 and a page of HTML, as the network of a hotel answers
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


_REFUSALS = {
    Trouble.REFUSE: (503, "SlowDown", None),
    Trouble.REFUSE_FOR_LONG: (503, "SlowDown", "1"),
    Trouble.FAIL: (500, "InternalError", None),
}

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
        trouble = self.proxy.choose(self.command, self._asked)
        if trouble is not None:
            self.proxy.troubles[trouble] += 1
        if trouble is Trouble.HANG:
            self.proxy.ended.wait(self.proxy.hang_s)
            self.close_connection = True
        elif trouble in _REFUSALS:
            self._refuse(*_REFUSALS[trouble])
        elif trouble is Trouble.PAGE:
            self._say(200, "text/html", HTML)
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
        if trouble is None and length is not None:
            pieces = iter(lambda: answer.read(_CHUNK), b"")
        else:
            whole = answer.read()
            data = whole if trouble is None else self._spoil(whole, answer.status, trouble)
            length = len(whole) if length is None else length
            if trouble is not Trouble.CUT:  # what is cut promises more than it has
                length += len(data) - len(whole)
            pieces = iter([data])
        if trouble is Trouble.LOSE:
            self._note(answer.status, sent, 0)
            self.close_connection = True
            return
        self._write_head(answer, length, trouble)
        received = 0
        for piece in pieces:
            self.wfile.write(piece)
            received += len(piece)
        if trouble is Trouble.CUT:
            self.close_connection = True
        self._note(answer.status, sent, received)

    def _is_read(self, status: int) -> bool:
        return self.command == "GET" and status in (200, 206)

    @property
    def _asked(self) -> str:
        """The path, with a query that asks for something; the one of a presigned GET only signs it."""
        path, _, query = self.path.partition("?")
        return path if not query or "X-Amz-Signature" in query else self.path

    def _spoil(self, data: bytes, status: int, trouble: Trouble) -> bytes:
        if not data or (trouble is not Trouble.CUT and not self._is_read(status)):
            return data
        place = random.randrange(len(data))
        if trouble in (Trouble.CUT, Trouble.SHORT):
            return data[:place]
        if trouble is Trouble.LONG:
            return data + data[: place + 1]
        # A listing has no checksum: what is damaged there TCP and TLS have to find.
        if trouble is Trouble.DAMAGE and "?" not in self._asked:
            return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        if trouble is Trouble.OTHER_BYTES and "?" not in self._asked:
            return bytes(len(data))
        return data

    def _write_head(self, answer: HTTPResponse, length: int, trouble: Trouble | None) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() == "etag" and trouble is Trouble.OTHER_ETAG:
                self.send_header(name, '"00000000000000000000000000000000"')
            elif name.lower() not in _NOT_FORWARDED:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _refuse(self, status: int, code: str, retry_after: str | None) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Please wait.</Message></Error>"
        self._say(status, "application/xml", body.encode(), {} if retry_after is None else {"Retry-After": retry_after})

    def _say(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        """Answer without asking the gateway."""
        self.send_response_only(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _note(self, status: int, sent: int, received: int) -> None:
        parts = urlsplit(self._asked)
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
