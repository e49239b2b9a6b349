"""Small HTTP servers for whoever operates dasfs: GET on a Unix socket or a TCP port, and POST where one takes it.

**Concurrency:** an endpoint has a thread that accepts and one for each connection, so that it answers also when the
main loop is stuck. The responder is called in those threads, several times at once. All are daemon threads: none
keeps the process from ending.
"""

import contextlib
import errno
import logging
import os
import socket
import stat
import struct
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import parse_qsl

from dasfs import __version__
from dasfs.errors import AccessDenied, AlreadyExists, DasfsError, InvalidInput, NotFound

log = logging.getLogger(__name__)

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
# A scraper, a person and a load balancer at once are three; a client that forgets to read must not cost more.
MAX_CONNECTIONS: Final = 16
CLIENT_TIMEOUT_S: Final = 10.0
# How long to wait before accepting again when the process has no descriptor left.
PAUSE_S: Final = 0.1
SOCKET_MODE: Final = 0o666  # of one where nothing that is served is secret, and nothing can be changed
# What a POST may carry. Those above a mebibyte are read one at a time, so that this bounds them all.
MAX_BODY: Final = 64 << 20
_SMALL_BODY: Final = 1 << 20
# sizeof(sockaddr_un.sun_path) is 108, a zero byte at the end included.
MAX_SOCKET_PATH: Final = 107
# What fits behind /proc/self/fd/N/.
MAX_SOCKET_NAME: Final = 80
_UCRED: Final = struct.Struct("iII")  # process, user, group
_SO_PEERGROUPS: Final = 59  # of asm-generic/socket.h; Python has no name for it
_GROUPS_SIZE: Final = 1024  # as much as Python takes: 256 groups


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


Responder = Callable[[str], Answer | None]
"""Returns the answer to a path, such as `/metrics`, or None where there is nothing."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket, as it was when it connected."""

    process: int
    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Posted:
    """What a client sent. `query` is what stands behind `?`, the last value of each name; `peer` who it is."""

    body: bytes
    content_type: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    peer: Peer | None = None


Receiver = Callable[[Posted], Answer]
"""Takes what was posted. What it raises is the answer: 400 for `InvalidInput`, 404 for `NotFound`, else 503."""


@dataclass(frozen=True, slots=True)
class Access:
    """What may be posted where, by path, and who may ask anything at all. `mode` is that of a socket's file."""

    receivers: Mapping[str, Receiver] = field(default_factory=dict)
    admits: Callable[[Peer], bool] | None = None
    mode: int = SOCKET_MODE


PUBLIC: Final = Access()


def text_answer(status: HTTPStatus, *lines: str) -> Answer:
    """Return lines of text as an answer."""
    return Answer(status, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address: `127.0.0.1:9477`, `[::1]:9477`, `localhost:9477`. Port 0 is any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return what `HOST:PORT` stands for. Raises `InvalidInput`."""
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        digits = port.isascii() and port.isdigit() and len(port) <= 5
        if not (colon and bare and digits) or int(port) > 65535 or (":" in bare and bare == host):
            raise InvalidInput(f"{text!r} is not an address", hint='write it as "127.0.0.1:9477" or "[::1]:9477"')
        return cls(bare, int(port))


class Endpoint:
    """One place where requests are answered, from when it is made until `close`."""

    def __init__(
        self,
        name: str,
        listener: socket.socket,
        respond: Responder,
        access: Access = PUBLIC,
        *,
        path: str | None = None,
    ) -> None:
        self.name = name
        self._listener = listener
        self._respond = respond
        self._access = access
        self._path = path
        self._inode = None if path is None else os.stat(path).st_ino
        self._closed = threading.Event()
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        threading.Thread(target=self._accept, name=f"endpoint {name}", daemon=True).start()

    def close(self) -> None:
        """Answer no more. Answers that are on their way are finished."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._closed.wait(PAUSE_S):
                    return
                continue
            if not self._room.acquire(blocking=False):
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except RuntimeError:  # no more threads just now
                self._room.release()
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                _Handler(connection, self._respond, self._access)
        except OSError as error:
            log.debug("a client of %s left: %s", self.name, error)
        finally:
            self._room.release()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server_version = f"dasfs/{__version__}"
    sys_version = ""
    timeout = CLIENT_TIMEOUT_S
    _large_body = threading.Lock()

    def __init__(self, connection: socket.socket, respond: Responder, access: Access) -> None:
        self._respond = respond
        self._access = access
        super().__init__(connection, "", None)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._send(self._answer(self._respond))

    def do_POST(self) -> None:
        if not self._access.receivers:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED, "Nothing can be sent here")
            return
        self._send(self._answer(self._receive))

    def _receive(self, path: str) -> Answer | None:
        receiver = self._access.receivers.get(path)
        if receiver is None:
            return None
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 12):
            raise InvalidInput(f"{length[:20]!r} is no length of what was sent")
        if int(length) > MAX_BODY:
            return text_answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY} bytes were sent")
        query = dict(parse_qsl(self.path.partition("?")[2], keep_blank_values=True))
        with self._large_body if int(length) > _SMALL_BODY else contextlib.nullcontext():
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                raise InvalidInput(f"{len(body)} bytes came instead of {length}")
            return receiver(Posted(body, self.headers.get("Content-Type", ""), query, peer_of(self.connection)))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
        log.debug(format, *args)

    def _answer(self, respond: Responder) -> Answer:
        path = self.path.partition("?")[0]
        try:
            admits = self._access.admits
            if admits is not None and not admits(peer_of(self.connection)):
                raise AccessDenied("this user may not ask here")
            answer = respond(path)
        except DasfsError as error:
            return text_answer(_status_of(error), str(error))
        except Exception as error:  # a defect of ours must not take the others' answers away
            log.exception("unexpected error in an answer to %s", path)
            return text_answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"unexpected {error!r}")
        return answer or text_answer(HTTPStatus.NOT_FOUND, f"there is nothing at {path[:80]!r}")


