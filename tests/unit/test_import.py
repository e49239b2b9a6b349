"""Reading and importing what datas3t wrote, and left behind."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dasfs.dataset.dataset import Dataset, list_datasets
from dasfs.dataset.foreign import import_dataset
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Datarange, Operation
from dasfs.dataset.verify import verify
from dasfs.errors import AlreadyExists, Corrupt, InvalidInput, NotFound
from dasfs.formats.index import IndexEntry, encode_index
from dasfs.names import DatarangeId, DatasetKeys
from dasfs.stores import Store, open_store
from tests.datasets import MTIME, add, damage, datarange_id, pack, upload_only

KEYS = DatasetKeys("birds")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"file://{tmp_path}/store") as opened:
        opened.create()
        yield opened


def datas3t(place: Store, first: int, contents: Sequence[bytes], counter: int) -> DatarangeId:
    """Put a TAR and its index as datas3t does: no manifest, no log."""
    identity = datarange_id(first, first + len(contents) - 1, counter)
    with pack("birds", first, contents) as packed:
        place.put(KEYS.tar(identity), b"".join(packed.chunks()))
        place.put(KEYS.index(identity), packed.index)
    return identity


def pax_tar(first: int, contents: Sequence[bytes], *, fraction: float = 0.5) -> bytes:
    """A TAR as Python writes it by default: PAX headers for fractions of seconds, but with 1,024 zeros at the end."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, content in enumerate(contents, first):
            info = tarfile.TarInfo(f"{number:020d}.bin")
            info.size, info.mtime = len(content), MTIME + fraction
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue().rstrip(b"\0") + bytes(-len(out.getvalue().rstrip(b"\0")) % 512) + bytes(1024)


def datas3t_index(contents: Sequence[bytes]) -> bytes:
    """The index that datas3t computes: as if every header were one block."""
    entries, offset = [], 0
    for content in contents:
        entries.append(IndexEntry(offset, 1, len(content)))
        offset = entries[-1].end
    return encode_index(entries)


def test_a_foreign_dataset_can_be_read(place: Store) -> None:
    """Without a log, the snapshot comes from the rule and manifests from one reading of the TAR."""
    contents = [b"first", b"", bytes(300_000)]
    datas3t(place, 5, contents, 1)
    dataset = Dataset(place, "birds")
    snapshot = dataset.snapshot()
    manifest = dataset.load_manifest(snapshot.dataranges[0])
    with pack("birds", 5, contents) as packed:
        assert manifest == packed.manifest(1)
    assert list_datasets(place) == ["birds"]
    assert list(verify(place, "birds", snapshot)) == []


def test_a_foreign_dataset_with_pax_headers_and_a_right_index_can_be_read(place: Store) -> None:
    """Headers of several blocks are fine as long as the index says where the content is."""
    identity = datarange_id(0, 1)
    tar = pax_tar(0, [b"hello", b"world!"])
    place.put(KEYS.tar(identity), tar)
    place.put(KEYS.index(identity), encode_index([IndexEntry(0, 3, 5), IndexEntry(2048, 3, 6)]))
    dataset = Dataset(place, "birds")
    manifest = dataset.load_manifest(dataset.snapshot().dataranges[0])
    at = [(each.content_offset, each.stored_size) for each in manifest.iter_records()]
    assert [tar[offset : offset + size] for offset, size in at] == [b"hello", b"world!"]


def test_a_foreign_dataset_is_not_changed_before_it_is_imported(place: Store) -> None:
    """Creating, clearing, deleting: each is refused with the way out, `dataset import`."""
    datas3t(place, 0, [b"x"], 1)
    dataset = Dataset(place, "birds")
    with pytest.raises(AlreadyExists, match="run 'dasfs dataset import birds'"):
        dataset.log.create()
    for attempt in (dataset.clear, dataset.delete, lambda: dataset.delete_datarange(0, 0)):
        with pytest.raises(InvalidInput, match="run 'dasfs dataset import birds'"):
            attempt()


