"""What `dasfs doctor` says of a store and of mounts: each finding, from facts alone."""

from typing import Any

import pytest

import dasfs
from dasfs.cli.doctor.finding import Finding, Verdict
from dasfs.cli.doctor.machine import RequestTimeouts
from dasfs.cli.doctor.mounts import MountFacts, check_mount
from dasfs.cli.doctor.store import (
    Throughput,
    check_clock,
    judge_condition,
    judge_latency,
    judge_records,
    judge_throughput,
)
from dasfs.cli.status_report import MountReport, Trouble


@pytest.mark.parametrize(
    ("skew", "verdict", "said"),
    [
        (0.4, Verdict.OK, "as the store's, to a second or two"),
        (-20, Verdict.OK, "20 s off"),
        (45, Verdict.WARNING, "45 s ahead of"),
        (-300, Verdict.WARNING, "5 min behind"),
        (901, Verdict.PROBLEM, "15 min ahead of"),
        (-86400 * 3, Verdict.PROBLEM, "3 days behind"),
    ],
)
def test_clocks(skew: float, verdict: Verdict, said: str) -> None:
    """A clock that is off is told long before the store refuses every request for it."""
    (finding,) = check_clock(skew)
    assert finding.verdict is verdict
    assert said in finding.line
    assert finding.measured == {"skew_s": skew}


def test_no_clock_to_compare_with() -> None:
    """A store of this machine has no clock of its own, and nothing is said."""
    assert list(check_clock(None)) == []


@pytest.mark.parametrize(
    ("finding", "verdict", "said"),
    [
        (judge_latency("s3://b", 0.004), Verdict.OK, "s3://b answers within 4.0 ms"),
        (judge_latency("s3://b", 0.2), Verdict.WARNING, "200.0 ms"),
        (
            judge_throughput(Throughput(2e8, 9e8), 8 << 20),
            Verdict.OK,
            "comes with 200 MB/s, 8 at once with 900",
        ),
        (judge_throughput(Throughput(2e6, 3e6), 8 << 20), Verdict.WARNING, "look after the network"),
        (judge_records({}), Verdict.OK, "not known"),
        (judge_records({"a": True, "b": True}), Verdict.OK, "honoured when a, b was made"),
        (judge_records({"a": True, "b": False}), Verdict.WARNING, "when b was made: only one writer"),
        (judge_condition(honoured=True, winners=1), Verdict.OK, "8 writers at once"),
        (judge_condition(honoured=False, winners=0), Verdict.WARNING, "ignores If-None-Match"),
        (judge_condition(honoured=True, winners=8), Verdict.PROBLEM, "8 of 8 writers"),
    ],
)
def test_what_is_found_in_a_store(finding: Finding, verdict: Verdict, said: str) -> None:
    """Each thing that is measured or probed is judged, with what to do."""
    assert finding.verdict is verdict
    assert said in finding.line


def document(**changes: Any) -> dict[str, Any]:
    """Return what a healthy mount says."""
    return {"problem": None, "datasets": {}, "dasfs": dasfs.__version__, "options": {"deadline_s": 30.0}} | changes


@pytest.mark.parametrize(
    ("facts", "timeouts", "verdict", "said"),
    [
        (MountFacts(MountReport("/m", "s3://b", document()), 1024), None, Verdict.OK, "is served well"),
        (
            MountFacts(MountReport("/m", "s3://b", trouble=Trouble("its process is gone", "mount it again")), None),
            None,
            Verdict.PROBLEM,
            "its process is gone; mount it again",
        ),
        (
            MountFacts(MountReport("/m", "s3://b", trouble=Trouble("denied"), secret=True), None),
            None,
            Verdict.OK,
            "belongs to another user",
        ),
        (
            MountFacts(MountReport("/m", "s3://b", document()), 1024),
            RequestTimeouts(0, 40),
            Verdict.PROBLEM,
            "fs.fuse.max_request_timeout=45",
        ),
        (
            MountFacts(MountReport("/m", "s3://b", document(dasfs="0.0.1")), 1024),
            None,
            Verdict.WARNING,
            "it runs version 0.0.1",
        ),
        (MountFacts(MountReport("/m", "s3://b", document()), 128), None, Verdict.WARNING, "reads 128 KiB ahead"),
        (
            MountFacts(MountReport("/m", "s3://b", document(problem="can't connect")), 1024),
            None,
            Verdict.PROBLEM,
            "can't connect",
        ),
    ],
)
def test_what_is_found_of_a_mount(
    facts: MountFacts, timeouts: RequestTimeouts | None, verdict: Verdict, said: str
) -> None:
    """A mount has one line when all is well, else one for each thing that is not."""
    (finding,) = check_mount(facts, timeouts)
    assert finding.verdict is verdict
    assert finding.check == "mount /m"
    assert said in finding.line
