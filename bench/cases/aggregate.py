"""Aggregating dataranges of 5 MiB and more: how much of their bytes passes through this machine."""

from typing import Final

from bench.material import make_files
from bench.outcome import Aim, Outcome, Row
from bench.rig import Rig

DATASET: Final = "aggregated"
MIB: Final = 1 << 20
# Its header and the end of the TAR make the datarange a little larger than the file.
ROOM: Final = 1 * MIB


def aggregate(rig: Rig) -> Outcome:
    """Make dataranges of one file each, and join them into one."""
    settings, gateway = rig.settings, rig.gateway
    outcome = Outcome("aggregate", "Aggregating")
    folder = rig.work / "files"
    make_files(folder, settings.aggregated_size, settings.aggregated, settings.seed)
    rig.dasfs("dataset", "create", DATASET, "--store", gateway.store, direct=True)
    size = str(settings.aggregated_size + ROOM)
    rig.dasfs("put", DATASET, f"{folder}/", "--store", gateway.store, "--datarange-size", size, direct=True)
    before = gateway.traffic()
    done = rig.dasfs("aggregate", DATASET, f"0-{settings.aggregated - 1}", "--store", gateway.store)
    after = gateway.traffic()
    outcome.add_sample("aggregate, s", done.seconds)
    total = settings.aggregated_size * settings.aggregated
    what = f"aggregating {settings.aggregated} dataranges of {settings.aggregated_size // MIB} MiB"
    share, note = None, "not known: the store is not behind the proxy"
    if before and after:
        passed = after.since(before)
        outcome.add_sample("bytes transferred, %", 100 * (passed.received + passed.sent) / total)
        share, note = outcome.median("bytes transferred, %"), ""
    row = Row(f"{what}, bytes transferred", "% of them", share, aim=Aim(1.0, True, True), note=note)
    outcome.rows = [row, Row(f"{what}, the whole command", "s", outcome.median("aggregate, s"))]
    rig.dasfs("dataset", "verify", DATASET, "--store", gateway.store, direct=True)
    return outcome
