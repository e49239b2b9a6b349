"""What must be true of a dataset at any moment: a model that sees every write and deletion that really happened.

A `LedgerStore` stands directly before the store that all hosts share, so that a write whose answer is lost, or whose
writer crashes right after it, counts, and one that never came does not. Whatever breaks a promise of the design is an
AssertionError there and then.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from dasfs.dataset.codec import decode_commit
from dasfs.dataset.collect import KEPT_CHECKPOINTS, Grace
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.exclusive import PROBE
from dasfs.dataset.model import Commit, Configuration, Datarange, Operation, Snapshot, apply, nothing
from dasfs.dataset.verify import verify_datarange
from dasfs.formats.compression import decompress
from dasfs.names import DatarangeId
from dasfs.stores import CopyPiece, ObjectInfo, Store
from tests.faulty import FaultyStore
from tests.simulation import Clock


@dataclass(frozen=True, slots=True)
class Datapoint:
    """What one datapoint was put as. `original` is None where it brought its number."""

    content: bytes
    extension: str
    original: str | None

    @property
    def is_named(self) -> bool:
        return self.original is not None


@dataclass(slots=True)
class Running:
    """What one operation of a host may do, and did. Sources are known by their number, or by their original path."""

    name: str
    allowed: frozenset[Operation] = frozenset()
    sources: Mapping[int | str, Datapoint] = field(default_factory=dict)
    removable: range | None = None  # None: everything
    grace: Grace | None = None  # of a collector
    alone: bool = True
    present: set[int | str] = field(default_factory=set)  # what was there at any moment since it began
    committed: set[int | str] = field(default_factory=set)
    reserved: set[int] = field(default_factory=set)


class World:
    """The truth about one dataset in `store`."""

    def __init__(self, store: Store, name: str, clock: Clock) -> None:
        self.store = store
        self.dataset = Dataset(store, name)
        self.keys = self.dataset.keys
        self.clock = clock
        self.exists = False
        self.datapoints: dict[int, Datapoint] = {}
        self.places: dict[str, int] = {}
        self.live: dict[DatarangeId, Datarange] = {}
        self.contents: dict[DatarangeId, tuple[Datapoint, ...]] = {}  # of all that ever were live
        self.removed: dict[DatarangeId, datetime] = {}
        self.next_number = 0
        self.configuration = Configuration()
        self.snapshots: list[Snapshot] = [nothing(name)]
        self.written: dict[str, tuple[datetime, str]] = {}
        self.running: dict[str, Running] = {}
        self._operations = 0
        self._acting = threading.local()
        self._checked: set[tuple[str, ...]] = set()

    @property
    def head(self) -> Snapshot:
        return self.snapshots[-1]

    @contextmanager
    def act(self, running: Running) -> Iterator[None]:
        """Take everything that this thread does for the doing of one operation."""
        self._operations += 1
        running.name = f"{running.name} {self._operations}"
        running.present.update(self.datapoints, self.places)
        self.running[running.name] = running
        self._acting.running = running
        try:
            yield
        finally:
            del self._acting.running
            del self.running[running.name]

    def acting(self) -> Running:
        running: Running = self._acting.running
        return running

    def writer(self) -> str:
        return self.acting().name

    def wrote(self, key: str) -> None:
        """An object was written."""
        datarange = self.keys.parse_datarange(key)
        if datarange is not None:
            # Only what was never committed can be written again, and only when it was deleted.
            assert datarange[0] not in self.contents, f"{key} was used before"
            assert key not in self.written, f"{key} is written over"
        self.written[key] = (self.clock.now, self.acting().name)
        if self.keys.parse_commit(key) is not None:
            self._committed(decode_commit(self.store.get(key)))

    def deleting(self, key: str) -> None:
        """An object is about to be deleted."""
        running, now = self.acting(), self.clock.now
        written, owner = self.written.get(key, (datetime.max.replace(tzinfo=now.tzinfo), ""))
        datarange, revision = self.keys.parse_datarange(key), self.keys.parse_commit(key)
        if datarange is not None:
            assert datarange[0] not in self.live, f"{key} is live"
        if datarange is not None and key not in self.written:
            # A write that failed may have been done: whoever has the datarange's manifest clears it away, there or not.
            _, owner = self.written.get(self.keys.manifest(datarange[0]), (written, ""))
        if key.startswith(self.keys.root + PROBE) or owner == running.name:
            return
        assert running.grace is not None, f"{running.name} deletes {key}, which {owner} wrote"
        if datarange is not None:
            removed = self.removed.get(datarange[0])
            age, grace = (now - written, running.grace.uncommitted)
            if removed is not None:
                age, grace = (now - removed, running.grace.removed)
            assert age >= grace, f"{key} was deleted after {age}"
            return
        newer = [each for each in self._checkpoints() if each > (revision or self.keys.parse_checkpoint(key) or 0)]
        if revision is not None:
            assert now - written >= running.grace.log
            newer += [each for each in self._checkpoints() if each == revision]
        assert len(newer) >= KEPT_CHECKPOINTS, f"{key} was deleted with {newer} left"

    def deleted(self, key: str) -> None:
        self.written.pop(key, None)

    def _checkpoints(self) -> list[int]:
        return [each for key in self.written if (each := self.keys.parse_checkpoint(key)) is not None]

    def _committed(self, commit: Commit) -> None:
        running = self.acting()
        assert commit.writer == running.name
        assert commit.operation in running.allowed, f"{commit.operation} by {running.name}"
        assert commit.revision == self.head.revision + 1, f"revision {commit.revision} was taken"
        added = {each.id: self._look_into(each, running) for each in commit.add}
        removed = {each: self.contents[each] for each in commit.remove}
        for gone in removed:
            del self.live[gone]  # a KeyError: it is not live
            self.removed[gone] = self.clock.now
        before = {number: each for gone in removed for number, each in _numbered(gone, removed[gone])}
        after = {number: each for new in added for number, each in _numbered(new, added[new])}
        if commit.operation is Operation.AGGREGATE:
            assert before == after, "an aggregate is not what it replaces"
        else:
            self._replace(before, after, running)
        for each in commit.add:
            assert each.id not in self.contents, f"{each.id} was used before"
            self.live[each.id], self.contents[each.id] = each, added[each.id]
        self._count(commit, running)
        self.snapshots.append(apply(self.head, commit))

    def _look_into(self, datarange: Datarange, running: Running) -> tuple[Datapoint, ...]:
        """Return what was committed; its objects must be whole."""
        infos = {key: self.store.head(key) for key in self.objects_of(datarange)}
        found = self._read(datarange)
        assert datarange.named == any(each.is_named for each in found)
        self._check_bytes(datarange, found, infos)
        if running.sources:
            for number, each in _numbered(datarange.id, found):
                source = each.original if each.original is not None else number
                assert running.sources[source] == each, f"datapoint {number} is not {source}"
                assert not each.is_named or number in running.reserved, f"{number} was not reserved for {source}"
        return found

    def _replace(self, before: dict[int, Datapoint], after: dict[int, Datapoint], running: Running) -> None:
        for number, each in before.items():
            assert running.removable is None or number in running.removable, f"datapoint {number} was removed"
            del self.datapoints[number]
            if each.original is not None:
                del self.places[each.original]
        for number, each in after.items():
            assert number not in self.datapoints, f"datapoint {number} is there twice"
            assert each.original not in self.places, f"{each.original} is there twice"
            self.datapoints[number] = each
            if each.original is not None:
                self.places[each.original] = number
            source = each.original if each.original is not None else number
            running.committed.add(source)
            for other in self.running.values():
                other.present.add(source)

    def _count(self, commit: Commit, running: Running) -> None:
        """Follow the numbers, and what else the log says."""
        if commit.dataset_id is not None:
            assert not self.exists
            self.exists, self.next_number, self.configuration = True, 0, Configuration()
        assert self.exists
        next_number = max(self.next_number, commit.next_number or 0, *(each.last + 1 for each in commit.add))
        if commit.operation is Operation.RESERVE:
            numbers = range(self.next_number, next_number)
            assert numbers, "nothing was reserved"
            assert self.datapoints.keys().isdisjoint(numbers)
            running.reserved.update(numbers)
        self.next_number = next_number
        self.configuration = commit.configuration or self.configuration
        if commit.deleted:
            self.exists = False
        if commit.deleted or commit.operation is Operation.CLEAR:
            assert not self.datapoints

    def objects_of(self, datarange: Datarange) -> tuple[str, str, str]:
        return self.keys.tar(datarange.id), self.keys.index(datarange.id), self.keys.manifest(datarange.id)

    def check(self, datarange: Datarange, objects: Mapping[str, ObjectInfo]) -> None:
        """Check that a datarange, live or not, has all its objects and all its bytes."""
        missing = [key for key in self.objects_of(datarange) if key not in objects]
        assert not missing, f"{missing} are missing"
        self._check_bytes(datarange, self.contents[datarange.id], objects)

    def _check_bytes(
        self, datarange: Datarange, datapoints: tuple[Datapoint, ...], objects: Mapping[str, ObjectInfo]
    ) -> None:
        """Check each byte, once for each state of the objects."""
        state = tuple(objects[key].etag for key in self.objects_of(datarange))
        if state in self._checked:
            return
        assert list(verify_datarange(self.store, self.keys, datarange)) == []
        assert self._read(datarange) == datapoints
        self._checked.add(state)

    def _read(self, datarange: Datarange) -> tuple[Datapoint, ...]:
        manifest = self.dataset.load_manifest(datarange)
        data = self.store.get(self.keys.tar(datarange.id))
        assert manifest.count == datarange.count
        datapoints = []
        for k, record in enumerate(manifest.iter_records()):
            stored = data[record.content_offset :][: record.stored_size]
            content = bytes(decompress(record.codec, stored, record.true_size))
            datapoints.append(Datapoint(content, record.extension, manifest.original_name(k)))
        return tuple(datapoints)


def _numbered(datarange: DatarangeId, datapoints: tuple[Datapoint, ...]) -> Iterator[tuple[int, Datapoint]]:
    return zip(range(datarange.first, datarange.last + 1), datapoints, strict=True)


class LedgerStore(FaultyStore):
    """The store that all hosts share; it tells the world what happens."""

    def __init__(self, inner: Store, world: World) -> None:
        super().__init__(inner)
        self.world = world

    def put(self, key: str, data: bytes) -> ObjectInfo:
        return self._told(super().put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> ObjectInfo:
        return self._told(super().put_if_absent(key, data))

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> ObjectInfo:
        return self._told(super().put_stream(key, chunks))

    def compose(self, key: str, pieces: Iterable[CopyPiece | bytes]) -> ObjectInfo:
        return self._told(super().compose(key, pieces))

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        for key in wanted:
            self.world.deleting(key)
        super().delete(wanted)
        for key in wanted:
            self.world.deleted(key)

    def _told(self, info: ObjectInfo) -> ObjectInfo:
        self.world.wrote(info.key)
        return info
