"""Talking to the process of a mount of this host, over its socket, in bounded time whatever state it is in."""

import errno
import http.client
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from dasfs.cli.patient_read import PatientRead
from dasfs.cli.status_report import DEADLINE_S, SocketConnection
from dasfs.errors import AccessDenied, DasfsError, DeadlineExceeded, InvalidInput, NotFound
from dasfs.fuse.announcing import BINARY, PATH
from dasfs.fuse.mountpoint import Mounted, own_mounts

# Longer than an operation of the mount may take, unless it was told otherwise.
TIMEOUT_S: Final = 60.0
_ERRORS: Final[Mapping[int, type[DasfsError]]] = {
    HTTPStatus.BAD_REQUEST: InvalidInput,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.FORBIDDEN: AccessDenied,
}


@dataclass(frozen=True, slots=True)
class MountClient:
    """One mount that can be talked to."""

    mountpoint: str
    socket: str

    def post(self, query: Mapping[str, str | int], body: bytes = b"") -> dict[str, Any]:
        """Post to `/prefetch`, and return the answer. Raises `DasfsError`."""
        try:
            with closing(SocketConnection(self.socket)) as connection:
                connection.timeout = TIMEOUT_S
                connection.request("POST", f"{PATH}?{urlencode(query)}", body, {"Content-Type": BINARY})
                answer = connection.getresponse()
                return self._read(answer.status, answer.read())
        except DasfsError:
            raise  # ours are the builtin ones as well
        except (TimeoutError, BlockingIOError):
            raise DeadlineExceeded(f"the mount at {self.mountpoint} does not answer", hint="see its log") from None
        except PermissionError:
            raise AccessDenied(
                f"this user may not talk to the mount at {self.mountpoint}", hint="run as who mounted it, or as root"
            ) from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotFound(f"the mount at {self.mountpoint} has ended: nobody answers at {self.socket}") from None
        except (http.client.HTTPException, OSError) as error:
            raise DasfsError(f"the mount at {self.mountpoint} broke off: {error}", hint="see its log") from error

    def _read(self, status: int, body: bytes) -> dict[str, Any]:
        if status != HTTPStatus.OK:
            message = body.decode("utf-8", "replace").strip() or f"it answered {status}"
            raise _ERRORS.get(status, DasfsError)(f"{self.mountpoint}: {message}")
        try:
            document = json.loads(body)
        except ValueError as error:
            raise DasfsError(f"what answers at {self.socket} is no mount of dasfs") from error
        if not isinstance(document, dict):
            raise DasfsError(f"what answers at {self.socket} is no mount of dasfs")
        return document


def find_client(dataset: str, mountpoint: str | None) -> MountClient:
    """Return the mount at `mountpoint`, or the only one of this host, that shows a dataset.

    Raises `InvalidInput` where nothing is mounted there, or several show it; `NotFound` where none does; and what is
    wrong with the one that was asked for.
    """
    mounts = own_mounts() if mountpoint is None else [_mount_at(mountpoint)]
    found: list[MountClient] = []
    problems: list[DasfsError] = []
    for client in _clients(mounts):
        try:
            if isinstance(client, DasfsError):
                raise client
            client.post({"dataset": dataset, "check": 1})
            found.append(client)
        except DasfsError as error:
            if mountpoint is not None:
                raise
            if not isinstance(error, NotFound):
                problems.append(error)
    if len(found) > 1:
        places = ", ".join(each.mountpoint for each in found)
        raise InvalidInput(f"{dataset} is shown by several mounts: {places}", hint="choose one with --mount")
    if not found:
        told = "".join(f"; {each}" for each in problems)
        raise NotFound(f"no mount of this host shows the dataset {dataset}{told}", hint="mount it first: dasfs mount")
    return found[0]


def _mount_at(path: str) -> Mounted:
    """Return the mount at a path, which is not touched: it may hang."""
    mounts = {each.path: each for each in own_mounts()}
    wanted = os.path.abspath(path)
    found = mounts.get(wanted) or mounts.get(
        os.path.join(os.path.realpath(os.path.dirname(wanted)), os.path.basename(wanted))
    )
    if found is None and os.path.islink(wanted):
        found = mounts.get(os.path.realpath(wanted))
    if found is None:
        raise InvalidInput(f"no mount of dasfs stands at {path}", hint="'dasfs status' shows those of this host")
    return found


def _clients(mounts: Sequence[Mounted]) -> list[MountClient | DasfsError]:
    """Return for each mount how to talk to it, or why that can't be. Takes `DEADLINE_S` at most."""
    reads = [PatientRead(os.path.join(mount.path, ".dasfs", "status.json")) for mount in mounts]
    deadline = time.monotonic() + DEADLINE_S
    try:
        for read in reads:
            read.begin()
        return [_client(mount, read, deadline) for mount, read in zip(mounts, reads, strict=True)]
    finally:
        for read in reads:
            read.close()


def _client(mount: Mounted, read: PatientRead, deadline: float) -> MountClient | DasfsError:
    path = mount.path
    try:
        control = json.loads(read.finish(deadline)).get("control")
    except TimeoutError:
        return DeadlineExceeded(f"the mount at {path} does not answer within {DEADLINE_S:g} s", hint="see its log")
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            again = f"mount it again: dasfs mount {mount.source} {path} --replace"
            return DasfsError(f"the process of the mount at {path} is gone", hint=again)
        if error.errno in (errno.EACCES, errno.EPERM):
            return AccessDenied(f"the mount at {path} belongs to another user", hint="ask as that user")
        return DasfsError(f"the status of the mount at {path} can't be read: {error.strerror}", hint="see its log")
    except (ValueError, AttributeError):
        control = None
    if not isinstance(control, str):
        return DasfsError(f"the mount at {path} has no socket", hint="see its log; it may be of an older dasfs")
    return MountClient(path, control)
