"""What the daemon is doing, as values: made by `Service.state()`, served by whoever shows it.

Everything here is frozen, holds no path of code and no lock, and turns into JSON with `as_json` and back with
`from_json`. Times are UTC, sizes are bytes, rates are per second.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from dasfs.errors import Unsupported

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


class Phase(StrEnum):
    """What one dataset's pipeline is at."""

    STARTING = "starting"  # the journal is compared with the log; nothing is taken yet
    RUNNING = "running"
    WAITING = "waiting"  # something is wrong that must end first: see its problems
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a person should know of, and what to do. It is gone from the state once it is over.

    `key` is stable for one kind of problem (`store`, `disk`, `directory`, `rejected`, ...), so that a metric can
    have it for a label.
    """

    key: str
    message: str
    hint: str | None
    since: datetime
    last_seen: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Files that are complete and not committed yet. `oldest` is when the first of them was taken."""

    files: int = 0
    size: int = 0
    oldest: datetime | None = None


@dataclass(frozen=True, slots=True)
class LastCommit:
    """The newest commit of this daemon to one dataset."""

    revision: int
    time: datetime
    first: int
    last: int
    size: int

    @property
    def files(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Counters:
    """What happened since the daemon started. They only grow."""

    taken_files: int = 0
    taken_bytes: int = 0
    committed_files: int = 0
    committed_bytes: int = 0
    dataranges: int = 0
    removed_files: int = 0
    duplicate_files: int = 0
    rejected_files: int = 0
    changed_files: int = 0  # changed or went away between being taken and being packed
    repacked_dataranges: int = 0
    failed_attempts: int = 0  # uploads and commits that are tried again
    sent_bytes: int = 0
    scans: int = 0
    lost_events: int = 0  # times that the kernel or a queue dropped events, each answered by a scan


@dataclass(frozen=True, slots=True)
class Step:
    """A step of aggregation that is under way: the datapoints that it joins, and how far it is, in bytes of TAR."""

    first: int
    last: int
    dataranges: int
    size: int
    done: int
    since: datetime


@dataclass(frozen=True, slots=True)
class AggregationState:
    """What aggregation is at. `due` is how many dataranges the newest plan joins; the counts only grow."""

    enabled: bool = False
    step: Step | None = None
    due: int = 0
    planned: datetime | None = None
    last_step: datetime | None = None
    steps: int = 0
    joined_dataranges: int = 0
    copied_bytes: int = 0  # inside the store
    fetched_bytes: int = 0  # through this machine
    conflicts: int = 0  # steps that another aggregation, or a deletion, was faster with


@dataclass(frozen=True, slots=True)
class CollectionState:
    """What collecting is at; the counts only grow."""

    enabled: bool = False
    running_since: datetime | None = None
    last_run: datetime | None = None
    next_run: datetime | None = None
    runs: int = 0
    deleted_objects: int = 0
    deleted_bytes: int = 0
    aborted_uploads: int = 0
    unknown_objects: int = 0  # left alone at the last run, because nobody here knows what they are


@dataclass(frozen=True, slots=True)
class DatasetState:
    """One dataset of the configuration.

    `waiting` are taken but in no datarange yet, `in_flight` are in dataranges that are packed or uploaded,
    `settling` is how many files are looked at again when their settle time is over. `kept_files` are committed
    and kept for a time, as the configuration says.
    """

    name: str
    store_url: str
    directory: str
    phase: Phase
    settling: int
    waiting: Backlog
    in_flight: Backlog
    in_flight_dataranges: int
    kept_files: int
    files_per_second: float  # committed, over the last minute
    bytes_per_second: float
    last_commit: LastCommit | None
    last_scan: datetime | None
    aggregation: AggregationState
    collection: CollectionState
    counters: Counters
    problems: tuple[Problem, ...]

    @property
    def backlog(self) -> Backlog:
        """Everything that is complete and not committed."""
        oldest = [each.oldest for each in (self.waiting, self.in_flight) if each.oldest is not None]
        return Backlog(
            self.waiting.files + self.in_flight.files,
            self.waiting.size + self.in_flight.size,
            min(oldest, default=None),
        )


@dataclass(frozen=True, slots=True)
class DaemonState:
    """The whole daemon at one moment. `problems` are those that belong to no dataset."""

    version: str
    host: str
    pid: int
    time: datetime
    started: datetime
    config_file: str
    config_read: datetime
    state_directory: str
    free_disk: int
    minimum_free_disk: int
    uploads: int  # at this moment
    upload_limit: int
    datasets: tuple[DatasetState, ...]
    problems: tuple[Problem, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong: neither with the daemon nor with any dataset."""
        return not self.problems and not any(each.problems for each in self.datasets)


def as_json(state: DaemonState) -> dict[str, Any]:
    """Return a state as plain values for `json.dumps`; times as ISO 8601, `healthy` and `backlog` included."""
    document: dict[str, Any] = _plain(dataclasses.asdict(state))
    document["healthy"] = state.healthy
    for plain, dataset in zip(document["datasets"], state.datasets, strict=True):
        plain["backlog"] = _plain(dataclasses.asdict(dataset.backlog))
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value.strftime(TIME_FORMAT) if isinstance(value, datetime) else value


def from_json(document: Mapping[str, Any]) -> DaemonState:
    """Return the state that `as_json` wrote, perhaps in another version: what is unknown here is passed over.

    Raises `Unsupported` where something is missing, or of another kind.
    """
    try:
        state = _build(DaemonState, document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unsupported(
            f"the state of a daemon of version {document.get('version')} can't be read: {error!r}",
            hint="restart the daemon, so that both are of one version",
        ) from error
    assert isinstance(state, DaemonState)
    return state


def _build(kind: Any, value: Any) -> Any:
    """Return plain `value` as a `kind`: one of the types that the fields above have."""
    if isinstance(kind, UnionType):
        inner = next(each for each in get_args(kind) if each is not type(None))
        return None if value is None else _build(inner, value)
    if get_origin(kind) is tuple:
        return tuple(_build(get_args(kind)[0], each) for each in value)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        known = [each for each in dataclasses.fields(kind) if each.name in value or each.default is dataclasses.MISSING]
        return kind(**{each.name: _build(hints[each.name], value[each.name]) for each in known})  # type: ignore[operator]
    if kind is datetime:
        return datetime.strptime(value, TIME_FORMAT).replace(tzinfo=UTC)
    return kind(value)
