"""`dasfs datarange`: list, upload-tar, download-tar, delete."""

import click

from dasfs.cli.common import (
    RANGE,
    NumberRange,
    Settings,
    confirm,
    dataset_argument,
    json_option,
    opened_store,
    store_option,
    yes_option,
)
from dasfs.cli.get import select, summarize
from dasfs.cli.output import Column, count_of, format_span, say, write_json, write_table
from dasfs.cli.progress import Meter
from dasfs.cli.put import describe, run_put
from dasfs.cli.put import summarize as summarize_put
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.get import download_tar as download
from dasfs.dataset.put import PutOptions
from dasfs.dataset.sources import find_datarange
from dasfs.names import MAX_NUMBER


@click.group()
def datarange() -> None:
    """List, upload, download and delete dataranges."""


@datarange.command("list")
@dataset_argument
@store_option
@json_option
@click.pass_obj
def list_dataranges(settings: Settings, dataset: str, store: str | None, as_json: bool) -> None:
    """List the dataranges of a dataset in the order of their numbers."""
    with opened_store(settings, store) as opened:
        target = Dataset(opened, dataset)
        dataranges = target.snapshot().dataranges
    if as_json:
        write_json(
            [
                {
                    "first": each.first,
                    "last": each.last,
                    "datapoints": each.count,
                    "size": each.data_size,
                    "stored_size": each.tar_size,
                    "counter": each.id.counter,
                    "key": target.keys.tar(each.id),
                }
                for each in dataranges
            ]
        )
        return
    columns = [
        Column("numbers"),
        Column("datapoints", right=True),
        Column("size", size=True),
        Column("stored", size=True),
        Column("counter", right=True),
    ]
    rows = [
        (format_span(each.first, each.last), each.count, each.data_size, each.tar_size, each.id.counter)
        for each in dataranges
    ]
    write_table(columns, rows)


@datarange.command()
@dataset_argument
@click.argument("file", type=click.Path(readable=False), metavar="FILE")
@store_option
@json_option
@click.pass_obj
def upload_tar(settings: Settings, dataset: str, file: str, store: str | None, as_json: bool) -> None:
    """Upload a TAR file of datapoints as one datarange.

    Its members are named like datapoints, with numbers ascending by one; any tar program may have written it.
    """
    with opened_store(settings, store) as opened:
        target = Dataset(opened, dataset)
        target.writable()
        options = PutOptions(datarange_size=MAX_NUMBER, jobs=1, spool_dir=settings.config.temporary_dir)
        result, seconds = run_put(target, find_datarange(file), options)
    if as_json:
        write_json(describe(dataset, result))
    else:
        click.echo(summarize_put(result, seconds))


@datarange.command()
@dataset_argument
@click.argument("numbers", type=RANGE, metavar="FIRST-LAST")
@store_option
@click.option("--output", "-o", required=True, metavar="FILE", help="Where to.")
@click.option("--force", "-f", is_flag=True, help="Replace FILE where it is there.")
@click.pass_obj
def download_tar(
    settings: Settings, dataset: str, numbers: NumberRange, store: str | None, output: str, force: bool
) -> None:
    """Download datapoints as one TAR file, as they are stored.

    Where FIRST-LAST is one datarange, the file is its TAR object, byte for byte.
    """
    with opened_store(settings, store) as opened:
        selection = select(opened, dataset, numbers)
        with Meter("download", selection.size) as meter:
            result = download(selection, output, meter.advance, force=force)
    say(summarize(result, output))


@datarange.command()
@dataset_argument
@click.argument("numbers", type=RANGE, metavar="FIRST-LAST")
@store_option
@yes_option
@click.pass_obj
def delete(settings: Settings, dataset: str, numbers: NumberRange, store: str | None, yes: bool) -> None:
    """Delete the dataranges that make up exactly FIRST-LAST."""
    with opened_store(settings, store) as opened:
        target = Dataset(opened, dataset)
        count = sum(each.count for each in target.whole_dataranges(numbers.first, numbers.last, target.writable()))
        confirm(f"Delete datapoints {numbers} of dataset {dataset} in {opened.url}?", yes=yes)
        target.delete_datarange(numbers.first, numbers.last)
    say(f"deleted {count_of(count, 'datapoint')}; 'dasfs collect {dataset}' frees their space after a day")
