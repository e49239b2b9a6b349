"""Files that the cache has and the kernel has forgotten: what the mount itself costs, beside the same in C."""

import contextlib
from functools import partial
from pathlib import Path
from typing import Final

from bench.cases.reading import prepare
from bench.material import make
from bench.outcome import DASFS, Aim, Curve, Outcome, PeerFigures, Row
from bench.peers import TUNED_RCLONE, Dasfs, Plan, Rclone, read_directory
from bench.processes import BenchError, Mount
from bench.rig import Rig, take_turns

MEMORY: Final = "C, from memory"
HELD: Final = (1, 4)  # numbers of readers with an aim
OTHERS: Final = (2, 8)
FILLING_READERS: Final = 16


def warm(rig: Rig) -> Outcome:
    """Read files of 64 KiB by turns through each mount. All are up all the time."""
    settings = rig.settings
    outcome = Outcome("warm", "Warm, 1 reader")
    material = make(rig, [settings.warm_size] * settings.warm_files)
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(rig.mount_memory("memory", settings.warm_files, settings.warm_size))
        places: dict[str, tuple[Mount, Path]] = {MEMORY: (memory, memory.path)}
        peers: tuple[Rclone | Dasfs, ...] = (Rclone(tuned=True), Dasfs())
        for peer in prepare(rig, outcome, material, peers):
            try:
                client = stack.enter_context(peer.cold())
                client.read(Plan(FILLING_READERS))
            except BenchError as error:
                outcome.add_problem(peer.name, str(error))
                continue
            places[peer.name] = client.mount, client.directory

        def measure(name: str, readers: int) -> None:
            mount, directory = places[name]
            rig.drop_caches(mount, pages=False)
            reading = read_directory(directory, material.listing, Plan(readers))
            outcome.add_sample(sample_name(name, readers), reading.files_per_s)

        for readers in (*HELD, *OTHERS):
            rounds = settings.rounds if readers in HELD else settings.slow_rounds
            take_turns(outcome, rounds, [(name, partial(measure, name, readers)) for name in places])
    _add_figures(outcome)
    return outcome


def sample_name(name: str, readers: int) -> str:
    return f"{name}, {count_of(readers)}, files/s"


def count_of(readers: int) -> str:
    return f"{readers} reader{'s' if readers > 1 else ''}"


def _add_figures(outcome: Outcome) -> None:
    for readers in HELD:
        what = f"warm, {count_of(readers)}"
        ours = outcome.median(sample_name(DASFS, readers))
        for name, aim in ((MEMORY, Aim(0.9)), (TUNED_RCLONE, None)):
            peer = outcome.median(sample_name(name, readers))
            outcome.rows.append(Row(what, "files/s", ours, name, peer, aim, outcome.problems.get(name, "")))
    for name in (MEMORY, TUNED_RCLONE, DASFS):
        value = outcome.median(sample_name(name, 1))
        outcome.peers.append(PeerFigures(name, value, "files/s", problem=outcome.problems.get(name, "")))
        points = [(float(readers), outcome.median(sample_name(name, readers))) for readers in sorted((*HELD, *OTHERS))]
        found = [(readers, rate) for readers, rate in points if rate is not None]
        if found:
            outcome.curves.append(Curve("warm", name, found))