def test_an_import_makes_a_log_that_says_the_same(place: Store) -> None:
    """After an import the same datapoints are there by the log, checked, with manifests; writers can go on."""
    datas3t(place, 0, [b"a", b"b"], 1)
    datas3t(place, 2, [b"c"], 2)
    datas3t(place, 0, [b"a", b"b", b"c"], 3)
    datas3t(place, 10, [b"k"], 4)
    dataset = Dataset(place, "birds")
    before = dataset.snapshot()
    report = import_dataset(place, "birds")
    snapshot = dataset.snapshot(before)
    assert snapshot == report.snapshot
    assert [each.id for each in snapshot.dataranges] == [each.id for each in before.dataranges]
    assert [(str(each.id)[-3:], each.reason) for each in report.left_out] == [
        ("001", "another datarange holds its datapoints"),
        ("002", "another datarange holds its datapoints"),
    ]
    assert [each.operation for each in dataset.log.commits()] == [Operation.IMPORT]
    assert (snapshot.data_size, snapshot.next_number, snapshot.last_counter) == (4, 11, 4)
    assert list(verify(place, "birds", snapshot)) == []
    assert add(place, "birds", 11, [b"new"]).dataranges[-1].id == datarange_id(11, 11, 5)


def test_damaged_candidates_are_left_out_and_named(place: Store) -> None:
    """Failed uploads and broken TARs are not imported; each is reported with what is wrong."""
    good = datas3t(place, 0, [b"good"], 1)
    wrong_size = datas3t(place, 10, [b"12345"], 2)
    place.put(KEYS.tar(wrong_size), place.get(KEYS.tar(wrong_size)) + bytes(512))
    pax = datarange_id(20, 21, 3)
    place.put(KEYS.tar(pax), pax_tar(20, [b"hello", b"world"]))
    place.put(KEYS.index(pax), datas3t_index([b"hello", b"world"]))
    wrong_name = datarange_id(30, 30, 4)
    place.put(KEYS.tar(wrong_name), place.get(KEYS.tar(good)))
    place.put(KEYS.index(wrong_name), place.get(KEYS.index(good)))
    short_index = datas3t(place, 40, [b"a", b"b"], 5)
    place.put(KEYS.index(short_index), place.get(KEYS.index(short_index))[:16])
    no_index = datas3t(place, 50, [b"a"], 6)
    place.delete([KEYS.index(no_index)])
    damaged = datas3t(place, 60, [b"a"], 7)
    damage(place, KEYS.tar(damaged), 0, b"xx")
    wrong_offset = datas3t(place, 70, [b"a" * 600, b"b"], 8)
    place.put(KEYS.index(wrong_offset), datas3t_index([b"a", b"b" * 600]))
    report = import_dataset(place, "birds")
    assert [each.id for each in report.snapshot.dataranges] == [good]
    reasons = {each.id: each.reason for each in report.left_out}
    expected = {
        wrong_size: "it has 2560 bytes, its index asks for 2048",
        pax: "its index asks for",
        wrong_name: "expected number 30",
        short_index: "1 entries for 2 datapoints",
        no_index: "its index object is missing",
        damaged: "checksum",
        wrong_offset: "the index says 1 bytes at 512, the TAR has 600 at 512",
    }
    assert set(reasons) == set(expected)
    assert {each: text in reasons[each] for each, text in expected.items()} == dict.fromkeys(expected, True)


def test_what_a_damaged_aggregate_covers_is_imported_instead(place: Store) -> None:
    """When the winner by rule turns out damaged, the dataranges that it covers take its place."""
    pieces = [datas3t(place, 0, [b"a", b"b"], 1), datas3t(place, 2, [b"c"], 2)]
    aggregate = datas3t(place, 0, [b"a", b"b", b"c"], 3)
    damage(place, KEYS.tar(aggregate), 1024, b"broken header")
    report = import_dataset(place, "birds")
    assert [each.id for each in report.snapshot.dataranges] == pieces
    assert [each.id for each in report.left_out] == [aggregate]
    # The damaged one's counter is not used again.
    assert report.snapshot.last_counter == 3


