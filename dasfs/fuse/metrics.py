"""What a mount measures, as Prometheus metrics; docs/monitoring.md has the same list, and a test compares them.

**Concurrency:** the mount's trio thread, but for the store's requests, which any thread counts.
"""

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import dasfs
from dasfs.cache.blocks import CacheStatistics
from dasfs.cache.catalog import DatasetState
from dasfs.fuse.announcement import Counts
from dasfs.fuse.announcements import Announcements
from dasfs.fuse.protocol import Opcode
from dasfs.fuse.recorder import Recorder
from dasfs.fuse.status import Status
from dasfs.metrics import Histogram, Kind, Metric, Reading, Sample, render

PREFIX: Final = "dasfs_mount_"


class Requests:
    """The kernel's requests: how long each kind took, and what failed. Kinds are FUSE's opcodes."""

    __slots__ = ("_failures", "_latencies")

    def __init__(self) -> None:
        self._latencies = {int(opcode): Histogram() for opcode in Opcode}
        self._failures: Counter[tuple[int, int]] = Counter()

    def observe(self, opcode: int, seconds: float, number: int) -> None:
        """Take note of one request, and of the errno that it was answered with, or 0. Costs 0.3 µs."""
        self._latencies[opcode].observe(seconds)
        if number:
            self._failures[opcode, number] += 1

    def latencies(self) -> Iterator[tuple[str, Histogram]]:
        """Yield the operations that were asked for, with how long they took."""
        return ((_name(opcode), each) for opcode, each in self._latencies.items() if each.total_s)

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """Yield operations, errnos and how often they met."""
        for (opcode, number), count in sorted(self._failures.items()):
            yield _name(opcode), errno.errorcode.get(number, str(number)), count


def _name(opcode: int) -> str:
    return Opcode(opcode).name.lower()


def _metric(kind: Kind, name: str, help: str, *labels: str) -> Metric:  # noqa: A002
    return Metric(kind, PREFIX + name, help, ("mountpoint", *labels))


def _cache(kind: Kind, name: str, help: str, read: Callable[[CacheStatistics], float]) -> Reading[CacheStatistics]:  # noqa: A002
    return Reading(_metric(kind, name, help), read)


def _dataset(name: str, help: str, read: Callable[[DatasetState], float | None]) -> Reading[DatasetState]:  # noqa: A002
    return Reading(_metric(Kind.GAUGE, name, help, "dataset"), read)


INFO: Final = _metric(Kind.GAUGE, "info", "1, with the store and the version of dasfs", "store", "version")
HEALTHY: Final = _metric(Kind.GAUGE, "healthy", "1 while nothing is wrong, else 0")
PROBLEM: Final = _metric(
    Kind.GAUGE, "problem", "1 for each thing that is wrong; dataset is empty for the store's", "dataset"
)
DURATION: Final = _metric(
    Kind.HISTOGRAM, "request_duration_seconds", "how long requests of the kernel took", "operation"
)
ERRORS: Final = _metric(
    Kind.COUNTER, "request_errors_total", "requests that were answered with an errno", "operation", "errno"
)
READ: Final = _metric(Kind.COUNTER, "read_bytes_total", "bytes that readers got; not what the kernel had in memory")
READ_ERRORS: Final = _metric(Kind.COUNTER, "read_errors_total", "reads that failed")
WAITING: Final = _metric(Kind.GAUGE, "waiting_reads", "reads that wait for the store at this moment")
LOGGED: Final = _metric(Kind.COUNTER, "access_log_lines_total", "lines of the access log, while there is one")
DROPPED: Final = _metric(Kind.COUNTER, "access_log_dropped_total", "lines that the disk did not take in time")
STORE_REQUESTS: Final = _metric(
    Kind.COUNTER, "store_requests_total", "requests to S3; status none: no answer came", "operation", "status"
)

OF_CACHE: Final[tuple[Reading[CacheStatistics], ...]] = (
    _cache(Kind.COUNTER, "cache_hits_total", "reads that the block cache had everything for", lambda c: c.hits),
    _cache(Kind.COUNTER, "cache_misses_total", "reads that it did not", lambda c: c.misses),
    _cache(Kind.COUNTER, "cache_served_bytes_total", "bytes that it gave to readers", lambda c: c.bytes_served),
    _cache(
        Kind.COUNTER,
        "saved_bytes_total",
        "bytes of those that were there already, so that no reader waited for the store",
        lambda c: c.bytes_saved,
    ),
    _cache(
        Kind.COUNTER, "fetched_bytes_total", "bytes of datapoints fetched from the store", lambda c: c.bytes_fetched
    ),
    _cache(Kind.COUNTER, "fetches_total", "fetches of neighbouring blocks", lambda c: c.fetches),
    _cache(Kind.COUNTER, "fetch_errors_total", "fetches that failed", lambda c: c.fetch_errors),
    _cache(Kind.GAUGE, "fetches_in_flight", "fetches at this moment", lambda c: c.in_flight),
    _cache(
        Kind.COUNTER,
        "verification_failures_total",
        "blocks whose checksum was wrong",
        lambda c: c.verification_failures,
    ),
    _cache(Kind.COUNTER, "cache_evictions_total", "blocks that made room for others", lambda c: c.evictions),
    _cache(Kind.GAUGE, "cache_used_bytes", "size of what is cached", lambda c: c.bytes_used),
    _cache(Kind.GAUGE, "cache_capacity_bytes", "how large it may get", lambda c: c.capacity),
)

