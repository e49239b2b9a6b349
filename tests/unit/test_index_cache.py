"""What the index cache keeps, and that it never answers with what it did not get."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from dasfs.cache.index import IndexCache
from dasfs.cache.pages import PAGE_RECORDS
from dasfs.dataset.model import Snapshot
from dasfs.errors import Corrupt, NotFound
from dasfs.formats.manifest import RECORD_SIZE, Manifest
from dasfs.names import Revision
from tests.datasets import datarange
from tests.manifests import make_manifest

ID = "5a3c7d1e00004000800000000000000a"
OTHER_ID = "5a3c7d1e00004000800000000000000b"
STORE = "file:///store"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "index.sqlite")


@pytest.fixture
def index(path: str) -> Iterator[IndexCache]:
    cache = IndexCache(path)
    yield cache
    cache.close()


def snapshot(name: str = "set", revision: int = 3) -> Snapshot:
    ranges = (datarange(0, 9), datarange(10, 19, 2))
    return Snapshot(name, ID, Revision(revision), datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC), ranges, 20, 2)


def damage(path: str, statement: str) -> None:
    """Change the database behind its back."""
    connection = apsw.Connection(path)
    connection.execute(statement)
    connection.close()


def assert_kept(index: IndexCache, manifest: Manifest, dataset_id: str = ID) -> None:
    """Check that the cache answers everything about a manifest as the manifest does."""
    view = index.find_manifest(dataset_id, manifest.id)
    assert view is not None
    assert (view.id, view.count, view.tar_size) == (manifest.id, manifest.count, manifest.tar_size)
    assert (view.extensions, view.segments) == (manifest.extensions, manifest.segments)
    for k in range(manifest.count):
        assert index.record(view, k) == manifest.record(k)
        assert index.original_name(view, k) == manifest.original_name(k)


@pytest.mark.parametrize("count", [1, PAGE_RECORDS - 1, PAGE_RECORDS, PAGE_RECORDS + 1, 3000])
@pytest.mark.parametrize("names", [False, True])
def test_a_manifest_is_kept_whole(index: IndexCache, count: int, names: bool) -> None:
    """Every record, name, extension and segment of a manifest comes back, also at the edges of pages."""
    manifest = make_manifest(5, count, names=names)
    index.save_manifest(ID, manifest)
    assert_kept(index, manifest)


def test_what_was_not_saved_is_not_there(index: IndexCache) -> None:
    """Another datarange, and the same one of another dataset, are None."""
    manifest = make_manifest(0, 10)
    index.save_manifest(ID, manifest)
    assert index.find_manifest(OTHER_ID, manifest.id) is None
    assert index.find_manifest(ID, make_manifest(0, 10, 2).id) is None
    assert index.load_snapshot(STORE, "set") is None


def test_it_survives_a_restart(path: str) -> None:
    """What one process saved the next one finds."""
    manifest = make_manifest(0, 2000, names=True)
    first = IndexCache(path)
    first.save_manifest(ID, manifest)
    first.save_snapshot(STORE, snapshot())
    first.close()
    second = IndexCache(path)
    assert_kept(second, manifest)
    assert second.load_snapshot(STORE, "set") == snapshot()
    second.close()


def test_saving_twice_changes_nothing(index: IndexCache) -> None:
    """A manifest never changes, so that the second of its id is not looked at."""
    manifest = make_manifest(0, 100)
    index.save_manifest(ID, manifest)
    index.save_manifest(ID, manifest)
    assert_kept(index, manifest)


def test_a_dropped_manifest_is_gone(index: IndexCache) -> None:
    """What is not kept is dropped with its pages; a view of it that is still around says so."""
    gone, kept = make_manifest(0, 2000), make_manifest(2000, 100, 2)
    for each in (gone, kept):
        index.save_manifest(ID, each)
    index.save_manifest(OTHER_ID, gone)
    view = index.find_manifest(ID, gone.id)
    assert view is not None
    index.drop_manifests(ID, keep=[kept.id])
    assert index.find_manifest(ID, gone.id) is None
    with pytest.raises(NotFound):
        index.page(view, 1)
    assert_kept(index, kept)
    assert_kept(index, gone, OTHER_ID)


def test_a_manifest_never_shows_pages_of_another(index: IndexCache) -> None:
    """Numbers of dropped manifests are not used again: pages that are still in memory belong to nobody."""
    for seed in range(5):
        manifest = make_manifest(0, 50, counter=seed + 1, seed=seed)
        index.save_manifest(ID, manifest)
        assert_kept(index, manifest)
        index.drop_manifests(ID, keep=[])


def test_memory_is_bounded(path: str) -> None:
    """With room for two pages in memory, records of many pages in any order are right."""
    index = IndexCache(path, memory=2 * PAGE_RECORDS * RECORD_SIZE)
    manifest = make_manifest(0, 10 * PAGE_RECORDS)
    index.save_manifest(ID, manifest)
    view = index.find_manifest(ID, manifest.id)
    assert view is not None
    for k in range(0, manifest.count, 777):
        place = k * 7919 % manifest.count
        assert index.record(view, place) == manifest.record(place)
        assert len(index._pages) <= 2
    index.close()


def test_snapshots_belong_to_a_store_and_a_name(index: IndexCache) -> None:
    """Snapshots are kept by store and name, replaced by newer ones, listed, and dropped."""
    index.save_snapshot(STORE, snapshot("b"))
    index.save_snapshot(STORE, snapshot("a", 1))
    index.save_snapshot(STORE, snapshot("a", 2))
    index.save_snapshot("file:///other", snapshot("c"))
    assert index.list_snapshots(STORE) == ["a", "b"]
    found = index.load_snapshot(STORE, "a")
    assert found is not None
    assert found.revision == 2
    index.drop_snapshot(STORE, "a")
    assert index.load_snapshot(STORE, "a") is None
    assert index.list_snapshots(STORE) == ["b"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE record_page SET body = x'00'",
        "UPDATE record_page SET body = substr(body, 1, 50)",
    ],
)
def test_a_damaged_page_is_told(index: IndexCache, path: str, statement: str) -> None:
    """A page that was damaged is `Corrupt`; after a rebuild the cache is empty and works."""
    manifest = make_manifest(0, 100)
    index.save_manifest(ID, manifest)
    damage(path, statement)
    view = index.find_manifest(ID, manifest.id)
    assert view is not None
    with pytest.raises(Corrupt):
        index.record(view, 0)
    index.rebuild()
    assert index.find_manifest(ID, manifest.id) is None
    with pytest.raises(NotFound):
        index.record(view, 0)
    assert index.original_name(view, 0) is None
    index.save_manifest(ID, manifest)
    assert_kept(index, manifest)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE manifest SET extensions = '['",
        "UPDATE manifest SET extensions = '[]'",
        "UPDATE segment SET origin = 'nonsense'",
        "UPDATE snapshot SET body = x'00'",
        "UPDATE name_page SET body = x'00'",
    ],
)
def test_damaged_rows_are_told(index: IndexCache, path: str, statement: str) -> None:
    """Whatever row is damaged, what needs it is `Corrupt`, and no error of another kind comes out."""
    manifest = make_manifest(0, 100, names=True)
    index.save_manifest(ID, manifest)
    index.save_snapshot(STORE, snapshot())
    damage(path, statement)
    with pytest.raises(Corrupt):
        index.load_snapshot(STORE, "set")
        view = index.find_manifest(ID, manifest.id)
        assert view is not None
        index.record(view, 1)
        index.original_name(view, 1)


def test_others_read_while_one_writes(index: IndexCache) -> None:
    """Saving in another thread does not stop or confuse who reads."""
    manifests = [make_manifest(k * 1000, 1000, k + 1, seed=k) for k in range(12)]
    index.save_manifest(ID, manifests[0])

    def save_all() -> None:
        for each in manifests[1:]:
            index.save_manifest(ID, each)

    writer = threading.Thread(target=save_all)
    writer.start()
    rounds = 0
    while writer.is_alive() or rounds == 0:
        assert_kept(index, manifests[0])
        rounds += 1
    writer.join()
    for each in manifests:
        assert_kept(index, each)
