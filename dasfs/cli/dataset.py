"""`dasfs dataset`: create, list, show, log, verify, import, clear, delete."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import click

from dasfs.cli.common import (
    COMPRESSION,
    DATASET,
    RANGE,
    SIZE,
    NumberRange,
    Settings,
    confirm,
    dataset_argument,
    json_option,
    opened_store,
    store_option,
    yes_option,
)
from dasfs.cli.output import (
    Column,
    count_of,
    format_size,
    format_spans,
    format_time,
    say,
    write_fields,
    write_json,
    write_table,
)
from dasfs.cli.progress import Meter
from dasfs.dataset.dataset import Dataset, dataset_names
from dasfs.dataset.foreign import import_dataset
from dasfs.dataset.model import DEFAULT_DATARANGE_SIZE, Commit, Configuration, Snapshot, join_spans
from dasfs.dataset.verify import verify as verify_dataset
from dasfs.errors import Corrupt, NotFound, Unsupported
from dasfs.formats.compression import Compression
from dasfs.stores import Store

_SHOWN_COMMITS: Final = 5
# Each takes a request or two; the store has 32 connections.
_LIST_THREADS: Final = 8


@click.group()
def dataset() -> None:
    """Create, list, check and delete datasets."""


@dataset.command()
@click.argument("name", type=DATASET, metavar="NAME")
@store_option
@click.option(
    "--compression",
    type=COMPRESSION,
    default="none",
    show_default=True,
    metavar="none|zstd[:LEVEL]|lz4",
    help="Compress datapoints, where it pays.",
)
@click.option(
    "--datarange-size",
    type=SIZE,
    default=DEFAULT_DATARANGE_SIZE,
    metavar="SIZE",
    help="About how large a datarange gets. Default: 64MiB.",
)
@click.pass_obj
def create(settings: Settings, name: str, store: str | None, compression: Compression, datarange_size: int) -> None:
    """Create an empty dataset.

    The place of a file:// or sqlite:// store is made where it does not exist.
    """
    with opened_store(settings, store, create=True) as opened:
        configuration = Configuration(compression=compression, datarange_size=datarange_size)
        Dataset(opened, name).log.create(configuration)
        say(f"created dataset {name} in {opened.url}")


@dataset.command("list")
@store_option
@json_option
@click.pass_obj
def list_datasets(settings: Settings, store: str | None, as_json: bool) -> None:
    """List the datasets of a store."""
    with opened_store(settings, store) as opened:
        snapshots = _read_all(opened)
    if as_json:
        write_json([_summary(each) for each in snapshots])
        return
    columns = [
        Column("dataset"),
        Column("datapoints", right=True),
        Column("size", size=True),
        Column("dataranges", right=True),
        Column("revision", right=True),
    ]
    rows = [(each.dataset, each.count, each.data_size, len(each.dataranges), each.revision) for each in snapshots]
    write_table(columns, rows)


def _read_all(store: Store) -> list[Snapshot]:
    """Return the snapshots of all datasets; one that can't be read is told and left out."""

    def read(name: str) -> Snapshot | str | None:
        try:
            return Dataset(store, name).snapshot()
        except NotFound:
            return None
        except (Corrupt, Unsupported) as error:
            return f"dataset {name} can't be read: {error}"

    snapshots = []
    with ThreadPoolExecutor(_LIST_THREADS) as pool:
        for found in pool.map(read, list(dataset_names(store))):
            if isinstance(found, Snapshot):
                snapshots.append(found)
            elif found is not None:
                say(f"dasfs: {found}")
    return snapshots


def _summary(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "dataset": snapshot.dataset,
        "datapoints": snapshot.count,
        "size": snapshot.data_size,
        "stored_size": snapshot.tar_size,
        "dataranges": len(snapshot.dataranges),
        "revision": snapshot.revision,
        "time": snapshot.time,
    }


