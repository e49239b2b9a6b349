"""Endpoints: what they answer, and how they share their place with others. No kernel of FUSE, no daemon."""

import http.client
import os
import select
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http import HTTPStatus
from pathlib import Path

import pytest

from dasfs.cli.status_report import fetch
from dasfs.endpoint import (
    JSON,
    MAX_BODY,
    MAX_CONNECTIONS,
    Access,
    Address,
    Answer,
    Endpoint,
    Peer,
    Posted,
    open_port,
    open_socket,
    text_answer,
)
from dasfs.errors import AlreadyExists, DasfsError, DeadlineExceeded, InvalidInput, NotFound
from tests.mounts import wait_until

TIMEOUT_S = 30.0


def respond(path: str) -> Answer | None:
    if path == "/fails":
        raise DeadlineExceeded("too slow", hint="look why")
    if path == "/broken":
        raise ZeroDivisionError("a defect")
    if path == "/json":
        return Answer(HTTPStatus.OK, b'{"a": 1}', JSON)
    return text_answer(HTTPStatus.OK, "hello") if path == "/" else None


@pytest.fixture
def port() -> Iterator[int]:
    """The port of an endpoint on 127.0.0.1."""
    with closing(open_port(Address("127.0.0.1", 0), respond)) as endpoint:
        yield int(endpoint.name.rpartition(":")[2])


def ask(port: int, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    with closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/", (200, "hello\n")),
        ("/?a=b", (200, "hello\n")),
        ("/json", (200, '{"a": 1}')),
        ("/nothing", (404, "there is nothing at '/nothing'\n")),
        ("/fails", (503, "too slow; look why\n")),
        ("/broken", (500, "unexpected ZeroDivisionError('a defect')\n")),
    ],
)
def test_what_is_answered(port: int, path: str, answer: tuple[int, str]) -> None:
    """What the responder gives is sent; what it raises is 503, or 500 for a defect; what is unknown is 404."""
    assert ask(port, path) == answer


def test_only_reading(port: int) -> None:
    """HEAD is GET without the content; nothing can be sent."""
    assert ask(port, "/", "HEAD") == (200, "")
    assert ask(port, "/", "POST")[0] == 501


def test_silent_clients_do_not_keep_others_out(port: int) -> None:
    """Clients that say nothing cost at most so many connections, and all is well again when they are gone."""
    with ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S))

        for _ in range(MAX_CONNECTIONS - 1):
            connect()
        assert ask(port, "/")[0] == 200
        # One of these two may find a place: the answer above may hold its own for a moment longer.
        refused, _, _ = select.select([connect(), connect()], [], [], TIMEOUT_S)
        assert [each.recv(1) for each in refused] in ([b""], [b"", b""])
    wait_until(lambda: _answers(port))


def _answers(port: int) -> bool:
    try:
        return ask(port, "/")[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9477", Address("127.0.0.1", 9477)),
        ("[::1]:9477", Address("::1", 9477)),
        ("[::]:0", Address("::", 0)),
        ("node17.example.org:65535", Address("node17.example.org", 65535)),
    ],
)
def test_an_address(text: str, address: Address) -> None:
    """An address is a host and a port, IPv6 in brackets, and is written as it is read."""
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "9477", ":9477", "host:", "host:port", "host:65536", "host:-1", "::1:9477", "a:²"]
)
def test_no_address(text: str) -> None:
    """Everything else is refused with the right form as the hint."""
    with pytest.raises(InvalidInput, match="write it as"):
        Address.parse(text)


def test_ipv6() -> None:
    """An endpoint answers on IPv6, and at `::` also on IPv4."""
    with closing(open_port(Address("::1", 0), respond)) as endpoint:
        assert endpoint.name.startswith("http://[::1]:")
        assert ask(int(endpoint.name.rpartition(":")[2]), "/", host="::1")[0] == 200
    with closing(open_port(Address("::", 0), respond)) as endpoint:
        assert ask(int(endpoint.name.rpartition(":")[2]), "/")[0] == 200


@pytest.mark.parametrize(
    ("host", "error"),
    [("127.0.0.1", AlreadyExists), ("192.0.2.1", InvalidInput), ("no.such.host.invalid", InvalidInput)],
)
def test_a_port_that_can_not_be_had(port: int, host: str, error: type[DasfsError]) -> None:
    """A port in use, an address of another host and a name of none are errors with something to do."""
    with pytest.raises(error) as caught:
        open_port(Address(host, port), respond)
    assert caught.value.hint


def test_a_port_is_free_after_close(port: int) -> None:
    """Closing ends the thread that accepts, and the port can be had again at once."""
    first = open_port(Address("127.0.0.1", 0), respond)
    number = int(first.name.rpartition(":")[2])
    first.close()
    with closing(open_port(Address("127.0.0.1", number), respond)):
        assert ask(number, "/")[0] == 200


def on_socket(path: Path) -> Endpoint:
    return open_socket(str(path), respond)


