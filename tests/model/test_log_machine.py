"""Several writers with stale views on one log, against a dictionary that knows what must come out."""

import itertools
import shutil
import tempfile
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot
from dasfs.errors import AlreadyExists, Conflict, NotFound
from dasfs.stores import open_store
from tests.datasets import datarange

WRITERS = st.integers(0, 2)


class LogMachine(RuleBasedStateMachine):
    """Three writers, each with what it saw last; the model is the set of live dataranges and the highest numbers."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="dasfs-log-")
        self.store = open_store(f"file://{self.directory}/store")
        self.store.create()
        self.logs = [CommitLog(self.store, "birds") for _ in range(3)]
        self.seen: list[Snapshot | None] = [None] * 3
        self.live: dict[int, Datarange] = {}
        self.next_number = 0
        self.counter = 0
        self.revision = 0
        self.exists = False
        self.generation = 0
        self.generations: list[int | None] = [None] * 3

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.directory)

    def saw(self, writer: int, snapshot: Snapshot) -> None:
        self.revision += 1
        self.seen[writer] = snapshot
        self.generations[writer] = self.generation
        assert snapshot.revision == self.revision

    def commit(self, writer: int, change: Change, *, fits: bool) -> bool:
        """Commit on the writer's own, maybe old, view; return whether it was taken, which must be `fits`."""
        base = self.seen[writer]
        fits = fits and (base is None or self.generations[writer] == self.generation)
        try:
            snapshot = self.logs[writer].commit(change, base)
        except NotFound:
            assert not self.exists
            self.seen[writer] = None
            return False
        except Conflict:
            assert self.exists
            assert not fits
            self.seen[writer] = None
            return False
        assert self.exists
        assert fits
        self.saw(writer, snapshot)
        return True

    @rule(writer=WRITERS)
    def create(self, writer: int) -> None:
        try:
            snapshot = self.logs[writer].create()
        except AlreadyExists:
            assert self.exists
            return
        assert not self.exists
        self.exists, self.next_number, self.live = True, 0, {}
        self.generation += 1
        self.saw(writer, snapshot)

    @rule(writer=WRITERS, first=st.integers(0, 40), count=st.integers(1, 6))
    def upload(self, writer: int, first: int, count: int) -> None:
        added = datarange(first, first + count - 1, self.counter + 1)
        free = all(added.last < each.first or each.last < added.first for each in self.live.values())
        if self.commit(writer, Change(Operation.UPLOAD, add=(added,)), fits=free):
            self.live[first] = added
            self.counter += 1
            self.next_number = max(self.next_number, added.last + 1)

    @rule(writer=WRITERS, count=st.integers(1, 5))
    def reserve(self, writer: int, count: int) -> None:
        if self.commit(writer, Change(Operation.RESERVE, reserve=count), fits=True):
            self.next_number += count

    @rule(writer=WRITERS, data=st.data())
    def delete(self, writer: int, data: st.DataObject) -> None:
        """Delete what this writer believes to be live."""
        base = self.seen[writer]
        if base is None or not base.dataranges:
            return
        gone = data.draw(st.sampled_from(base.dataranges))
        is_live = self.live.get(gone.first) == gone
        if self.commit(writer, Change(Operation.DELETE, remove=(gone.id,)), fits=is_live):
            del self.live[gone.first]

    @rule(writer=WRITERS, data=st.data())
    def aggregate(self, writer: int, data: st.DataObject) -> None:
        """Replace two neighbours, as this writer sees them, by one."""
        base = self.seen[writer]
        ranges = base.dataranges if base else ()
        pairs = [(a, b) for a, b in itertools.pairwise(ranges) if a.last + 1 == b.first]
        if not pairs:
            return
        left, right = data.draw(st.sampled_from(pairs))
        whole = datarange(left.first, right.last, self.counter + 1)
        are_live = self.live.get(left.first) == left and self.live.get(right.first) == right
        change = Change(Operation.AGGREGATE, add=(whole,), remove=(left.id, right.id))
        if self.commit(writer, change, fits=are_live):
            del self.live[right.first]
            self.live[left.first] = whole
            self.counter += 1

    @rule(writer=WRITERS)
    def clear(self, writer: int) -> None:
        if self.commit(writer, Change(Operation.CLEAR), fits=True):
            self.live = {}

    @rule(writer=WRITERS)
    def delete_dataset(self, writer: int) -> None:
        if self.commit(writer, Change(Operation.DELETE, delete_dataset=True), fits=True):
            self.exists, self.live = False, {}

    @rule(writer=WRITERS)
    def look(self, writer: int) -> None:
        """Catch up from what is known; it must be what reading everything gives."""
        snapshot = self.logs[writer].replay(self.seen[writer])
        assert snapshot == self.logs[writer].replay()
        self.seen[writer] = None if snapshot.deleted else snapshot
        self.generations[writer] = self.generation

    @rule(writer=WRITERS)
    def checkpoint(self, writer: int) -> None:
        snapshot = self.logs[writer].replay()
        if snapshot.revision:
            self.logs[writer].write_checkpoint(snapshot)

    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        """Every revision can be looked at, and says its own number."""
        if self.revision:
            revision = data.draw(st.integers(1, self.revision))
            assert self.logs[0].at(revision).revision == revision

    @invariant()
    def the_log_says_what_the_model_says(self) -> None:
        if not hasattr(self, "logs"):
            return
        snapshot = self.logs[0].replay()
        assert snapshot.deleted == (not self.exists)
        assert snapshot.dataranges == tuple(self.live[first] for first in sorted(self.live))
        assert (snapshot.revision, snapshot.last_counter) == (self.revision, self.counter)
        assert snapshot.next_number == self.next_number or not self.exists


def _machine() -> Any:
    case = LogMachine.TestCase
    case.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
    return case


TestLog = _machine()
