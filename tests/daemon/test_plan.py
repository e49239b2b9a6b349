"""What the daemon decides: runs of files, when they are due, and the numbers they get."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dasfs_daemon.plan import MAX_FILES, choose_runs, cut_runs, fit_run, free_numbers, seconds_until_due, tar_size
from dasfs_daemon.rows import FileRow, Stamp, Waiting


def row(number, size=100, taken=0.0, key=0):
    return FileRow(key, b"%d" % key, Stamp(size, 0, key), taken, number is not None, number)


ROWS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5000)), unique_by=lambda each: each[0]).map(
    lambda pairs: [row(number, size, key=k) for k, (number, size) in enumerate(sorted(pairs))]
)


@given(ROWS, st.integers(1024, 20_000))
def test_runs_hold_every_file_once_and_fit(rows, target):
    """Runs are the files in their order, without a gap in their numbers, and larger than the target only when alone."""
    runs = list(cut_runs(rows, target))
    assert [file for run in runs for file in run.files] == rows
    for run in runs:
        assert [file.number for file in run.files] == list(range(run.first, run.first + len(run.files)))
        assert len(run.files) == 1 or 1024 + sum(map(tar_size, run.files)) <= target


@given(ROWS, st.integers(1024, 20_000))
def test_a_run_is_full_when_waiting_brings_nothing(rows, target):
    """A run that is called full would not fit the file with the next number."""
    runs = list(cut_runs(rows, target))
    for run, following in itertools.pairwise(runs):
        behind = run.files[-1].number + 1 == following.first
        too_large = 1024 + sum(map(tar_size, [*run.files, following.files[0]])) > target
        assert not behind or (too_large and run.full)


def test_only_full_and_old_runs_are_chosen():
    """A run that is neither full nor old waits for company; age counts by its oldest file."""
    rows = [row(1, taken=5.0), row(2, taken=9.0), row(10, taken=9.0), row(20, size=99_999, taken=9.0)]
    chosen = choose_runs(cut_runs(rows, 50_000), closed_before=6.0)
    assert [run.first for run in chosen] == [1, 20]


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=5).map(
    lambda pairs: sorted((first, first + length - 1) for first, length in pairs)
)


@given(SPANS, SPANS)
def test_free_numbers_are_the_reserved_that_nothing_has(reserved, busy):
    """What is left of the reservations is exactly the reserved numbers without the busy ones, ascending."""
    numbers = sorted({number for first, last in reserved for number in range(first, last + 1)})
    disjoint = [range(number, number + 1) for number in numbers]
    expected = [number for number in numbers if not any(first <= number <= last for first, last in busy)]
    assert [number for part in free_numbers(disjoint, busy) for number in part] == expected


def test_a_run_takes_what_numbers_there_are():
    """Where fewer consecutive numbers are left than files, the first files get them."""
    run = next(cut_runs([row(None, key=k) for k in range(5)], 10_000))
    assert len(fit_run(run, range(7, 10)).files) == 3
    assert len(fit_run(run, range(7, 100)).files) == 5


def test_when_a_datarange_is_due():
    """Nothing waits: never. Enough bytes or files: now. Else when the oldest has its age; never later than that."""
    assert seconds_until_due(Waiting(0, 0, 0, None), 100, 30.0, 0.0) is None
    assert seconds_until_due(Waiting(0, 1, 10**9, 50.0), 10**6, 30.0, 50.0) == 0.0
    assert seconds_until_due(Waiting(MAX_FILES, 0, 0, 50.0), 10**12, 30.0, 50.0) == 0.0
    assert seconds_until_due(Waiting(0, 1, 10, 50.0), 10**6, 30.0, 60.0) == 20.0
    assert seconds_until_due(Waiting(0, 1, 10, 50.0), 10**6, 30.0, 99.0) == 0.0
    # The clock was set back by a day.
    assert seconds_until_due(Waiting(0, 1, 10, 90_000.0), 10**6, 30.0, 50.0) == 30.0
