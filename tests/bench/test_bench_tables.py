"""What the benchmark says of its figures: aims, ratios, and peers that are missing."""

from pathlib import Path

from bench.outcome import Aim, Curve, Outcome, PeerFigures, Row, load
from bench.report import aims_table, peers_table


def cells(row: Row) -> list[str]:
    return [cell.strip() for cell in aims_table([row]).splitlines()[-1].split("|")[1:-1]]


def test_a_ratio_is_held_against_its_aim() -> None:
    """A row is met from its aim on, whichever way the aim counts, and missed on the other side of it."""
    assert cells(Row("read", "files/s", 90, "C", 100, Aim(0.9))) == [
        *("read", "90 files/s", "100 files/s", "C", "0.9", "≥ 0.9", "met")
    ]
    assert cells(Row("read", "files/s", 89, "C", 100, Aim(0.9)))[-1] == "**missed**"
    assert cells(Row("one", "ms", 25, "GET", 20, Aim(1.25, at_most=True)))[-2:] == ["≤ 1.25", "met"]
    assert cells(Row("one", "ms", 26, "GET", 20, Aim(1.25, at_most=True)))[-1] == "**missed**"


def test_a_figure_is_held_against_its_aim() -> None:
    """An aim of the figure itself needs no peer, and is written with its unit."""
    assert cells(Row("ready", "s", 0.5, aim=Aim(1, True, True)))[-3:] == ["", "≤ 1 s", "met"]
    assert cells(Row("warm", "MB/s", 1999, aim=Aim(2000, of_value=True)))[-1] == "**missed**"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    """A peer that failed leaves the row there, with the reason; without a reason it is not measured."""
    assert cells(Row("read", "files/s", 90, "rclone", None, Aim(12), "not installed"))[-1] == "not installed"
    assert cells(Row("read", "files/s", 90, "rclone", None, Aim(12)))[-1] == "not measured"


def test_a_peer_that_failed_stays_in_the_table() -> None:
    """The table of peers has a line for each, also for one that could not be installed, which says why."""
    peers = [PeerFigures("rclone", None, "files/s", problem="can't be installed: no network")]
    peers += [PeerFigures("s3fs", 10, "files/s", 1.01, 3.0), PeerFigures("dasfs", 2500, "files/s")]
    lines = peers_table(peers).splitlines()[2:]
    assert lines[0].startswith("| rclone | can't be installed: no network |")
    assert lines[1] == "| s3fs | 10 files/s | 250 times | 1.01 | 3 |  |"
    assert lines[2] == "| dasfs | 2,500 files/s |  |  |  |  |"


def test_an_outcome_is_kept_whole(tmp_path: Path) -> None:
    """What a case saves is read back as it was, so that tables can be made of earlier runs."""
    outcome = Outcome("one", "One", [Row("read", "ms", 2.0, "C", 1.0, Aim(1.25, True))])
    outcome.peers.append(PeerFigures("dasfs", 2.0, "ms"))
    outcome.curves.append(Curve("epoch", "dasfs", [(1.0, 0.5)]))
    outcome.samples["dasfs, ms"] = [2.0]
    outcome.save(tmp_path)
    assert load(tmp_path / "one.json") == outcome
