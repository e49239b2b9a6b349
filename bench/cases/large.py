"""One large datapoint, read in order: cold beside raw ranged GETs, and warm."""

from bench.cases.reading import compare, prepare, typical
from bench.material import make
from bench.outcome import DASFS, Aim, Outcome, Row
from bench.peers import LINK, Dasfs, Plan, RangedGets
from bench.rig import Rig

MB = 1_000_000


def large(rig: Rig) -> Outcome:
    """Read a file of 1 GiB by turns through the mount and by ranged GETs, then again from the cache."""
    settings = rig.settings
    outcome = Outcome("large", "One large datapoint")
    material = make(rig, [settings.large], as_objects=False)
    ours = Dasfs()
    peers = prepare(rig, outcome, material, (RangedGets(), ours))
    samples = compare(rig, outcome, peers, Plan(), settings.slow_rounds)
    with ours.cold() as client:
        client.read(Plan(verify=True))
        for _ in range(settings.rounds):
            rig.drop_caches(client.mount, pages=False)
            outcome.add_sample("dasfs, warm, MB/s", settings.large / client.read(Plan()).seconds / MB)
    what = f"one datapoint of {settings.large >> 20:,} MiB"
    rates = {name: settings.large / typical(found).seconds / MB for name, found in samples.items() if found}
    outcome.rows = [
        Row(f"{what}, cold", "MB/s", rates.get(DASFS), LINK, rates.get(LINK), Aim(0.9)),
        Row(f"{what}, warm", "MB/s", outcome.median("dasfs, warm, MB/s"), aim=Aim(2000, of_value=True)),
    ]
    return outcome
