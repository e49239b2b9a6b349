"""The sockets of a service manager and of its journal, for tests: what was sent to them, and when."""

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 30.0


class Datagrams:
    """A datagram socket with a path, as NOTIFY_SOCKET and the journal's are."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def receive(self, timeout_s: float = PATIENCE_S) -> bytes | None:
        """Return the next datagram, None where none comes in time."""
        readable, _, _ = select.select([self._socket], [], [], timeout_s)
        return self._socket.recv(1 << 16) if readable else None

    def drain(self) -> list[bytes]:
        """Return what was sent until now and not received yet."""
        found = []
        while (datagram := self.receive(0)) is not None:
            found.append(datagram)
        return found

    def close(self) -> None:
        self._socket.close()


class Manager(Datagrams):
    """What a service manager is told."""

    def message(self, timeout_s: float = PATIENCE_S) -> dict[str, str]:
        """Return the next message by its names; {} where none comes in time."""
        return parse_message(self.receive(timeout_s) or b"")

    def wait_for(self, condition: Callable[[dict[str, str]], bool]) -> list[dict[str, str]]:
        """Return all messages until one meets `condition`, that one being the last; fail where none does."""
        deadline = time.monotonic() + PATIENCE_S
        found: list[dict[str, str]] = []
        while not found or not condition(found[-1]):
            assert time.monotonic() < deadline, found
            found.append(self.message(deadline - time.monotonic()))
        return found


def parse_message(datagram: bytes) -> dict[str, str]:
    """Return the variables of a message of sd_notify(3)."""
    return dict(line.split("=", 1) for line in datagram.decode().split("\n") if line)


def parse_entry(datagram: bytes) -> dict[str, bytes]:
    """Return the fields of an entry in the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    fields = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", datagram[:8])
            value, datagram = datagram[8 : 8 + size], datagram[9 + size :]
        fields[name.decode()] = value
    return fields


@contextmanager
def listening(path: Path | str) -> Iterator[Manager]:
    """Listen at `path`."""
    manager = Manager(str(path))
    try:
        yield manager
    finally:
        manager.close()