OF_DATASET: Final[tuple[Reading[DatasetState], ...]] = (
    _dataset("dataset_revision", "revision that the mount shows", lambda d: d.snapshot.revision),
    _dataset("dataset_datapoints", "datapoints of it", lambda d: d.snapshot.count),
    _dataset("dataset_dataranges", "dataranges of it", lambda d: len(d.snapshot.dataranges)),
    _dataset("dataset_bytes", "size of its datapoints", lambda d: d.snapshot.data_size),
    _dataset(
        "dataset_refreshed_timestamp_seconds",
        "when the store was asked last what is new",
        lambda d: d.refreshed_at.timestamp() if d.refreshed_at else None,
    ),
)

ANNOUNCED: Final = _metric(Kind.GAUGE, "announcements", "announcements that are live", "dataset")


def _announced(name: str, help: str, read: Callable[[Counts], int]) -> Reading[Counts]:  # noqa: A002
    return Reading(_metric(Kind.COUNTER, f"announced_{name}_total", help), read)


OF_ANNOUNCED: Final[tuple[Reading[Counts], ...]] = (
    _announced("datapoints", "datapoints that jobs announced to read", lambda c: c.places),
    _announced("gaps", "announced numbers that no datapoint has", lambda c: c.gaps),
    _announced("fetched_bytes", "bytes fetched because they were announced", lambda c: c.fetched),
    _announced("failures", "stretches and manifests that could not be fetched ahead", lambda c: c.failed),
    _announced("reads", "announced datapoints that were opened", lambda c: c.reads),
    _announced("hits", "of these, the ones that were fetched completely by then", lambda c: c.hits),
)

METRICS: Final[tuple[Metric, ...]] = (
    *(INFO, HEALTHY, PROBLEM, DURATION, ERRORS, READ, READ_ERRORS, WAITING),
    *(each.metric for each in OF_CACHE),
    *(each.metric for each in OF_DATASET),
    *(LOGGED, DROPPED),
    ANNOUNCED,
    *(each.metric for each in OF_ANNOUNCED),
    STORE_REQUESTS,
)


def render_metrics(status: Status, requests: Requests, *, process: bool) -> bytes:
    """Return a mount's metrics in Prometheus' text format, with `process` those of the process, too."""
    return render(samples(status, requests), process=process)


def samples(status: Status, requests: Requests) -> Iterator[Sample]:
    """Yield every value of a mount."""
    where = status.mountpoint
    problems = list(status.problems())
    yield Sample(INFO, 1, (where, status.store, dasfs.__version__))
    yield Sample(HEALTHY, float(not problems), (where,))
    for problem in problems:
        yield Sample(PROBLEM, 1, (where, problem.dataset))
    for operation, histogram in requests.latencies():
        yield Sample(DURATION, histogram, (where, operation))
    for operation, name, count in requests.failures():
        yield Sample(ERRORS, count, (where, operation, name))
    yield Sample(READ, status.bytes_read, (where,))
    yield Sample(READ_ERRORS, status.recorder.errors, (where,))
    yield Sample(WAITING, len(status.recorder.waiting), (where,))
    yield from _of_access_log(status.recorder, where)
    statistics = status.blocks.statistics()
    for each in OF_CACHE:
        value = each.read(statistics)
        assert value is not None
        yield Sample(each.metric, value, (where,))
    for reading in OF_DATASET:
        for dataset in status.catalog.states:
            value = reading.read(dataset)
            if value is not None:
                yield Sample(reading.metric, value, (where, dataset.name))
    if status.announcements is not None:
        yield from _announced_samples(status.announcements, where)
    for outcome, count in sorted(status.store_requests.all().items(), key=str):
        yield Sample(STORE_REQUESTS, count, (where, outcome.operation, outcome.status))


def _of_access_log(recorder: Recorder, where: str) -> Iterator[Sample]:
    if recorder.access_log is not None:
        state = recorder.access_log.state()
        yield Sample(LOGGED, state.lines, (where,))
        yield Sample(DROPPED, state.dropped, (where,))


def _announced_samples(announcements: Announcements, where: str) -> Iterator[Sample]:
    for dataset, count in sorted(Counter(each.dataset for each in announcements.live).items()):
        yield Sample(ANNOUNCED, count, (where, dataset))
    totals = announcements.totals
    for reading in OF_ANNOUNCED:
        value = reading.read(totals)
        assert value is not None
        yield Sample(reading.metric, value, (where,))