@dataset.command()
@click.argument("name", type=DATASET, metavar="NAME")
@store_option
@json_option
@click.pass_obj
def show(settings: Settings, name: str, store: str | None, as_json: bool) -> None:
    """Show what a dataset holds, its configuration and its last commits."""
    with opened_store(settings, store) as opened:
        target = Dataset(opened, name)
        snapshot = target.snapshot()
        commits = list(target.log.commits(max(0, snapshot.revision - _SHOWN_COMMITS)))
        url = opened.url
    spans = join_spans((each.first, each.last) for each in snapshot.dataranges)
    gaps = [(left[1] + 1, right[0] - 1) for left, right in pairwise(spans)]
    if as_json:
        write_json(
            _summary(snapshot)
            | {
                "store": url,
                "ranges": [{"first": first, "last": last} for first, last in spans],
                "gaps": [{"first": first, "last": last} for first, last in gaps],
                "next_number": snapshot.next_number,
                "configuration": _configuration(snapshot.configuration),
                "commits": [_describe(each) for each in reversed(commits)],
            }
        )
        return
    write_fields(_fields(snapshot, url, spans, gaps))
    if commits:
        click.echo()
        _write_commits(list(reversed(commits)))


def _fields(
    snapshot: Snapshot, url: str, spans: Sequence[tuple[int, int]], gaps: Sequence[tuple[int, int]]
) -> list[tuple[str, str]]:
    configuration = snapshot.configuration
    missing = sum(last - first + 1 for first, last in gaps)
    lines = [
        ("dataset", snapshot.dataset),
        ("store", url),
        ("datapoints", f"{snapshot.count:,}"),
        ("numbers", format_spans(spans) or "none"),
        ("gaps", f"{format_spans(gaps)} ({count_of(missing, 'number')})" if gaps else "none"),
        ("size", f"{format_size(snapshot.data_size)} ({format_size(snapshot.tar_size)} stored)"),
        ("dataranges", f"{len(snapshot.dataranges):,}"),
        ("next number", str(snapshot.next_number)),
        ("compression", str(configuration.compression)),
        ("datarange size", format_size(configuration.datarange_size)),
    ]
    if snapshot.revision == 0:
        return [*lines, ("revision", "none: datas3t wrote it; 'dasfs dataset import' gives it a log")]
    lines.append(("revision", f"{snapshot.revision} of {format_time(snapshot.time)}"))
    if not configuration.conditional_put:
        lines.append(("writers", "one at a time: the store does not honour conditional writes"))
    return lines


def _configuration(configuration: Configuration) -> dict[str, Any]:
    return {
        "compression": str(configuration.compression),
        "datarange_size": configuration.datarange_size,
        "conditional_put": configuration.conditional_put,
    }


@dataset.command("log")
@click.argument("name", type=DATASET, metavar="NAME")
@store_option
@click.option("--limit", "-n", type=click.IntRange(min=1), metavar="N", help="Only the newest N commits.")
@json_option
@click.pass_obj
def show_log(settings: Settings, name: str, store: str | None, limit: int | None, as_json: bool) -> None:
    """List the commits of a dataset, the newest first; also of a deleted one."""
    with opened_store(settings, store) as opened:
        log = Dataset(opened, name).log
        revision = log.replay().revision
        if revision == 0:
            raise NotFound(f"there is no log of a dataset {name} in {opened.url}")
        commits = list(log.commits(max(0, revision - limit) if limit else 0))
    commits.reverse()
    if as_json:
        write_json([_describe(each) for each in commits])
    else:
        _write_commits(commits)


def _describe(commit: Commit) -> dict[str, Any]:
    """Return one commit for JSON."""
    return {
        "revision": commit.revision,
        "time": commit.time,
        "operation": str(commit.operation),
        "writer": commit.writer,
        "commit_id": commit.commit_id,
        "add": [
            {"first": each.first, "last": each.last, "counter": each.id.counter, "size": each.data_size}
            for each in commit.add
        ],
        "remove": [{"first": each.first, "last": each.last, "counter": each.counter} for each in commit.remove],
        "next_number": commit.next_number,
    }


def _write_commits(commits: Sequence[Commit]) -> None:
    columns = [
        Column("revision", right=True),
        Column("time"),
        Column("operation"),
        Column("writer"),
        Column("change"),
    ]
    write_table(
        columns,
        [(each.revision, format_time(each.time), str(each.operation), each.writer, _change(each)) for each in commits],
    )