def test_an_import_that_was_cut_off_goes_on(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests that a killed import left are checked and used; the outcome is the same."""
    datas3t(place, 0, [b"a", b"b"], 1)
    datas3t(place, 2, [b"c"], 2)
    begin = CommitLog.begin

    def killed(log: CommitLog, change: Change) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CommitLog, "begin", killed)
    with pytest.raises(KeyboardInterrupt):
        import_dataset(place, "birds")
    assert Dataset(place, "birds").snapshot().revision == 0
    monkeypatch.setattr(CommitLog, "begin", begin)
    report = import_dataset(place, "birds")
    assert (report.snapshot.revision, report.snapshot.count, report.left_out) == (1, 3, ())
    assert list(verify(place, "birds", report.snapshot)) == []


def test_of_two_imports_at_once_one_wins_and_the_other_says_so(place: Store) -> None:
    """An import that comes across the manifests of another one goes on to its end, where the dataset exists already."""
    datas3t(place, 0, [b"a", b"b"], 1)
    datas3t(place, 2, [b"c"], 2)

    reports = []

    def other(_: int) -> None:
        if not reports:
            reports.append(None)
            reports[0] = import_dataset(place, "birds")

    with pytest.raises(AlreadyExists, match="birds exists already"):
        import_dataset(place, "birds", other)
    snapshot = Dataset(place, "birds").snapshot()
    assert (snapshot.revision, snapshot.count) == (1, 3)
    assert list(verify(place, "birds", snapshot)) == []


def test_a_lost_log_can_be_made_anew(place: Store) -> None:
    """An import takes what dasfs itself wrote by its manifests: compressed datapoints stay what they were."""
    add(place, "birds", 0, [b"x" * 5000, b"y"], compression="zstd:3", extension="txt")
    whole = add(place, "birds", 2, [b"z" * 4000])
    place.delete([info.key for info in place.list(KEYS.log)])
    report = import_dataset(place, "birds")
    assert report.snapshot.dataranges == whole.dataranges
    assert report.snapshot.data_size == 9001


def test_a_datarange_that_fails_its_own_manifest_is_left_out(place: Store) -> None:
    """A manifest that is there is held against every byte of the TAR."""
    one = upload_only(place, "birds", 0, [b"hello"])
    upload_only(place, "birds", 5, [b"world"], counter=2)
    damage(place, KEYS.tar(one.id), 512, b"H")
    report = import_dataset(place, "birds")
    assert [(each.id, "CRC-32" in each.reason) for each in report.left_out] == [(one.id, True)]


def test_importing_twice_is_refused(place: Store) -> None:
    """A dataset that has a log, be it of a deleted one, is not imported again."""
    datas3t(place, 0, [b"x"], 1)
    import_dataset(place, "birds")
    with pytest.raises(AlreadyExists, match="has a log already"):
        import_dataset(place, "birds")
    Dataset(place, "birds").delete()
    with pytest.raises(AlreadyExists, match="has a log already"):
        import_dataset(place, "birds")


def test_importing_nothing_is_refused_with_the_reason(place: Store) -> None:
    """A name without objects, and one without a single good datarange, get no log."""
    with pytest.raises(NotFound, match="there is no dataset fish"):
        import_dataset(place, "fish")
    damage_all = datas3t(place, 0, [b"x"], 1)
    place.put(KEYS.tar(damage_all), b"no TAR")
    with pytest.raises(NotFound, match=r"no datarange that can be imported \(.*6 bytes"):
        import_dataset(place, "birds")
    assert list(place.list(KEYS.log)) == []


def test_a_new_dataset_keeps_away_from_the_counters_of_leftovers(place: Store) -> None:
    """Half a datarange that a failed upload left does not stop a creation, but its counter is not used again."""
    place.put(KEYS.tar(datarange_id(0, 9, 41)), b"half an upload")
    assert CommitLog(place, "birds").create().last_counter == 41


def test_a_foreign_manifest_needs_an_intact_tar(place: Store) -> None:
    """Reading a damaged foreign datarange is an error that names the object, never guessed offsets."""
    identity = datas3t(place, 0, [b"hello", b"world"], 1)
    damage(place, KEYS.tar(identity), 1024, b"x")
    with pytest.raises(Corrupt, match=str(identity)):
        Dataset(place, "birds").load_manifest(Datarange(identity, 3072, 0, 0))
