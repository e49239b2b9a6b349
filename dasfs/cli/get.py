"""`dasfs get` and `dasfs cat`."""

import os
import sys

import click

from dasfs.cli.common import (
    NUMBER,
    RANGE,
    NumberRange,
    Settings,
    dataset_argument,
    opened_store,
    store_option,
)
from dasfs.cli.output import count_of, format_size, say, skipped_files
from dasfs.cli.progress import Meter
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.fetch import DEFAULT_JOBS, Selection
from dasfs.dataset.get import GetOptions, GetResult, get_files, get_tar, read_datapoint
from dasfs.stores import Store


@click.command()
@dataset_argument
@click.argument("numbers", type=RANGE, metavar="FIRST[-LAST]")
@store_option
@click.option("--output", "-o", required=True, metavar="DIR|FILE.tar", help="Where to. Made where it is missing.")
@click.option("--original-names", is_flag=True, help="Under the paths that they were put from.")
@click.option("--allow-gaps", is_flag=True, help="Numbers that are not there are no error.")
@click.option("--force", "-f", is_flag=True, help="Replace files that are there with another content.")
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, 64),
    default=DEFAULT_JOBS,
    show_default=True,
    help="Reads at once.",
)
@click.pass_obj
def get(
    settings: Settings,
    dataset: str,
    numbers: NumberRange,
    store: str | None,
    output: str,
    original_names: bool,
    allow_gaps: bool,
    force: bool,
    jobs: int,
) -> None:
    """Copy datapoints to a directory or into a TAR file.

    Every byte is checked. Files that are there already and are the same are skipped.
    """
    options = GetOptions(original_names=original_names, allow_gaps=allow_gaps, force=force, jobs=jobs)
    write = get_tar if output.endswith(".tar") and not os.path.isdir(output) else get_files
    with opened_store(settings, store) as opened:
        selection = select(opened, dataset, numbers)
        with Meter("get", selection.size) as meter:
            result = write(selection, output, options, meter.advance)
    say(summarize(result, output))


def select(store: Store, dataset: str, numbers: NumberRange) -> Selection:
    """Return the datapoints that a command names, at the newest revision."""
    source = Dataset(store, dataset)
    return Selection(source, source.snapshot(), numbers.first, numbers.last)


def summarize(result: GetResult, output: str) -> str:
    """Return the line that says what was written."""
    written = f"{count_of(result.count, 'file')} ({format_size(result.size)})"
    return f"got {written} into {output}{skipped_files(result.skipped)}"


@click.command()
@dataset_argument
@click.argument("number", type=NUMBER, metavar="NUMBER")
@store_option
@click.pass_obj
def cat(settings: Settings, dataset: str, number: int, store: str | None) -> None:
    """Write one datapoint to standard output."""
    with opened_store(settings, store) as opened:
        for data in read_datapoint(select(opened, dataset, NumberRange(number, number))):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
