"""What `dasfs status` shows: a report as lines of text, for a person at a terminal of any width.

Pure: a report in, lines out.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from dasfs.cli.output import count_of, format_size, format_span, format_time
from dasfs.cli.status_report import DaemonReport, MountReport, Report, Trouble
from dasfs_daemon.state import AggregationState, CollectionState, DaemonState, DatasetState, Phase, Problem

_INDENT: Final = 2
_NAME_WIDTH: Final = 12
_WITHOUT_WIDTH: Final = 1_000_000
# Datasets of a mount that are named; the others are counted.
_MAX_NAMED: Final = 4


class Tone(StrEnum):
    """How a line is meant, as a style of rich."""

    PLAIN = ""
    GOOD = "green"
    BAD = "red"
    HINT = "yellow"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen: a name in a column of its own, and what is told."""

    name: str
    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class _Row:
    """A line before it is wrapped. A title stands at the margin."""

    name: str
    text: str
    tone: Tone = Tone.PLAIN
    title: bool = False


def lay_out(report: Report, width: int | None) -> list[Line]:
    """Return the lines of a report, none longer than `width` where that is possible; None: one line a row."""
    lines: list[Line] = []
    for row in _rows(report):
        # A path may hold anything: nothing of it moves the cursor.
        name, text = ("".join(each if each.isprintable() else "?" for each in part) for part in (row.name, row.text))
        room = _WITHOUT_WIDTH if width is None else max(width, 40)
        if row.title:
            lines += [Line("", ""), *_title(name, text, row.tone, room)]
            continue
        for part in _wrap(text, room - _INDENT - _NAME_WIDTH):
            lines.append(Line(f"{'':{_INDENT}}{name:<{_NAME_WIDTH}}", part, row.tone))
            name = ""
    return lines[1:]


def _title(name: str, text: str, tone: Tone, room: int) -> Iterator[Line]:
    """Yield the name and the text of a title beside each other, or below each other where there is no room."""
    if len(name) + _INDENT + len(text) <= room:
        yield Line(name, f"{'':{_INDENT}}{text}" if text else "", tone)
        return
    for start in range(0, len(name), room):
        yield Line(name[start : start + room], "", tone)
    for part in _wrap(text, room - _INDENT):
        yield Line("", f"{'':{_INDENT}}{part}", tone)


def _wrap(text: str, width: int) -> list[str]:
    # A number stays with its unit.
    kept = re.sub(r"(?<=[0-9%]) (?=[a-zA-Z%])", "\xa0", text)
    return [part.replace("\xa0", " ") for part in textwrap.wrap(kept, width, break_on_hyphens=False)] or [""]


def _rows(report: Report) -> Iterator[_Row]:
    problems = report.problems
    verdict = count_of(problems, "problem") if problems else "all is well"
    yield _Row(f"{report.host}: {verdict}", format_time(report.time), Tone.BAD if problems else Tone.GOOD, title=True)
    if report.daemon is not None:
        yield from _daemon(report.daemon)
    for mount in report.mounts:
        yield from _mount(mount, report.time)
    if report.daemon is None and not report.mounts:
        yield _Row("no daemon is configured on this host, and nothing of dasfs is mounted", "", title=True)


def _daemon(report: DaemonReport) -> Iterator[_Row]:
    state = report.state
    tone = Tone.BAD if state is None else Tone.GOOD
    yield _Row("daemon: running" if state else "daemon: not reached", report.config_file, tone, title=True)
    for trouble in report.troubles:
        yield from _trouble(trouble)
    if state is None:
        return
    since = format_seconds((state.time - state.started).total_seconds())
    yield _Row("up", f"for {since}, process {state.pid}, version {state.version}")
    free = f"{format_size(state.free_disk)} free; below {format_size(state.minimum_free_disk)} nothing is packed"
    yield _Row("disk", free, Tone.BAD if state.free_disk < state.minimum_free_disk else Tone.PLAIN)
    yield _Row("uploads", f"{state.uploads} of at most {state.upload_limit}")
    yield from _problems(state.problems, state.time)
    for dataset in state.datasets:
        yield from _dataset(dataset, state)


