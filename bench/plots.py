#!/usr/bin/env python3
"""Draw the pictures of docs/performance.md from the JSON files of a run. Needs matplotlib: the peers' environment.

bench/.venv/bin/python bench/plots.py bench/out
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

# The same file from the same figures, so that a run that changed nothing changes no picture.
mpl.rcParams.update({"svg.hashsalt": "dasfs", "font.size": 10, "axes.grid": True, "grid.alpha": 0.3})
COLOURS: Final = {
    "dasfs": "#c0392b",
    "s3fs-fuse": "#7f8c8d",
    "rclone mount": "#2980b9",
    "rclone mount, tuned": "#5dade2",
    "ratarmount": "#27ae60",
    "webdataset": "#8e44ad",
    "raw ranged GETs": "#000000",
    "C, from memory": "#d4ac0d",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """How the curves of one plot are drawn."""

    title: str
    x: str
    y: str
    logarithmic: str = "xy"
    bars: bool = False


PICTURES: Final = {
    "readers": Picture("Cold, shuffled: files a second by number of readers", "readers", "files/s"),
    "warm": Picture("Warm: files a second by number of readers", "readers", "files/s", ""),
    "epoch": Picture("Cold, in order, 1 reader: time to the n-th file", "n-th file", "seconds"),
    "fetched": Picture("Bytes fetched a byte read", "", "bytes", "", bars=True),
    "growth-time": Picture("Cost by datapoints: time", "datapoints", "seconds"),
    "growth-memory": Picture("Cost by datapoints: memory and disk", "datapoints", "MB"),
}


def curves(directory: Path) -> dict[str, list[tuple[str, list[list[float]]]]]:
    """Return the lines of each plot, of all cases."""
    found: dict[str, list[tuple[str, list[list[float]]]]] = {}
    for path in sorted(directory.glob("*.json")):
        for curve in json.loads(path.read_text())["curves"]:
            found.setdefault(curve["plot"], []).append((curve["label"], curve["points"]))
    return found


def draw_lines(axes: Any, lines: Iterable[tuple[str, list[list[float]]]], logarithmic: str) -> None:
    for label, points in lines:
        xs, ys = zip(*points, strict=True)
        width = 2.5 if label.startswith("dasfs") else 1.5
        axes.plot(xs, ys, marker="o", markersize=4, linewidth=width, label=label, color=COLOURS.get(label))
    if "x" in logarithmic:
        axes.set_xscale("log")
    if "y" in logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def draw_bars(axes: Any, lines: Iterable[tuple[str, list[list[float]]]]) -> None:
    """Draw one bar a line, of its only point."""
    for label, points in lines:
        bar = axes.barh(label, points[0][1], color=COLOURS.get(label.partition(":")[0], "#7f8c8d"))
        axes.bar_label(bar, fmt="%.2f", padding=3)
    axes.axvline(1, color="black", linewidth=0.8)


def draw(name: str, lines: list[tuple[str, list[list[float]]]], directory: Path) -> None:
    picture = PICTURES[name]
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    axes.set_title(picture.title)
    if picture.bars:
        draw_bars(axes, lines)
        axes.set_xlabel(picture.y)
    else:
        draw_lines(axes, lines, picture.logarithmic)
        axes.set_xlabel(picture.x)
        axes.set_ylabel(picture.y)
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    directory = Path(sys.argv[1])
    for name, lines in curves(directory).items():
        draw(name, lines, directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
