"""Asking the daemon and the mounts of this host how they are, in bounded time whatever state they are in."""

import errno
import http.client
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dasfs.cli.patient_read import PatientRead
from dasfs.endpoint import short_path
from dasfs.errors import DasfsError
from dasfs.fuse.mountpoint import Mounted, own_mounts
from dasfs_daemon.config import DaemonConfig, Reader
from dasfs_daemon.state import DaemonState, from_json

# For the daemon and for all mounts together. Longer than the daemon itself waits for its main loop.
DEADLINE_S: Final = 5.0
CACHE_FIELDS: Final = (
    *("hits", "misses", "bytes_served", "bytes_fetched", "bytes_used", "capacity", "recovering"),
    *("fetch_errors", "verification_failures", "in_flight"),
)
LATELY_FIELDS: Final = ("seconds", "reads", "bytes_read", "hits", "misses", "bytes_fetched", "errors")
_UCRED: Final = struct.Struct("3i")  # process, user, group


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong, and what to do."""

    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class DaemonReport:
    """The daemon of this host. `document` is what it said, word by word; None where it said nothing."""

    config_file: str
    document: Mapping[str, Any] | None = None
    state: DaemonState | None = None
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class MountReport:
    """One mount. `secret`: it belongs to somebody else and does not let us in, which is not its fault."""

    path: str
    store: str
    document: Mapping[str, Any] | None = None
    trouble: Trouble | None = None
    secret: bool = False

    def troubles(self) -> Iterator[Trouble]:
        """Yield what is wrong with it."""
        if self.trouble is not None and not self.secret:
            yield self.trouble
        if self.document is None:
            return
        if self.document["problem"]:
            yield Trouble(self.document["problem"])
        for name, dataset in self.document["datasets"].items():
            if dataset["problem"]:
                yield Trouble(f"{name}: {dataset['problem']}")


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about this host at one moment. `daemon` is None where none is configured."""

    host: str
    time: datetime
    daemon: DaemonReport | None
    mounts: tuple[MountReport, ...]

    @property
    def problems(self) -> int:
        """How many things are wrong."""
        count = sum(len(list(mount.troubles())) for mount in self.mounts)
        if self.daemon is not None:
            count += len(self.daemon.troubles)
            if self.daemon.state is not None:
                state = self.daemon.state
                count += len(state.problems) + sum(len(each.problems) for each in state.datasets)
        return count


class Asker:
    """Asks again and again; a mount that hangs costs one child process, however often it is asked."""

    def __init__(self, config_file: str | None) -> None:
        self._config_file = config_file
        self._reads: dict[str, PatientRead] = {}

    def ask(self) -> Report:
        """Return how everything is. Takes `DEADLINE_S` and a moment at most. Raises `NotFound` without a config."""
        deadline = time.monotonic() + DEADLINE_S
        mounts = own_mounts()
        for mount in mounts:
            self._read_of(mount).begin()
        daemon = None if self._config_file is None else ask_daemon(self._config_file)
        reports = tuple(self._ask_mount(mount, deadline) for mount in mounts)
        return Report(socket.gethostname(), datetime.now(UTC), daemon, reports)

    def close(self) -> None:
        for read in self._reads.values():
            read.close()

    def _read_of(self, mount: Mounted) -> PatientRead:
        # The device is another one for each mount: a new mount at a path is asked anew.
        path = os.path.join(mount.path, ".dasfs", "status.json")
        return self._reads.setdefault(f"{mount.device} {mount.path}", PatientRead(path))

    def _ask_mount(self, mount: Mounted, deadline: float) -> MountReport:
        try:
            document = json.loads(self._read_of(mount).finish(deadline))
            _check_status(document)
            return MountReport(mount.path, mount.source, document)
        except ValueError as error:
            return MountReport(mount.path, mount.source, trouble=Trouble(f"its status can't be read: {error}"))
        except OSError as error:
            secret = error.errno in (errno.EACCES, errno.EPERM)
            return MountReport(mount.path, mount.source, trouble=_mount_trouble(mount, error), secret=secret)


