"""Tables of what was measured, in Markdown, and the pages and pictures of the documentation that show them."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import dasfs
from bench import environment
from bench.cases import CASES, MORE_CASES
from bench.environment import Environment
from bench.outcome import DASFS, Outcome, PeerFigures, Row, load
from bench.processes import BenchError, run
from bench.rig import HERE, Rig

OUT: Final = HERE / "out"
PAGE: Final = HERE.parent / "docs/performance.md"
PICTURES_FOLDER: Final = HERE.parent / "docs/pictures"
# What bench/plots.py draws, with the text for who can't see it.
PICTURES: Final = {
    "epoch": "Time to the n-th file of an epoch in order, by client",
    "readers": "Files a second by number of readers, cold and shuffled, by client",
    "warm": "Files a second by number of readers, warm, by client",
    "fetched": "Bytes fetched for each byte read, by client",
    "growth-time": "Time until a mount answers, by number of datapoints",
    "growth-memory": "Memory and disk of a mount, by number of datapoints",
}
BEGIN: Final = "<!-- bench: from here -->"
END: Final = "<!-- bench: to here -->"


def machine(rig: Rig) -> dict[str, Any]:
    """Return what a reader must know of where and with what a case was measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gib": round(memory / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "dasfs": _dasfs_version(),
        "load": os.getloadavg()[0],
        "latency_ms": rig.gateway.latency_ms,
        "settings": rig.settings.name,
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _dasfs_version() -> str:
    """Return the version, with the commit where there is a repository."""
    try:
        commit = run("git", "-C", str(HERE), "describe", "--always", "--dirty").stdout.strip()
    except BenchError:
        return dasfs.__version__
    return f"{dasfs.__version__} ({commit})"


def load_all(directory: Path) -> list[Outcome]:
    """Return every outcome in a directory, in the order in which the cases run."""
    return [load(path) for case in (*CASES, *MORE_CASES) if (path := directory / f"{case}.json").exists()]


def tables(outcomes: Sequence[Outcome]) -> str:
    """Return all tables: what is held against an aim, what each peer did, and with what that was measured."""
    parts = [aims_table([row for outcome in outcomes for row in outcome.rows])]
    parts += [f"**{outcome.title}**\n\n{peers_table(outcome.peers)}" for outcome in outcomes if outcome.peers]
    return "\n\n".join([*parts, facts_table(outcomes)])


def aims_table(rows: Iterable[Row]) -> str:
    """Return the rows as a table: the figure, the peer's, the ratio of the two, the aim, and whether it is met."""
    lines = ["| | dasfs | peer | | dasfs ÷ peer | aim | |", "|---|---:|---:|---|---:|---:|---|"]
    for row in rows:
        cells = (
            row.what,
            figure(row.dasfs, row.unit),
            figure(row.peer, row.unit),
            row.peer_name,
            "" if row.ratio is None else f"{row.ratio:.3g}",
            "" if row.aim is None else row.aim.text(row.unit),
            verdict(row),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(row: Row) -> str:
    if row.is_met is None:
        return row.note or ("not measured" if row.aim else "")
    return "met" if row.is_met else "**missed**"


def figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    text = f"{value:,.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if digits else text} {unit}".strip()


def peers_table(peers: Sequence[PeerFigures]) -> str:
    """Return what each peer did, the quickest last; one that failed says why."""
    ours = next((each.value for each in peers if each.peer == DASFS), None)
    lines = ["| | | dasfs is | fetched a byte | requests a file | files verified |", "|---|---:|---:|---:|---:|---:|"]
    for each in peers:
        times = f"{ours / each.value:,.3g} times" if ours and each.value and each.peer != DASFS else ""
        value = each.problem if each.value is None else figure(each.value, each.unit)
        numbers = ("" if number is None else f"{number:,.3g}" for number in (each.fetched, each.requests))
        verified = "" if each.verified is None else f"{each.verified:,}"
        lines.append(f"| {' | '.join((each.peer, value, times, *numbers, verified))} |")
    return "\n".join(lines)


def facts_table(outcomes: Sequence[Outcome]) -> str:
    """Return where, when and with what each case was measured. The load is that of the machine just after it."""
    lines = ["| case | measured | dasfs | latency | load | took |", "|---|---|---|---:|---:|---:|"]
    for outcome in outcomes:
        facts = outcome.machine
        settings = "" if facts["settings"] == "full" else f", {facts['settings']}"
        cells = (outcome.case, f"{facts['time']}{settings}", facts["dasfs"], f"{facts['latency_ms']:g} ms")
        lines.append(f"| {' | '.join(cells)} | {facts['load']:.1f} | {outcome.seconds:.0f} s |")
    facts = outcomes[-1].machine
    versions = {name: version for outcome in outcomes for name, version in outcome.machine.get("versions", {}).items()}
    peers = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if version)
    where = f"{facts['cpu']}, {facts['cpus']} cores, {facts['memory_gib']} GiB, Linux {facts['kernel']}"
    return "\n".join([*lines, "", f"{where}, Python {facts['python']}; {peers}."])


def write(directory: Path, installed: Environment, *, publish: bool) -> None:
    """Write the table and the plots into `directory`; with `publish` into the documentation too."""
    outcomes = load_all(directory)
    if not outcomes:
        return
    text = tables(outcomes)
    (directory / "table.md").write_text(text + "\n")
    if not installed.has("matplotlib"):
        print("bench: no plots: matplotlib is not installed in bench/.venv", file=sys.stderr)
        return
    try:
        run(str(installed.python), str(HERE / "plots.py"), str(directory))
    except BenchError as error:
        print(f"bench: no plots: {error}", file=sys.stderr)
        return
    if publish:
        _publish(directory, text)


def _publish(directory: Path, text: str) -> None:
    """Put tables and plots between the marks of docs/performance.md."""
    pictures = [picture for name in PICTURES if (picture := directory / f"{name}.svg").exists()]
    text += "".join(f"\n\n![{PICTURES[picture.stem]}](pictures/{picture.name})" for picture in pictures)
    page = PAGE.read_text()
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{PAGE} has no place for tables: {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
    PICTURES_FOLDER.mkdir(exist_ok=True)
    for picture in pictures:
        shutil.copy(picture, PICTURES_FOLDER / picture.name)


def main() -> int:
    """Publish what is in bench/out as it is."""
    write(OUT, environment.install(), publish=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
