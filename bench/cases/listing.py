"""Listing a directory of a million names, beside a program in C that answers from memory."""

from contextlib import ExitStack
from functools import partial
from typing import Final

from bench.cases.warm import MEMORY
from bench.material import make_synthetic
from bench.outcome import DASFS, Aim, Outcome, Row
from bench.processes import Mount, run
from bench.rig import Rig, take_turns

DATASET: Final = "listed"
ASKED: Final = "C, from memory, asked for attributes"
SIZE: Final = 8


def listing(rig: Rig) -> Outcome:
    """List the same number of names by turns with `ls -f` and `ls -l`; the kernel forgets them before.

    `ls -l` asks for attributes. A file system that has none says so once; one that has them is asked for each file, but
    for dasfs, which has none of the kind that `ls` asks for and says so. So the C program is measured in both ways.
    """
    count = rig.settings.listed
    outcome = Outcome("listing", f"Listing {count:,} names")
    make_synthetic(rig, rig.gateway.store, DATASET, count)
    with ExitStack() as stack:
        ours = stack.enter_context(rig.mount_dasfs("dasfs", rig.work / "cache"))
        outcome.add_sample("dasfs, first ls -f, nothing cached, s", run("ls", "-f", str(ours.path / DATASET)).seconds)
        memory = stack.enter_context(rig.mount_memory("memory", count, SIZE))
        asked = stack.enter_context(rig.mount_memory("asked", count, SIZE, "-x"))

        def measure(name: str, mount: Mount, option: str) -> None:
            rig.drop_caches(mount, pages=False)
            directory = mount.path / DATASET if name == DASFS else mount.path
            outcome.add_sample(f"{name}, ls {option}, names/s", count / run("ls", option, str(directory)).seconds)

        turns = [(MEMORY, memory, "-f"), (DASFS, ours, "-f"), (MEMORY, memory, "-l"), (DASFS, ours, "-l")]
        measures = [(f"{name}, ls {option}", partial(measure, name, mount, option)) for name, mount, option in turns]
        take_turns(outcome, rig.settings.slow_rounds, measures)
        take_turns(outcome, 1, [(ASKED, partial(measure, ASKED, asked, "-l"))])
    for option in ("-f", "-l"):
        mine, peer = (outcome.median(f"{name}, ls {option}, names/s") for name in (DASFS, MEMORY))
        outcome.rows.append(Row(f"`ls {option}` of {count:,} names", "names/s", mine, MEMORY, peer, Aim(0.8)))
    mine, peer = outcome.median(f"{DASFS}, ls -l, names/s"), outcome.median(f"{ASKED}, ls -l, names/s")
    outcome.rows.append(Row(f"`ls -l` of {count:,} names", "names/s", mine, ASKED, peer))
    return outcome