def test_a_socket(tmp_path: Path) -> None:
    """A socket is made with its directory, everybody may connect, and it is gone after `close`."""
    path = tmp_path / "run" / "daemon.sock"
    with closing(on_socket(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert fetch(str(path), "/json") == {"a": 1}
    assert list(path.parent.iterdir()) == []


def test_a_socket_with_a_long_path(tmp_path: Path) -> None:
    """Linux takes 107 bytes for the path of a socket; dasfs takes longer ones, at both ends."""
    path = tmp_path / ("long" * 40) / "daemon.sock"
    with closing(on_socket(path)):
        assert fetch(str(path), "/json") == {"a": 1}
        with pytest.raises(AlreadyExists):
            on_socket(path)
    assert not path.exists()
    with pytest.raises(InvalidInput, match="has more than 80 bytes"):
        on_socket(path.with_name("x" * 81))


def test_a_socket_that_was_left_is_replaced(tmp_path: Path) -> None:
    """A socket that nobody listens at any more, as SIGKILL leaves it, does not keep the next daemon from starting."""
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with closing(on_socket(path)):
        assert fetch(str(path), "/json") == {"a": 1}


def test_a_socket_in_use_stays(tmp_path: Path) -> None:
    """A socket that somebody answers at is refused and goes on answering."""
    path = tmp_path / "daemon.sock"
    with closing(on_socket(path)):
        with pytest.raises(AlreadyExists, match="another process answers"):
            on_socket(path)
        assert fetch(str(path), "/json") == {"a": 1}


def test_a_socket_of_a_stuck_process_stays(tmp_path: Path) -> None:
    """A listener that does not come to accepting, with a full queue, counts as somebody."""
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(str(path))
            except BlockingIOError:
                break
        with pytest.raises(AlreadyExists):
            on_socket(path)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: os.symlink("/dev/null", path)])
def test_what_is_no_socket_stays(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A file, a directory or a link at the socket's path is refused and not touched."""
    path = tmp_path / "daemon.sock"
    make(path)
    with pytest.raises(AlreadyExists, match="is no socket"):
        on_socket(path)
    assert os.path.lexists(path)


def test_closing_leaves_a_successors_socket(tmp_path: Path) -> None:
    """Who ends takes only its own socket away, not the one that replaced it."""
    path = tmp_path / "daemon.sock"
    first = on_socket(path)
    path.unlink()
    with closing(on_socket(path)):
        first.close()
        assert fetch(str(path), "/json") == {"a": 1}


def test_a_directory_that_can_not_be_made(tmp_path: Path) -> None:
    """Where the socket's directory can't be, one line says so."""
    (tmp_path / "file").touch()
    with pytest.raises(DasfsError, match="can't be made"):
        on_socket(tmp_path / "file" / "daemon.sock")


@pytest.mark.parametrize("content", [b"[]", b"<html>"])
def test_who_answers_something_else_is_no_daemon(tmp_path: Path, content: bytes) -> None:
    """An answer that is no JSON object is told as another program's."""
    path = str(tmp_path / "daemon.sock")
    with (
        closing(open_socket(path, lambda _: Answer(HTTPStatus.OK, content))),
        pytest.raises(DasfsError, match="no daemon"),
    ):
        fetch(path, "/status.json")


def post(path: Path, target: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("localhost", timeout=TIMEOUT_S)) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("POST", target, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def receive(posted: Posted) -> Answer:
    if posted.body == b"wrong":
        raise InvalidInput("that is wrong", hint="send what is right")
    if posted.body == b"missing":
        raise NotFound("that is not there")
    return text_answer(HTTPStatus.OK, f"{len(posted.body)} {dict(posted.query)} {posted.content_type}")


@pytest.fixture
def taking(tmp_path: Path) -> Iterator[Path]:
    """The path of a socket that takes what is posted at `/take`."""
    path = tmp_path / "mount.sock"
    with closing(open_socket(str(path), respond, Access({"/take": receive}, mode=0o600))):
        yield path


def test_what_is_posted_is_taken(taking: Path) -> None:
    """A receiver gets body, type and query, and its answer goes back; pages are still there."""
    assert stat.S_IMODE(taking.stat().st_mode) == 0o600
    answer = post(taking, "/take?a=1&b=%20&a=2", b"x" * 3_000_000, {"Content-Type": "text/plain"})
    assert answer == (200, "3000000 {'a': '2', 'b': ' '} text/plain\n")
    assert fetch(str(taking), "/json") == {"a": 1}


@pytest.mark.parametrize(
    ("target", "body", "headers", "status"),
    [
        ("/take", b"wrong", {}, 400),
        ("/take", b"missing", {}, 404),
        ("/elsewhere", b"", {}, 404),
        ("/json", b"", {}, 404),
        ("/take", b"", {"Content-Length": "-1"}, 400),
        ("/take", b"", {"Content-Length": str(MAX_BODY + 1)}, 413),
    ],
)
def test_what_can_not_be_taken(taking: Path, target: str, body: bytes, headers: dict[str, str], status: int) -> None:
    """What a receiver refuses, what nobody takes and what is too long is answered with a code that says so."""
    assert post(taking, target, body, headers)[0] == status


def test_who_is_not_admitted_gets_nothing(tmp_path: Path) -> None:
    """The process at the other end is told by the kernel, and one that is not admitted gets neither page nor ear."""
    path = tmp_path / "mount.sock"
    peers: list[Peer] = []

    def admits(peer: Peer) -> bool:
        peers.append(peer)
        return False

    with closing(open_socket(str(path), respond, Access({"/take": receive}, admits))):
        assert post(path, "/take", b"")[0] == 403
        with pytest.raises(DasfsError, match="may not ask"):
            fetch(str(path), "/json")
    assert {(each.process, each.uid) for each in peers} == {(os.getpid(), os.getuid())}
    assert all({os.getgid(), *os.getgroups()} <= each.groups for each in peers)
