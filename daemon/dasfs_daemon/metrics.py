"""The daemon's state as Prometheus metrics; docs/monitoring.md has the same list, and a test compares them."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, TypeVar

from dasfs.metrics import Kind, Metric, Reading, Sample
from dasfs_daemon.state import DaemonState, DatasetState, Phase, Problem

T = TypeVar("T")

PREFIX: Final = "dasfs_daemon_"


def _gauge(name: str, help: str, read: Callable[[T], float | None], *labels: str) -> Reading[T]:  # noqa: A002
    return Reading(Metric(Kind.GAUGE, PREFIX + name, help, labels), read)


def _dataset_gauge(name: str, help: str, read: Callable[[DatasetState], float | None]) -> Reading[DatasetState]:  # noqa: A002
    return _gauge(name, help, read, "dataset")


def _dataset_counter(name: str, help: str, read: Callable[[DatasetState], float]) -> Reading[DatasetState]:  # noqa: A002
    return Reading(Metric(Kind.COUNTER, PREFIX + name, help, ("dataset",)), read)


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


INFO: Final = Metric(Kind.GAUGE, PREFIX + "info", "1, with the version of dasfs", ("version",))
PROBLEM: Final = Metric(
    Kind.GAUGE,
    PREFIX + "problem",
    "1 for each thing that is wrong; dataset is empty for the daemon's own",
    ("dataset", "key"),
)
PROBLEM_SINCE: Final = Metric(
    Kind.GAUGE, PREFIX + "problem_since_timestamp_seconds", "since when it is wrong", ("dataset", "key")
)
PHASE: Final = Metric(
    Kind.GAUGE,
    PREFIX + "dataset_phase",
    "1 for the phase that the dataset is in, 0 for the others",
    ("dataset", "phase"),
)
OLDEST: Final = Metric(
    Kind.GAUGE,
    PREFIX + "backlog_oldest_age_seconds",
    "how long the oldest file of the backlog waits; 0 without any",
    ("dataset",),
)

OF_DAEMON: Final[tuple[Reading[DaemonState], ...]] = (
    _gauge("healthy", "1 while nothing is wrong, else 0", lambda state: state.healthy),
    _gauge(
        "config_read_timestamp_seconds", "when the configuration was read", lambda state: _seconds(state.config_read)
    ),
    _gauge("disk_free_bytes", "free on the disk of the spool directory", lambda state: state.free_disk),
    _gauge("disk_minimum_free_bytes", "with less, nothing is packed", lambda state: state.minimum_free_disk),
    _gauge("uploads", "uploads at this moment", lambda state: state.uploads),
    _gauge("upload_limit", "uploads at most", lambda state: state.upload_limit),
)

OF_DATASET: Final[tuple[Reading[DatasetState], ...]] = (
    _dataset_gauge("backlog_files", "files that are complete and not committed", lambda d: d.backlog.files),
    _dataset_gauge("backlog_bytes", "size of the backlog", lambda d: d.backlog.size),
    _dataset_gauge("settling_files", "files that are looked at again after the settle time", lambda d: d.settling),
    _dataset_gauge("waiting_files", "of the backlog: in no datarange yet", lambda d: d.waiting.files),
    _dataset_gauge("waiting_bytes", "size of those that are in no datarange yet", lambda d: d.waiting.size),
    _dataset_gauge("in_flight_files", "of the backlog: packed or uploaded just now", lambda d: d.in_flight.files),
    _dataset_gauge("in_flight_bytes", "size of those that are packed or uploaded just now", lambda d: d.in_flight.size),
    _dataset_gauge("in_flight_dataranges", "dataranges that are packed or uploaded", lambda d: d.in_flight_dataranges),
    _dataset_gauge("kept_files", "committed files that stay for a time", lambda d: d.kept_files),
    _dataset_gauge(
        "last_commit_timestamp_seconds",
        "when this daemon committed last",
        lambda d: _seconds(d.last_commit.time if d.last_commit else None),
    ),
    _dataset_gauge(
        "last_commit_revision", "revision of that commit", lambda d: d.last_commit.revision if d.last_commit else None
    ),
    _dataset_gauge(
        "last_scan_timestamp_seconds", "when the directory was scanned last", lambda d: _seconds(d.last_scan)
    ),
    _dataset_counter(
        "taken_files_total", "files that were complete and noted in the journal", lambda d: d.counters.taken_files
    ),
    _dataset_counter("taken_bytes_total", "size of the files that were taken", lambda d: d.counters.taken_bytes),
    _dataset_counter("committed_files_total", "files that are in the dataset", lambda d: d.counters.committed_files),
    _dataset_counter(
        "committed_bytes_total", "size of the files that were committed", lambda d: d.counters.committed_bytes
    ),
    _dataset_counter("committed_dataranges_total", "dataranges that were committed", lambda d: d.counters.dataranges),
    _dataset_counter(
        "sent_bytes_total", "bytes uploaded, also those of uploads that failed", lambda d: d.counters.sent_bytes
    ),
    _dataset_counter(
        "removed_files_total", "local files removed after their commit", lambda d: d.counters.removed_files
    ),
    _dataset_counter(
        "duplicate_files_total", "files that the dataset had already", lambda d: d.counters.duplicate_files
    ),
    _dataset_counter("rejected_files_total", "files moved to .rejected", lambda d: d.counters.rejected_files),
    _dataset_counter(
        "changed_files_total",
        "files that changed or went away before they were packed",
        lambda d: d.counters.changed_files,
    ),
    _dataset_counter(
        "repacked_dataranges_total", "dataranges that were packed again", lambda d: d.counters.repacked_dataranges
    ),
    _dataset_counter(
        "failed_attempts_total", "things that failed and are tried again", lambda d: d.counters.failed_attempts
    ),
    _dataset_counter("scans_total", "scans of the write directory", lambda d: d.counters.scans),
    _dataset_counter(
        "lost_events_total", "times that events were lost; a scan answers each", lambda d: d.counters.lost_events
    ),
    _dataset_gauge("aggregation_enabled", "1 where the daemon aggregates", lambda d: d.aggregation.enabled),
    _dataset_gauge("aggregation_running", "1 while a step is under way", lambda d: d.aggregation.step is not None),
    _dataset_gauge(
        "aggregation_step_bytes",
        "size of the datarange that the step makes; 0 without a step",
        lambda d: d.aggregation.step.size if d.aggregation.step else 0,
    ),
    _dataset_gauge(
        "aggregation_step_done_bytes",
        "how much of it is done",
        lambda d: d.aggregation.step.done if d.aggregation.step else 0,
    ),
    _dataset_gauge("aggregation_due_dataranges", "dataranges that the newest plan joins", lambda d: d.aggregation.due),
    _dataset_gauge(
        "aggregation_last_step_timestamp_seconds", "when a step ended last", lambda d: _seconds(d.aggregation.last_step)
    ),
    _dataset_counter(
        "aggregation_steps_total", "steps of aggregation that were committed", lambda d: d.aggregation.steps
    ),
    _dataset_counter(
        "aggregation_joined_dataranges_total",
        "dataranges that became part of larger ones",
        lambda d: d.aggregation.joined_dataranges,
    ),
    _dataset_counter(
        "aggregation_copied_bytes_total", "bytes copied inside the store", lambda d: d.aggregation.copied_bytes
    ),
    _dataset_counter(
        "aggregation_fetched_bytes_total", "bytes that went through this machine", lambda d: d.aggregation.fetched_bytes
    ),
    _dataset_counter(
        "aggregation_conflicts_total", "steps that somebody else was faster with", lambda d: d.aggregation.conflicts
    ),
    _dataset_gauge("collection_enabled", "1 where the daemon collects", lambda d: d.collection.enabled),
    _dataset_gauge("collection_running", "1 while it collects", lambda d: d.collection.running_since is not None),
    _dataset_gauge(
        "collection_last_run_timestamp_seconds",
        "when it was last through with collecting",
        lambda d: _seconds(d.collection.last_run),
    ),
    _dataset_gauge(
        "collection_next_run_timestamp_seconds", "when it collects next", lambda d: _seconds(d.collection.next_run)
    ),
    _dataset_counter("collection_runs_total", "how often it collected", lambda d: d.collection.runs),
    _dataset_counter(
        "collection_deleted_objects_total", "objects that were deleted", lambda d: d.collection.deleted_objects
    ),
    _dataset_counter(
        "collection_deleted_bytes_total", "size of the objects that were deleted", lambda d: d.collection.deleted_bytes
    ),
    _dataset_counter(
        "collection_aborted_uploads_total", "unfinished uploads thrown away", lambda d: d.collection.aborted_uploads
    ),
    _dataset_gauge(
        "collection_unknown_objects", "objects that nobody knows, left alone", lambda d: d.collection.unknown_objects
    ),
)

METRICS: Final[tuple[Metric, ...]] = (
    INFO,
    *(each.metric for each in OF_DAEMON),
    PROBLEM,
    PROBLEM_SINCE,
    PHASE,
    OLDEST,
    *(each.metric for each in OF_DATASET),
)


def samples(state: DaemonState) -> Iterator[Sample]:
    """Yield every value of a state."""
    yield Sample(INFO, 1, (state.version,))
    yield from _read(OF_DAEMON, state)
    for problem in state.problems:
        yield from _problem(problem, "")
    for dataset in state.datasets:
        for problem in dataset.problems:
            yield from _problem(problem, dataset.name)
        for phase in Phase:
            yield Sample(PHASE, float(phase is dataset.phase), (dataset.name, phase))
        oldest = dataset.backlog.oldest
        age_s = 0.0 if oldest is None else max((state.time - oldest).total_seconds(), 0.0)
        yield Sample(OLDEST, age_s, (dataset.name,))
        yield from _read(OF_DATASET, dataset, dataset.name)


def _read(readings: tuple[Reading[T], ...], state: T, *labels: str) -> Iterator[Sample]:
    for each in readings:
        value = each.read(state)
        if value is not None:
            yield Sample(each.metric, float(value), labels)


def _problem(problem: Problem, dataset: str) -> Iterator[Sample]:
    yield Sample(PROBLEM, 1, (dataset, problem.key))
    yield Sample(PROBLEM_SINCE, problem.since.timestamp(), (dataset, problem.key))
