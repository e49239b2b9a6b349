"""`dasfs put`."""

import gc
import time
from typing import Any, Final

import click

from dasfs.cli.common import (
    SIZE,
    Settings,
    dataset_argument,
    json_option,
    opened_store,
    store_option,
)
from dasfs.cli.output import count_of, format_size, format_span, format_spans, say, skipped_files, write_json
from dasfs.cli.progress import Meter
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Datarange
from dasfs.dataset.put import DEFAULT_JOBS, PutOptions, PutResult
from dasfs.dataset.put import put as put_sources
from dasfs.dataset.sources import Sources, find_sources

# With Python's own 700 a million sources are searched for cycles again and again: a seventh of the time to find them.
GC_THRESHOLD: Final = 100_000


@click.command()
@dataset_argument
@click.argument("paths", nargs=-1, required=True, type=click.Path(readable=False), metavar="PATH...")
@store_option
@click.option("--datarange-size", type=SIZE, metavar="SIZE", help="Size of a datarange. Default: the dataset's.")
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, 64),
    default=DEFAULT_JOBS,
    show_default=True,
    help="Dataranges that are uploaded at once.",
)
@click.option("--no-unpack", is_flag=True, help="Put TAR files as they are, not their members.")
@json_option
@click.pass_obj
def put(
    settings: Settings,
    dataset: str,
    paths: tuple[str, ...],
    store: str | None,
    datarange_size: int | None,
    jobs: int,
    no_unpack: bool,
    as_json: bool,
) -> None:
    """Pack files into a dataset and upload them now.

    A PATH is a file, a directory (with all below it) or a TAR (its members). Files named like datapoints
    (20 digits, a dot, an extension) keep their numbers; the others get the next numbers in the order of their
    paths. What is there already is skipped, so a put that was cut off is simply repeated.
    """
    gc.set_threshold(GC_THRESHOLD)
    with opened_store(settings, store) as opened:
        target = Dataset(opened, dataset)
        target.writable()  # a dataset that is not there is told before a million files are looked at
        sources = find_sources(paths, say, unpack=not no_unpack)
        options = PutOptions(datarange_size, jobs, settings.config.temporary_dir)
        result, seconds = run_put(target, sources, options)
    if as_json:
        write_json(describe(dataset, result))
    else:
        click.echo(summarize(result, seconds))


def run_put(dataset: Dataset, sources: Sources, options: PutOptions) -> tuple[PutResult, float]:
    """Put sources with a progress bar. Returns the result and the seconds that it took."""
    started = time.monotonic()
    with Meter("put", sources.size) as meter:
        result = put_sources(dataset, sources, options, _Report(meter))
    return result, time.monotonic() - started


class _Report:
    """Shows a put on the meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._count = 0
        self._total = 0

    def planned(self, sources: Sources, skipped: int) -> None:
        self._total = self._count + sources.count
        self._meter.restart(sources.size)
        if skipped:
            self._meter.line(f"{count_of(skipped, 'file')} of {skipped + self._total:,} are there already")

    def sent(self, size: int) -> None:
        self._meter.advance(size)

    def committed(self, datarange: Datarange) -> None:
        self._count += datarange.count
        self._meter.line(
            f"put {format_span(datarange.first, datarange.last)}: {count_of(datarange.count, 'file')}, "
            f"{format_size(datarange.data_size)} ({self._count:,} of {self._total:,})"
        )


def summarize(result: PutResult, seconds: float) -> str:
    """Return the line that tells the numbers that were given."""
    there = skipped_files(result.skipped)
    if not result.count:
        return f"put nothing{there}"
    dataranges = count_of(len(result.dataranges), "datarange")
    return (
        f"put {count_of(result.count, 'file')} as {format_spans(result.spans)} "
        f"({format_size(result.size)} in {dataranges}, {seconds:.1f} s){there}"
    )


def describe(dataset: str, result: PutResult) -> dict[str, Any]:
    """Return the whole result for JSON."""
    return {
        "dataset": dataset,
        "revision": result.revision,
        "put": result.count,
        "skipped": result.skipped,
        "size": result.size,
        "ranges": [{"first": first, "last": last} for first, last in result.spans],
        "dataranges": [
            {"first": each.first, "last": each.last, "counter": each.id.counter, "size": each.data_size}
            for each in result.dataranges
        ],
        "files": [
            {"number": number, "path": source.original}
            for batch in result.batches
            for number, source in enumerate(batch.sources, batch.first)
        ],
    }
