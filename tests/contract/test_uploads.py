"""Putting packed dataranges into every kind of store, and reading them back."""

import io
import os
import tarfile
from collections.abc import Iterable
from dataclasses import replace

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.reader import ObjectFile
from dasfs.dataset.verify import verify
from dasfs.dataset.writer import CHUNK_SIZE, is_uploaded, upload
from dasfs.errors import Corrupt, InvalidInput, NotFound, ObjectChanged
from dasfs.stores import ObjectInfo, Store
from tests.datasets import add, datarange, pack, upload_only


def test_what_was_put_is_read_back_and_verified(store: Store) -> None:
    """Datapoints of all sizes come back byte for byte through log, manifest and TAR."""
    contents = [b"", b"x", os.urandom(511), os.urandom(512), os.urandom(9 * CHUNK_SIZE + 3), b"z" * 70_000]
    snapshot = add(store, "birds", 0, contents, compression="zstd:3", extension="dat")
    dataset = Dataset(store, "birds")
    (only,) = snapshot.dataranges
    manifest = dataset.load_manifest(only)
    assert manifest.count == len(contents)
    with ObjectFile(store, dataset.keys.tar(only.id)) as file, tarfile.open(fileobj=file) as archive:
        for member, content in zip(archive.getmembers()[:5], contents, strict=False):
            extracted = archive.extractfile(member)
            assert extracted is not None
            assert extracted.read() == content
    progress: list[int] = []
    assert list(verify(store, "birds", snapshot, progress.append)) == []
    assert sum(progress) == only.tar_size


def test_a_counter_that_is_taken_is_skipped(store: Store) -> None:
    """Two uploads of the same range with the same counter end under different keys; neither overwrites the other."""
    mine = upload_only(store, "birds", 0, [b"mine"], counter=4)
    theirs = upload_only(store, "birds", 0, [b"others"], counter=4)
    assert (mine.id.counter, theirs.id.counter) == (4, 5)
    keys = Dataset(store, "birds").keys
    assert b"mine" in store.get(keys.tar(mine.id))
    assert b"others" in store.get(keys.tar(theirs.id))


def test_nothing_is_visible_before_the_commit(store: Store) -> None:
    """An upload alone changes nothing for readers of the dataset."""
    snapshot = Dataset(store, "birds").log.create()
    uploaded = upload_only(store, "birds", 0, [b"x"])
    dataset = Dataset(store, "birds")
    assert dataset.snapshot() == snapshot
    assert is_uploaded(store, dataset.keys, uploaded)


def test_an_upload_that_breaks_off_leaves_no_tar(store: Store) -> None:
    """When packing fails in the middle of an upload, the TAR object is not there at all, and the error passes."""
    keys = Dataset(store, "birds").keys

    def fail(size: int) -> None:
        raise KeyboardInterrupt

    with pack("birds", 0, [bytes(3 * CHUNK_SIZE)]) as packed, pytest.raises(KeyboardInterrupt):
        upload(store, keys, packed, 1, fail)
    expected = datarange(0, 0)
    with pytest.raises(NotFound):
        store.head(keys.tar(expected.id))
    assert not is_uploaded(store, keys, expected)


def test_a_store_that_lost_bytes_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the store says that it has another size than what was sent, nothing is returned to be committed."""
    real = store.put_stream

    def short(key: str, chunks: Iterable[bytes | memoryview]) -> ObjectInfo:
        info = real(key, chunks)
        return replace(info, size=info.size - 512)

    monkeypatch.setattr(store, "put_stream", short)
    with pytest.raises(Corrupt, match="1536 bytes of it, 2048 were sent"):
        upload_only(store, "birds", 0, [b"x"])


def test_a_reader_sees_the_whole_object_or_says_that_it_changed(store: Store) -> None:
    """An object that is replaced under a reader is an error, never a mixture."""
    store.put("object", os.urandom(300))
    with ObjectFile(store, "object", window_size=100) as file:
        file.read(10)
        store.put("object", os.urandom(300))
        with pytest.raises(ObjectChanged):
            file.read()


def test_reading_an_object_that_is_not_there_is_not_found(store: Store) -> None:
    """Opening says at once that there is no such object."""
    with pytest.raises(NotFound):
        ObjectFile(store, "nothing")


def test_a_missing_manifest_is_damage(store: Store) -> None:
    """The datapoints of a datarange whose manifest is gone exist, so the answer is not `NotFound`."""
    snapshot = add(store, "birds", 0, [b"x"])
    dataset = Dataset(store, "birds")
    store.delete([dataset.keys.manifest(snapshot.dataranges[0].id)])
    with pytest.raises(Corrupt, match="is missing"):
        dataset.load_manifest(snapshot.dataranges[0])


def test_dataranges_are_deleted_by_their_exact_boundaries(store: Store) -> None:
    """One or more neighbouring dataranges go in one commit; other boundaries are refused with what is there."""
    for first in (0, 2, 4, 10):
        add(store, "birds", first, [b"x", b"y"])
    dataset = Dataset(store, "birds")
    for first, last, hint in [
        (0, 2, "there is 0-1 to 2-3"),
        (1, 1, "there is 0-1"),
        (6, 9, "nearest: 4-5 and 10-11"),
        (3, 2, "no range"),
    ]:
        with pytest.raises(InvalidInput, match=hint):
            dataset.delete_datarange(first, last)
    assert [each.first for each in dataset.delete_datarange(2, 5).dataranges] == [0, 10]
    assert dataset.log.head().revision == 6


def test_a_configuration_is_changed_for_what_comes(store: Store) -> None:
    """`configure` changes what is given and keeps the rest."""
    dataset = Dataset(store, "birds")
    before = dataset.log.create().configuration
    after = dataset.configure(datarange_size=1 << 20).configuration
    assert (after.datarange_size, after.compression) == (1 << 20, before.compression)
    with pytest.raises(InvalidInput):
        dataset.configure(datarange_size=0)


def test_buffered_readers_can_be_put_on_an_object(store: Store) -> None:
    """`readinto` fills what it is given, as Python's own readers ask for."""
    content = os.urandom(1000)
    store.put("object", content)
    with ObjectFile(store, "object", window_size=64) as file:
        buffer = bytearray(700)
        assert file.readinto(buffer) == 700
        assert file.readinto(buffer) == 300
        assert bytes(buffer[:300]) == content[700:]
        assert io.SEEK_END == 2
        assert file.seek(-10, io.SEEK_END) == 990
        assert file.read() == content[990:]
