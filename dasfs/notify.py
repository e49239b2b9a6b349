"""What a service manager is told of this process: that it works, what it is at, and again and again that it lives.

The protocol is that of sd_notify(3), which systemd promises never to change: datagrams of `NAME=value` lines to the
socket that NOTIFY_SOCKET names. Only `dasfs.cli` reads the environment and makes a `Notifier`; where nobody wants to
be told, every method does nothing.

**Concurrency:** any thread, but for `run`, which is a trio task of the loop that it vouches for.
"""

import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

log = logging.getLogger(__name__)

# Somebody who looks at `systemctl status` again sees something new.
STATUS_S: Final = 5.0
# The manager's queue holds hundreds of messages: one that is full for so long is a manager that hangs, and that
# must not make us hang too.
SEND_TIMEOUT_S: Final = 0.5


async def _nothing() -> None:
    """Prove nothing but that the loop runs."""


class Notifier:
    """Tells a service manager. `address` is its socket, `watchdog_s` after how many silent seconds it kills us."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self.address = address
        self.watchdog_s = watchdog_s
        self._heard = True

    def ready(self) -> None:
        """Say that the service works, for the first time or after `reloading`."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Say in one line what the service is at."""
        self._send(_status(text))

    def stopping(self) -> None:
        """Say that the service is ending."""
        self._send("STOPPING=1")

    def reloading(self) -> None:
        """Say that the configuration is read again, until `ready`."""
        # The time is for Type=notify-reload (systemd 253): it tells this reload from the one before.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    async def run(self, describe: Callable[[], str], prove: Callable[[], Awaitable[None]] = _nothing) -> None:
        """Say that the process lives, at half of `watchdog_s`, and what `describe` returns, until cancelled.

        Before each sign of life `prove` is awaited. A loop that hangs, or a `prove` that does not return, is silence,
        and the manager acts on it.
        """
        if self.address is None:
            return
        pause = STATUS_S if self.watchdog_s is None else min(STATUS_S, self.watchdog_s / 2)
        told = ""
        while True:
            await prove()
            text = _status(describe())
            lines = ([] if self.watchdog_s is None else ["WATCHDOG=1"]) + ([] if text == told else [text])
            if lines:
                self._send("\n".join(lines))
            told = text
            await trio.sleep(pause)

    def _send(self, message: str) -> None:
        if self.address is None:
            return
        # '@' is how the environment writes the zero byte that begins an abstract address.
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_TIMEOUT_S)
                sender.sendto(message.encode(errors="replace"), address)
            self._heard = True
        except OSError as error:
            if self._heard:
                log.warning("the service manager can't be told %r: %s", message.partition("\n")[0], error)
            self._heard = False


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"
