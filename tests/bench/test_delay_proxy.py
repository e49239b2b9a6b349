"""The latency of the benchmark: it must delay what it says, change nothing, and count right."""

import contextlib
import hashlib
import http.client
import os
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.programs import build
from tests.mounts import PATIENCE_S

DELAY_S = 0.1
LARGE = 20_000_000


class Answers(BaseHTTPRequestHandler):
    """GET answers with as many bytes as its path says, PUT with the SHA-256 of what was sent."""

    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_S

    def do_GET(self) -> None:
        self.answer(bytes(range(250)) * (int(self.path[1:]) // 250))

    def do_PUT(self) -> None:
        self.answer(hashlib.sha256(self.rfile.read(int(self.headers["Content-Length"]))).hexdigest().encode())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server that takes many connections at once: of more than five, the kernel would let some wait for a second."""

    request_queue_size = 100


@dataclass(frozen=True, slots=True)
class Proxy:
    port: int
    counters: Path

    def connect(self) -> "contextlib.closing[http.client.HTTPConnection]":
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S))

    def counted(self) -> tuple[int, ...]:
        """Return connections, requests, bytes to the server, bytes from it."""
        return struct.unpack("4Q", self.counters.read_bytes())


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    server = Server(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    counters = tmp_path / "counters"
    address = ("127.0.0.1", str(server.server_port))
    command = [str(build("delay_proxy")), "0", *address, str(1000 * DELAY_S), str(counters)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield Proxy(int(process.stdout.readline()), counters)
        process.terminate()
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE_S)


def test_every_request_waits(proxy: Proxy) -> None:
    """Each request of a connection waits for the delay, not only the first, and is counted."""
    with proxy.connect() as connection:
        for number in range(3):
            started = time.monotonic()
            connection.request("GET", "/250")
            assert connection.getresponse().read() == bytes(range(250))
            assert time.monotonic() - started >= DELAY_S
            assert proxy.counted()[:2] == (1, number + 1)


def test_requests_wait_side_by_side(proxy: Proxy) -> None:
    """Requests of several connections don't wait for one another: twenty take far less than twenty delays."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(proxy.connect()) for _ in range(20)]
        for connection in connections:
            connection.connect()
        started = time.monotonic()
        for connection in connections:
            connection.request("GET", "/250")
        for connection in connections:
            connection.getresponse().read()
        assert DELAY_S <= time.monotonic() - started < 10 * DELAY_S
    assert proxy.counted()[:2] == (20, 20)


def test_large_bodies_pass_unchanged_and_are_counted(proxy: Proxy) -> None:
    """A body of 20 MB arrives as it was sent, in both directions, as one request each, and all of it is counted."""
    body = os.urandom(LARGE)
    with proxy.connect() as connection:
        connection.request("GET", f"/{LARGE}")
        assert connection.getresponse().read() == bytes(range(250)) * (LARGE // 250)
        connection.request("PUT", "/", body)
        assert connection.getresponse().read().decode() == hashlib.sha256(body).hexdigest()
    connections, requests, sent, received = proxy.counted()
    assert (connections, requests) == (1, 2)
    assert LARGE < sent < LARGE + 1000
    assert LARGE < received < LARGE + 1000


def test_an_interim_answer_begins_no_other_request(proxy: Proxy) -> None:
    """A client that waits for "100 Continue" before it sends the body has made one request."""
    with proxy.connect() as connection:
        connection.putrequest("PUT", "/")
        connection.putheader("Content-Length", "5")
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.send(b"bytes")
        assert connection.getresponse().status == 200
    assert proxy.counted()[:2] == (1, 1)


def test_a_server_that_is_gone_ends_the_connection(tmp_path: Path) -> None:
    """Where nobody listens behind it, a client is refused at once and does not hang."""
    command = [str(build("delay_proxy")), "0", "127.0.0.1", "1", "1", str(tmp_path / "counters")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        gone = Proxy(int(process.stdout.readline()), tmp_path / "counters")
        with gone.connect() as connection, pytest.raises((ConnectionError, http.client.HTTPException)):
            connection.request("GET", "/250")
            connection.getresponse()
        process.terminate()
