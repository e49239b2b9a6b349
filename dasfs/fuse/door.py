"""Where a mount is asked how it is, and told what will be read: on its Unix socket, and on a port if it has one.

**Concurrency:** `open_door` belongs to the trio thread; answers are made in the threads of `dasfs.endpoint`, and what
they show in the trio thread. A main loop that is stuck is told as such within `LOOP_TIMEOUT_S`.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar

from dasfs.endpoint import JSON, Access, Address, Answer, Endpoint, Peer, Receiver, open_port, open_socket, text_answer
from dasfs.errors import DasfsError
from dasfs.fuse.metrics import Requests, render_metrics
from dasfs.fuse.status import Status
from dasfs.loop import LoopQuestion
from dasfs.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

T = TypeVar("T")

# Far above what any step of the main loop takes, and below the 10 s that Prometheus waits.
LOOP_TIMEOUT_S: Final = 3.0
# Where root's mounts that let others in have their sockets: the way to a cache directory is closed to others.
SHARED_DIRECTORY: Final = "/run/dasfs-mounts"


class Door:
    """What a mount answers over HTTP, by path. Made in the trio thread; who has more to answer adds to it.

    `pages` are shown on the socket and on the port; `receivers` take what is posted on the socket.
    """

    def __init__(self, status: Status, requests: Requests) -> None:
        metrics = self.question(lambda: render_metrics(status, requests, process=True))
        document = self.question(status.render)
        problems = self.question(lambda: [str(each) for each in status.problems()])
        nothing = self.question(tuple[str, ...])
        self.receivers: dict[str, Receiver] = {}
        self.pages: dict[str, Callable[[], Answer]] = {
            "/metrics": lambda: Answer(HTTPStatus.OK, metrics(), CONTENT_TYPE),
            "/status.json": lambda: Answer(HTTPStatus.OK, document(), JSON),
            "/health": lambda: _health(problems()),
            "/live": lambda: _health(nothing()),
        }

    @staticmethod
    def question(show: Callable[[], T]) -> Callable[[], T]:
        """Return what asks `show` in the trio thread, and raises what asking the main loop raises."""
        return partial(LoopQuestion.ask, LoopQuestion(show, timeout_s=LOOP_TIMEOUT_S))

    def show_json(self, show: Callable[[], bytes]) -> Callable[[], Answer]:
        """Return a page that is the JSON which `show` makes in the trio thread."""
        document = self.question(show)
        return lambda: Answer(HTTPStatus.OK, document(), JSON)

    def answer(self, path: str) -> Answer | None:
        """Return what is at `path`. Raises what asking the main loop raises."""
        page = self.pages.get(path)
        return None if page is None else page()


def _health(problems: Sequence[str]) -> Answer:
    return text_answer(HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK, *(problems or ["ok"]))


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may ask on the socket: who mounted, root, and with `allow_other` whoever may read the mount's directories.

    `mode` is theirs, `uid` and `gid` who owns them.
    """

    mounted_by: int
    allow_other: bool
    uid: int
    gid: int
    mode: int

    def admits(self, peer: Peer) -> bool:
        if peer.uid in (0, self.mounted_by):
            return True
        shift = 6 if peer.uid == self.uid else 3 if self.gid in peer.groups else 0
        return self.allow_other and self.mode >> shift & 0o5 == 0o5


@dataclass(frozen=True, slots=True)
class SocketPlan:
    """Where the socket of a mount should be, the best place first, and for whom. Not `required`: it can do without."""

    places: tuple[str, ...]
    required: bool
    admission: Admission


def plan_socket(given: str | None, cache: str, mountpoint: str, admission: Admission) -> SocketPlan:
    """Return where the socket goes: where the user says, or beside the cache, which this mount has locked."""
    if given is not None:
        return SocketPlan((given,), required=True, admission=admission)
    place = os.path.join(cache, "control.sock")
    if not (admission.allow_other and admission.mounted_by == 0):
        return SocketPlan((place,), required=False, admission=admission)
    digest = hashlib.blake2b(os.fsencode(mountpoint), digest_size=4).hexdigest()
    shared = f"{SHARED_DIRECTORY}/{os.path.basename(mountpoint)[:40]}-{digest}.sock"
    return SocketPlan((shared, place), required=False, admission=admission)


@contextmanager
def open_door(door: Door, status: Status, plan: SocketPlan, port: Address | None) -> Iterator[None]:
    """Answer until the block ends on a socket, and at `port` if there is one; `status` tells where.

    Raises as `open_socket` where the socket is required, and as `open_port`.
    """
    with ExitStack() as stack:
        endpoint = _open_first(door, plan)
        if endpoint is not None:
            stack.enter_context(closing(endpoint))
            status.control = endpoint.name
        if port is not None:
            status.options["metrics"] = stack.enter_context(closing(open_port(port, door.answer))).name
        yield


def _open_first(door: Door, plan: SocketPlan) -> Endpoint | None:
    """Return a socket at the first place that can have one, or None."""
    access = Access(door.receivers, plan.admission.admits, 0o666 if plan.admission.allow_other else 0o600)
    problem: DasfsError | None = None
    for place in plan.places:
        try:
            return open_socket(place, door.answer, access, hint="give another one with -o control=PATH")
        except DasfsError as error:
            if plan.required:
                raise
            log.debug("no socket at %s: %s", place, error)
            problem = error
    log.warning("there is no control socket: %s", problem)
    return None