def _dataset(dataset: DatasetState, state: DaemonState) -> Iterator[_Row]:
    now = state.time
    tone = {Phase.RUNNING: Tone.GOOD, Phase.STARTING: Tone.HINT}.get(dataset.phase, Tone.BAD)
    yield _Row(f"{dataset.name}: {dataset.phase}", f"{dataset.directory} -> {dataset.store_url}", tone, title=True)
    yield from _problems(dataset.problems, now)
    yield _Row("backlog", _backlog(dataset, now))
    yield _Row("rate", _rate(dataset))
    yield _Row("last commit", _last_commit(dataset, now))
    counters = dataset.counters
    counts = [f"{counters.committed_files:,} committed ({format_size(counters.committed_bytes)})"]
    counts += [
        f"{count:,} {what}"
        for count, what in (
            (counters.duplicate_files, "duplicates"),
            (counters.rejected_files, "rejected"),
            (dataset.kept_files, "kept"),
        )
        if count
    ]
    yield _Row("since start", ", ".join(counts))
    if dataset.aggregation.enabled or dataset.collection.enabled:
        yield _Row("aggregation", _aggregation(dataset.aggregation, now))
        yield _Row("collection", _collection(dataset.collection, now))
    else:
        yield _Row("aggregation", "off, and collection, too")


def _backlog(dataset: DatasetState, now: datetime) -> str:
    backlog = dataset.backlog
    settling = f"{count_of(dataset.settling, 'file')} settling" if dataset.settling else ""
    if not backlog.files:
        return "; ".join(each for each in ("nothing waits", settling) if each)
    oldest = "" if backlog.oldest is None else f", the oldest for {_since(backlog.oldest, now)}"
    parts = [f"{count_of(backlog.files, 'file')}, {format_size(backlog.size)}{oldest}"]
    if dataset.in_flight_dataranges:
        ways = count_of(dataset.in_flight_dataranges, "datarange")
        parts.append(f"{dataset.in_flight.files:,} of them on their way in {ways}")
    return "; ".join([*parts, *([settling] if settling else [])])


def _rate(dataset: DatasetState) -> str:
    if dataset.files_per_second >= 1:
        return f"{dataset.files_per_second:,.0f} files/s, {format_size(dataset.bytes_per_second)}/s"
    files = round(dataset.files_per_second * 60)
    if not files:
        return "nothing in the last minute"
    return f"{count_of(files, 'file')}, {format_size(dataset.bytes_per_second * 60)} in the last minute"


def _last_commit(dataset: DatasetState, now: datetime) -> str:
    commit = dataset.last_commit
    if commit is None:
        return "none since the daemon started"
    span = f"{format_span(commit.first, commit.last)} ({count_of(commit.files, 'file')}, {format_size(commit.size)})"
    return f"{_ago(commit.time, now)}: {span}, revision {commit.revision}"


def _aggregation(state: AggregationState, now: datetime) -> str:
    if not state.enabled:
        return "off"
    parts = []
    if state.step is not None:
        step = state.step
        done = f"{100 * step.done / step.size:.0f} % of {format_size(step.size)}" if step.size else "just begun"
        what = f"joins {count_of(step.dataranges, 'datarange')} to {format_span(step.first, step.last)}"
        parts.append(f"{what}: {done}, for {_since(step.since, now)}")
    parts.append(f"{state.due:,} due" if state.due else "nothing due")
    if state.last_step is not None:
        parts.append(f"last step {_ago(state.last_step, now)}")
    if state.steps:
        parts.append(f"{count_of(state.steps, 'step')} since start")
    return "; ".join(parts)


def _collection(state: CollectionState, now: datetime) -> str:
    if not state.enabled:
        return "off"
    parts = []
    if state.running_since is not None:
        parts.append(f"running for {_since(state.running_since, now)}")
    if state.last_run is not None:
        parts.append(f"last run {_ago(state.last_run, now)}")
    if state.next_run is not None and state.running_since is None:
        parts.append(f"next in {_since(now, state.next_run)}")
    if state.deleted_objects:
        deleted = f"{count_of(state.deleted_objects, 'object')} ({format_size(state.deleted_bytes)})"
        parts.append(f"{deleted} deleted since start")
    if state.unknown_objects:
        parts.append(f"{count_of(state.unknown_objects, 'unknown object')} left alone")
    return "; ".join(parts) or "not run yet"


def _problems(problems: tuple[Problem, ...], now: datetime) -> Iterator[_Row]:
    for problem in problems:
        often = f", {problem.count:,} times" if problem.count > 1 else ""
        message = f"{problem.message} (for {_since(problem.since, now)}{often})"
        yield from _trouble(Trouble(message, problem.hint))


def _trouble(trouble: Trouble, tone: Tone = Tone.BAD) -> Iterator[_Row]:
    yield _Row("problem" if tone is Tone.BAD else "note", trouble.message, tone)
    if trouble.hint:
        yield _Row("what to do", trouble.hint, Tone.HINT)


