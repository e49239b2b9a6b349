"""The way of one datarange, step by step: pack, upload, commit, confirm, remove its sources. See `schema` for states.

Each step may fail, or die with the process, at any moment, and is simply done again; what was done before is found in
the journal and in the log.

**Concurrency:** steps of different dataranges may run in different threads; those of one follow each other. They
raise `Closed` once the dataset was stopped or the datarange was given back.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot
from dasfs.dataset.writer import MAX_COUNTER_TRIES, DatarangeWriter, PackedDatarange, is_uploaded, upload
from dasfs.errors import Conflict, Corrupt, DasfsError, InvalidInput, NotFound, ObjectChanged, StoreUnavailable
from dasfs.formats.compression import Compression
from dasfs.formats.tar import BLOCK_SIZE, END_OF_ARCHIVE
from dasfs_daemon.checks import check_directory
from dasfs_daemon.files import Removal, make_source, remove, stamp_of
from dasfs_daemon.journal import Closed
from dasfs_daemon.likeness import Packed
from dasfs_daemon.origin import OriginJournal
from dasfs_daemon.rejects import Rejects
from dasfs_daemon.rows import DatarangeRow, FileRow, Stamp, State
from dasfs_daemon.throttle import Throttle

T = TypeVar("T")

# An upload that began longer ago is looked at again before it is committed: `collect` may have taken it, or what of it
# was there by then, for left over. It waits 7 days by default, and at least this long in a daemon.
TRUSTED_UPLOAD_S: Final = 3600.0


class Replaced(DasfsError):
    """The dataset is another one of its name than before, or an older state of it: what it lacks begins anew."""


class PackFailed(Exception):
    """One file of a datarange could not be packed."""

    def __init__(self, file: FileRow, error: DasfsError) -> None:
        super().__init__(str(error))
        self.file = file
        self.error = error


@dataclass(frozen=True, slots=True)
class Removed:
    """How removing the sources of a datarange went. `directories` lost files; `changed` are to be looked at again."""

    files: int
    left: int
    changed: tuple[bytes, ...]
    directories: frozenset[bytes]
    error: OSError | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a datarange was given back without: files to be looked at again, and whether one was rejected."""

    changed: tuple[bytes, ...]
    rejected: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where the datapoints of one write directory come from and how they are packed."""

    directory: str
    spool: str
    compression: Compression | None  # None: the dataset's own


class Shipping:
    """Ships the dataranges of one write directory."""

    def __init__(
        self,
        dataset: Dataset,
        place: Place,
        journal: OriginJournal,
        throttle: Throttle,
        stop: threading.Event,
        expiry_s: Callable[[], float],
    ) -> None:
        """`expiry_s` returns for how long after an upload its commit is safe from collectors."""
        self._dataset = dataset
        self._place = place
        self._journal = journal
        self._throttle = throttle
        self._stop = stop
        self._expiry_s = expiry_s
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._read: Snapshot | None = None  # how far `recover` came
        self._skipped_counters = 0
        self._searched: dict[int, int] = {}  # datarange row -> the last revision that does not add it
        self._begun: dict[int, float] = {}  # datarange row -> when its upload began (monotonic)

    @property
    def revision(self) -> int:
        """The newest revision that is known here."""
        return 0 if self._snapshot is None else self._snapshot.revision

    def refresh(self) -> Snapshot:
        """Return the newest snapshot. Raises `Replaced` when the dataset is another one than before.

        On a store that fails now and then each attempt gets further than the last.
        """
        return self._persevere(
            lambda: self._note(self._dataset.log.head(self._snapshot, reached=self._note)), lambda: self.revision
        )

    def _persevere(self, read: Callable[[], T], progress: Callable[[], object]) -> T:
        """Return `read()`, tried again at once for as long as each failure of the store came further than the last."""
        while True:
            before = progress()
            try:
                return read()
            except StoreUnavailable:
                if progress() == before or self._stop.is_set():
                    raise

    def _note(self, snapshot: Snapshot) -> Snapshot:
        with self._lock:
            known = self._snapshot
            if known is not None and known.dataset_id != snapshot.dataset_id:
                self._snapshot = None
                raise Replaced(f"dataset {self._dataset.name} was deleted and created anew; what waits goes there")
            if known is None or snapshot.revision > known.revision:
                self._snapshot = snapshot
            return self._snapshot or snapshot

    def recover(self) -> list[DatarangeRow]:
        """Bring the journal up to date after a start; return the dataranges that go on: uploaded or committed.

        What was packed when the process ended is given back: its files wait again, its numbers stay ours.
        """
        self._snapshot = None
        # A long log, on a store that fails now and then, is read in many attempts: each goes on where the last ended.
        snapshot = self._persevere(lambda: self._dataset.writable(self._read, reached=self._reach), lambda: self._read)
        self._note(snapshot)
        replaced = self._journal.dataset_id() not in ("", snapshot.dataset_id)
        going_on = []
        for row in self._journal.dataranges():
            if row.state is State.PACKED or (replaced and not self._is_kept(row)):
                self._journal.give_back(row)
            else:
                going_on.append(row)
        self._journal.meet(snapshot.dataset_id)
        return going_on

    def _is_kept(self, row: DatarangeRow) -> bool:
        """Return whether a datarange of a dataset that was replaced is done with: it was committed, and the log that
        says so was followed by the new one. Where the log itself is gone, the local files may be all that is left."""
        return row.state is State.COMMITTED and self._is_in_log(row)

    def _reach(self, snapshot: Snapshot) -> None:
        self._read = snapshot

    def pack(self, row: DatarangeRow) -> PackedDatarange:
        """Pack the files of a datarange, each as it was when it was taken.

        Raises `PackFailed` for the first file that is not the same any more, or can't be read; `NoSpace`.
        """
        snapshot = self._snapshot or self.refresh()
        compression = self._place.compression or snapshot.configuration.compression
        # A header, and a block that is filled up, more than its bytes for each file.
        largest = row.size + row.count * 2 * BLOCK_SIZE + len(END_OF_ARCHIVE)
        with DatarangeWriter(self._dataset.name, compression, self._place.spool, largest) as writer:
            for file in self._journal.files_of(row):
                if self._stop.is_set():
                    raise Closed("packing was ended by the daemon")
                _add(writer, file, self._place.directory)
            return writer.finish()

    def leave_out(self, row: DatarangeRow, failed: PackFailed, rejects: Rejects) -> LeftOut:
        """Give a datarange back without the files that can't be packed; see what else changed meanwhile.

        Raises `NotFound` while the write directory itself is away: then nothing is known of its files.
        """
        check_directory(self._place.directory)
        top = os.fsencode(self._place.directory)
        files = list(self._journal.files_of(row))
        changed = {file for file in files if _stamp(os.path.join(top, file.path)) != file.stamp}
        rejected = False
        if isinstance(failed.error, ObjectChanged | NotFound):
            changed.add(failed.file)
        elif failed.file not in changed:
            rejected = rejects.move(failed.file.path, str(failed.error))
        gone = [file.id for file in changed] + ([failed.file.id] if rejected else [])
        self._journal.give_back(row, gone)
        if not rejected and failed.file not in changed:
            self._journal.refuse(failed.file.path, str(failed.error))
        return LeftOut(tuple(file.path for file in changed), rejected)

    def upload(self, row: DatarangeRow, packed: PackedDatarange, sent: Callable[[int], None]) -> DatarangeRow:
        """Put a packed datarange into the store and note it. `sent` is told of bytes, from this thread."""

        def progress(size: int) -> None:
            sent(size)
            self._throttle.take(size, self._stop)

        begun = time.monotonic()
        counter = (self._snapshot or self.refresh()).last_counter + 1 + self._skipped_counters
        try:
            uploaded = upload(self._dataset.store, self._dataset.keys, packed, counter, progress)
        except DasfsError as error:
            if isinstance(error, Conflict):
                # A store that takes manifests and no TARs, for hours: each attempt used up one.
                self._skipped_counters += MAX_COUNTER_TRIES
            # The store may be away for days, and what is to go there must not fill the memory meanwhile.
            with suppress(DasfsError):
                packed.spill()
            raise
        self._begun[row.id] = begun
        return self._journal.uploaded(row, uploaded, self.revision)

    def commit(self, row: DatarangeRow, *, again: bool) -> DatarangeRow | None:
        """Commit an uploaded datarange and note it; None when that is impossible, and its files wait again.

        `again`: an earlier attempt may have succeeded without telling us, so the log is asked first.
        """
        uploaded = row.uploaded
        assert uploaded is not None
        if again and self._is_in_log(row):
            return self._committed(row)
        if not self._is_safe(row, uploaded):
            self._journal.give_back(row)
            return None
        try:
            self._note(self._dataset.log.commit(Change(Operation.UPLOAD, add=(uploaded,)), self._snapshot))
        except Conflict:
            self.refresh()
            if not self._is_in_log(row):
                # Another writer has some of the numbers. Nobody will ever commit these objects.
                keys = self._dataset.keys
                self._dataset.store.delete(each(uploaded.id) for each in (keys.tar, keys.index, keys.manifest))
                self._journal.give_back(row)
                return None
        return self._committed(row)

    def confirm(self, row: DatarangeRow) -> None:
        """Raise `Corrupt` unless the store has all of a committed datarange, or of what it was aggregated into;
        `Replaced` where not even its log has it.

        Numbers that were deleted since were there: whoever deleted them meant it.
        """
        assert row.uploaded is not None
        snapshot = self.refresh()
        if not snapshot.holds(row.uploaded.id) and not self._is_in_log(row):
            self._journal.give_back(row)
            raise Replaced(
                f"the log of {self._dataset.name} does not have datapoints {row.first}-{row.last} any more: the store"
                " was set back to an older state; what is here of them is packed again"
            )
        # Somebody may have aggregated it meanwhile, and collected what it was.
        if self._missing(row, snapshot) and self._missing(row, self.refresh()):
            raise Corrupt(
                f"{self._dataset.store.url} does not have datapoints {row.first}-{row.last} of {self._dataset.name} "
                "as they were uploaded; the local files stay",
                hint=f"run: dasfs dataset verify {self._dataset.name} {row.first}-{row.last}",
            )

    def _missing(self, row: DatarangeRow, snapshot: Snapshot) -> bool:
        """Return whether the store lacks an object of what has the numbers of `row` now."""
        store, keys = self._dataset.store, self._dataset.keys
        return not all(is_uploaded(store, keys, each) for each in snapshot.overlapping(row.first, row.last))

    def remove(self, row: DatarangeRow) -> Removed:
        """Remove the sources of a committed datarange, each only if it still is what was packed.

        Raises what reading the manifest raises, which is asked about files that may have another content.
        """
        assert row.uploaded is not None
        packed = Packed(self._dataset, row.uploaded, self._snapshot or self.refresh())
        top = os.fsencode(self._place.directory)
        done: list[int] = []
        changed: list[bytes] = []
        directories: set[bytes] = set()
        removed = left = 0
        problem: OSError | None = None
        for file in self._journal.files_of(row):
            if self._stop.is_set():
                left += 1
                continue
            try:
                removal = remove(os.path.join(top, file.path), file.stamp, partial(self._holds, packed, file))
            except OSError as error:
                problem = error
                left += 1
                continue
            if removal is Removal.BUSY:
                left += 1
                continue
            done.append(file.id)
            if removal is Removal.CHANGED:
                changed.append(file.path)
            elif removal is Removal.REMOVED:
                removed += 1
                directories.add(os.path.dirname(file.path))
        self._journal.forget(done)
        if not left:
            self._journal.removed(row)
        return Removed(removed, left, tuple(changed), frozenset(directories - {b""}), problem)

    def _is_safe(self, row: DatarangeRow, uploaded: Datarange) -> bool:
        """Return whether an uploaded datarange can be committed: all of it is there, and no collector may be about to
        delete it. Between its last look at the log and the deletion, a commit would come too late."""
        begun = self._begun.get(row.id)
        if begun is not None and time.monotonic() - begun < TRUSTED_UPLOAD_S:
            return True
        store, keys = self._dataset.store, self._dataset.keys
        if not is_uploaded(store, keys, uploaded):
            return False
        # It was written last, and collectors go by the newest.
        age = datetime.now(UTC) - store.head(keys.index(uploaded.id)).modified
        return age.total_seconds() < self._expiry_s()

    def _holds(self, packed: Packed, file: FileRow) -> bool:
        assert file.number is not None
        return packed.holds(make_source(self._place.directory, file), file.number)

    def _committed(self, row: DatarangeRow) -> DatarangeRow:
        self._begun.pop(row.id, None)
        self._searched.pop(row.id, None)
        return self._journal.committed(row, time.time())

    def _is_in_log(self, row: DatarangeRow) -> bool:
        """Return whether the log ever had this datarange, also if it was aggregated or deleted since."""
        assert row.uploaded is not None
        identity = row.uploaded.id
        if self.refresh().holds(identity):
            return True

        def searched() -> int:
            return self._searched.get(row.id, row.base_revision)

        def search() -> bool:
            # Commits that are not there any more are older than 90 days; the numbers and the paths will tell then.
            for commit in self._dataset.log.commits(searched()):
                if any(added.id == identity for added in commit.add):
                    return True
                self._searched[row.id] = commit.revision
            return False

        return self._persevere(search, searched)


def _stamp(path: bytes) -> Stamp | None:
    try:
        return stamp_of(os.lstat(path))
    except OSError:
        return None


def _add(writer: DatarangeWriter, file: FileRow, directory: str) -> None:
    """Add one file to a TAR. Raises `PackFailed` for what is wrong with the file, and `NoSpace` and the like."""
    assert file.number is not None
    try:
        source = make_source(directory, file)
        writer.add_source(file.number, source, None if file.numbered else source.original)
    except (ObjectChanged, InvalidInput) as error:
        raise PackFailed(file, error) from error
    except DasfsError as error:
        # What is wrong with a source names its path; the rest is about the file that is packed into.
        if _is_passing(error) or not error.message.startswith(source.path):
            raise
        raise PackFailed(file, error) from error


def _is_passing(error: DasfsError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
