"""What a write directory decides: when a datarange is full or old enough, which files it gets, and which numbers.

Pure: no I/O.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dasfs.formats.tar import BLOCK_SIZE, END_OF_ARCHIVE, padding
from dasfs_daemon.rows import FileRow, Waiting

# Files of one datarange, so that the rows of one fit into memory many times; 64 MiB of empty files are four times that.
MAX_FILES: Final = 32_768


@dataclass(frozen=True, slots=True)
class Run:
    """Files for one datarange. `full`: the next one would not fit, so that waiting brings nothing."""

    files: Sequence[FileRow]
    full: bool

    @property
    def first(self) -> int:
        """The number of the first file, which has one."""
        assert self.files[0].number is not None
        return self.files[0].number

    @property
    def oldest(self) -> float:
        return min(each.taken for each in self.files)


def tar_size(file: FileRow) -> int:
    """Return what a file adds to a TAR object that does not compress."""
    return BLOCK_SIZE + file.stamp.size + padding(file.stamp.size)


def seconds_until_due(waiting: Waiting, target_size: int, age: float, now: float) -> float | None:
    """Return in how many seconds there is a datarange to close; None where nothing waits."""
    if waiting.oldest is None:
        return None
    if waiting.size + waiting.files * BLOCK_SIZE >= target_size or waiting.files >= MAX_FILES:
        return 0.0
    # The clock may have been set back since: never wait longer than the age from now on.
    return min(max(waiting.oldest + age - now, 0.0), age)


def cut_runs(files: Iterable[FileRow], target_size: int) -> Iterator[Run]:
    """Yield stretches of `files`, each of about `target_size` bytes of TAR, and of consecutive numbers where they have
    one. A file larger than that is alone."""
    run: list[FileRow] = []
    size = len(END_OF_ARCHIVE)
    for file in files:
        added = tar_size(file)
        full = size + added > target_size or len(run) >= MAX_FILES
        follows = bool(run) and _follows(run[-1], file)
        if run and (full or not follows):
            yield Run(run, (full and follows) or size >= target_size)
            run, size = [], len(END_OF_ARCHIVE)
        run.append(file)
        size += added
    if run:
        yield Run(run, size >= target_size or len(run) >= MAX_FILES)


def choose_runs(runs: Iterable[Run], closed_before: float) -> list[Run]:
    """Return the runs to pack now: those that are full, and those with a file that was taken before `closed_before`."""
    return [run for run in runs if run.full or run.oldest <= closed_before]


def free_numbers(reservations: Iterable[range], busy: Iterable[tuple[int, int]]) -> list[range]:
    """Return what is left of `reservations` (ascending) without the inclusive spans `busy` (ascending)."""
    spans = list(busy)
    left = []
    for numbers in reservations:
        start = numbers.start
        for first, last in spans:
            if last >= start and first < numbers.stop:
                left.append(range(start, max(start, first)))
                start = max(start, last + 1)
        left.append(range(start, numbers.stop))
    return [each for each in left if each]


def fit_run(run: Run, numbers: range) -> Run:
    """Return the first part of a run for which there are consecutive `numbers`."""
    return Run(run.files[: len(numbers)], run.full)


def _follows(before: FileRow, file: FileRow) -> bool:
    if before.number is None or file.number is None:
        return before.number is file.number
    return file.number == before.number + 1
