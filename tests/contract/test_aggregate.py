"""Aggregation on every kind of store: the same datapoints as before, in one object that any tar can list."""

import io
import random
import subprocess
import tarfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from dasfs.dataset.aggregate import AggregateReport, aggregate, estimate_work
from dasfs.dataset.aggregation_parts import MERGE_BELOW
from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.foreign import import_dataset
from dasfs.dataset.model import Snapshot
from dasfs.dataset.verify import verify
from dasfs.errors import Conflict, Corrupt, InvalidInput
from dasfs.formats.index import IndexEntry, decode_index, encode_index
from dasfs.stores import CopyPiece, ObjectInfo, Store, open_store
from tests.commands import finish, start
from tests.datasets import add, damage, datarange_id, pack
from tests.faulty import FaultyStore

MIB = 1 << 20
# A clock of a store may tell only seconds, so that what was removed just now seems to be of the future.
NOW = Grace(timedelta(minutes=-1), timedelta(minutes=-1), timedelta(minutes=-1))


class MeasuredStore(FaultyStore):
    """Counts the bytes of TAR objects that come to this machine, and those that are sent back."""

    read = sent = 0

    def read_into(self, key: str, offset: int, buffer: memoryview, *, etag: str | None = None) -> None:
        with self._lock:
            self.read += buffer.nbytes
        super().read_into(key, offset, buffer, etag=etag)

    def compose(self, key: str, pieces: Iterable[CopyPiece | bytes]) -> ObjectInfo:
        def counted() -> Iterable[CopyPiece | bytes]:
            for piece in pieces:
                self.sent += len(piece) if isinstance(piece, bytes) else 0
                yield piece

        return super().compose(key, counted())


