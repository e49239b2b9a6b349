"""What a service manager gave this process: where to tell it how we are, and a journal to log to.

NOTIFY_SOCKET and WATCHDOG_USEC are described in sd_notify(3) and sd_watchdog_enabled(3), JOURNAL_STREAM in
systemd.exec(5). What a command logs carries the fields of its record whose names begin with `DASFS_`; see
docs/systemd.md for them.
"""

import faulthandler
import logging
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from dasfs.notify import Notifier

IDENTIFIER: Final = "dasfs"
FIELD_PREFIX: Final = "DASFS_"
# A background process is not what the manager watches, and has a log of its own.
OF_THE_MANAGER: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "JOURNAL_STREAM")


def take_notifier(environ: MutableMapping[str, str] | None = None) -> "Notifier":
    """Return what tells the service manager that started this process; one that tells nobody where there is none.

    Its variables are taken out of the environment: a process that we start must not speak for us. From now on a
    signal that tells of a crash, as that of the watchdog, leaves the stack of every thread on stderr.
    """
    from dasfs.notify import Notifier

    environ = os.environ if environ is None else environ
    address, pid, interval = (environ.pop(name, "") for name in OF_THE_MANAGER[:3])
    if not address.startswith(("/", "@")):
        return Notifier()
    faulthandler.enable()
    meant = pid in ("", str(os.getpid()))
    watchdog_s = int(interval) / 1e6 if meant and interval.isdecimal() and int(interval) else None
    return Notifier(address, watchdog_s)


def without_manager(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a process that outlives this one and is none of the service manager's."""
    return {name: value for name, value in environ.items() if name not in OF_THE_MANAGER}


def is_journal(stream: TextIO | None = None) -> bool:
    """Return whether stderr, or `stream`, goes to the journal of systemd."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    if not (device.isdecimal() and inode.isdecimal()):
        return False
    try:
        status = os.fstat((stream or sys.stderr).fileno())
    except (OSError, ValueError):
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


class JournalHandler(logging.StreamHandler[TextIO]):
    """Sends records to the journal with their fields; to `stream`, as lines, while the journal does not take them."""

    def __init__(self, stream: TextIO, socket_path: str | None = None) -> None:
        from logging_journald import JournaldTransport

        super().__init__(stream)
        # Not connected: each record finds the journal's socket, also after the journal was started again.
        self._transport = JournaldTransport(socket_path, connected=False)

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record; nothing is raised."""
        try:
            self._transport.send(_fields(record, self.format(record)))
        except OSError:
            super().emit(record)

    def close(self) -> None:
        self._transport.socket.close()
        super().close()


def _fields(record: logging.LogRecord, message: str) -> Iterator[tuple[str, bytes]]:
    """Yield the journal's fields of a record; see systemd.journal-fields(7)."""
    values = {
        "MESSAGE": message,
        "PRIORITY": _priority(record.levelno),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": record.lineno,
        "CODE_FUNC": record.funcName,
        **{name: value for name, value in vars(record).items() if name.startswith(FIELD_PREFIX)},
    }
    for name, value in values.items():
        # Bytes: a path in a message may be of no encoding.
        yield name, str(value).encode(errors="surrogateescape")


def _priority(level: int) -> int:
    """Return the level of syslog(3) for one of Python's."""
    steps = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((priority for floor, priority in steps if level >= floor), 7)