def _status_of(error: DasfsError) -> HTTPStatus:
    for kind, status in (
        (InvalidInput, HTTPStatus.BAD_REQUEST),
        (NotFound, HTTPStatus.NOT_FOUND),
        (AccessDenied, HTTPStatus.FORBIDDEN),
    ):
        if isinstance(error, kind):
            return status
    return HTTPStatus.SERVICE_UNAVAILABLE


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected to a Unix socket. Raises `OSError` on another kind of socket."""
    process, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    groups = array("I")
    with contextlib.suppress(OSError):  # more groups than there is room for: the first one has to do
        groups.frombytes(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE))
    return Peer(process, uid, frozenset((gid, *groups)))


def open_port(address: Address, respond: Responder) -> Endpoint:
    """Return an endpoint on a TCP port. `::` is all addresses, also those of IPv4.

    Raises `AlreadyExists` for a port that is in use, `InvalidInput` for a host that is not this one,
    `AccessDenied`.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InvalidInput(f"{address}: there is no such host: {error}", hint="give an address of this one") from error
    everywhere = address.host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(place[:2], family=family, backlog=64, dualstack_ipv6=everywhere)
    except OSError as error:
        raise _port_error(address, error) from error
    bound = Address(address.host, listener.getsockname()[1])
    return Endpoint(f"http://{bound}", listener, respond)


def _port_error(address: Address, error: OSError) -> DasfsError:
    if error.errno == errno.EADDRINUSE:
        return AlreadyExists(f"{address}: another program uses this port", hint="end it, or give another port")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(f"{address}: this user may not use this port", hint="give one above 1023")
    return InvalidInput(
        f"{address} can't be listened at: {os.strerror(error.errno or 0)}", hint="give an address of this host"
    )


def open_socket(
    path: str, respond: Responder, access: Access = PUBLIC, *, hint: str = "give another one as socket in [status]"
) -> Endpoint:
    """Return an endpoint on a Unix socket at `path`. Who may connect is told by `access`, and by its directory's mode.

    A socket that a killed process left there is replaced. Raises `AlreadyExists` for one that somebody answers at,
    and for a file that is none; `AccessDenied`, `InvalidInput`. `hint` says how another path is chosen.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with short_path(path) as name, contextlib.ExitStack() as stack:
            _clear(path, name, hint)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(name)
            os.chmod(path, access.mode)  # before anybody can connect
            listener.listen(64)
            endpoint = Endpoint(path, listener, respond, access, path=path)
            stack.pop_all()
            return endpoint
    except DasfsError:
        raise
    except OSError as error:
        raise AccessDenied(f"the socket {path} can't be made: {error.strerror or error}", hint=hint) from error


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """Yield a name of `path` that fits into the address of a Unix socket, however long the path is."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        yield path
        return
    directory, name = os.path.split(path)
    if len(os.fsencode(name)) > MAX_SOCKET_NAME:
        raise InvalidInput(f"the socket's name {name[:20]!r}... has more than {MAX_SOCKET_NAME} bytes")
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def _clear(path: str, name: str, hint: str) -> None:
    """Remove a socket that nobody answers at."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AlreadyExists(f"{path} is there and is no socket", hint=f"remove it, or {hint}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (BlockingIOError, TimeoutError):
            pass  # somebody is there and does not come to accepting
    raise AlreadyExists(f"another process answers at {path}", hint=f"end it, or {hint}")
