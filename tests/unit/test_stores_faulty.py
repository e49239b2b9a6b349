"""The store with faults does to its caller just what its plan says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dasfs.errors import Corrupt, DeadlineExceeded, NotFound, StoreUnavailable
from dasfs.stores import open_store
from tests.faulty import Fault, FaultyStore, at_random, during, healthy, nth


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyStore]:
    """A directory store that works until a plan is set."""
    with open_store(f"file://{tmp_path}") as inner:
        yield FaultyStore(inner, deadline_s=0.1)


def test_nth_operation_fails(faulty: FaultyStore) -> None:
    """Only the second put fails, and does nothing."""
    faulty.plan = nth(2, Fault.FAIL, "put")
    faulty.put("a", b"1")
    faulty.get("a")
    with pytest.raises(StoreUnavailable):
        faulty.put("b", b"2")
    faulty.put("c", b"3")
    assert [info.key for info in faulty.list("")] == ["a", "c"]
    assert faulty.count("put") == 3


def test_lost_answer_is_done(faulty: FaultyStore) -> None:
    """A write whose answer is lost is there."""
    faulty.plan = during(Fault.LOSE_ANSWER, "put_if_absent")
    with pytest.raises(StoreUnavailable):
        faulty.put_if_absent("a", b"1")
    assert faulty.get("a") == b"1"


def test_damaged_reads(faulty: FaultyStore) -> None:
    """A flipped bit is handed out silently; a cut is told."""
    faulty.put("a", bytes(8))
    buffer = bytearray(8)
    faulty.plan = during(Fault.FLIP)
    faulty.read_into("a", 0, memoryview(buffer))
    assert buffer.count(1) == faulty.get("a").count(1) == 1
    faulty.plan = during(Fault.CUT)
    with pytest.raises(Corrupt):
        faulty.read_into("a", 0, memoryview(buffer))
    with pytest.raises(Corrupt):
        faulty.get("a")


def test_hanging_ends_at_the_deadline_or_when_released(faulty: FaultyStore) -> None:
    """An operation that hangs meets the deadline; once released, all go on."""
    faulty.plan = during(Fault.HANG)
    with pytest.raises(DeadlineExceeded):
        faulty.check()
    faulty.release()
    faulty.check()


def test_random_faults_repeat(faulty: FaultyStore) -> None:
    """The same seed hits the same operations, about as many as asked for."""
    plans = [at_random(7, 1 / 3, Fault.FAIL), at_random(7, 1 / 3, Fault.FAIL)]
    hits = [[plan("get", "", number) for number in range(300)] for plan in plans]
    assert hits[0] == hits[1]
    assert 60 < hits[0].count(Fault.FAIL) < 140


def test_healthy_passes_everything(faulty: FaultyStore) -> None:
    """Without faults, results and errors are those of the store inside."""
    faulty.plan = healthy
    info = faulty.put_stream("d/a", [b"12", b"3"])
    assert faulty.head("d/a") == info
    assert list(faulty.list_prefixes("")) == ["d"]
    faulty.delete(["d/a"])
    with pytest.raises(NotFound):
        faulty.get("d/a")
