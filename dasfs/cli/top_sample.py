"""What `dasfs top` shows: two looks at the counters of a mount, and what was done between them.

Pure: two documents of `.dasfs/top.json` in, rates out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """What was done. `seconds` is how long the reads took together; `waiting` counts reads that wait just now."""

    files: float = 0
    reads: float = 0
    bytes: float = 0
    hits: float = 0
    errors: float = 0
    seconds: float = 0
    waiting: int = 0
    longest_s: float = 0

    @property
    def is_nothing(self) -> bool:
        return not (self.reads or self.waiting)

    @property
    def hit_share(self) -> float | None:
        """The share of reads that waited for nothing; None without reads."""
        return self.hits / self.reads if self.reads else None

    @property
    def mean_ms(self) -> float | None:
        """How long a read took on average; None without reads."""
        return 1000 * self.seconds / self.reads if self.reads else None

    def __add__(self, other: "Done") -> "Done":
        return Done(
            files=self.files + other.files,
            reads=self.reads + other.reads,
            bytes=self.bytes + other.bytes,
            hits=self.hits + other.hits,
            errors=self.errors + other.errors,
            seconds=self.seconds + other.seconds,
            waiting=self.waiting + other.waiting,
            longest_s=max(self.longest_s, other.longest_s),
        )


@dataclass(frozen=True, slots=True)
class Reader:
    """A process that reads a dataset, which is empty where that is not known."""

    pid: int
    uid: int
    command: str
    dataset: str


@dataclass(frozen=True, slots=True)
class MountSample:
    """What one mount did in `interval_s`; `problem` is why it is not known, or what is wrong with its store."""

    path: str
    store: str
    interval_s: float = 0
    readers: Mapping[Reader, Done] = field(default_factory=dict)
    datasets: Mapping[str, Done] = field(default_factory=dict)
    total: Done = field(default_factory=Done)
    bytes_fetched: float = 0
    fetches: float = 0
    in_flight: int = 0
    problem: str | None = None
    document: Document | None = None


def compare(path: str, store: str, before: Document, after: Document) -> MountSample:
    """Return what a mount did between two looks. Raises `KeyError`, `TypeError` for what no mount says."""
    known = {_reader(each): each for each in before["readers"]}
    done: dict[Reader, Done] = {}
    for each in after["readers"]:
        done[_reader(each)] = _between(known.get(_reader(each), {}), each)
    for each in after["waiting"]:
        reader = _reader(each)
        done[reader] = done.get(reader, Done()) + Done(waiting=1, longest_s=each["seconds"])
    done = {reader: each for reader, each in done.items() if not each.is_nothing}
    datasets: dict[str, Done] = {}
    for reader, each in done.items():
        datasets[reader.dataset] = datasets.get(reader.dataset, Done()) + each
    return MountSample(
        path,
        store,
        interval_s=max(after["monotonic_s"] - before["monotonic_s"], 1e-3),
        readers=dict(sorted(done.items(), key=_importance)),
        datasets=dict(sorted(datasets.items())),
        total=_total(datasets, before, after),
        bytes_fetched=_grown(before, after, "bytes_fetched"),
        fetches=_grown(before, after, "fetches"),
        in_flight=after["fetches_in_flight"],
        problem=after["problem"],
        document=after,
    )


def _importance(item: tuple[Reader, Done]) -> tuple[float, float, int]:
    reader, done = item
    return -done.bytes, -done.longest_s, reader.pid


def _reader(document: Document) -> Reader:
    return Reader(document["pid"], document["uid"], document["command"], document["dataset"])


def _between(before: Document, after: Document) -> Done:
    return Done(
        files=_grown(before, after, "files"),
        reads=_grown(before, after, "reads"),
        bytes=_grown(before, after, "bytes"),
        hits=_grown(before, after, "hits"),
        errors=_grown(before, after, "errors"),
        seconds=_grown(before, after, "seconds"),
    )


def _grown(before: Document, after: Document, name: str) -> float:
    """Return by how much a counter grew; all of it where it began anew."""
    now: float = after[name]
    earlier: float = before.get(name, 0)
    return now - earlier if now >= earlier else now


def _total(datasets: Mapping[str, Done], before: Document, after: Document) -> Done:
    """Return what all did together. The mount's own counters are the truth: readers may be forgotten."""
    told = sum(datasets.values(), Done())
    reads = _grown(before, after, "reads")
    return Done(
        files=told.files,
        reads=reads,
        bytes=_grown(before, after, "bytes_read"),
        hits=told.hits * reads / told.reads if told.reads else 0,
        errors=_grown(before, after, "read_errors"),
        seconds=told.seconds * reads / told.reads if told.reads else 0,
        waiting=after["waiting_reads"],
        longest_s=told.longest_s,
    )


def describe(sample: MountSample) -> dict[str, Any]:
    """Return a sample as JSON has it: rates are a second's."""
    return {
        "mountpoint": sample.path,
        "store": sample.store,
        "problem": sample.problem,
        "interval_s": round(sample.interval_s, 3),
        "total": _rates(sample.total, sample.interval_s),
        "fetched_bytes_per_s": _per_second(sample.bytes_fetched, sample.interval_s),
        "fetches_per_s": _per_second(sample.fetches, sample.interval_s),
        "fetches_in_flight": sample.in_flight,
        "datasets": [{"dataset": name, **_rates(done, sample.interval_s)} for name, done in sample.datasets.items()],
        "readers": [
            {
                "pid": reader.pid,
                "uid": reader.uid,
                "command": reader.command,
                "dataset": reader.dataset,
                **_rates(done, sample.interval_s),
            }
            for reader, done in sample.readers.items()
        ],
        "waiting": [] if sample.document is None else list(sample.document["waiting"]),
    }


def _rates(done: Done, interval_s: float) -> dict[str, float | None]:
    share, mean = done.hit_share, done.mean_ms
    return {
        "files_per_s": _per_second(done.files, interval_s),
        "reads_per_s": _per_second(done.reads, interval_s),
        "bytes_per_s": _per_second(done.bytes, interval_s),
        "hits_per_s": _per_second(done.hits, interval_s),
        "misses_per_s": _per_second(done.reads - done.hits, interval_s),
        "errors_per_s": _per_second(done.errors, interval_s),
        "hit_share": None if share is None else round(share, 4),
        "mean_read_ms": None if mean is None else round(mean, 3),
        "waiting": done.waiting,
        "longest_wait_s": round(done.longest_s, 3),
    }


def _per_second(count: float, interval_s: float) -> float:
    return round(count / interval_s, 3) if interval_s else 0
