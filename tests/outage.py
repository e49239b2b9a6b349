"""A TCP proxy that can have an outage: what stands between a mount and its store in the tests of outages."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

_CHUNK = 1 << 16


class Proxy:
    """Forwards connections to one server, as long as it is told to.

    **Concurrency:** a thread accepts, and two for each connection forward; the test's thread calls the methods.
    """

    def __init__(self, target_url: str) -> None:
        parts = urlsplit(target_url)
        self._target = (parts.hostname or "", parts.port or 80)
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.forwarded = 0  # bytes, in both directions
        self._limit = 1 << 62
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._port: int = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def hang(self) -> None:
        """From now on accept connections, and let nothing through in either direction."""
        self._flowing.clear()

    def hang_after(self, forwarded: int) -> None:
        """Hang as soon as so many bytes went through, in both directions and since the beginning."""
        with self._lock:
            self._limit = forwarded

    @property
    def hangs(self) -> bool:
        return not self._flowing.is_set()

    def cut(self) -> None:
        """Reset all connections that are open."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Reset all connections, and refuse new ones."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def recover(self) -> None:
        """Let everything through again, also what was held back."""
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self._port), backlog=256)
            self._start(self._accept, self._listener)
        self.hang_after(1 << 62)
        self._flowing.set()

    def close(self) -> None:
        self.refuse()
        self._flowing.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # it was closed
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        with self._lock:
            self._sockets |= {client, server}
        self._start(self._forward, server, client)
        self._forward(client, server)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self._flowing.wait()
                target.sendall(data)
                with self._lock:
                    self.forwarded += len(data)
                    if self.forwarded >= self._limit:
                        self.hang()
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
            with self._lock:
                self._sockets.discard(each)

    def _start(self, work: object, *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()  # type: ignore[arg-type]


@contextlib.contextmanager
def proxied(target_url: str) -> Iterator[Proxy]:
    """Hand out a proxy before `target_url`."""
    proxy = Proxy(target_url)
    try:
        yield proxy
    finally:
        proxy.close()
