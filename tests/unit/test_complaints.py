"""Warnings about operations that failed: the first ones, and then how many."""

import logging

import pytest

from dasfs.fuse.complaints import LIMIT, PERIOD_S, Complaints


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def complaints(clock: Clock) -> Complaints:
    return Complaints(logging.getLogger("test"), clock)


def test_the_first_are_told_as_they_are(complaints: Complaints, caplog: pytest.LogCaptureFixture) -> None:
    """Up to the limit, each operation that failed has its line."""
    for number in range(LIMIT - 1):
        complaints.add("read", f"problem {number}")
    assert [record.getMessage() for record in caplog.records] == [f"read: problem {k}" for k in range(LIMIT - 1)]


def test_the_others_are_counted(complaints: Complaints, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the limit nothing is told until the period ends; then how many there were, and lines again."""
    for _ in range(LIMIT + 1234):
        complaints.add("read", "problem")
    assert len(caplog.records) == LIMIT + 1
    clock.now += PERIOD_S
    complaints.add("lookup", "another")
    assert [record.getMessage() for record in caplog.records[LIMIT + 1 :]] == [
        "1234 more operations failed",
        "lookup: another",
    ]


def test_rare_ones_are_all_told(complaints: Complaints, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Failures that are far apart all have their lines, for ever."""
    for _ in range(5 * LIMIT):
        complaints.add("read", "problem")
        clock.now += PERIOD_S / LIMIT * 2
    assert len(caplog.records) == 5 * LIMIT
