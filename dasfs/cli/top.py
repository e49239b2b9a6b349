"""`dasfs top`."""

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import click

from dasfs.cli.common import json_option
from dasfs.cli.mount_client import OwnFile, find_own_mount
from dasfs.cli.output import format_time, write_json
from dasfs.cli.status_report import DEADLINE_S
from dasfs.cli.top_sample import MountSample, compare, describe
from dasfs.cli.top_screen import Line, lay_out
from dasfs.errors import DasfsError, InvalidInput, NotFound
from dasfs.fuse.mountpoint import Mounted, own_mounts

# A mount goes on counting for two minutes after a look.
MAX_INTERVAL_S: Final = 60.0


@click.command()
@click.argument("mountpoint", type=click.Path(), metavar="[MOUNTPOINT]", required=False)
@click.option("--interval", "-i", type=float, default=1.0, metavar="SECONDS", help="Look so often. Default: 1.")
@click.option("--once", is_flag=True, help="Show one sample and end.")
@json_option
def top(mountpoint: str | None, interval: float, once: bool, as_json: bool) -> None:
    """Show live who reads what at which rate.

    Ends with q or Ctrl-C. All mounts of this host are shown where none is named. With --json one sample is written.
    """
    if not 0.1 <= interval <= MAX_INTERVAL_S:
        raise InvalidInput(f"{interval:g} s can't be waited between two looks", hint=f"give 0.1 to {MAX_INTERVAL_S:g}")
    mounts = own_mounts() if mountpoint is None else [find_own_mount(mountpoint)]
    if not mounts:
        raise NotFound("nothing of dasfs is mounted on this host", hint="run: dasfs mount STORE MOUNTPOINT")
    with contextlib.closing(Looker(mounts)) as looker:
        if once or as_json:
            looker.look()
            time.sleep(interval)
            _show_once(looker.look(), as_json=as_json)
            return
        _watch(looker, interval)


class Looker:
    """Looks at mounts again and again; one that hangs costs a child process, however often it is looked at."""

    def __init__(self, mounts: list[Mounted]) -> None:
        self._files = [OwnFile(mount, "top.json") for mount in mounts]
        self._before: list[dict[str, Any] | None] = [None for _ in mounts]

    def look(self) -> list[MountSample]:
        """Return what each mount did since the last look; nothing where there was none.

        Raises the `DasfsError` of the first mount where none of them can be looked at.
        """
        deadline = time.monotonic() + DEADLINE_S
        for file in self._files:
            file.begin()
        samples: list[MountSample] = []
        errors: list[DasfsError] = []
        for place, file in enumerate(self._files):
            try:
                after = file.finish(deadline)
                samples.append(compare(file.mount.path, file.mount.source, self._before[place] or after, after))
                self._before[place] = after
            except DasfsError as error:
                errors.append(error)
                self._before[place] = None
                samples.append(MountSample(file.mount.path, file.mount.source, problem=str(error)))
            except (AttributeError, KeyError, TypeError) as error:
                raise DasfsError(f"the mount at {file.mount.path} runs another version of dasfs: {error!r}") from error
        if len(errors) == len(samples):
            raise errors[0]
        return samples

    def close(self) -> None:
        for file in self._files:
            file.close()


def _show_once(samples: list[MountSample], *, as_json: bool) -> None:
    if as_json:
        write_json({"time": format_time(datetime.now(UTC)), "mounts": [describe(each) for each in samples]})
        return
    width = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None
    for line in lay_out(samples, width, None):
        click.echo(line.text)


def _watch(looker: Looker, interval_s: float) -> None:
    """Show a new sample every `interval_s`, until q or Ctrl-C."""
    interrupted = False

    def interrupt(*_: object) -> None:
        # Python drops what is raised while it forks, which happens here at every look.
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGINT, interrupt)
        looker.look()
        with _keys() as is_ended, _screen() as show:
            begun = time.monotonic()
            while not (interrupted or is_ended(max(0.0, begun + interval_s - time.monotonic()))):
                begun = time.monotonic()
                show(looker.look())
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one has nothing to end any more


@contextmanager
def _screen() -> Iterator[Callable[[list[MountSample]], None]]:
    """Hand out what shows one sample after another: in place on a terminal, one below the other elsewhere."""
    if not sys.stdout.isatty():

        def write(samples: list[MountSample]) -> None:
            click.echo("\n".join(line.text for line in lay_out(samples, None, None)) + "\n")

        yield write
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, markup=False)
    # No thread of its own: mounts are asked by forking.
    with Live(console=console, auto_refresh=False, screen=True) as live:

        def show(samples: list[MountSample]) -> None:
            size = console.size
            live.update(_text(lay_out(samples, size.width, size.height - 1)), refresh=True)

        yield show


def _text(lines: list[Line]) -> Any:
    from rich.text import Text

    text = Text(no_wrap=True, overflow="crop")
    for line in lines:
        text.append(f"{line.text}\n", line.style)
    return text


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Hand out what waits for some seconds and returns whether q was pressed meanwhile, where there is a keyboard."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):

        def sleep(seconds: float) -> bool:
            time.sleep(seconds)
            return False

        yield sleep
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield lambda seconds: _is_quit(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _is_quit(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        pressed = os.read(descriptor, 64)
        if not pressed or b"q" in pressed.lower():
            return True
    return False