def _check_status(document: Any) -> None:
    """Raise `ValueError` unless a mount's status has what is shown of it: another version may say other things."""
    try:
        shown = [document["pid"], document["started"], document["dasfs"], document["problem"]]
        shown += [document["block_cache"][name] for name in CACHE_FIELDS]
        if "last_minute" in document:  # mounts of 0.1.0 don't tell
            shown += [document["last_minute"][name] for name in LATELY_FIELDS]
        for each in document["datasets"].values():
            shown += [each["revision"], each["datapoints"], each["problem"]]
        datetime.fromisoformat(document["started"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it is of another version of dasfs: {error!r}") from error


def _mount_trouble(mount: Mounted, error: OSError) -> Trouble:
    if isinstance(error, TimeoutError):
        return Trouble(
            f"it does not answer within {DEADLINE_S:g} s",
            f"see its log; take it away with: fusermount3 -uz {mount.path}",
        )
    match error.errno:
        case errno.ENOTCONN:
            return Trouble("its process is gone", f"mount it again: dasfs mount {mount.source} {mount.path} --replace")
        case errno.EACCES | errno.EPERM:
            return Trouble("it belongs to another user", "ask as that user, or mount it with -o allow_other")
    return Trouble(f"its status can't be read: {error.strerror}", "see its log")


def ask_daemon(config_file: str) -> DaemonReport:
    """Return what the daemon of a configuration says. Raises `NotFound` where the file is missing."""
    reader = Reader(config_file)
    config = reader.read()
    troubles = []
    if reader.mistakes:
        more = f" and {len(reader.mistakes) - 1} more" if len(reader.mistakes) > 1 else ""
        troubles.append(
            Trouble(f"{reader.mistakes[0]}{more}", f"'dasfs daemon --config {config_file} --check' lists all mistakes")
        )
    if config is None:
        return DaemonReport(config_file, troubles=tuple(troubles))
    try:
        document = fetch(config.socket, "/status.json")
        return DaemonReport(config_file, document, from_json(document), tuple(troubles))
    except DasfsError as error:
        troubles.append(Trouble(error.message, error.hint))
    except OSError as error:
        troubles.append(_daemon_trouble(config_file, config, error))
    return DaemonReport(config_file, troubles=tuple(troubles))


def _daemon_trouble(config_file: str, config: DaemonConfig, error: OSError) -> Trouble:
    if isinstance(error, PermissionError):
        return Trouble(
            f"this user may not ask the daemon: no access to {config.socket}",
            "run as root, or give a socket in a directory that everybody may enter, as in /run/dasfs, in [status]",
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return Trouble(
            f"the daemon does not run: nobody answers at {config.socket}",
            f"start it: systemctl start dasfs-daemon, or dasfs daemon --config {config_file}",
        )
    return Trouble(f"the daemon can't be asked at {config.socket}: {error.strerror or error}")


class SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_path(self._path) as name:
            self.sock.connect(name)


def fetch(path: str, what: str) -> Mapping[str, Any]:
    """Return the JSON object that the daemon at a socket answers with.

    Raises `DasfsError` where it is stuck or answers something else, and the `OSError` of connecting.
    """
    connection = SocketConnection(path)
    who = "the daemon"
    try:
        connection.connect()
        process, _, _ = _UCRED.unpack(connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        who = f"the daemon (process {process})"
        connection.request("GET", what)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != http.HTTPStatus.OK:
            said = body.decode("utf-8", "replace").strip() or answer.reason
            raise DasfsError(f"{who} is not well: {said}", hint="see its log")
        document = json.loads(body)
        if not isinstance(document, dict):
            raise DasfsError(f"process {process} answers at {path}, and is no daemon of dasfs")
        return document
    except (TimeoutError, BlockingIOError):
        raise DasfsError(
            f"{who} does not answer within {DEADLINE_S:g} s",
            hint="see its log, and restart it: systemctl restart dasfs-daemon",
        ) from None
    except (http.client.HTTPException, ValueError) as error:
        raise DasfsError(f"what answers at {path} is no daemon of dasfs: {error!r}") from error
    finally:
        connection.close()
