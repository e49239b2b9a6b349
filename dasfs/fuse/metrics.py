"""What a mount measures, as Prometheus metrics; docs/monitoring.md has the same list, and a test compares them.

**Concurrency:** the mount's trio thread, but for the store's requests, which any thread counts.
"""

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import dasfs
from dasfs.cache.blocks import CacheStatistics
from dasfs.cache.catalog import DatasetState
from dasfs.fuse.recorder import Recorder
from dasfs.fuse.status import Status
from dasfs.metrics import Histogram, Kind, Metric, Reading, Sample, render

PREFIX: Final = "dasfs_mount_"


class Requests:
    """The kernel's requests: how long each kind took, and what failed."""

    __slots__ = ("_operations", "failures", "latencies")

    def __init__(self, operations: Sequence[str]) -> None:
        self._operations = tuple(operations)
        # By the operation's place: a list is the cheapest to find one in.
        self.latencies = [Histogram() for _ in operations]
        self.failures: Counter[tuple[str, str]] = Counter()

    def fail(self, place: int, number: int) -> None:
        """Count that a request of the operation at `place` was answered with the errno `number`."""
        self.failures[self._operations[place], errno.errorcode.get(number, str(number))] += 1

    def by_operation(self) -> Iterator[tuple[str, Histogram]]:
        return zip(self._operations, self.latencies, strict=True)


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

METRICS: Final[tuple[Metric, ...]] = (
    *(INFO, HEALTHY, PROBLEM, DURATION, ERRORS, READ, READ_ERRORS, WAITING),
    *(each.metric for each in OF_CACHE),
    *(each.metric for each in OF_DATASET),
    *(LOGGED, DROPPED),
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
    for operation, histogram in requests.by_operation():
        yield Sample(DURATION, histogram, (where, operation))
    for (operation, name), count in sorted(requests.failures.items()):
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
    for outcome, count in sorted(status.store_requests.all().items(), key=str):
        yield Sample(STORE_REQUESTS, count, (where, outcome.operation, outcome.status))


def _of_access_log(recorder: Recorder, where: str) -> Iterator[Sample]:
    if recorder.access_log is not None:
        state = recorder.access_log.state()
        yield Sample(LOGGED, state.lines, (where,))
        yield Sample(DROPPED, state.dropped, (where,))
