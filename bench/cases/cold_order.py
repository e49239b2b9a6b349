"""An epoch in order by one reader, with nothing of the data cached: the headline."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bench.cases.reading import compare, epoch_curves, fetched_curves, peer_table, prepare, rate, verify
from bench.material import dataset_sizes, make
from bench.outcome import DASFS, Aim, Outcome, Row
from bench.peers import (
    LINK,
    RATARMOUNT,
    RCLONE,
    TUNED_RCLONE,
    WEBDATASET,
    Dasfs,
    Plan,
    RangedGets,
    Ratarmount,
    Rclone,
    S3fs,
    Webdataset,
)
from bench.rig import Rig

AIMS: Final[Mapping[str, Aim | None]] = MappingProxyType(
    {WEBDATASET: Aim(1.0), RATARMOUNT: Aim(1.7), RCLONE: Aim(250.0), TUNED_RCLONE: None, LINK: None}
)


def cold_order(rig: Rig) -> Outcome:
    """Read every file in order of names with one reader, by every peer in turn."""
    outcome = Outcome("cold-order", "Cold, in order, 1 reader")
    material = make(rig, dataset_sizes(rig))
    everybody = (S3fs(), Rclone(), Rclone(tuned=True), Ratarmount(), Webdataset(), RangedGets(), Dasfs())
    peers = prepare(rig, outcome, material, everybody)
    verified = verify(rig, outcome, peers)
    samples = compare(rig, outcome, peers, Plan(), rig.settings.rounds)
    ours = rate(samples, DASFS)
    for name, aim in AIMS.items():
        note = outcome.problems.get(name, "")
        outcome.rows.append(Row("cold, in order, 1 reader", "files/s", ours, name, rate(samples, name), aim, note))
    peer_table(outcome, samples, everybody, verified)
    epoch_curves(outcome, samples, "epoch")
    fetched_curves(outcome, samples, "in order")
    return outcome
