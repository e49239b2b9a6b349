"""An epoch in shuffled order by several readers, with nothing of the data cached and a cache that holds it all."""

from dataclasses import replace

from bench.cases.reading import Samples, compare, fetched_curves, fetched_per_byte, peer_table, prepare, rate
from bench.material import dataset_sizes, make
from bench.outcome import DASFS, Aim, Curve, Outcome, Row
from bench.peers import RATARMOUNT, RCLONE, S3FS, TUNED_RCLONE, Dasfs, Plan, Ratarmount, Rclone, S3fs
from bench.rig import Rig


def cold_shuffled(rig: Rig) -> Outcome:
    """Read every file once in one shuffled order, by every peer in turn; then so with other numbers of readers."""
    settings = rig.settings
    readers = settings.shuffled_readers
    outcome = Outcome("cold-shuffled", f"Cold, shuffled, {readers} readers")
    material = make(rig, dataset_sizes(rig))
    everybody = (S3fs(), Rclone(), Rclone(tuned=True), Ratarmount(), Dasfs())
    peers = prepare(rig, outcome, material, everybody)
    plan = Plan(readers, settings.seed)
    samples = compare(rig, outcome, peers, plan, settings.slow_rounds)
    what = f"cold, shuffled, {readers} readers"
    ours = rate(samples, DASFS)
    for name in (RCLONE, TUNED_RCLONE, RATARMOUNT, S3FS):
        aim = Aim(12.0) if name == RCLONE else None
        row = Row(what, "files/s", ours, name, rate(samples, name), aim, outcome.problems.get(name, ""))
        outcome.rows.append(row)
    fetched = fetched_per_byte(samples.get(DASFS, ()))
    outcome.rows.append(Row(f"{what}, bytes fetched", "times the dataset", fetched, aim=Aim(1.1, True, True)))
    peer_table(outcome, samples, everybody, {})
    fetched_curves(outcome, samples, "shuffled")
    by_readers = {readers: samples}
    for number in settings.reader_counts:
        if number != readers:
            by_readers[number] = compare(rig, outcome, peers, replace(plan, readers=number), 1)
    _curves(outcome, by_readers)
    return outcome


def _curves(outcome: Outcome, by_readers: dict[int, Samples]) -> None:
    names = next(iter(by_readers.values()))
    for name in names:
        rates = [(float(number), rate(samples, name)) for number, samples in sorted(by_readers.items())]
        points = [(number, value) for number, value in rates if value is not None]
        if points:
            outcome.curves.append(Curve("readers", name, points))
