"""Switching the access log of a running mount: `POST /access-log` on its socket.

    {"file": "/var/log/dasfs/access.log"}     from now on reads are written there
    {"file": null}                            no longer

The answer is the state of the log that was ended, or null. Root and who mounted may do it, and nobody else whom the
socket lets in: the mount writes where it is told to.

**Concurrency:** called in the threads of `dasfs.endpoint`.
"""

import dataclasses
import json
import os
from http import HTTPStatus

from dasfs.endpoint import JSON, Answer, Posted
from dasfs.errors import AccessDenied, InvalidInput
from dasfs.fuse.access_log import AccessLog
from dasfs.fuse.mountpoint import check_outside
from dasfs.fuse.recorder import Recorder


class AccessLogSwitch:
    """Begins and ends the access log of one mount, whose process is of the user `uid`."""

    def __init__(self, recorder: Recorder, mountpoint: str, uid: int) -> None:
        self._recorder = recorder
        self._mountpoint = mountpoint
        self._uid = uid

    def receive(self, posted: Posted) -> Answer:
        """Do what was posted. Raises `AccessDenied`, `InvalidInput`, and what opening the file raises."""
        if posted.peer is None or posted.peer.uid not in (0, self._uid):
            raise AccessDenied("only root and who mounted may switch the access log")
        path = parse_switch(posted.body)
        before = self._recorder.log_to(None if path is None else self._open(path))
        if before is not None:
            before.close()
        ended = None if before is None else dataclasses.asdict(before.state())
        return Answer(HTTPStatus.OK, json.dumps({"ended": ended}).encode() + b"\n", JSON)

    def _open(self, path: str) -> AccessLog:
        check_outside(path, self._mountpoint, "the access log")
        return AccessLog(path, self._recorder.place_of, self._recorder.processes)


def parse_switch(body: bytes) -> str | None:
    """Return the file that is asked for, or None to end the log. Raises `InvalidInput`."""
    try:
        document = json.loads(body)
        path = document["file"]
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(
            "this says nothing about an access log", hint='send {"file": PATH} or {"file": null}'
        ) from error
    if path is not None and not (isinstance(path, str) and os.path.isabs(path) and "\0" not in path):
        raise InvalidInput(f"{path!r} is not the absolute path of a file")
    return path
