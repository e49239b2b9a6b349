"""What a mount costs by the number of datapoints: time until it answers, memory, disk."""

import os
import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from bench.material import disk_usage, make_synthetic, remove
from bench.outcome import Aim, Curve, Outcome, Row
from bench.processes import Mount
from bench.rig import Rig
from bench.synthetic import PER_DATARANGE, name

DATASET: Final = "grown"
MB: Final = 1_000_000
LOOKUPS: Final = 1_000
THREADS: Final = 8


def growth(rig: Rig) -> Outcome:
    """Mount ever larger datasets, first with nothing cached, then with the index cached."""
    outcome = Outcome("growth", "Cost by datapoints")
    for count in rig.settings.growth:
        _measure(rig, outcome, count)
    largest = rig.settings.growth[-1]
    what = f"mount of {largest:,} datapoints"

    def row(label: str, unit: str, sample: str, aim: Aim | None) -> Row:
        return Row(f"{what}, {label}", unit, outcome.median(f"{largest:,}: {sample}"), aim=aim)

    outcome.rows += [
        row("nothing cached, ready", "s", "nothing cached, ready, s", None),
        row("index cached, ready", "s", "index cached, ready, s", Aim(1.0, True, True)),
        row("resident", "MB", "resident, MB", Aim(150, True, True)),
        row("disk a datapoint", "bytes", "disk a datapoint, bytes", Aim(24, True, True)),
    ]
    for plot, label, sample in (
        ("growth-time", "ready, nothing cached", "nothing cached, ready, s"),
        ("growth-time", "ready, index cached", "index cached, ready, s"),
        ("growth-memory", "resident", "resident, MB"),
        ("growth-memory", "index cache on disk", "disk, MB"),
    ):
        medians = [(float(count), outcome.median(f"{count:,}: {sample}")) for count in rig.settings.growth]
        points = [(count, value) for count, value in medians if value is not None]
        outcome.curves.append(Curve(plot, label, points))
    return outcome


def _measure(rig: Rig, outcome: Outcome, count: int) -> None:
    store, cache = f"{rig.gateway.store}-{count}", rig.work / "cache"
    make_synthetic(rig, store, DATASET, count)
    with rig.mount_dasfs("dasfs", cache, store=store) as mount:
        outcome.add_sample(f"{count:,}: nothing cached, ready, s", mount.ready_s)
        # The first look at a datarange fetches its manifest into the index cache.
        look_up(mount, range(0, count, PER_DATARANGE))
    numbers = random.Random(rig.settings.seed).sample(range(count), min(LOOKUPS, count))
    for _ in range(rig.settings.slow_rounds):
        with rig.mount_dasfs("dasfs", cache, store=store) as mount:
            outcome.add_sample(f"{count:,}: index cached, ready, s", mount.ready_s)
            look_up(mount, numbers)
            outcome.add_sample(f"{count:,}: resident, MB", mount.resident() / MB)
    size = disk_usage(Path(cache))
    outcome.add_sample(f"{count:,}: disk, MB", size / MB)
    outcome.add_sample(f"{count:,}: disk a datapoint, bytes", size / count)
    remove(cache)


def look_up(mount: Mount, numbers: Iterable[int]) -> None:
    """Ask for the attributes of datapoints, several at once."""
    paths = [mount.path / DATASET / name(number) for number in numbers]
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(os.stat, paths):
            pass
