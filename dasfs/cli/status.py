"""`dasfs status`."""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from dasfs.cli.common import json_option
from dasfs.cli.output import format_time, write_json
from dasfs.cli.status_report import Asker, MountReport, Report, Trouble
from dasfs.cli.status_screen import Line, lay_out
from dasfs.errors import InvalidInput, NotFound
from dasfs_daemon.config import DEFAULT_FILE

if TYPE_CHECKING:
    from rich.text import Text

DEFAULT_INTERVAL_S: Final = 2.0


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(),
    metavar="FILE",
    help=f"The daemon's configuration. Default: {DEFAULT_FILE}, if it is there.",
)
@json_option
@click.option(
    "--watch",
    "-w",
    "interval",
    type=float,
    is_flag=False,
    flag_value=DEFAULT_INTERVAL_S,
    metavar="[SECONDS]",
    help="Show it again and again, until Ctrl-C. Default: every 2 seconds.",
)
@click.pass_context
def status(context: click.Context, file: str | None, as_json: bool, interval: float | None) -> None:
    """Show how the daemon and the mounts of this host are doing.

    Answers within seconds, whatever state they are in. Exit code 1 when something is wrong.
    """
    if interval is not None and not 0.1 <= interval <= 86_400:
        raise InvalidInput(f"{interval:g} s can't be waited between two looks", hint="give 0.1 to 86400")
    if file is not None and not os.path.exists(file):
        raise NotFound(f"{file}: no such configuration file", hint="see docs/daemon.md for one")
    asker = Asker(file or (DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None))
    try:
        if interval is None:
            report = asker.ask()
            _show(report, as_json=as_json)
            context.exit(1 if report.problems else 0)
        with _shower(as_json=as_json) as show:
            _watch(asker, show, interval)
    finally:
        asker.close()


def _watch(asker: Asker, show: Callable[[Report], None], interval_s: float) -> None:
    """Show a new report every `interval_s`, until Ctrl-C."""
    try:
        while True:
            begun = time.monotonic()
            show(asker.ask())
            time.sleep(max(0.0, begun + interval_s - time.monotonic()))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one has nothing to end any more


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        write_json(_document(report))
    elif sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(_text(lay_out(report, console.width)), soft_wrap=True)
    else:
        for line in lay_out(report, None):
            click.echo(_plain(line))


@contextmanager
def _shower(*, as_json: bool) -> Iterator[Callable[[Report], None]]:
    """Hand out what shows one report after another: in place on a terminal, one below the other elsewhere."""
    if as_json:
        yield lambda report: click.echo(json.dumps(_document(report)))
    elif not sys.stdout.isatty():

        def show(report: Report) -> None:
            _show(report, as_json=False)
            click.echo()

        yield show
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console(highlight=False)
        # No thread of its own: the report is asked by forking.
        with Live(console=console, auto_refresh=False, screen=False, vertical_overflow="ellipsis") as live:
            yield lambda report: live.update(_text(lay_out(report, console.width)), refresh=True)


def _text(lines: list[Line]) -> "Text":
    from rich.text import Text

    text = Text()
    for number, line in enumerate(lines):
        text.append("\n" if number else "")
        is_title = not line.name.startswith(" ")
        text.append(line.name, f"bold {line.tone}" if is_title else "dim")
        text.append(line.text, "dim" if is_title else line.tone)
    return text


def _plain(line: Line) -> str:
    return f"{line.name}{line.text}".rstrip()


def _document(report: Report) -> dict[str, Any]:
    """Return a report as one JSON document; what daemon and mounts said stands in it as they said it."""
    daemon = report.daemon
    return {
        "host": report.host,
        "time": format_time(report.time),
        "healthy": report.problems == 0,
        "problems": report.problems,
        "daemon": None
        if daemon is None
        else {
            "config_file": daemon.config_file,
            "problems": [dataclasses.asdict(each) for each in daemon.troubles],
            "state": daemon.document,
        },
        "mounts": [
            {
                "mountpoint": mount.path,
                "store": mount.store,
                "readable": mount.document is not None,
                "problems": [dataclasses.asdict(each) for each in _told(mount)],
                "status": mount.document,
            }
            for mount in report.mounts
        ],
    }


def _told(mount: MountReport) -> list[Trouble]:
    return [mount.trouble] if mount.secret and mount.trouble else list(mount.troubles())
