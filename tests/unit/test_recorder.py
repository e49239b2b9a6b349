"""Who reads what: counted only while somebody looks, reads that wait always known. No kernel, no mount."""

import errno
import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from dasfs.errors import Corrupt
from dasfs.fuse import recorder as recorder_module
from dasfs.fuse import tallies as tallies_module
from dasfs.fuse.access_log import AccessLog
from dasfs.fuse.inodes import InodeTable
from dasfs.fuse.processes import Processes, look_up
from dasfs.fuse.rates import WINDOW_S, Counts, Rates
from dasfs.fuse.recorder import Recorder, errno_of
from dasfs.fuse.tallies import MAX_TALLIES, Tally
from dasfs.names import DatapointNumber

ME = os.getpid()
TABLE = InodeTable()
CATS = TABLE.datapoint("cats", DatapointNumber(7))
DOGS = TABLE.datapoint("dogs", DatapointNumber(7))


def make_recorder() -> Recorder:
    return Recorder(TABLE.find_datapoint)


def tallies_of(recorder: Recorder) -> dict[tuple[int, str], Tally]:
    return {(each.process.pid, each.dataset): each for each in recorder.count().all()}


def test_nothing_is_counted_until_somebody_looks() -> None:
    """A new recorder is off; the first look turns it on, with nothing to tell yet."""
    recorder = make_recorder()
    assert not recorder.on
    assert tallies_of(recorder) == {}
    assert recorder.on


def test_reads_are_counted_by_process_and_dataset() -> None:
    """Files are reads from the start of one; threads of a process count together; datasets don't."""
    recorder = make_recorder()
    recorder.count()
    recorder.read(ME, 5, CATS, 0, 100, 0.25, hit=True)
    recorder.read(ME, 5, CATS, 100, 50, 0.5, hit=False)
    recorder.read(ME, 5, DOGS, 0, 0, 0.0, hit=False, number=errno.EIO)
    recorder.read(0, 6, DOGS, 0, 1, 0.0, hit=True)
    inside = threading.Event()
    done = threading.Event()
    threads: list[int] = []

    def other() -> None:
        threads.append(threading.get_native_id())
        inside.set()
        done.wait()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    recorder.read(threads[0], 5, CATS, 0, 10, 0.0, hit=True)
    done.set()
    thread.join()
    found = tallies_of(recorder)
    assert set(found) == {(ME, "cats"), (ME, "dogs"), (0, "dogs")}
    cats, dogs = found[ME, "cats"], found[ME, "dogs"]
    assert (cats.files, cats.reads, cats.bytes, cats.hits, cats.errors, cats.seconds) == (2, 3, 160, 2, 0, 0.75)
    assert (dogs.files, dogs.reads, dogs.hits, dogs.errors) == (1, 1, 0, 1)
    assert cats.uid == 5
    assert cats.process.command == Path(f"/proc/{ME}/comm").read_text().strip()
    assert found[0, "dogs"].process.command == ""


def test_counting_ends_when_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some time after the last look reads cost nothing again."""
    monkeypatch.setattr(recorder_module, "LEASE_S", 0.0)
    monkeypatch.setattr(tallies_module, "_READS_A_LOOK", 10)
    recorder = make_recorder()
    recorder.count()
    for _ in range(10):
        assert recorder.on
        recorder.read(ME, 0, CATS, 0, 1, 0.0, hit=True)
    assert not recorder.on


def test_memory_is_bounded() -> None:
    """Any number of processes that read one after the other leave as much behind as a few thousand do."""
    recorder = make_recorder()
    tallies = recorder.count()
    for thread in range(MAX_TALLIES + 100):
        recorder.read(10_000_000 + thread, 0, CATS, 0, 1, 0.0, hit=True)
    assert len(list(tallies.all())) == MAX_TALLIES


def test_waiting_reads_are_known_also_when_nobody_looks() -> None:
    """A read that waits is there from its beginning to its end, and its failure is counted."""
    recorder = make_recorder()
    with recorder.wait(ME, 0, CATS, 0, 10) as wait:
        assert list(recorder.waiting.values()) == [wait]
        wait.size = 5
    with pytest.raises(Corrupt), recorder.wait(ME, 0, CATS, 0, 10):
        raise Corrupt("bytes")
    assert (recorder.waiting, recorder.errors, recorder.on) == ({}, 1, False)


def test_a_wait_is_a_read_with_a_miss() -> None:
    """While somebody looks the end of a wait is counted, with what was read and how long it took."""
    recorder = make_recorder()
    recorder.count()
    with recorder.wait(ME, 0, CATS, 0, 10) as wait:
        wait.size = 5
    with pytest.raises(trio.TooSlowError), recorder.wait(ME, 0, CATS, 5, 10):
        raise trio.TooSlowError
    tally = tallies_of(recorder)[ME, "cats"]
    assert (tally.reads, tally.hits, tally.bytes, tally.errors) == (2, 0, 5, 1)
    assert tally.seconds > 0


def test_a_deadline_is_a_failure_and_a_killed_reader_is_none() -> None:
    """A wait that its deadline ends is an error; one whose reader is gone is not."""
    recorder = make_recorder()

    async def wait_for(scope: trio.CancelScope) -> None:
        with scope, recorder.wait(ME, 0, CATS, 0, 10):
            await trio.sleep_forever()

    async def run() -> None:
        await wait_for(trio.CancelScope(deadline=trio.current_time() + 0.01))
        assert (recorder.errors, recorder.waiting) == (1, {})
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(wait_for, scope)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        assert (recorder.errors, recorder.waiting) == (1, {})

    trio.run(run)


@pytest.mark.parametrize(
    ("error", "number"),
    [(Corrupt("x"), errno.EIO), (trio.TooSlowError(), errno.ETIMEDOUT), (ZeroDivisionError(), errno.EIO)],
)
def test_errnos(error: BaseException, number: int) -> None:
    """A failed read is told with the errno that its reader gets."""
    assert errno_of(error) == number


def test_an_access_log_turns_it_on(tmp_path: Path) -> None:
    """Reads are told while there is a log or somebody looks, and no longer."""
    recorder = make_recorder()
    log = AccessLog(str(tmp_path / "log"), recorder.place_of, recorder.processes)
    assert recorder.log_to(log) is None
    assert recorder.on
    recorder.count()
    assert recorder.log_to(None) is log
    assert recorder.on
    log.close()


def test_threads_that_are_gone_or_hidden() -> None:
    """Where the kernel tells nothing, a process has a number and no name."""
    assert look_up(0) == Processes().find(0)
    assert look_up(2**31 - 1).command == ""


def test_rates_of_a_minute() -> None:
    """What was done in the last minute is told, no more and, where the mount is younger, no less."""
    now, counts = [0.0], [Counts()]
    rates = Rates(lambda: counts[0], lambda: now[0])
    for second in range(5, 205, 5):
        now[0], counts[0] = float(second), Counts(reads=second, bytes_read=10 * second, errors=second // 100)
        lately = rates.lately()
        assert lately.seconds == min(second, WINDOW_S)
        assert lately.counts.reads == lately.seconds
        assert lately.counts.bytes_read == 10 * lately.seconds
        rates.sample()
    assert len(rates._samples) <= WINDOW_S / 5 + 2
