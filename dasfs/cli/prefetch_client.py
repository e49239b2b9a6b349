"""Which mount of this host shows a dataset, and telling it what will be read."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from dasfs.cli.mount_client import OwnFile, find_own_mount, send, socket_of
from dasfs.cli.status_report import DEADLINE_S
from dasfs.errors import DasfsError, InvalidInput, NotFound
from dasfs.fuse.announcing import BINARY, PATH
from dasfs.fuse.mountpoint import Mounted, own_mounts

# Longer than an operation of the mount may take, unless it was told otherwise.
TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class MountClient:
    """One mount that can be told what will be read."""

    mount: Mounted
    socket: str

    @property
    def mountpoint(self) -> str:
        return self.mount.path

    def post(self, query: Mapping[str, str | int], body: bytes = b"") -> dict[str, Any]:
        """Post to `/prefetch`, and return the answer. Raises as `send`."""
        return send(self.mount, self.socket, f"{PATH}?{urlencode(query)}", body, BINARY, timeout_s=TIMEOUT_S)


def find_client(dataset: str, mountpoint: str | None) -> MountClient:
    """Return the mount at `mountpoint`, or the only one of this host, that shows a dataset.

    Raises `InvalidInput` where nothing is mounted there, or several show it; `NotFound` where none does; and what is
    wrong with the one that was asked for.
    """
    mounts = own_mounts() if mountpoint is None else [find_own_mount(mountpoint)]
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
            if error is client or not isinstance(error, NotFound):
                problems.append(error)
    if len(found) > 1:
        places = ", ".join(each.mountpoint for each in found)
        raise InvalidInput(f"{dataset} is shown by several mounts: {places}", hint="choose one with --mount")
    if not found:
        told = "".join(f"; {each}" for each in problems)
        raise NotFound(f"no mount of this host shows the dataset {dataset}{told}", hint="mount it first: dasfs mount")
    return found[0]


def _clients(mounts: list[Mounted]) -> list[MountClient | DasfsError]:
    """Return for each mount how to talk to it, or why that can't be. Takes `DEADLINE_S` at most."""
    files = [OwnFile(mount, "status.json") for mount in mounts]
    deadline = time.monotonic() + DEADLINE_S
    try:
        for file in files:
            file.begin()
        return [_client(file, deadline) for file in files]
    finally:
        for file in files:
            file.close()


def _client(file: OwnFile, deadline: float) -> MountClient | DasfsError:
    try:
        return MountClient(file.mount, socket_of(file.mount, file.finish(deadline)))
    except DasfsError as error:
        return error
