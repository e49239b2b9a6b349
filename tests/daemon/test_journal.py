"""The journal against a model: no file, number or byte of it is ever counted twice or forgotten."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from dasfs.dataset.model import Datarange
from dasfs.names import DatapointNumber, DatarangeId
from dasfs_daemon.journal import Closed, Journal
from dasfs_daemon.origin import OriginJournal
from dasfs_daemon.rows import NewFile, Stamp, State

PATHS = st.integers(0, 12).map(lambda k: b"f%d" % k)
STAMPS = st.builds(Stamp, st.integers(0, 50), st.integers(0, 3), st.integers(0, 3))


class JournalMachine(RuleBasedStateMachine):
    """Files are taken, packed, given back, committed and removed, with a restart at any moment."""

    dataranges = Bundle("dataranges")

    def __init__(self):
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.open()
        self.waiting = {}  # path -> stamp
        self.packed = {}  # datarange id -> {path: (number, stamp)}
        self.state = {}
        self.next = 0
        self.free = set()

    def open(self):
        self.file = Journal(str(Path(self.home.name) / "journal.db"))
        self.journal = OriginJournal(self.file, self.file.origin("d", "/in", "file:///store"))

    @rule(path=PATHS, stamp=STAMPS)
    def take(self, path, stamp):
        self.journal.take([NewFile(path, stamp, None)], 1.0)
        for key, files in self.packed.items():
            if path in files:
                if self.state[key] is not State.COMMITTED:
                    return
                del files[path]
        self.waiting[path] = stamp

    @rule(target=dataranges, count=st.integers(1, 5))
    def pack(self, count):
        files = self.journal.unnumbered_waiting(count)
        if not files:
            return None
        if len(self.free) < 20:
            self.journal.reserve(range(self.next, self.next + 20))
            self.free |= set(range(self.next, self.next + 20))
            self.next += 20
        left = self.journal.reservations()
        files = files[: len(left[0])]
        first = left[0].start
        made = self.journal.pack(first, files, 1, [left[0][len(files) :], *left[1:]])
        self.free -= set(range(first, first + len(files)))
        self.packed[made.id] = {file.path: (first + k, file.stamp) for k, file in enumerate(files)}
        self.state[made.id] = State.PACKED
        for file in files:
            assert self.waiting.pop(file.path) == file.stamp
        return made

    @rule(datarange=dataranges, leave_out=st.booleans())
    def give_back(self, datarange, leave_out):
        if datarange is None or self.state.get(datarange.id) in (None, State.COMMITTED):
            return
        gone = list(self.journal.files_of(datarange))[:1] if leave_out else []
        self.journal.give_back(datarange, [file.id for file in gone])
        for path, (_, stamp) in self.packed.pop(datarange.id).items():
            if path not in [file.path for file in gone]:
                self.waiting[path] = stamp
        self.free |= set(range(datarange.first, datarange.last + 1))
        del self.state[datarange.id]

    @rule(datarange=dataranges)
    def upload(self, datarange):
        if datarange is None:
            return
        identity = DatarangeId(DatapointNumber(datarange.first), DatapointNumber(datarange.last), 7)
        uploaded = Datarange(identity, 2048, 300, datarange.size, named=True)
        if self.state.get(datarange.id) is State.PACKED:
            self.journal.uploaded(datarange, uploaded, 5)
            self.state[datarange.id] = State.UPLOADED
        else:
            with pytest.raises(Closed):
                self.journal.uploaded(datarange, uploaded, 5)

    @rule(datarange=dataranges)
    def commit(self, datarange):
        if datarange is not None and self.state.get(datarange.id) is State.UPLOADED:
            self.journal.committed(datarange, 2.0)
            self.state[datarange.id] = State.COMMITTED

    @rule(datarange=dataranges)
    def remove(self, datarange):
        if datarange is not None and self.state.get(datarange.id) is State.COMMITTED:
            self.journal.removed(datarange)
            del self.packed[datarange.id], self.state[datarange.id]

    @rule()
    def restart(self):
        self.file.close()
        self.open()

    @invariant()
    def it_is_what_the_model_says(self):
        waiting = self.journal.waiting()
        assert (waiting.files, waiting.size) == (len(self.waiting), sum(stamp.size for stamp in self.waiting.values()))
        assert {file.path: file.stamp for file in self.journal.unnumbered_waiting(100)} == self.waiting
        found = {}
        for row in self.journal.dataranges():
            assert row.state is self.state[row.id]
            found[row.id] = {file.path: (file.number, file.stamp) for file in self.journal.files_of(row)}
        assert found == self.packed
        assert {number for part in self.journal.reservations() for number in part} == self.free

    def teardown(self):
        self.file.close()
        self.home.cleanup()


JournalMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestJournal = JournalMachine.TestCase


def test_a_rename_is_followed(tmp_path):
    """A renamed file is the same file; its new path replaces what waited under that, never what is on its way."""
    with Journal(str(tmp_path / "journal.db")) as file:
        journal = OriginJournal(file, file.origin("d", "/in", "file:///store"))
        one, two, three = (NewFile(name, Stamp(1, 1, k), None) for k, name in enumerate((b"1", b"2", b"3")))
        journal.take([one, two, three], 1.0)
        moved = NewFile(b"9", one.stamp, None)
        assert journal.look_up([moved])[0].twins == (b"1",)
        assert journal.rename(b"1", b"2")
        assert [each.path for each in journal.unnumbered_waiting(9)] == [b"2", b"3"]
        assert journal.waiting().files == 2
        journal.pack(0, journal.unnumbered_waiting(1), 1, [])
        assert not journal.rename(b"3", b"2")


def test_a_closed_part_refuses(tmp_path):
    """Once a dataset was stopped, a thread that was left behind can't write into the journal."""
    with Journal(str(tmp_path / "journal.db")) as file:
        journal = OriginJournal(file, file.origin("d", "/in", "file:///store"))
        journal.close()
        with pytest.raises(Closed):
            journal.take([NewFile(b"1", Stamp(1, 1, 1), None)], 1.0)


