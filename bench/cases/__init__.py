"""The cases of the benchmark, by name, in the order in which they run.

A case is a function that gets a `Rig` of its own and returns an `Outcome`. A new one is a module here and a line in
`CASES`, or in `MORE_CASES` where it only runs when it is named.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from bench.cases.aggregate import aggregate
from bench.cases.cold_order import cold_order
from bench.cases.cold_shuffled import cold_shuffled
from bench.cases.daemon import backlog, daemon, latency
from bench.cases.growth import growth
from bench.cases.large import large
from bench.cases.listing import listing
from bench.cases.one import one
from bench.cases.put import put
from bench.cases.warm import warm
from bench.outcome import Outcome
from bench.rig import Rig

Case = Callable[[Rig], Outcome]

CASES: Final[Mapping[str, Case]] = MappingProxyType(
    {
        "cold-order": cold_order,
        "cold-shuffled": cold_shuffled,
        "one": one,
        "warm": warm,
        "listing": listing,
        "growth": growth,
        "large": large,
        "put": put,
        "aggregate": aggregate,
    }
)

MORE_CASES: Final[Mapping[str, Case]] = MappingProxyType({"daemon": daemon, "backlog": backlog, "latency": latency})


def find_case(name: str) -> Case:
    """Return one case by its name."""
    return CASES.get(name) or MORE_CASES[name]
