"""`dasfs doctor`."""

import contextlib
import os
import socket
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from dasfs import config as configuration
from dasfs.cli.common import STORE, Settings, json_option, parse_size
from dasfs.cli.doctor.disk import check_disk, look_at_disk
from dasfs.cli.doctor.facts import look_at_machine
from dasfs.cli.doctor.finding import Finding, Verdict
from dasfs.cli.doctor.machine import check_machine
from dasfs.cli.doctor.mounts import MountFacts, check_mount, look_at_read_ahead
from dasfs.cli.mount_options import DEFAULT_CACHE_SIZE, DEFAULT_DEADLINE_S, base_of_caches
from dasfs.cli.output import count_of, format_time, say, write_json
from dasfs.cli.status_report import Asker, MountReport
from dasfs.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

_VERDICT_WIDTH: Final = 9
_CHECK_WIDTH: Final = 18
_STYLES: Final = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "red"}


@click.command()
@click.argument("store", type=STORE, metavar="[STORE]", required=False)
@click.option("--mount", "mountpoint", type=click.Path(), metavar="MNT", help="Look at this mount and at no other.")
@click.option("--cache-dir", metavar="DIR", help="Look at the disk of this directory. Default: where caches would be.")
@click.option("--write", is_flag=True, help="Also write to the store, below dasfs-doctor-..., and delete it again.")
@json_option
@click.pass_context
def doctor(
    context: click.Context,
    store: str | None,
    mountpoint: str | None,
    cache_dir: str | None,
    write: bool,
    as_json: bool,
) -> None:
    """Check this machine, its mounts and a store; say what to change.

    A line for each check: ok, warning or problem, with what to do. Needs no rights; the store is $DASFS_STORE where
    none is given, and without one that part is left out. Exit code 1 when there is a problem.
    """
    settings = context.find_object(Settings) or Settings()
    wanted = store or settings.config.store
    if write and not wanted:
        raise InvalidInput("--write needs a store to write to", hint="give its URL or name")
    findings = _findings(settings, wanted, mountpoint, cache_dir, write=write)
    found = list(findings) if as_json else list(_shown(findings))
    problems = sum(each.verdict is Verdict.PROBLEM for each in found)
    warnings = sum(each.verdict is Verdict.WARNING for each in found)
    if as_json:
        write_json(_document(found, problems, warnings))
    else:
        say(f"{count_of(problems, 'problem')}, {count_of(warnings, 'warning')}")
    context.exit(1 if problems else 0)


def _findings(
    settings: Settings, store: str | None, mountpoint: str | None, cache_dir: str | None, *, write: bool
) -> Iterator[Finding]:
    machine = look_at_machine()
    yield from check_machine(machine, DEFAULT_DEADLINE_S)
    mounts = _look_at_mounts(mountpoint)
    for mount in mounts:
        yield from check_mount(mount, machine.timeouts)
    for directory, capacity in _caches(settings, mounts, cache_dir, any_mount=mountpoint is None).items():
        yield from check_disk(look_at_disk(directory), capacity)
    if store is not None:
        yield from _examine_store(settings, store, write=write)


def _look_at_mounts(mountpoint: str | None) -> list[MountFacts]:
    """Return the mounts of this host, or the one that is asked for. Raises `InvalidInput` where there is none."""
    with contextlib.closing(Asker(None)) as asker:
        reports: tuple[MountReport, ...] = asker.ask().mounts
    if mountpoint is not None:
        path = os.path.abspath(mountpoint)
        reports = tuple(each for each in reports if each.path in (path, os.path.realpath(path)))
        if not reports:
            raise InvalidInput(f"there is no mount of dasfs at {mountpoint}", hint="'dasfs status' lists them")
    return [MountFacts(each, look_at_read_ahead(each.path)) for each in reports]


def _caches(settings: Settings, mounts: list[MountFacts], cache_dir: str | None, *, any_mount: bool) -> dict[str, int]:
    """Return the cache directories that count, and how large their caches may get."""
    size = parse_size(settings.config.mount.cache_size or DEFAULT_CACHE_SIZE)
    if cache_dir is not None:
        return {os.path.abspath(cache_dir): size}
    used: dict[str, int] = {}
    for mount in mounts:
        options = (mount.report.document or {}).get("options", {})
        if "cache_directory" in options:
            used[options["cache_directory"]] = options["cache_size"]
    return used or ({base_of_caches(settings.config.mount): size} if any_mount else {})


def _examine_store(settings: Settings, store: str, *, write: bool) -> Iterator[Finding]:
    from dasfs.cli.doctor.store import check_store
    from dasfs.stores import open_store

    location = configuration.resolve_store(settings.config, store)
    with open_store(location.url, location.options) as opened:
        yield from check_store(opened, write=write)


def _shown(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Pass findings on, each shown as soon as it is there: some take seconds."""
    console = None
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False, markup=False)
    for finding in findings:
        if console is None:
            click.echo(f"{finding.verdict}\t{finding.check}\t{finding.line}")
        else:
            _print(console, finding)
        yield finding


def _print(console: "Console", finding: Finding) -> None:
    from rich.text import Text

    room = max(20, console.width - _VERDICT_WIDTH - _CHECK_WIDTH)
    check = finding.check
    if len(check) >= _CHECK_WIDTH:
        console.print(Text(f"{'':{_VERDICT_WIDTH}}{check}"), soft_wrap=True)
        check = ""
    verdict = f"{finding.verdict:<{_VERDICT_WIDTH}}"
    for text, style in ((finding.message, ""), (finding.hint or "", "yellow")):
        for part in textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False):
            line = Text(verdict, _STYLES[finding.verdict])
            console.print(line.append(f"{check:<{_CHECK_WIDTH}}", "dim").append(part, style), soft_wrap=True)
            verdict, check = " " * _VERDICT_WIDTH, ""


def _document(found: list[Finding], problems: int, warnings: int) -> dict[str, object]:
    return {
        "host": socket.gethostname(),
        "time": format_time(datetime.now(UTC)),
        "problems": problems,
        "warnings": warnings,
        "checks": [
            {
                "check": each.check,
                "verdict": each.verdict,
                "message": each.message,
                "hint": each.hint,
                "measured": dict(each.measured),
            }
            for each in found
        ],
    }
