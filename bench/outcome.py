"""What a case found: figures with what they are held against, the samples behind them, and curves for the plots."""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

DASFS: Final = "dasfs"


@dataclass(frozen=True, slots=True)
class Aim:
    """What a row is to reach: at least, or at most, `bound`; of the ratio to the peer, or of the figure itself."""

    bound: float
    at_most: bool = False
    of_value: bool = False

    def text(self, unit: str) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}{f' {unit}' if self.of_value else ''}"

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a figure of dasfs, the same of a peer, and the aim. Without a figure, `note` says why."""

    what: str
    unit: str
    dasfs: float | None
    peer_name: str = ""
    peer: float | None = None
    aim: Aim | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The figure of dasfs divided by that of the peer."""
        return self.dasfs / self.peer if self.peer and self.dasfs is not None else None

    @property
    def is_met(self) -> bool | None:
        """Whether the aim is met; None where there is none, or where a figure is missing."""
        held = self.dasfs if self.aim and self.aim.of_value else self.ratio
        return None if self.aim is None or held is None else self.aim.is_met(held)


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """What one peer did in a case, as medians. `fetched` is bytes that passed the link a byte read."""

    peer: str
    value: float | None
    unit: str
    fetched: float | None = None
    requests: float | None = None
    verified: int | None = None  # files whose checksum was compared
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot: `plot` names the picture, `label` the line."""

    plot: str
    label: str
    points: list[tuple[float, float]]


@dataclass(slots=True)
class Outcome:
    """What one case found. All samples are kept for who doubts the medians."""

    case: str
    title: str
    rows: list[Row] = field(default_factory=list)
    peers: list[PeerFigures] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def add_sample(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)
        print(f"  {name}: {value:,.4g}", file=sys.stderr, flush=True)

    def add_problem(self, peer: str, problem: str) -> None:
        """Note that a peer can't take part, or failed. It stays in the table with that reason."""
        self.problems.setdefault(peer, problem)
        print(f"  {peer}: {problem}", file=sys.stderr, flush=True)

    def median(self, name: str) -> float | None:
        """Return the median of the samples of that name; None where there are none."""
        return statistics.median(self.samples[name]) if self.samples.get(name) else None

    def save(self, directory: Path) -> None:
        """Write everything to `<case>.json` in a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        document = asdict(self)
        for row, out in zip(self.rows, document["rows"], strict=True):
            out |= {"ratio": row.ratio, "is_met": row.is_met}
        (directory / f"{self.case}.json").write_text(json.dumps(document, indent=1) + "\n")


def load(path: Path) -> Outcome:
    """Return the outcome that `save` wrote."""
    document = json.loads(path.read_text())
    for row in document["rows"]:
        del row["ratio"], row["is_met"]
        row["aim"] = Aim(**row["aim"]) if row["aim"] else None
    document["rows"] = [Row(**row) for row in document["rows"]]
    document["peers"] = [PeerFigures(**each) for each in document["peers"]]
    document["curves"] = [Curve(each["plot"], each["label"], _points(each["points"])) for each in document["curves"]]
    return Outcome(**document)


def _points(pairs: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in pairs]
