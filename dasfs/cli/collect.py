"""`dasfs collect`."""

from datetime import timedelta

import click

from dasfs.cli.common import DURATION, Settings, dataset_argument, json_option, opened_store, store_option
from dasfs.cli.output import Column, count_of, format_size, say, write_json, write_table
from dasfs.dataset.collect import Grace
from dasfs.dataset.collect import collect as collect_garbage

_DEFAULT = Grace()


@click.command()
@dataset_argument
@store_option
@click.option("--dry-run", "-n", is_flag=True, help="Only tell what would be deleted.")
@click.option(
    "--removed",
    type=DURATION,
    default=_DEFAULT.removed,
    metavar="TIME",
    help="Grace of what was removed; readers may still be at it. Default: 24h.",
)
@click.option(
    "--uncommitted",
    type=DURATION,
    default=_DEFAULT.uncommitted,
    metavar="TIME",
    help="Grace of what was never committed; its writer may still be at it. Default: 7d.",
)
@click.option("--log", type=DURATION, default=_DEFAULT.log, metavar="TIME", help="Grace of old commits. Default: 90d.")
@json_option
@click.pass_obj
def collect(
    settings: Settings,
    dataset: str,
    store: str | None,
    dry_run: bool,
    removed: timedelta,
    uncommitted: timedelta,
    log: timedelta,
    as_json: bool,
) -> None:
    """Delete objects that no live revision needs.

    Lists them. A TIME is written as 90s, 30m, 24h or 7d; 0 is for stores that nobody else uses just now.
    """
    grace = Grace(removed=removed, uncommitted=uncommitted, log=log)
    with opened_store(settings, store) as opened:
        report = collect_garbage(opened, dataset, grace=grace, dry_run=dry_run)
    if as_json:
        write_json(
            {
                "dry_run": dry_run,
                "deleted": [{"key": each.key, "size": each.size, "reason": each.reason} for each in report.garbage],
                "size": report.size,
                "aborted_uploads": report.aborted_uploads,
                "unknown": report.unknown,
            }
        )
        return
    columns = [Column("object"), Column("size", size=True), Column("reason")]
    write_table(columns, [(each.key, each.size, each.reason) for each in report.garbage])
    verb = "would delete" if dry_run else "deleted"
    say(f"{verb} {count_of(len(report.garbage), 'object')} ({format_size(report.size)})")
    if report.aborted_uploads:
        say(f"aborted {count_of(report.aborted_uploads, 'unfinished upload')}")
    if report.unknown:
        say(f"left {count_of(report.unknown, 'object')} that dasfs does not know")
