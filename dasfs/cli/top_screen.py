"""The screen of `dasfs top`: samples as lines of text, for a terminal of any size.

Pure: samples in, lines out.
"""

import pwd
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from dasfs.cli.output import count_of, format_size
from dasfs.cli.top_sample import Done, MountSample, Reader

_UNLIMITED: Final = 1_000_000
# What stands left of the figures: pid, user, command.
_HEAD: Final = f"{'PID':>8}  {'USER':<10} {'COMMAND':<15} "
_FIGURES: Final = f"{'FILES/S':>9} {'READS/S':>9} {'MB/S':>8} {'HITS':>6} {'MS':>8} {'WAIT':>5} {'FOR':>7}"
_LEAST_DATASET: Final = 8
_WITHOUT_READERS: Final = "nobody reads just now; what the kernel has in memory is not seen here"


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `style` is one of rich's."""

    text: str
    style: str = ""


def lay_out(samples: Iterable[MountSample], width: int | None, height: int | None) -> list[Line]:
    """Return the lines of all mounts, none longer than `width`, no more than `height`; None: as many as there are."""
    room = _UNLIMITED if width is None else max(40, width)
    lines: list[Line] = []
    for sample in samples:
        lines += [Line("")] if lines else []
        lines += _mount(sample)
    lines = [Line(_printable(each.text)[:room].rstrip(), each.style) for each in lines]
    if height is not None and len(lines) > height:
        hidden = len(lines) - height + 1
        lines = [*lines[: height - 1], Line(f"... and {count_of(hidden, 'more line')}", "dim")]
    return lines


def _mount(sample: MountSample) -> Iterator[Line]:
    yield Line(f"{sample.path}  {sample.store}", "bold")
    if sample.problem is not None:
        yield Line(f"problem: {sample.problem}", "red")
    if sample.document is None:
        return
    yield Line(_total(sample))
    fetched = f"{format_size(sample.bytes_fetched / sample.interval_s)}/s fetched"
    yield Line(f"{fetched} by {sample.fetches / sample.interval_s:,.0f} requests/s, {sample.in_flight} in flight")
    if not sample.readers:
        yield Line(_WITHOUT_READERS, "dim")
        return
    wide = max([_LEAST_DATASET, *(len(name) for name in sample.datasets)])
    yield Line(f"{_HEAD}{'DATASET':<{wide}} {_FIGURES}", "reverse")
    for reader, done in sample.readers.items():
        yield Line(f"{_who(reader)}{reader.dataset or '?':<{wide}} {_figures(done, sample.interval_s)}", _style(done))
    if len(sample.datasets) > 1 or len(sample.readers) > 1:
        for name, done in sample.datasets.items():
            yield Line(
                f"{'':>8}  {'':<10} {'all':<15} {name or '?':<{wide}} {_figures(done, sample.interval_s)}", "bold"
            )


def _total(sample: MountSample) -> str:
    total, interval = sample.total, sample.interval_s
    parts = [f"{total.files / interval:,.0f} files/s, {total.reads / interval:,.0f} reads/s"]
    parts.append(f"{total.bytes / interval / 1e6:,.1f} MB/s")
    if total.hit_share is not None:
        parts.append(f"{100 * total.hit_share:.1f} % from the cache")
    if total.waiting:
        parts.append(f"{count_of(total.waiting, 'read')} waiting, the longest for {total.longest_s:.1f} s")
    if total.errors:
        parts.append(f"{total.errors / interval:,.1f} errors/s")
    return ", ".join(parts)


def _who(reader: Reader) -> str:
    return f"{reader.pid or '?':>8}  {_user(reader.uid)[:10]:<10} {(reader.command or '?')[:15]:<15} "


def _figures(done: Done, interval_s: float) -> str:
    share, mean = done.hit_share, done.mean_ms
    hits = "" if share is None else f"{100 * share:.0f} %"
    milliseconds = "" if mean is None else f"{mean:,.2f}"
    waiting = str(done.waiting) if done.waiting else ""
    longest = f"{done.longest_s:.1f} s" if done.waiting else ""
    return (
        f"{done.files / interval_s:>9,.0f} {done.reads / interval_s:>9,.0f} {done.bytes / interval_s / 1e6:>8,.1f} "
        f"{hits:>6} {milliseconds:>8} {waiting:>5} {longest:>7}"
    )


def _style(done: Done) -> str:
    # What waits for more than a second waits for the store, and longer than a healthy one takes.
    return "red" if done.errors else "yellow" if done.longest_s > 1 else ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)
