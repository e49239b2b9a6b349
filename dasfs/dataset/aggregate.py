"""Replacing neighbouring dataranges by one larger datarange.

What the store can copy never leaves it (see `dasfs.dataset.aggregation_parts`); the rest is fetched into a local
file first, each block checked, so that the manifest is known before anything is written. Then the objects are written
in the order of every datarange: manifest (the counter is ours), TAR, index, and one commit that removes the old and
adds the new. Readers see the old dataranges or the new one, never both and never neither.

**Concurrency:** any number of aggregations, puts, deletions and collections may be at work, on any hosts. Of two
aggregations that want the same datarange one wins; the other raises `Conflict` and deletes what it wrote.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from dasfs.dataset.aggregation_parts import (
    Part,
    Stretch,
    Work,
    check_blocks,
    end_of_block,
    find_merged,
    join_segments,
    measure_work,
    plan_parts,
    split_evenly,
)
from dasfs.dataset.aggregation_plan import plan_range
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.joints import made_joints
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot
from dasfs.dataset.spool import DEFAULT_DIRECTORY, Spool
from dasfs.dataset.writer import put_manifest
from dasfs.errors import (
    Conflict,
    Corrupt,
    DasfsError,
    InvalidInput,
    NoSpace,
    NotFound,
    ObjectChanged,
    StoreUnavailable,
)
from dasfs.formats.join import join_manifests, joined_size, make_index
from dasfs.formats.manifest import Manifest
from dasfs.formats.tar import END_OF_ARCHIVE
from dasfs.names import DatarangeId
from dasfs.stores.base import MIB, CopyPiece, ObjectInfo

# Small objects cost a round trip each: eight at once read some 400 a second from a store 20 ms away. Each is below
# 5 MiB, or the head of a larger one of at most 10 MiB.
FETCH_JOBS: Final = 8
# Above S3's minimum of a part, and small enough that the six or so that a store holds at once are 40 to 70 MiB.
PIECE_SIZE: Final = 6 * MIB

# What is told of and can be ended between two of them: a gateway copies one in a second or two.
COPY_SIZE: Final = 64 * MIB

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class AggregateReport:
    """What an aggregation did: the datarange that there is now, and the snapshot right after the commit.

    `copied` bytes were copied inside the store, `fetched` bytes were read by this machine and sent back.
    """

    datarange: Datarange
    snapshot: Snapshot
    copied: int
    fetched: int


def estimate_work(dataranges: Sequence[Datarange], min_copy_size: int) -> Work:
    """Return what aggregating `dataranges` costs on a store with this `min_copy_size`, without asking it. Pure."""
    return measure_work(plan_parts(_lengths(dataranges), min_copy_size))


def aggregate(
    dataset: Dataset,
    dataranges: Sequence[Datarange],
    base: Snapshot | None = None,
    *,
    spool_dir: str = DEFAULT_DIRECTORY,
    progress: Progress | None = None,
) -> AggregateReport:
    """Replace `dataranges`, which ascend without a gap, by one datarange, and return what was done.

    `base` is the snapshot that they were taken from; it saves reading the log anew. Bytes that have to be fetched
    are kept in an anonymous file in `spool_dir`. `progress` is told bytes as they are handed to the store, and
    may raise to end the aggregation: then nothing is committed, and `collect` removes what was written.

    Raises `InvalidInput` for a gap or a single datarange, `Conflict` when one of them was replaced or deleted
    meanwhile (nothing is left behind), `Corrupt` for bytes that fail their checksums, `NoSpace`, and what the store
    raises.
    """
    if len(dataranges) < 2 or len(plan_range(dataranges)) != 1:
        raise InvalidInput("an aggregation needs two dataranges or more")
    snapshot = base or dataset.writable()
    return _Aggregation(dataset, tuple(dataranges), snapshot, progress or _ignore).run(spool_dir)


def _ignore(_size: int) -> None:
    return


def _lengths(dataranges: Sequence[Datarange]) -> list[int]:
    return [each.tar_size - len(END_OF_ARCHIVE) for each in dataranges]


class _Aggregation:
    """One run of `aggregate`."""

    def __init__(
        self, dataset: Dataset, dataranges: tuple[Datarange, ...], snapshot: Snapshot, progress: Progress
    ) -> None:
        self._dataset = dataset
        self._dataranges = dataranges
        self._snapshot = snapshot
        self._progress = progress
        self._parts = plan_parts(_lengths(dataranges), dataset.store.min_copy_size)
        self._manifests: list[Manifest] = []
        self._fetched = 0

    def run(self, spool_dir: str) -> AggregateReport:
        self._check_live()
        try:
            with closing(Spool(spool_dir)) as spool:
                added = self._write(spool)
        except (NotFound, Corrupt, ObjectChanged) as error:
            # Somebody else may have replaced them and collected what they were.
            self._check_live()
            if isinstance(error, NotFound):
                raise Corrupt(error.message, hint=f"run 'dasfs dataset verify {self._dataset.name}'") from error
            raise
        snapshot = self._commit(added)
        return AggregateReport(added, snapshot, measure_work(self._parts).copied, self._fetched)

    def _check_live(self) -> None:
        """Raise `Conflict` unless all that shall be replaced is still there: one small request."""
        before, self._snapshot = self._snapshot, self._dataset.log.replay(self._snapshot)
        if before.dataset_id != self._snapshot.dataset_id:
            raise Conflict(f"dataset {self._dataset.name} was deleted and created anew meanwhile")
        for each in self._dataranges:
            if not self._snapshot.holds(each.id):
                raise Conflict(
                    f"datarange {each.first}-{each.last} of {self._dataset.name} was removed or replaced meanwhile"
                )

    def _write(self, spool: Spool) -> Datarange:
        """Write the three objects, and return what to commit."""
        store, keys = self._dataset.store, self._dataset.keys
        with ThreadPoolExecutor(FETCH_JOBS, thread_name_prefix="dasfs-manifest") as pool:
            self._manifests = list(pool.map(self._dataset.load_manifest, self._dataranges))
        merged = self._fetch(spool)
        self._check_live()  # fetching may have taken long, and what follows costs the store
        manifest, manifest_size = put_manifest(
            store, keys, lambda counter: self._join(counter, merged), self._snapshot.last_counter + 1
        )
        try:
            info = self._compose(keys.tar(manifest.id), spool)
            if info.size != manifest.tar_size:
                raise Corrupt(f"{info.key}: the store has {info.size} bytes of it instead of {manifest.tar_size}")
            store.put(keys.index(manifest.id), make_index(manifest))
            self._check_manifest(manifest.id)
        except (NotFound, Corrupt, ObjectChanged, NoSpace, StoreUnavailable):
            # It may be a gigabyte, and whoever tries again would leave another one.
            self._delete(manifest.id)
            raise
        named = manifest.names is not None
        return Datarange(manifest.id, manifest.tar_size, manifest_size, manifest.data_size, named)

    def _check_manifest(self, datarange: DatarangeId) -> None:
        """Raise unless the manifest is still there: it was alone for as long as the TAR was written."""
        try:
            self._dataset.store.head(self._dataset.keys.manifest(datarange))
        except NotFound:
            raise ObjectChanged(
                f"the manifest of {datarange.first}-{datarange.last} was collected before it could be committed",
                hint="give 'collect' a longer grace of what is not committed: writing takes longer than that",
            ) from None

    def _join(self, counter: int, merged: dict[range, bytes]) -> Manifest:
        identity = DatarangeId(self._dataranges[0].first, self._dataranges[-1].last, counter)
        segments = join_segments(identity, [manifest.segments for manifest in self._manifests], merged)
        return join_manifests(self._manifests, identity, segments)

    def _fetch(self, spool: Spool) -> dict[range, bytes]:
        """Bring all that is fetched into the spool, in order; return the block checksums of each merged run."""
        runs = find_merged(_lengths(self._dataranges))
        starts, ends = {run.start for run in runs}, {run.stop - 1: run for run in runs}
        merged = {}
        for stretch, data in self._read_stretches():
            if stretch.source in starts:
                spool.cut()
            spool.write(data)
            if stretch.source in ends:
                merged[ends[stretch.source]] = spool.cut()
        spool.finish(END_OF_ARCHIVE)
        return merged

    def _read_stretches(self) -> Iterator[tuple[Stretch, memoryview]]:
        """Yield what is fetched, in order, checked, a few of them read ahead."""
        pending: deque[tuple[Stretch, Future[memoryview]]] = deque()
        pool = ThreadPoolExecutor(FETCH_JOBS, thread_name_prefix="dasfs-fetch")
        try:
            for part in self._parts:
                for stretch in part.fetched:
                    pending.append((stretch, pool.submit(self._read, stretch)))
                    if len(pending) >= FETCH_JOBS:
                        yield self._take(pending)
            while pending:
                yield self._take(pending)
        finally:
            pool.shutdown(cancel_futures=True)

    def _take(self, pending: "deque[tuple[Stretch, Future[memoryview]]]") -> tuple[Stretch, memoryview]:
        stretch, future = pending.popleft()
        data = future.result()
        self._fetched += len(data)
        return stretch, data[: stretch.length]

    def _read(self, stretch: Stretch) -> memoryview:
        """Return the bytes of a stretch, which starts at 0, up to the end of its last block."""
        segments = self._manifests[stretch.source].segments
        key = self._dataset.keys.tar(self._dataranges[stretch.source].id)
        data = memoryview(bytearray(end_of_block(segments, stretch.end)))
        self._dataset.store.read_into(key, 0, data)
        check_blocks(segments, data, key)
        return data

    def _compose(self, key: str, spool: Spool) -> ObjectInfo:
        """Make the TAR object, of joints where it needs some."""
        recipes = {
            place: self._pieces_of_joint(spool, part, start)
            for place, (part, start) in enumerate(self._placed())
            if part.is_joint
        }
        with made_joints(self._dataset.store, self._dataset.keys, recipes) as joints:
            return self._dataset.store.compose(key, self._pieces(spool, joints))

    def _placed(self) -> Iterator[tuple[Part, int]]:
        """Yield the parts, each with where its fetched bytes begin in the spool."""
        starts = accumulate((part.fetched_length for part in self._parts), initial=0)
        return zip(self._parts, starts, strict=False)

    def _pieces_of_joint(self, spool: Spool, part: Part, start: int) -> Iterator[CopyPiece | bytes]:
        yield self._copy(part)
        yield spool.read(start, part.fetched_length)

    def _pieces(self, spool: Spool, joints: Mapping[int, str]) -> Iterator[CopyPiece | bytes]:
        """Yield the new TAR for the store. The zeros at its end go with the last part when that was fetched."""
        for place, (part, start) in enumerate(self._placed()):
            if part.is_joint:
                yield CopyPiece(joints[place], 0, part.length)
                self._progress(part.length)
            elif part.fetched:
                is_last = part is self._parts[-1]
                end = start + part.length + (len(END_OF_ARCHIVE) if is_last else 0)
                for begin, stop in split_evenly(start, end, PIECE_SIZE):
                    yield spool.read(begin, stop - begin)
                    self._progress(stop - begin)
            else:
                for piece in self._copies(part):
                    yield piece
                    self._progress(piece.length)
        if not self._parts[-1].fetched:
            yield END_OF_ARCHIVE
            self._progress(len(END_OF_ARCHIVE))

    def _copies(self, part: Part) -> Iterator[CopyPiece]:
        """Yield what a part copies of its source, in pieces that take moments each."""
        whole = self._copy(part)
        for start, stop in split_evenly(whole.offset, whole.offset + whole.length, COPY_SIZE):
            yield CopyPiece(whole.key, start, stop - start)

    def _copy(self, part: Part) -> CopyPiece:
        """Return what a part copies of its source."""
        assert part.copied is not None
        source = self._dataranges[part.copied.source].id
        return CopyPiece(self._dataset.keys.tar(source), part.copied.start, part.copied.length)

    def _commit(self, added: Datarange) -> Snapshot:
        """Make the new datarange visible, instead of the old ones."""
        change = Change(Operation.AGGREGATE, add=(added,), remove=tuple(each.id for each in self._dataranges))
        try:
            return self._dataset.log.commit(change, self._snapshot)
        except Conflict:
            self._delete(added.id)
            raise

    def _delete(self, datarange: DatarangeId) -> None:
        """Delete what was written and will surely never be committed."""
        keys = self._dataset.keys
        with suppress(DasfsError):
            self._dataset.store.delete(each(datarange) for each in (keys.tar, keys.index, keys.manifest))


def progress_size(dataranges: Sequence[Datarange]) -> int:
    """Return how many bytes `progress` will be told of, all in all."""
    return joined_size([each.tar_size for each in dataranges])
