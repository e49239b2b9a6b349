"""`dasfs aggregate`."""

from collections.abc import Sequence
from typing import Any

import click

from dasfs.cli.common import (
    RANGE,
    SIZE,
    NumberRange,
    Settings,
    dataset_argument,
    json_option,
    opened_store,
    store_option,
)
from dasfs.cli.output import Column, count_of, format_size, format_span, say, write_json, write_table
from dasfs.cli.progress import Meter
from dasfs.dataset.aggregate import AggregateReport, estimate_work
from dasfs.dataset.aggregate import aggregate as aggregate_dataranges
from dasfs.dataset.aggregation_plan import (
    DEFAULT_TARGET_SIZE,
    AggregationPolicy,
    Plan,
    plan_aggregation,
    plan_range,
)
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Snapshot
from dasfs.errors import Conflict


@click.command()
@dataset_argument
@click.argument("numbers", type=RANGE, required=False, metavar="[FIRST-LAST]")
@store_option
@click.option("--dry-run", "-n", is_flag=True, help="Only tell what would be joined.")
@click.option(
    "--target-size",
    type=SIZE,
    metavar="SIZE",
    help="About how large a datarange gets. Default: 1GiB; with FIRST-LAST, without a limit.",
)
@json_option
@click.pass_obj
def aggregate(
    settings: Settings,
    dataset: str,
    numbers: NumberRange | None,
    store: str | None,
    dry_run: bool,
    target_size: int | None,
    as_json: bool,
) -> None:
    """Join neighbouring small dataranges into large ones.

    Lists what is joined. Without FIRST-LAST, what is due by size: a byte is rewritten only a few times in its life.
    With FIRST-LAST, all of these, whatever their sizes; they are whole dataranges without a gap.
    """
    with opened_store(settings, store) as opened:
        work = _Work(Dataset(opened, dataset), numbers, target_size, settings.config.temporary_dir)
        if dry_run:
            plans = work.plan(work.dataset.snapshot())
            rows = [describe_plan(plan, opened.min_copy_size) for plan in plans]
        else:
            rows = work.run()
    if as_json:
        write_json({"dry_run": dry_run, "steps": rows})
        return
    _write_rows(rows)
    verb = "would make" if dry_run else "made"
    joined = count_of(sum(row["dataranges"] for row in rows), "datarange")
    say(f"{verb} {joined} into {len(rows):,}" if rows else "nothing is to be joined")


def describe_plan(plan: Plan, min_copy_size: int) -> dict[str, Any]:
    """Return one step as it is listed."""
    cost = estimate_work(plan.dataranges, min_copy_size)
    return {
        "first": plan.first,
        "last": plan.last,
        "dataranges": len(plan.dataranges),
        "datapoints": plan.count,
        "stored_size": plan.tar_size,
        "copied": cost.copied,
        "fetched": cost.fetched,
    }


def _write_rows(rows: Sequence[dict[str, Any]]) -> None:
    columns = [
        Column("numbers"),
        Column("dataranges", right=True),
        Column("datapoints", right=True),
        Column("stored", size=True),
        Column("copied", size=True),
        Column("fetched", size=True),
    ]
    names = ("dataranges", "datapoints", "stored_size", "copied", "fetched")
    write_table(columns, [(format_span(row["first"], row["last"]), *(row[name] for name in names)) for row in rows])


class _Work:
    """The steps of one command."""

    def __init__(self, dataset: Dataset, numbers: NumberRange | None, target_size: int | None, spool_dir: str) -> None:
        self.dataset = dataset
        self._numbers = numbers
        self._target_size = target_size
        self._spool_dir = spool_dir

    def plan(self, snapshot: Snapshot) -> list[Plan]:
        """Return what is to be joined now."""
        if self._numbers is None:
            policy = AggregationPolicy(target_size=self._target_size or DEFAULT_TARGET_SIZE)
            return plan_aggregation(snapshot.dataranges, policy)
        inside = self.dataset.whole_dataranges(self._numbers.first, self._numbers.last, snapshot)
        return plan_range(inside, self._target_size)

    def run(self) -> list[dict[str, Any]]:
        """Join what is to be joined, and return the steps that were done.

        Without FIRST-LAST, a step that another aggregation was faster with is passed over, and it is planned anew
        until nothing is due.
        """
        snapshot = self.dataset.writable()
        done: list[dict[str, Any]] = []
        while plans := self.plan(snapshot):
            conflicts = 0
            for number, plan in enumerate(plans, 1):
                try:
                    report = self._step(plan, snapshot, f"{number} of {len(plans)}")
                except Conflict as error:
                    if self._numbers is not None:
                        raise
                    conflicts += 1
                    say(f"left {format_span(plan.first, plan.last)}: {error.message}")
                    continue
                snapshot = report.snapshot
                cost = {"copied": report.copied, "fetched": report.fetched}
                done.append(describe_plan(plan, self.dataset.store.min_copy_size) | cost)
            if self._numbers is not None or conflicts == len(plans):
                break
            snapshot = self.dataset.snapshot(snapshot)
        return done

    def _step(self, plan: Plan, snapshot: Snapshot, which: str) -> AggregateReport:
        span = format_span(plan.first, plan.last)
        with Meter(f"join {span}", plan.tar_size) as meter:
            report = aggregate_dataranges(
                self.dataset, plan.dataranges, snapshot, spool_dir=self._spool_dir, progress=meter.advance
            )
        say(
            f"joined {span} ({which}): {count_of(len(plan.dataranges), 'datarange')}, {format_size(plan.tar_size)} "
            f"({format_size(report.copied)} copied in the store, {format_size(report.fetched)} fetched)"
        )
        return report
