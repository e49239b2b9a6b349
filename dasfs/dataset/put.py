"""Putting local files into a dataset: what is there is skipped, the rest packed, uploaded and committed.

A `put` that ends early, in whatever way, is simply repeated: each datarange becomes visible by its own
commit, and what was committed is found again by its number, or by its original path, and skipped.

**Concurrency:** one thread, the caller's, packs and commits; up to `jobs` others upload what is packed. Any
number of puts may run at once on any hosts: numbers are reserved in the log before they are packed, and where
another writer took the same numbers, or put the same original paths meanwhile, the rest is planned anew.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.existing import PathWatch, drop_existing
from dasfs.dataset.local import Source
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot, join_spans
from dasfs.dataset.put_plan import Batch, plan_batches
from dasfs.dataset.sources import Sources
from dasfs.dataset.spool import DEFAULT_DIRECTORY
from dasfs.dataset.writer import DatarangeWriter, PackedDatarange, upload
from dasfs.errors import Conflict, DasfsError, NoSpace
from dasfs.names import Revision

DEFAULT_JOBS: Final = 4
# A conflict means that another writer was at the same numbers just now, so that the next plan has less to do. Where it
# has as much, a few times in a row, trying again does not help.
MAX_FUTILE_PLANS: Final = 3


@dataclass(frozen=True, slots=True)
class PutOptions:
    """How to put. `datarange_size` in bytes of TAR; None is the dataset's. `jobs` uploads run at once.

    `spool_dir` is where dataranges are packed.
    """

    datarange_size: int | None = None
    jobs: int = DEFAULT_JOBS
    spool_dir: str = DEFAULT_DIRECTORY


@dataclass(frozen=True, slots=True)
class PutResult:
    """What a put did. `skipped` sources were there already; source k of a batch became `first + k`."""

    revision: Revision
    skipped: int
    dataranges: tuple[Datarange, ...]
    batches: tuple[Batch, ...]

    @property
    def count(self) -> int:
        return sum(datarange.count for datarange in self.dataranges)

    @property
    def size(self) -> int:
        """The sum of the true sizes."""
        return sum(datarange.data_size for datarange in self.dataranges)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The numbers that were given, as inclusive spans."""
        return join_spans((datarange.first, datarange.last) for datarange in self.dataranges)


class PutReport(Protocol):
    """Is told how a put goes on."""

    def planned(self, sources: Sources, skipped: int) -> None:
        """`sources` are going to be put. Told once more when the rest is planned anew."""

    def sent(self, size: int) -> None:
        """`size` more bytes of sources were handed to the store. Called from the threads that upload."""

    def committed(self, datarange: Datarange) -> None:
        """One more datarange is visible to everybody."""


def put(dataset: Dataset, sources: Sources, options: PutOptions, report: PutReport) -> PutResult:
    """Put `sources` and return what was done.

    Raises `AlreadyExists`, before anything is uploaded, where a source differs from what is there under its
    number or its original path; `ObjectChanged`, `NotFound`, `AccessDenied` for a source that changed or
    can't be read: what was packed before it is committed; what the store raises; `KeyboardInterrupt` after
    uploads were aborted.
    """
    return _Put(dataset, options, report).run(sources)


class _Cancelled(Exception):
    """Ends an upload from within, so that the store aborts it."""


@dataclass(slots=True)
class _Upload:
    """A datarange on its way to the store."""

    batch: Batch
    packed: PackedDatarange
    future: "Future[Datarange]"


