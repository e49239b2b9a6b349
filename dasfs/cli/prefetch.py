"""`dasfs prefetch`."""

import re
import sys
import time
from array import array
from typing import Any, Final

import click

from dasfs.cli.common import dataset_argument, json_option, parse_range
from dasfs.cli.output import count_of, format_size, say, write_json
from dasfs.cli.prefetch_client import MountClient, find_client
from dasfs.cli.progress import Meter
from dasfs.errors import AccessDenied, DasfsError, InvalidInput, NotFound
from dasfs.fuse.announcement import State
from dasfs.fuse.announcements import MAX_NUMBERS
from dasfs.fuse.announcing import pack_numbers, parse_numbers

# How often the mount is asked how far it is.
ASK_EVERY_S: Final = 0.2
_RANGE: Final = re.compile(r"[0-9]+(?:(?:-|\.\.)[0-9]+)?", re.ASCII)
# Twenty digits and the end of the line for each number that a mount takes.
_MAX_TEXT: Final = MAX_NUMBERS * 22


@click.command()
@dataset_argument
@click.argument("what", required=False, metavar="[FIRST-LAST|FILE]")
@click.option("--mount", "mountpoint", metavar="MOUNTPOINT", help="Default: the only mount that shows the dataset.")
@click.option("--name", default="", metavar="NAME", help="Announce it beside what others announced of this dataset.")
@click.option("--no-wait", is_flag=True, help="Return at once; the mount goes on by itself.")
@click.option("--cancel", is_flag=True, help="Drop what was announced; with --name only that.")
@json_option
def prefetch(
    dataset: str, what: str | None, mountpoint: str | None, name: str, no_wait: bool, cancel: bool, as_json: bool
) -> None:
    """Fetch what will be read into the cache of a mount, ahead of readers.

    FIRST-LAST are datapoints, both included; FILE has one number a line, in the order in which they will be read, also
    several times ("-" is standard input). Without either it is the whole dataset.

    Returns when all that fits into the cache was fetched; the mount follows the readers and fetches the rest ahead of
    them. Ctrl-C stops it.
    """
    if cancel and (what or no_wait):
        raise InvalidInput("--cancel goes with --mount and --name only")
    body, query = _wanted(what)
    client = find_client(dataset, mountpoint)
    if cancel:
        _cancel(client, dataset, name, as_json=as_json)
        return
    answer = client.post({"dataset": dataset, "name": name, **query}, body)
    if not no_wait:
        answer = _wait(client, answer)
    if as_json:
        write_json(answer | {"mountpoint": client.mountpoint})
    else:
        say(_summary(answer, client.mountpoint))
    if answer["failed"]:
        raise DasfsError(
            f"{count_of(answer['failed'], 'piece')} of {dataset} could not be fetched",
            hint="see the mount's log, and repeat the command",
        )


def _wanted(what: str | None) -> tuple[bytes, dict[str, int]]:
    """Return what to post: the numbers of a file, or the range."""
    if what is None:
        return b"", {}
    if _RANGE.fullmatch(what):
        numbers = parse_range(what)
        return b"", {"first": numbers.first, "last": numbers.last}
    return pack_numbers(_read_numbers(what)), {}


def _read_numbers(path: str) -> "array[int]":
    """Return the numbers in a file. Raises `NotFound`, `AccessDenied`, and `InvalidInput` with the line."""
    shown = "standard input" if path == "-" else path
    try:
        if path == "-":
            text = sys.stdin.buffer.read(_MAX_TEXT)
        else:
            with open(path, "rb") as file:
                text = file.read(_MAX_TEXT)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", hint="give a file of numbers, or a range such as 0-9999") from None
    except PermissionError:
        raise AccessDenied(f"{path} can't be read by this user") from None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path!r} can't be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return parse_numbers(text)
    except InvalidInput as error:
        raise InvalidInput(f"{shown}: {error.message}", hint=error.hint) from None


def _wait(client: MountClient, answer: dict[str, Any]) -> dict[str, Any]:
    """Return how the announcement is once no more of it is fetched before somebody reads."""
    dataset, which = answer["dataset"], answer["id"]
    said = False
    try:
        with Meter(f"prefetch {dataset}", answer["expected_bytes"]) as meter:
            done = 0
            while answer["state"] not in (State.DONE, State.WAITING):
                if answer["state"] == State.AWAY and not said:
                    said = True
                    meter.line(f"{dataset}: the store can't be read just now; waiting for it")
                time.sleep(ASK_EVERY_S)
                answer = client.post({"dataset": dataset, "id": which, "check": 1})
                reached = _reached(answer)
                meter.rename(_title(answer))
                meter.advance(max(reached - done, 0))
                done = max(done, reached)
    except KeyboardInterrupt:
        client.post({"dataset": dataset, "id": which, "cancel": 1})
        raise KeyboardInterrupt("the mount fetches no more of it; what has come stays in its cache") from None
    return answer


def _reached(answer: dict[str, Any]) -> int:
    """Return about how many of the expected bytes are there."""
    if answer["filled_bytes"] is not None:
        return int(answer["filled_bytes"])
    return int(answer["expected_bytes"] * answer["ready"] // max(answer["places"], 1))


def _title(answer: dict[str, Any]) -> str:
    if answer["state"] == State.AWAY:
        return f"prefetch {answer['dataset']}: the store is away"
    return f"prefetch {answer['dataset']}: {answer['ready']:,} of {count_of(answer['places'], 'file')}"


def _cancel(client: MountClient, dataset: str, name: str, *, as_json: bool) -> None:
    answer = client.post({"dataset": dataset, "cancel": 1, **({"name": name} if name else {})})
    if as_json:
        write_json(answer | {"mountpoint": client.mountpoint})
    elif answer["cancelled"]:
        say(f"{dataset}: {client.mountpoint} fetches no more of it ahead")
    else:
        say(f"{dataset}: nothing was announced to {client.mountpoint}")


def _summary(answer: dict[str, Any], mountpoint: str) -> str:
    dataset, ready, places = answer["dataset"], answer["ready"], answer["places"]
    skipped = f"; {count_of(answer['gaps'], 'number')} skipped that no datapoint has" if answer["gaps"] else ""
    fetched = f"{format_size(answer['fetched_bytes'])} fetched"
    if answer["state"] == State.DONE:
        return f"{dataset}: {count_of(places, 'file')} in the cache of {mountpoint}, {fetched}{skipped}"
    rest = "the rest follows as it is read" if answer["state"] == State.WAITING else "it goes on"
    return (
        f"{dataset}: {ready:,} of {count_of(places, 'file')} in the cache of {mountpoint}, {fetched}; {rest}{skipped}"
    )
