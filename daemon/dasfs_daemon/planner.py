"""Choosing the next dataranges of one write directory: what is there already is dropped, the rest gets its numbers.

**Concurrency:** for one worker thread at a time.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Snapshot
from dasfs.names import MAX_NUMBER
from dasfs_daemon.config import DatasetConfig
from dasfs_daemon.existing import Comparer
from dasfs_daemon.files import Removal, remove
from dasfs_daemon.origin import OriginJournal
from dasfs_daemon.plan import MAX_FILES, Run, choose_runs, cut_runs, fit_run, free_numbers
from dasfs_daemon.rejects import Rejects
from dasfs_daemon.rows import DatarangeRow, FileRow

# Files that one plan looks at: what it chooses is packed before the next one is made.
WINDOW: Final = MAX_FILES


@dataclass(slots=True)
class Plan:
    """What a plan came to. `target_size` is how large a TAR object should get; `refused` could not be taken away."""

    target_size: int
    dataranges: list[DatarangeRow] = field(default_factory=list)
    duplicates: int = 0
    rejected: int = 0
    refused: int = 0


class Planner:
    """Makes dataranges of what waits."""

    def __init__(
        self, dataset: Dataset, config: DatasetConfig, journal: OriginJournal, comparer: Comparer, rejects: Rejects
    ) -> None:
        self._dataset = dataset
        self._config = config
        self._journal = journal
        self._comparer = comparer
        self._rejects = rejects

    def target_size(self, snapshot: Snapshot) -> int:
        """Return about how many bytes of files a datarange gets."""
        return self._config.datarange_size or snapshot.configuration.datarange_size

    def plan(self, snapshot: Snapshot) -> Plan:
        """Close the dataranges that are full or old enough: note them, with their files and numbers, in the journal.

        The numbered come first, so that numbers that are reserved for the others are above theirs. Raises what
        the store raises, and `Conflict`; what was noted by then is in the journal as 'packed'.
        """
        plan = Plan(self.target_size(snapshot))
        closed_before = time.time() - self._config.datarange_age
        for run in self._choose(self._numbered(), snapshot, closed_before, plan):
            plan.dataranges.append(self._journal.pack(run.first, run.files, snapshot.revision))
        self._number(self._choose(self._unnumbered(), snapshot, closed_before, plan), snapshot, plan)
        return plan

    def _numbered(self) -> list[FileRow]:
        """Return waiting files that have a number, each number once; those whose number is on its way wait on."""
        found: list[FileRow] = []
        for row in self._journal.numbered_waiting(WINDOW):
            assert row.number is not None
            if found and found[-1].number == row.number:
                continue
            found.append(row)
        on_their_way = set(self._journal.numbers_on_their_way())
        return [row for row in found if row.number not in on_their_way]

    def _unnumbered(self) -> list[FileRow]:
        return self._journal.unnumbered_waiting(WINDOW)

    def _choose(self, rows: Sequence[FileRow], snapshot: Snapshot, closed_before: float, plan: Plan) -> list[Run]:
        """Return the runs to pack now, without what is in the dataset already."""
        target = plan.target_size
        runs = list(cut_runs(rows, target))
        if len(rows) == WINDOW and len(runs) > 1:
            runs.pop()  # it goes on behind the window
        chosen = choose_runs(runs, closed_before)
        if not chosen:
            return []
        new = self._sort_out([row for run in chosen for row in run.files], snapshot, plan)
        # The gaps that were torn into full runs are no reason to wait again.
        return list(cut_runs(new, target))

    def _sort_out(self, rows: Sequence[FileRow], snapshot: Snapshot, plan: Plan) -> list[FileRow]:
        """Return the files that are new; remove duplicates, and reject what clashes."""
        new = []
        for row, verdict in zip(rows, self._comparer.compare(rows, snapshot), strict=True):
            if verdict.clash is not None:
                self._reject(row, str(verdict.clash), plan)
            elif verdict.same:
                self._drop(row, snapshot, plan)
            else:
                new.append(row)
        return new

    def _drop(self, row: FileRow, snapshot: Snapshot, plan: Plan) -> None:
        """Remove a file that is in the dataset already."""
        path = os.path.join(os.fsencode(self._config.directory), row.path)
        try:
            removal = remove(path, row.stamp, lambda: self._is_there(row, snapshot))
        except OSError as error:
            plan.refused += 1
            self._journal.refuse(row.path, f"it is in the dataset already, but can't be removed: {error.strerror}")
            return
        if removal is not Removal.BUSY:
            self._journal.forget([row.id])
        if removal is Removal.REMOVED:
            plan.duplicates += 1

    def _is_there(self, row: FileRow, snapshot: Snapshot) -> bool:
        return self._comparer.compare([row], snapshot)[0].same

    def _reject(self, row: FileRow, reason: str, plan: Plan) -> None:
        plan.rejected += 1
        if self._rejects.move(row.path, reason):
            self._journal.forget([row.id])
        else:
            self._journal.refuse(row.path, reason)

    def _number(self, runs: Sequence[Run], snapshot: Snapshot, plan: Plan) -> None:
        """Give numbers to runs that have none, of what is reserved, and reserve what is missing for all of them."""
        missing = sum(len(run.files) for run in runs)
        left = self._usable(snapshot)
        while runs:
            if not left:
                numbers = self._dataset.log.reserve(missing, snapshot)
                # A crash between these two lines leaves a gap in the numbers, and nothing else.
                self._journal.reserve(numbers)
                left = self._usable(snapshot)
                continue
            run = fit_run(runs[0], left[0])
            count = len(run.files)
            start = left[0].start
            left = [each for each in (left[0][count:], *left[1:]) if each]
            plan.dataranges.append(self._journal.pack(start, run.files, snapshot.revision, left))
            missing -= count
            rest = runs[0].files[count:]
            runs = [*([Run(rest, runs[0].full)] if rest else []), *runs[1:]]

    def _usable(self, snapshot: Snapshot) -> list[range]:
        """Return the reserved numbers that nothing has: neither the dataset nor a file that keeps its number."""
        reservations = self._journal.reservations()
        if not reservations:
            return []
        first, last = reservations[0].start, min(reservations[-1].stop - 1, MAX_NUMBER)
        live = [(each.first, each.last) for each in snapshot.overlapping(first, last)]
        ours = [(number, number) for number in self._journal.numbers_between(first, last)]
        return free_numbers(reservations, sorted([*live, *ours]))