def test_numbers_that_are_ours_already(tmp_path):
    """Numbers that are reserved again, as by a store that was set back to an older state, are ours once."""
    with Journal(str(tmp_path / "journal.db")) as inner:
        journal = OriginJournal(inner, inner.origin("d", "/in", "file:///x"))
        for numbers in (range(10, 20), range(1, 12), range(15, 17), range(30, 31), range(1, 21)):
            journal.reserve(numbers)
        assert journal.reservations() == [range(1, 21), range(30, 31)]


def test_a_large_datarange_is_read_whole(tmp_path):
    """All files of a datarange come back, each once and in the order of their numbers, however many pages they fill."""
    with Journal(str(tmp_path / "journal.db")) as file:
        journal = OriginJournal(file, file.origin("d", "/in", "file:///store"))
        journal.take([NewFile(b"%d" % k, Stamp(1, 1, k), None) for k in range(9000)], 1.0)
        row = journal.pack(70, journal.unnumbered_waiting(9000), 1, [])
        assert [(each.number, each.path) for each in journal.files_of(row)] == [
            (70 + k, b"%d" % k) for k in range(9000)
        ]


def test_many_files_are_looked_up_at_once(tmp_path):
    """Each file gets what the journal knows of it: its stamp, files with its stamp under other paths, or nothing."""
    with Journal(str(tmp_path / "journal.db")) as file:
        journal = OriginJournal(file, file.origin("d", "/in", "file:///store"))
        one, two, twin = (NewFile(name, Stamp(1, 1, k), None) for name, k in ((b"1", 1), (b"2", 2), (b"3", 2)))
        journal.take([one, two, twin], 1.0)
        found = journal.look_up([NewFile(b"new", Stamp(9, 9, 9), None), NewFile(b"4", two.stamp, None), one])
        assert [each.stamp for each in found] == [None, None, one.stamp]
        assert [sorted(each.twins) for each in found] == [[], [b"2", b"3"], []]