def fill(store: Store, sizes: Iterable[int], name: str = "set") -> tuple[Snapshot, list[bytes]]:
    """Add a datarange of three datapoints, of these bytes together, for each size; return all contents."""
    source = random.Random(5)
    contents: list[bytes] = []
    for size in sizes:
        new = [source.randbytes(size // 3), b"", source.randbytes(size - size // 3)]
        add(store, name, len(contents), new)
        contents += new
    return Dataset(store, name).snapshot(), contents


def tar_of(store: Store, name: str = "set") -> bytes:
    (only,) = Dataset(store, name).snapshot().dataranges
    return store.get(Dataset(store, name).keys.tar(only.id))


def check_intact(store: Store, contents: list[bytes], name: str = "set") -> None:
    """Check every byte of every datapoint, and that `collect` leaves the objects of the snapshot and no others."""
    dataset = Dataset(store, name)
    snapshot = dataset.snapshot()
    assert list(verify(store, name, snapshot)) == []
    found = []
    for each in snapshot.dataranges:
        data = store.get(dataset.keys.tar(each.id))
        records = dataset.load_manifest(each).iter_records()
        found += [data[record.content_offset :][: record.stored_size] for record in records]
    assert found == contents
    collect(store, name, grace=NOW)
    keys = dataset.keys
    live = {key(each.id) for each in snapshot.dataranges for key in (keys.tar, keys.index, keys.manifest)}
    assert {info.key for info in store.list(keys.root) if not info.key.startswith(keys.log)} == live


@pytest.mark.parametrize(
    "sizes",
    [
        [10, 2000, 30_000],
        [6 * MIB, 100, 5 * MIB + 700_000],
        [100, 200, 13 * MIB, 300, 400, 500],
        [4 * MIB, 4 * MIB, 4 * MIB, 7 * MIB, 1, 12 * MIB],
        [6 * MIB, 100, 200, 12 * MIB, 300, 5 * MIB],
        [100, 6 * MIB, 200, 300, 7 * MIB],
    ],
    ids=[
        "small",
        "large",
        "small around large",
        "mixed",
        "small between large",
        "merged behind a large one that is fetched",
    ],
)
def test_an_aggregate_is_what_packing_at_once_gives(store: Store, sizes: list[int], tmp_path: Path) -> None:
    """TAR and index are byte for byte those of one fresh datarange; `verify` and `tar` find nothing wrong."""
    snapshot, contents = fill(store, sizes)
    told: list[int] = []
    report = aggregate(Dataset(store, "set"), snapshot.dataranges, snapshot, progress=told.append)
    assert report.snapshot.dataranges == (report.datarange,)
    assert Dataset(store, "set").snapshot() == report.snapshot
    data = tar_of(store)
    assert sum(told) == len(data) == report.datarange.tar_size
    with pack("set", 0, contents) as fresh:
        assert data == b"".join(fresh.chunks())
        assert store.get(Dataset(store, "set").keys.index(report.datarange.id)) == fresh.index
        assert report.datarange.data_size == fresh.data_size
    (tmp_path / "it.tar").write_bytes(data)
    listed = subprocess.run(["tar", "-tf", tmp_path / "it.tar"], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == [f"{number:020d}.bin" for number in range(len(contents))]
    check_intact(store, contents)


def test_aggregates_are_aggregated(store: Store) -> None:
    """Segments are moved a second and a third time, whole and in part, and every block still fits its checksum."""
    _, contents = fill(store, [700_000, 900_000, 6 * MIB, 10, 6 * MIB + 5, 20, 30, 7 * MIB, 40])
    dataset = Dataset(store, "set")
    for first, last in [(0, 2), (2, 4), (0, 3), (0, 2)]:
        snapshot = dataset.snapshot()
        aggregate(dataset, snapshot.dataranges[first:last], snapshot)
        check_intact(store, contents)
    snapshot = dataset.snapshot()
    aggregate(dataset, snapshot.dataranges, snapshot)
    check_intact(store, contents)


def test_large_dataranges_do_not_pass_through_this_machine(s3_url: str) -> None:
    """Of dataranges of 5 MiB and more no byte is fetched from S3."""
    with open_store(s3_url) as inner:
        snapshot, contents = fill(inner, [MERGE_BELOW, 6 * MIB, 11 * MIB, 5 * MIB + 1, 9 * MIB, 3000])
        store = MeasuredStore(inner)
        report = aggregate(Dataset(store, "set"), snapshot.dataranges[:5], snapshot)
        assert (store.read, store.sent, report.fetched) == (0, 1024, 0)
        assert report.copied == report.datarange.tar_size - 1024
        manifest = Dataset(store, "set").load_manifest(report.datarange)
        assert [each.origin for each in manifest.segments] == [each.id for each in snapshot.dataranges[:5]]
        report = aggregate(Dataset(store, "set"), report.snapshot.dataranges, report.snapshot)
        small = snapshot.dataranges[5].tar_size - 1024
        assert (store.read, store.sent, report.fetched) == (small, 2 * 1024 + small, small)
        check_intact(inner, contents)


def test_small_ones_between_large_ones_are_all_that_is_fetched(s3_url: str) -> None:
    """The store joins them to the tail of the large one before; nothing that was made for it is left behind."""
    with open_store(s3_url) as inner:
        snapshot, contents = fill(inner, [12 * MIB, 1000, 14 * MIB, 2000, 3000, 6 * MIB, 4000, 5 * MIB])
        small = sum(each.tar_size - 1024 for each in snapshot.dataranges if each.tar_size < MERGE_BELOW)
        store = MeasuredStore(inner)
        cost = estimate_work(snapshot.dataranges, store.min_copy_size)
        report = aggregate(Dataset(store, "set"), snapshot.dataranges, snapshot)
        assert store.read == report.fetched == cost.fetched == small
        assert store.sent == small + 1024
        keys = Dataset(inner, "set").keys
        assert [
            info.key for info in inner.list(keys.root) if not info.key.startswith((keys.log, keys.dataranges))
        ] == []
        check_intact(inner, contents)


def test_a_small_one_at_the_start_takes_the_head_of_the_large_one_behind_it(s3_url: str) -> None:
    """What is fetched of the large one makes up one part of S3; its segment keeps its identity all the same."""
    with open_store(s3_url) as inner:
        snapshot, contents = fill(inner, [1000, 14 * MIB, 2000, 12 * MIB])
        store = MeasuredStore(inner)
        cost = estimate_work(snapshot.dataranges, store.min_copy_size)
        report = aggregate(Dataset(store, "set"), snapshot.dataranges, snapshot)
        assert store.read == report.fetched == cost.fetched
        assert 5 * MIB <= report.fetched < 5 * MIB + 300_000
        manifest = Dataset(store, "set").load_manifest(report.datarange)
        assert [(each.origin, each.origin_offset) for each in manifest.segments] == [
            (each.id, 0) for each in snapshot.dataranges
        ]
        check_intact(inner, contents)


def test_one_of_two_wins(store: Store) -> None:
    """Of two that aggregate the same stretch at the same moment one wins; the other says so and leaves nothing."""
    snapshot, contents = fill(store, [5000, 6 * MIB, 7000])
    barrier = threading.Barrier(2, timeout=60)
    met = threading.local()

    def meet(_size: int) -> None:
        if not getattr(met, "done", False):
            met.done = True
            barrier.wait()

    def run(_: int) -> AggregateReport | Conflict:
        try:
            return aggregate(Dataset(store, "set"), snapshot.dataranges, snapshot, progress=meet)
        except Conflict as conflict:
            return conflict

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(run, range(2)))
    (report,) = (each for each in outcomes if isinstance(each, AggregateReport))
    assert sum(isinstance(each, Conflict) for each in outcomes) == 1
    dataset = Dataset(store, "set")
    assert dataset.snapshot().dataranges == (report.datarange,)
    keys = [info.key for info in store.list(dataset.keys.dataranges)]
    assert len(keys) == 4 * 3, "the loser left something behind"
    check_intact(store, contents)


def test_two_processes_aggregate_one_dataset(store_url: str) -> None:
    """Two commands at once end well, whoever did what, and nothing is lost."""
    with open_store(store_url) as store:
        _, contents = fill(store, [40_000] * 12)
    command = ("aggregate", "set", "--target-size", "300KiB", "--store", store_url)
    answers = [finish(process) for process in [start(*command), start(*command)]]
    assert [answer.code for answer in answers] == [0, 0], answers
    with open_store(store_url) as store:
        sizes = [each.count for each in Dataset(store, "set").snapshot().dataranges]
        assert sizes == [21, 3, 3, 3, 3, 3]  # what is left would not fill another one
        check_intact(store, contents)


def test_what_is_put_meanwhile_is_kept(store: Store) -> None:
    """A commit of others between plan and commit is no conflict while it leaves the old dataranges alone."""
    snapshot, contents = fill(store, [5000, 6000])
    once = [True]

    def interfere(_size: int) -> None:
        if once.pop() if once else False:
            add(store, "set", 6, [b"new"])

    report = aggregate(Dataset(store, "set"), snapshot.dataranges, snapshot, progress=interfere)
    assert [(each.first, each.last) for each in report.snapshot.dataranges] == [(0, 5), (6, 6)]
    check_intact(store, [*contents, b"new"])


def test_what_is_deleted_meanwhile_stays_deleted(store: Store) -> None:
    """When one of the old dataranges is deleted while it is copied, nothing is committed and nothing is left."""
    snapshot, contents = fill(store, [5000, 6000, 7000])
    once = [True]

    def interfere(_size: int) -> None:
        if once.pop() if once else False:
            dataset = Dataset(store, "set")
            dataset.delete_datarange(3, 5)
            store.delete([dataset.keys.tar(snapshot.dataranges[1].id)])

    with pytest.raises(Conflict, match="3-5 of set was removed or replaced"):
        aggregate(Dataset(store, "set"), snapshot.dataranges, snapshot, progress=interfere)
    assert [each.first for each in Dataset(store, "set").snapshot().dataranges] == [0, 6]
    with pytest.raises(Conflict):
        aggregate(Dataset(store, "set"), snapshot.dataranges, snapshot)
    check_intact(store, contents[:3] + contents[6:])


def test_damage_is_not_carried_on(store: Store) -> None:
    """A block that fails its checksum is an error that names the object, and nothing is committed."""
    snapshot, _ = fill(store, [5000, 6000])
    key = Dataset(store, "set").keys.tar(snapshot.dataranges[1].id)
    damage(store, key, 700, b"?")
    with pytest.raises(Corrupt, match=key):
        aggregate(Dataset(store, "set"), snapshot.dataranges, snapshot)
    assert Dataset(store, "set").snapshot() == snapshot


def test_an_object_that_is_missing_is_damage(store: Store) -> None:
    """A TAR object that is gone though it is live is an error that says what to do, and nothing is committed."""
    snapshot, _ = fill(store, [6 * MIB, 7 * MIB])
    store.delete([Dataset(store, "set").keys.tar(snapshot.dataranges[1].id)])
    before = {info.key for info in store.list("")}
    with pytest.raises(Corrupt, match="dataset verify"):
        aggregate(Dataset(store, "set"), snapshot.dataranges, snapshot)
    assert Dataset(store, "set").snapshot() == snapshot
    assert {info.key for info in store.list("")} == before


def test_what_is_no_stretch_is_refused(store: Store) -> None:
    """One datarange alone, and dataranges with a gap between them, are wrong usage."""
    add(store, "set", 0, [b"a"])
    snapshot = add(store, "set", 7, [b"b"])
    for dataranges in (snapshot.dataranges, snapshot.dataranges[:1], ()):
        with pytest.raises(InvalidInput):
            aggregate(Dataset(store, "set"), dataranges, snapshot)


def test_tars_of_other_programs_are_joined(store: Store) -> None:
    """Imported TARs with PAX headers keep them: the new index counts their blocks, and any tar reads the result."""
    dataset = Dataset(store, "set")
    for first in (0, 2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for number in range(first, first + 2):
                member = tarfile.TarInfo(f"{number:020d}.bin")
                member.size, member.mtime = 3, 1.5
                archive.addfile(member, io.BytesIO(b"abc"))
        identity = datarange_id(first, first + 1)
        store.put(dataset.keys.tar(identity), buffer.getvalue()[: 4 * 2048 + 1024 - 4096])
        store.put(dataset.keys.index(identity), encode_index([IndexEntry(0, 3, 3), IndexEntry(2048, 3, 3)]))
    assert import_dataset(store, "set").left_out == ()
    snapshot = dataset.snapshot()
    report = aggregate(dataset, snapshot.dataranges, snapshot)
    index = decode_index(store.get(dataset.keys.index(report.datarange.id)))
    assert index == [IndexEntry(number * 2048, 3, 3) for number in range(4)]
    with tarfile.open(fileobj=io.BytesIO(tar_of(store))) as archive:
        assert [(each.name, each.size, each.mtime) for each in archive] == [
            (f"{number:020d}.bin", 3, 1.5) for number in range(4)
        ]
    check_intact(store, [b"abc"] * 4)
