"""One large datapoint, read in order: cold beside raw ranged GETs, and warm beside the same file in C."""

from functools import partial
from pathlib import Path

from bench.cases.reading import compare, prepare, typical
from bench.cases.warm import MEMORY
from bench.material import make
from bench.outcome import DASFS, Aim, Outcome, Row
from bench.peers import LINK, Dasfs, Plan, RangedGets, read_directory
from bench.processes import Mount
from bench.rig import Rig, take_turns
from dasfs.fuse.tuning import raise_read_ahead

MB = 1_000_000


def large(rig: Rig) -> Outcome:
    """Read a file of 1 GiB by turns through the mount and by ranged GETs, then again from the cache."""
    settings = rig.settings
    outcome = Outcome("large", "One large datapoint")
    material = make(rig, [settings.large], as_objects=False)
    ours = Dasfs()
    peers = prepare(rig, outcome, material, (RangedGets(), ours))
    samples = compare(rig, outcome, peers, Plan(), settings.slow_rounds)
    with ours.cold() as client, rig.mount_memory("memory", 1, settings.large) as memory:
        client.read(Plan(verify=True))
        raise_read_ahead(str(memory.path))  # as the mount does for itself

        def measure(name: str, mount: Mount, directory: Path) -> None:
            rig.drop_caches(mount, pages=False)
            seconds = read_directory(directory, material.listing, Plan()).seconds
            outcome.add_sample(f"{name}, warm, MB/s", settings.large / seconds / MB)

        places = ((DASFS, client.mount, client.directory), (MEMORY, memory, memory.path))
        take_turns(outcome, settings.rounds, [(place[0], partial(measure, *place)) for place in places])
    what = f"one datapoint of {settings.large >> 20:,} MiB"
    rates = {name: settings.large / typical(found).seconds / MB for name, found in samples.items() if found}
    held = outcome.median(f"{DASFS}, warm, MB/s")
    outcome.rows = [
        Row(f"{what}, cold", "MB/s", rates.get(DASFS), LINK, rates.get(LINK), Aim(0.9)),
        Row(f"{what}, warm", "MB/s", held, aim=Aim(2000, of_value=True)),
        Row(f"{what}, warm", "MB/s", held, MEMORY, outcome.median(f"{MEMORY}, warm, MB/s")),
    ]
    return outcome