def _change(commit: Commit) -> str:
    """Return what a commit did, in a few words."""
    parts = []
    for sign, spans in (
        ("+", [(each.first, each.last) for each in commit.add]),
        ("-", [(each.first, each.last) for each in commit.remove]),
    ):
        if spans:
            parts.append(f"{sign}{format_spans(join_spans(spans), limit=2)}")
    if not parts and commit.next_number is not None:
        parts.append(f"next {commit.next_number}")
    return " ".join(parts)


@dataset.command()
@click.argument("name", type=DATASET, metavar="NAME")
@click.argument("numbers", type=RANGE, required=False, metavar="[FIRST-LAST]")
@store_option
@json_option
@click.pass_context
def verify(ctx: click.Context, name: str, numbers: NumberRange | None, store: str | None, as_json: bool) -> None:
    """Read every byte of a dataset and say what is wrong with which datapoint.

    Exits with 1 when anything is. With FIRST-LAST, the dataranges that hold these numbers are read.
    """
    with opened_store(ctx.ensure_object(Settings), store) as opened:
        snapshot = Dataset(opened, name).snapshot()
        if numbers is not None:
            snapshot = replace(snapshot, dataranges=snapshot.overlapping(numbers.first, numbers.last))
            if not snapshot.dataranges:
                raise NotFound(f"datapoints {numbers} are not in dataset {name}")
        problems = []
        with Meter("verify", snapshot.tar_size) as meter:
            for problem in verify_dataset(opened, name, snapshot, meter.advance):
                problems.append(problem)
                if not as_json:
                    click.echo(str(problem))
    if as_json:
        write_json(
            [{"first": each.first, "last": each.last, "message": each.message, "key": each.key} for each in problems]
        )
    what = f"{count_of(snapshot.count, 'datapoint')}, {format_size(snapshot.tar_size)}"
    say(f"{what}: {count_of(len(problems), 'problem') if problems else 'all well'}")
    if problems:
        ctx.exit(1)


@dataset.command("import")
@click.argument("name", type=DATASET, metavar="NAME")
@store_option
@json_option
@click.pass_obj
def import_foreign(settings: Settings, name: str, store: str | None, as_json: bool) -> None:
    """Give a dataset that datas3t wrote a log and manifests.

    Every byte is read once. A damaged datarange is left out and named. Cut off, it is simply repeated.
    """
    with opened_store(settings, store) as opened:
        size = Dataset(opened, name).snapshot().tar_size
        with Meter("import", size) as meter:
            report = import_dataset(opened, name, meter.advance)
    for left in report.left_out:
        say(f"left out {left.id}: {left.reason}")
    if as_json:
        left_out = [{"datarange": str(each.id), "reason": each.reason} for each in report.left_out]
        write_json(_summary(report.snapshot) | {"left_out": left_out})
        return
    count = count_of(len(report.snapshot.dataranges), "datarange")
    click.echo(f"imported {count_of(report.snapshot.count, 'datapoint')} in {count}")


@dataset.command()
@dataset_argument
@store_option
@yes_option
@click.pass_obj
def clear(settings: Settings, dataset: str, store: str | None, yes: bool) -> None:
    """Remove all datapoints of a dataset."""
    with opened_store(settings, store) as opened:
        target = Dataset(opened, dataset)
        count = target.writable().count
        confirm(f"Remove all {count_of(count, 'datapoint')} of dataset {dataset} in {opened.url}?", yes=yes)
        target.clear()
    say(f"removed {count_of(count, 'datapoint')}; 'dasfs collect {dataset}' frees their space after a day")


@dataset.command()
@dataset_argument
@store_option
@yes_option
@click.pass_obj
def delete(settings: Settings, dataset: str, store: str | None, yes: bool) -> None:
    """Delete a dataset with all its datapoints."""
    with opened_store(settings, store) as opened:
        target = Dataset(opened, dataset)
        count = target.writable().count
        confirm(f"Delete dataset {dataset} in {opened.url} with its {count_of(count, 'datapoint')}?", yes=yes)
        target.delete()
    say(f"deleted dataset {dataset}; 'dasfs collect {dataset}' frees its space after a day")
