"""`dasfs access-log`."""

import os
from collections.abc import Mapping
from typing import Any

import click

from dasfs.cli.common import json_option
from dasfs.cli.mount_client import find_own_mount, post, read_status
from dasfs.cli.output import count_of, say, write_json
from dasfs.errors import InvalidInput
from dasfs.fuse.mountpoint import check_outside


@click.command(name="access-log")
@click.argument("mountpoint", type=click.Path(), metavar="MOUNTPOINT")
@click.argument("file", type=click.Path(), metavar="[FILE]", required=False)
@click.option("--off", is_flag=True, help="Write no longer.")
@json_option
def access_log(mountpoint: str, file: str | None, off: bool, as_json: bool) -> None:
    """Let a mount write down who reads what, or no longer.

    With FILE, each read from now on is a line of JSON at its end; without, it is told where reads are written to. Only
    root and who mounted may change it.
    """
    if file is not None and off:
        raise InvalidInput("--off takes no FILE")
    mount = find_own_mount(mountpoint)
    if file is None and not off:
        _show(read_status(mount).get("access_log"), as_json=as_json)
        return
    if file is not None:
        check_outside(file, mount.path, "the access log")
    ended = post(mount, "/access-log", {"file": None if file is None else os.path.abspath(file)})["ended"]
    if as_json:
        write_json({"file": None if file is None else os.path.abspath(file), "ended": ended})
    elif ended is not None:
        say(f"{ended['file']} is ended: {describe(ended)}")
    elif file is None:
        say(f"{mount.path} had no access log")


def describe(state: Mapping[str, Any]) -> str:
    """Return how an access log is doing."""
    parts = [count_of(state["lines"], "line")]
    if state["dropped"]:
        parts.append(f"{state['dropped']:,} dropped")
    if state["problem"]:
        parts.append(f"can't be written: {state['problem']}")
    return ", ".join(parts)


def _show(state: Mapping[str, Any] | None, *, as_json: bool) -> None:
    if as_json:
        write_json(state)
    elif state is None:
        say("reads are not written down")
    else:
        click.echo(f"{state['file']}\t{describe(state)}")
