"""How much of a write directory is complete and not committed, as the journal has it.

The status shows this, so it has to be true at any time: also while the planner waits for a store that is away, or for
room on the disk, and nothing moves.

**Concurrency:** one task runs `run`; everything else is for the trio thread and never waits.
"""

from typing import Final

import trio

from dasfs.errors import DasfsError
from dasfs_daemon.attempts import Attempts
from dasfs_daemon.journal import Closed
from dasfs_daemon.origin import OriginJournal
from dasfs_daemon.rows import DatarangeRow, Waiting

# Between two looks, each of which is one short transaction: a tenth of a second is the present for whoever reads it.
PAUSE_S: Final = 0.1


class BacklogView:
    """What waits, and the dataranges that are packed or uploaded. Both are of the same moment."""

    def __init__(self, journal: OriginJournal, attempts: Attempts) -> None:
        self._waiting = Waiting(0, 0, 0, None)
        self._in_flight: dict[int, DatarangeRow] = {}
        self._journal = journal
        self._attempts = attempts
        self._news = trio.Event()
        self._ended: set[int] = set()  # since the look that is under way began

    def now(self) -> tuple[Waiting, list[DatarangeRow]]:
        """Return what waits, and the dataranges that are packed or uploaded."""
        return self._waiting, list(self._in_flight.values())

    def look_again(self) -> None:
        """Look at the journal soon: something was taken, planned, or given back."""
        self._news.set()

    def end(self, row: DatarangeRow) -> None:
        """Take out a datarange that was committed or given back, without waiting for the next look."""
        self._ended.add(row.id)
        self._in_flight.pop(row.id, None)

    async def run(self) -> None:
        """Keep it true until cancelled. What is wrong with the journal is told by those who write to it."""
        while True:
            self._news = trio.Event()
            self._ended.clear()
            try:
                found = await self._attempts.once(self._journal.uncommitted)
            except Closed:
                raise
            except DasfsError:
                self._news.set()
            else:
                self._waiting = found.waiting
                self._in_flight = {row.id: row for row in found.dataranges if row.id not in self._ended}
            await trio.sleep(PAUSE_S)
            await self._news.wait()
