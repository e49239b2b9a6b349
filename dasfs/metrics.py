"""What is measured: metrics as docs/monitoring.md lists them, histograms for hot paths, and Prometheus' text format.

A name has its unit (`_bytes`, `_seconds`) and, where the value only grows, `_total`; see
https://prometheus.io/docs/practices/naming/.

**Concurrency:** `Histogram` belongs to one thread, and takes no lock; `RequestCounts` is for any thread; everything
else is a value.
"""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

T = TypeVar("T")

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# From what the kernel's page cache nearly hides to the deadline of an operation: each three times the one before.
LATENCY_BOUNDS_S: Final = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Kind(StrEnum):
    """The types of Prometheus that are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. A `gauge` may fall; a `counter` starts at 0 with its process and only grows."""

    kind: Kind
    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """A metric and where its value stands. None: it is left out just now."""

    metric: Metric
    read: Callable[[T], float | None]


class Histogram:
    """How long something took, how often. `observe` costs 0.1 µs, a tenth of what prometheus_client's own takes.

    `counts[k]` counts what took up to `LATENCY_BOUNDS_S[k]` and longer than the bound before; the last is for what
    took longer than all.
    """

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, int]]:
        """Return the upper bounds, as Prometheus writes them, with how much took no longer."""
        bounds = [*(f"{bound:g}" for bound in LATENCY_BOUNDS_S), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A request to a store: what was asked (`GetObject`), and the status of the answer; `none` without one."""

    operation: str
    status: str


class RequestCounts:
    """How many requests ended how."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()

    def add(self, outcome: Outcome) -> None:
        with self._lock:
            self._counts[outcome] += 1

    def all(self) -> Mapping[Outcome, int]:
        with self._lock:
            return dict(self._counts)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric, with the values of its labels."""

    metric: Metric
    value: float | Histogram
    labels: tuple[str, ...] = ()


class _Families:
    """The collector that hands samples to prometheus_client."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator["Family"]:
        families: dict[str, Family] = {}
        for sample in self._samples:
            family = families.get(sample.metric.name)
            if family is None:
                family = families[sample.metric.name] = _make_family(sample.metric)
            if isinstance(sample.value, Histogram):
                family.add_metric(sample.labels, sample.value.buckets(), sample.value.total_s)  # type: ignore[attr-defined]
            else:
                family.add_metric(sample.labels, sample.value)  # type: ignore[attr-defined]
        yield from families.values()


def render(samples: Iterable[Sample], *, process: bool) -> bytes:
    """Return samples in Prometheus' text format; with `process`, also CPU, memory and open files of this process."""
    # 50 ms to import: paid by who is asked, not by every mount at its start.
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(samples))
    if process:
        ProcessCollector(registry=registry)
    return generate_latest(registry)


def _make_family(metric: Metric) -> "Family":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    match metric.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