def _mount(report: MountReport, now: datetime) -> Iterator[_Row]:
    tone = Tone.HINT if report.secret else Tone.BAD if list(report.troubles()) else Tone.GOOD
    yield _Row(report.path, report.store, tone, title=True)
    if report.trouble is not None:
        yield from _trouble(report.trouble, Tone.HINT if report.secret else Tone.BAD)
    document = report.document
    if document is None:
        return
    since = _since(datetime.fromisoformat(document["started"]).astimezone(UTC), now)
    yield _Row("up", f"for {since}, process {document['pid']}, version {document['dasfs']}")
    for trouble in report.troubles():
        yield from _trouble(trouble)
    yield _Row("datasets", _mounted_datasets(document["datasets"]))
    yield from _cache(document["block_cache"])
    if "last_minute" in document:
        yield from _lately(document)


def _mounted_datasets(datasets: Mapping[str, Mapping[str, Any]]) -> str:
    shown = [
        f"{name} at revision {each['revision']} ({count_of(each['datapoints'], 'datapoint')})"
        for name, each in list(datasets.items())[:_MAX_NAMED]
    ]
    if len(datasets) > _MAX_NAMED:
        shown.append(f"{len(datasets) - _MAX_NAMED} more")
    return ", ".join(shown) or "none was used yet"


def _cache(cache: Mapping[str, Any]) -> Iterator[_Row]:
    used, capacity = cache["bytes_used"], cache["capacity"]
    share = f" ({100 * used / capacity:.0f} %)" if capacity else ""
    recovering = "; it looks what a crash left" if cache["recovering"] else ""
    yield _Row("cache", f"{format_size(used)} of {format_size(capacity)}{share}{recovering}")
    reads = cache["hits"] + cache["misses"]
    hits = f"{100 * cache['hits'] / reads:.1f} % of {count_of(reads, 'read')} from the cache" if reads else "none yet"
    moved = f"{format_size(cache['bytes_served'])} served, {format_size(cache['bytes_fetched'])} fetched"
    faults = [
        f"{cache[key]:,} {what}"
        for key, what in (("fetch_errors", "failed to be fetched"), ("verification_failures", "damaged blocks"))
        if cache[key]
    ]
    yield _Row("reads", "; ".join([hits, moved, *faults]))


def _lately(document: Mapping[str, Any]) -> Iterator[_Row]:
    """Yield what a mount did in the last minute and does just now; its access log, where it has one."""
    lately, waiting, in_flight = (
        document["last_minute"],
        document["waiting_reads"],
        document["block_cache"]["in_flight"],
    )
    seconds, reads = lately["seconds"], lately["hits"] + lately["misses"]
    parts = [f"{lately['reads'] / seconds:,.0f} reads/s, {format_size(lately['bytes_read'] / seconds)}/s"]
    if reads:
        parts.append(f"{100 * lately['hits'] / reads:.1f} % from the cache")
    parts.append(f"{format_size(lately['bytes_fetched'] / seconds)}/s fetched")
    now = [f"{count_of(in_flight, 'request')} in flight"] if in_flight else []
    now += [f"{count_of(waiting, 'read')} waiting"] if waiting else []
    if now:
        parts.append(", ".join(now))
    if lately["errors"]:
        parts.append(f"{count_of(lately['errors'], 'read')} failed")
    idle = not (lately["reads"] or lately["bytes_fetched"] or now)
    yield _Row(
        "last minute", "nothing was read" if idle else "; ".join(parts), Tone.BAD if lately["errors"] else Tone.PLAIN
    )
    access_log = document["access_log"]
    if access_log is not None:
        told = f"{access_log['file']}, {count_of(access_log['lines'], 'line')}"
        dropped = f", {access_log['dropped']:,} dropped" if access_log["dropped"] else ""
        trouble = f"; it can't be written: {access_log['problem']}" if access_log["problem"] else ""
        yield _Row("access log", f"{told}{dropped}{trouble}", Tone.BAD if trouble else Tone.PLAIN)


def _since(time: datetime, now: datetime) -> str:
    return format_seconds((now - time).total_seconds())


def _ago(time: datetime, now: datetime) -> str:
    return f"{_since(time, now)} ago"


def format_seconds(seconds: float) -> str:
    """Return a stretch of time as people say it: `12 s`, `4 min`, `4 h 10 min`, `3 d`; what is negative is 0."""
    minutes, whole = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if not (days or hours):
        return f"{minutes} min" if minutes else f"{whole} s"
    parts = [(days, "d"), (hours, "h")] if days else [(hours, "h"), (minutes, "min")]
    return " ".join(f"{count:,} {unit}" for count, unit in parts if count)
