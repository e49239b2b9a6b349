"""What the cases share that read the same files by every peer in turn."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

from bench.gateway import Traffic
from bench.material import Material
from bench.outcome import Curve, Outcome, PeerFigures
from bench.peers import UNLIMITED_S, Peer, Plan, Reading
from bench.processes import BenchError
from bench.rig import Rig, take_turns

AnyPeer = TypeVar("AnyPeer", bound=Peer)

VERIFYING_READERS: Final = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading, and what passed the link from the start of the peer to the end of the reading."""

    reading: Reading
    traffic: Traffic | None


Samples = Mapping[str, Sequence[Sample]]


def prepare(rig: Rig, outcome: Outcome, material: Material, peers: Iterable[AnyPeer]) -> list[AnyPeer]:
    """Prepare the peers, and return those that can take part; the others are noted with their reasons."""
    ready = []
    for peer in peers:
        try:
            version = peer.prepare(rig, material)
        except BenchError as error:
            outcome.add_problem(peer.name, str(error))
            continue
        outcome.machine.setdefault("versions", {})[peer.name] = version
        ready.append(peer)
    return ready


def compare(rig: Rig, outcome: Outcome, peers: Sequence[Peer], plan: Plan, rounds: int) -> Samples:
    """Let the peers take turns at reading cold, and return all samples by peer. Only slow ones stop before the end."""
    samples: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
    what = f"{plan.readers} reader{'s' if plan.readers > 1 else ''}{'' if plan.seed is None else ', shuffled'}"

    def measure(peer: Peer) -> None:
        before = rig.gateway.traffic()
        with peer.cold() as client:
            rig.drop_caches()
            reading = client.read(replace(plan, seconds=limit(rig, peer)))
            after = rig.gateway.traffic()
        samples[peer.name].append(Sample(reading, after.since(before) if before and after else None))
        outcome.add_sample(f"{peer.name}, {what}, files/s", reading.files_per_s)

    take_turns(outcome, rounds, [(peer.name, partial(measure, peer)) for peer in peers])
    return samples


def limit(rig: Rig, peer: Peer) -> float:
    """Return how long a peer may read, in seconds."""
    return rig.settings.seconds if peer.slow else UNLIMITED_S


def verify(rig: Rig, outcome: Outcome, peers: Sequence[Peer]) -> dict[str, int]:
    """Read once more and compare the checksum of each file, untimed; return how many files that were by peer."""
    verified: dict[str, int] = {}

    def check(peer: Peer) -> None:
        with peer.cold() as client:
            plan = Plan(VERIFYING_READERS, seconds=limit(rig, peer), verify=True)
            verified[peer.name] = client.read(plan).files

    take_turns(outcome, 1, [(peer.name, partial(check, peer)) for peer in peers])
    return verified


def rate(samples: Samples, peer: str) -> float | None:
    """Return the median of a peer's files a second; None where it has no sample."""
    found = samples.get(peer)
    return statistics.median(each.reading.files_per_s for each in found) if found else None


def typical(samples: Sequence[Sample]) -> Reading:
    """Return the reading whose rate is the median."""
    return sorted((each.reading for each in samples), key=lambda reading: reading.files_per_s)[len(samples) // 2]


def fetched_per_byte(samples: Sequence[Sample]) -> float | None:
    """Return how many bytes came over the link for each byte that was read, at the median; None where not known."""
    ratios = [each.traffic.received / each.reading.size for each in samples if each.traffic]
    return statistics.median(ratios) if ratios else None


def peer_table(outcome: Outcome, samples: Samples, peers: Iterable[Peer], verified: Mapping[str, int]) -> None:
    """Add what each peer did to the outcome, also of those that could not take part."""
    for name in (peer.name for peer in peers):
        found = samples.get(name) or ()
        requests = [each.traffic.requests / each.reading.files for each in found if each.traffic]
        figures = PeerFigures(
            name,
            rate(samples, name),
            "files/s",
            fetched_per_byte(found),
            statistics.median(requests) if requests else None,
            verified.get(name),
            outcome.problems.get(name, ""),
        )
        outcome.peers.append(figures)


def fetched_curves(outcome: Outcome, samples: Samples, order: str) -> None:
    """Add the bytes fetched a byte read, as one point for each peer."""
    for name, found in samples.items():
        fetched = fetched_per_byte(found)
        if fetched is not None:
            outcome.curves.append(Curve("fetched", f"{name}: {order}", [(0.0, fetched)]))


def epoch_curves(outcome: Outcome, samples: Samples, plot: str) -> None:
    """Add the time to the n-th file, of each peer's typical reading."""
    for name, found in samples.items():
        if found and typical(found).marks:
            outcome.curves.append(Curve(plot, name, typical(found).marks))
