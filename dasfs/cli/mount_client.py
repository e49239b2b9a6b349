"""Asking one mount of this host something, in bounded time whatever state it is in."""

import errno
import http.client
import json
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from dasfs.cli.patient_read import PatientRead
from dasfs.cli.status_report import DEADLINE_S, SocketConnection
from dasfs.errors import AccessDenied, DasfsError, DeadlineExceeded, InvalidInput, NotFound, Unsupported
from dasfs.fuse.mountpoint import Mounted, own_mounts

_RESTART: Final = "mount it again with this version when nobody uses it"


def find_own_mount(path: str) -> Mounted:
    """Return the mount of dasfs at `path`. Raises `InvalidInput` where there is none."""
    wanted = os.path.abspath(path)
    # The mount itself is not touched: it may hang.
    places = {wanted, os.path.join(os.path.realpath(os.path.dirname(wanted)), os.path.basename(wanted))}
    if os.path.islink(wanted):
        places.add(os.path.realpath(wanted))
    for mount in own_mounts():
        if mount.path in places:
            return mount
    raise InvalidInput(f"there is no mount of dasfs at {path}", hint="'dasfs status' lists them")


class OwnFile:
    """A file in `.dasfs` of a mount, read again and again."""

    def __init__(self, mount: Mounted, name: str) -> None:
        self.mount = mount
        self._read = PatientRead(os.path.join(mount.path, ".dasfs", name))

    def begin(self) -> None:
        """Start reading, so that several are read at once."""
        self._read.begin()

    def finish(self, deadline: float | None = None) -> dict[str, Any]:
        """Return the JSON in it. `deadline` is monotonic. Raises what `explain` returns."""
        try:
            document = json.loads(self._read.finish(time.monotonic() + DEADLINE_S if deadline is None else deadline))
        except OSError as error:
            raise explain(self.mount, error) from error
        except ValueError as error:
            raise DasfsError(f"{self._read.path} can't be read: {error}") from error
        if not isinstance(document, dict):
            raise DasfsError(f"{self._read.path} is not what a mount of dasfs says")
        return document

    def close(self) -> None:
        self._read.close()


def explain(mount: Mounted, error: OSError) -> DasfsError:
    """Return what it means that a mount's own file can't be read."""
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(
            f"the mount at {mount.path} does not answer within {DEADLINE_S:g} s",
            hint=f"see its log; take it away with: fusermount3 -uz {mount.path}",
        )
    match error.errno:
        case errno.ENOTCONN:
            hint = f"mount it again: dasfs mount {mount.source} {mount.path} --replace"
            return NotFound(f"the process of the mount at {mount.path} is gone", hint=hint)
        case errno.EACCES | errno.EPERM:
            hint = "ask as that user, or mount it with -o allow_other"
            return AccessDenied(f"the mount at {mount.path} belongs to another user", hint=hint)
        case errno.ENOENT:
            return Unsupported(f"the mount at {mount.path} runs a version of dasfs that can't tell this", hint=_RESTART)
    return DasfsError(f"the mount at {mount.path} can't be asked: {error.strerror}", hint="see its log")


def read_status(mount: Mounted) -> dict[str, Any]:
    """Return a mount's status. Raises as `OwnFile.finish`."""
    file = OwnFile(mount, "status.json")
    try:
        file.begin()
        return file.finish()
    finally:
        file.close()


def socket_of(mount: Mounted, status: Mapping[str, Any]) -> str:
    """Return where a mount is told things, as its status says. Raises `Unsupported`."""
    place = status.get("control")
    if not isinstance(place, str):
        raise Unsupported(f"the mount at {mount.path} has no socket to be told things at", hint=_RESTART)
    return place


def post(mount: Mounted, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send JSON to the socket of a mount and return its answer. Raises the `DasfsError` that says what was wrong."""
    place = socket_of(mount, read_status(mount))
    try:
        return send(mount, place, what, json.dumps(body).encode(), "application/json", timeout_s=DEADLINE_S)
    except NotFound as error:
        raise Unsupported(error.message, hint=_RESTART) from error


def send(mount: Mounted, place: str, what: str, body: bytes, content_type: str, *, timeout_s: float) -> dict[str, Any]:
    """Post `body` to the socket `place` of a mount and return the JSON that it answers.

    Raises `InvalidInput`, `NotFound`, `AccessDenied` as the mount says, `DeadlineExceeded`, `DasfsError`.
    """
    connection = SocketConnection(place)
    connection.timeout = timeout_s
    try:
        connection.request("POST", what, body, {"Content-Type": content_type})
        answer = connection.getresponse()
        said = answer.read().decode("utf-8", "replace")
        if answer.status != http.HTTPStatus.OK:
            raise _refusal(answer.status, f"{mount.path}: {said.strip() or answer.reason}")
        document = json.loads(said)
        if not isinstance(document, dict):
            raise DasfsError(f"what answers at {place} is no mount of dasfs")
        return document
    except DasfsError:
        raise  # ours are the builtin ones as well
    except (TimeoutError, BlockingIOError):
        raise DeadlineExceeded(f"the mount at {mount.path} does not answer", hint="see its log") from None
    except PermissionError as error:
        hint = "do it as root, or as the user who mounted it"
        raise AccessDenied(f"this user may not tell the mount at {mount.path} anything", hint=hint) from error
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotFound(f"the mount at {mount.path} has ended: nobody answers at {place}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DasfsError(f"the socket of the mount at {mount.path} failed: {error}", hint="see its log") from error
    finally:
        connection.close()


def _refusal(status: int, said: str) -> DasfsError:
    match status:
        case http.HTTPStatus.BAD_REQUEST:
            return InvalidInput(said)
        case http.HTTPStatus.FORBIDDEN:
            return AccessDenied(said)
        case http.HTTPStatus.NOT_FOUND:
            return NotFound(said)
    return DasfsError(said)