class _Put:
    """One run of `put`. `_batches` and `_dataranges` are what was committed so far."""

    def __init__(self, dataset: Dataset, options: PutOptions, report: PutReport) -> None:
        self._dataset = dataset
        self._options = options
        self._report = report
        self._snapshot = dataset.writable()
        self._watch = PathWatch(dataset, self._snapshot, ())
        self._dataset_id = self._snapshot.dataset_id
        self._counter = 0
        self._dataranges: list[Datarange] = []
        self._batches: list[Batch] = []
        self._cancelled = threading.Event()

    def run(self, sources: Sources) -> PutResult:
        try:
            skipped = self._run(sources)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._describe_rest()) from None
        return PutResult(self._snapshot.revision, skipped, tuple(self._dataranges), tuple(self._batches))

    def _run(self, sources: Sources) -> int:
        """Put what is not there, as often as others get in the way; return how many sources were there."""
        left, skipped, futile = sources, 0, 0
        while True:
            found = drop_existing(self._dataset, self._snapshot, left)
            self._watch = PathWatch(self._dataset, self._snapshot, found.unnumbered)
            futile = futile + 1 if found.count == left.count else 0
            skipped += left.count - found.count
            self._report.planned(found, skipped)
            committed = len(self._batches)
            try:
                self._put_all(found)
                return skipped
            except Conflict:
                self._snapshot = self._dataset.snapshot()
                if self._snapshot.dataset_id != self._dataset_id or futile > MAX_FUTILE_PLANS:
                    raise
                left = _without(found, self._batches[committed:])
                futile = 0 if left.count < found.count else futile

    def _put_all(self, sources: Sources) -> None:
        """Put the numbered first: then the numbers that are reserved for the others are above all of them."""
        size = self._options.datarange_size or self._snapshot.configuration.datarange_size
        self._put_batches(plan_batches(((each.number or 0, each) for each in sources.numbered), size))
        if sources.unnumbered:
            numbers = self._dataset.log.reserve(len(sources.unnumbered), self._snapshot)
            self._put_batches(plan_batches(zip(numbers, sources.unnumbered, strict=True), size))

    def _put_batches(self, batches: Iterable[Batch]) -> None:
        """Pack, upload and commit dataranges, in order."""
        pending: deque[_Upload] = deque()
        pool = ThreadPoolExecutor(self._options.jobs, thread_name_prefix="dasfs-put")
        try:
            for batch in batches:
                packed = self._pack_or_finish(batch, pending)
                self._counter = max(self._counter, self._snapshot.last_counter) + 1
                pending.append(_Upload(batch, packed, pool.submit(self._upload, packed, batch.size, self._counter)))
                # One more than upload at once is packed, so that no upload waits for the packer.
                while pending and (len(pending) > self._options.jobs or pending[0].future.done()):
                    self._commit(pending)
            while pending:
                self._commit(pending)
        finally:
            self._cancelled.set()
            pool.shutdown(cancel_futures=True)
            self._cancelled.clear()
            self._discard(pending)

    def _pack_or_finish(self, batch: Batch, pending: "deque[_Upload]") -> PackedDatarange:
        """Pack one datarange; where that fails, commit those before it first, which makes room on a full disk."""
        try:
            return self._pack(batch)
        except DasfsError as error:
            if not pending:
                raise
            while pending:
                self._commit(pending)
            if not isinstance(error, NoSpace):
                raise
        return self._pack(batch)

    def _pack(self, batch: Batch) -> PackedDatarange:
        return pack(self._dataset.name, self._snapshot, batch, self._options.spool_dir)

    def _upload(self, packed: PackedDatarange, size: int, counter: int) -> Datarange:
        share = size / packed.tar_size

        def progress(sent: int) -> None:
            if self._cancelled.is_set():
                raise _Cancelled
            self._report.sent(int(sent * share))

        return upload(self._dataset.store, self._dataset.keys, packed, counter, progress)

    def _commit(self, pending: "deque[_Upload]") -> None:
        """Commit the oldest upload once it is done."""
        datarange = pending[0].future.result()
        # From here on the outcome may be unknown, and nobody but `collect` may delete the objects.
        done = pending.popleft()
        done.packed.close()
        change = Change(Operation.UPLOAD, add=(datarange,))
        named = [source for source in done.batch.sources if source.number is None]
        try:
            self._snapshot = self._dataset.log.commit(
                change, self._snapshot, check=lambda snapshot: self._watch.check(snapshot, named)
            )
        except Conflict:
            self._delete([datarange])
            raise
        self._watch.add(datarange)
        self._dataranges.append(datarange)
        self._batches.append(done.batch)
        self._report.committed(datarange)

    def _discard(self, pending: "deque[_Upload]") -> None:
        """Free what was packed but not committed, and delete what was uploaded whole; see `collect`."""
        for each in pending:
            each.packed.close()
        futures = [each.future for each in pending if not each.future.cancelled()]
        self._delete([future.result() for future in futures if future.exception() is None])

    def _delete(self, dataranges: Sequence[Datarange]) -> None:
        """Delete what was uploaded and will surely never be committed: with one call, as the store may be away."""
        keys = self._dataset.keys
        garbage = [kind(each.id) for each in dataranges for kind in (keys.tar, keys.index, keys.manifest)]
        if garbage:
            with suppress(DasfsError):
                self._dataset.store.delete(garbage)

    def _describe_rest(self) -> str:
        count = sum(datarange.count for datarange in self._dataranges)
        done = f"{count:,} {'file is' if count == 1 else 'files are'} committed" if count else "nothing was committed"
        return f"{done}; repeat the same command to put the rest"


def pack(dataset: str, snapshot: Snapshot, batch: Batch, spool_dir: str) -> PackedDatarange:
    """Pack the sources of one datarange in a file in `spool_dir`. Raises what reading them raises, and `NoSpace`."""
    with DatarangeWriter(dataset, snapshot.configuration.compression, spool_dir, batch.tar_size) as writer:
        for number, source in enumerate(batch.sources, batch.first):
            writer.add_source(number, source, source.original if source.number is None else None)
        return writer.finish()


def _without(sources: Sources, batches: Sequence[Batch]) -> Sources:
    """Return the sources that are in none of the batches."""
    done = {id(source) for batch in batches for source in batch.sources}

    def left(group: Sequence[Source]) -> Iterator[Source]:
        return (source for source in group if id(source) not in done)

    return Sources(list(left(sources.numbered)), list(left(sources.unnumbered)))
