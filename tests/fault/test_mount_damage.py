"""Damaged and missing objects under a mount: that datapoint is `EIO`, the others work, wrong bytes never come out."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.stores import Store
from tests import datasets
from tests.mounts import Mounter, errno_of, in_thread

# Two dataranges of 40 datapoints each; one has some MiB, so that its blocks are many.
FIRSTS = (0, 40)
SIZE = 50_000


def name(number: int) -> str:
    return f"{number:020d}.bin"


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


@pytest.fixture
def store(local_store: Store) -> Store:
    """A store with a dataset of two dataranges."""
    for first in FIRSTS:
        datasets.add(local_store, "set", first, [content(number) for number in range(first, first + 40)])
    return local_store


def keys(store: Store, first: int) -> dict[str, str]:
    """Return the keys of the three objects of the datarange that begins at `first`."""
    dataset = Dataset(store, "set")
    datarange = dataset.snapshot().find(first)
    assert datarange is not None
    names = dataset.keys
    return {
        "tar": names.tar(datarange.id),
        "index": names.index(datarange.id),
        "manifest": names.manifest(datarange.id),
    }


def outcome(path: Path) -> bytes | int | None:
    """Return what a file holds, or the errno of reading it."""
    found = errno_of(path.read_bytes)
    return found if found is not None else path.read_bytes()


def cut(store: Store, key: str) -> None:
    data = store.get(key)
    store.put(key, data[: len(data) // 2])


def flip(store: Store, key: str, place: int | None = None) -> None:
    """Flip a bit of an object, in the middle if no place is given."""
    data = store.get(key)
    place = len(data) // 2 if place is None else place
    datasets.damage(store, key, place, bytes([data[place] ^ 1]))


def remove(store: Store, key: str) -> None:
    store.delete([key])


@pytest.mark.parametrize("damage", [cut, flip, remove])
def test_a_damaged_manifest(store: Store, mounted: Mounter, damage: Callable[[Store, str], None]) -> None:
    """Without a good manifest a datarange's datapoints are `EIO`; a listing has all others and ends with `EIO`."""
    damage(store, keys(store, 0)["manifest"])
    mount = mounted(store.url, warnings=["manifest", "can't be listed"])
    directory = mount.path / "set"
    assert outcome(directory / name(5)) == errno.EIO
    assert outcome(directory / name(45)) == content(45)
    assert errno_of(os.listdir, directory) == errno.EIO
    assert "0-39" in mount.log


def test_a_listing_has_all_good_names_before_its_error(store: Store, mounted: Mounter) -> None:
    """Whoever reads a directory entry by entry gets every good name first, in order, then `EIO`."""
    remove(store, keys(store, 0)["manifest"])
    mount = mounted(store.url, warnings=["manifest", "can't be listed"])
    listed = []
    with os.scandir(mount.path / "set") as entries:
        while True:
            try:
                entry = next(entries)
            except OSError as error:
                problem = error.errno
                break
            listed.append(entry.name)
    assert problem == errno.EIO
    assert listed == [name(number) for number in range(40, 80)]


def test_a_missing_index_does_not_matter(store: Store, mounted: Mounter) -> None:
    """The mount reads manifests; an index object is for datas3t and may be missing."""
    for first in FIRSTS:
        remove(store, keys(store, first)["index"])
    mount = mounted(store.url)
    assert len(mount.names("set")) == 80
    assert outcome(mount.path / "set" / name(50)) == content(50)


def test_a_missing_tar(store: Store, mounted: Mounter) -> None:
    """Without its TAR object a datarange is listed, and each of its datapoints is `EIO`."""
    remove(store, keys(store, 0)["tar"])
    mount = mounted(store.url, warnings=["tar"])
    assert len(mount.names("set")) == 80
    assert {outcome(mount.path / "set" / name(number)) for number in (0, 20, 39)} == {errno.EIO}
    assert outcome(mount.path / "set" / name(40)) == content(40)


def test_a_short_tar(store: Store, mounted: Mounter) -> None:
    """Of a TAR object that was cut, the datapoints before the cut work and those behind it are `EIO`."""
    cut(store, keys(store, 0)["tar"])
    mount = mounted(store.url, warnings=["tar", "not what was stored"])
    outcomes = [outcome(mount.path / "set" / name(number)) for number in range(40)]
    good = [number for number in range(40) if outcomes[number] == content(number)]
    assert good == list(range(len(good)))
    assert len(good) == 20
    assert set(outcomes[len(good) :]) == {errno.EIO}


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_a_flipped_bit(local_store: Store, mounted: Mounter, compression: str) -> None:
    """One wrong bit makes its datapoint `EIO`, by name in the log; the others in the same block are right."""
    contents = [random.Random(number).randbytes(SIZE // 2) * 2 for number in range(40)]
    snapshot = datasets.add(local_store, "set", 0, contents, compression=compression)
    record = Dataset(local_store, "set").load_manifest(snapshot.dataranges[0]).record(20)
    for place in (record.content_offset, record.content_offset + record.stored_size // 2):
        flip(local_store, keys(local_store, 0)["tar"], place)
    mount = mounted(local_store.url, warnings=[name(20)])
    outcomes = [outcome(mount.path / "set" / name(number)) for number in range(40)]
    assert outcomes.pop(20) == errno.EIO
    assert outcomes == contents[:20] + contents[21:]
    assert mount.status()["block_cache"]["verification_failures"] > 0


def test_a_tar_that_is_mended(store: Store, mounted: Mounter) -> None:
    """What was `EIO` is read again once the object is good: errors are not kept."""
    key = keys(store, 0)["tar"]
    good = store.get(key)
    flip(store, key)
    mount = mounted(store.url, warnings=["not what was stored"])
    bad = [number for number in range(40) if outcome(mount.path / "set" / name(number)) == errno.EIO]
    assert bad
    store.put(key, good)
    assert [outcome(mount.path / "set" / name(number)) for number in bad] == [content(number) for number in bad]


def test_a_tar_of_another_content(store: Store, mounted: Mounter) -> None:
    """A TAR object with the bytes of another one, of the same size, is told by its checksums."""
    store.put(keys(store, 0)["tar"], store.get(keys(store, 40)["tar"]))
    mount = mounted(store.url, warnings=["not what was stored"])
    assert {outcome(mount.path / "set" / name(number)) for number in range(40)} == {errno.EIO}


def block_files(cache: Path) -> list[Path]:
    return sorted((cache / "dasfs-cache" / "blocks").rglob("*.blk"))


def test_corrupt_blocks_in_the_cache(store: Store, mounted: Mounter) -> None:
    """Blocks that were damaged on the local disk between two mounts are fetched again: the bytes are right."""
    first = mounted(store.url)
    assert all(outcome(first.path / "set" / name(number)) == content(number) for number in range(80))
    first.stop()
    files = block_files(first.cache)
    assert files
    for file in files:
        data = bytearray(file.read_bytes())
        for place in range(0, len(data), 100_000):
            data[place] ^= 0xFF
        file.write_bytes(data)
    mount = mounted(store.url, warnings=["cache", "block"])
    assert all(outcome(mount.path / "set" / name(number)) == content(number) for number in range(80))
    assert mount.status()["block_cache"]["verification_failures"] > 0


def test_block_files_that_vanished(store: Store, mounted: Mounter) -> None:
    """Block files that somebody deleted, emptied or cut between two mounts are made anew."""
    first = mounted(store.url)
    assert outcome(first.path / "set" / name(0)) == content(0)
    assert outcome(first.path / "set" / name(40)) == content(40)
    first.stop()
    gone, *cut_short = block_files(first.cache)
    gone.unlink()
    for file in cut_short:
        os.truncate(file, 100)
    mount = mounted(store.url, warnings=["cache", "block"])
    assert all(outcome(mount.path / "set" / name(number)) == content(number) for number in range(80))


def test_a_cache_that_survives(store: Store, mounted: Mounter) -> None:
    """What one mount fetched the next one reads from its cache: without any GET."""
    first = mounted(store.url)
    for number in range(80):
        assert outcome(first.path / "set" / name(number)) == content(number)
    assert first.status()["block_cache"]["fetches"] > 0
    first.stop()
    mount = mounted(store.url)
    for number in range(80):
        assert outcome(mount.path / "set" / name(number)) == content(number)
    assert mount.status()["block_cache"]["fetches"] == 0


def test_a_cache_that_is_too_small(store: Store, mounted: Mounter) -> None:
    """A block cache of a few blocks gives what is used least; every read is right, and the bound is kept."""
    mount = mounted(store.url, "--cache-size", "1MiB")
    for _ in range(2):
        for number in range(80):
            assert outcome(mount.path / "set" / name(number)) == content(number)
    used = sum(file.stat().st_blocks * 512 for file in block_files(mount.cache))
    assert used <= 1 << 20
    assert mount.status()["block_cache"]["bytes_used"] <= 1 << 20


def test_a_collected_object_under_an_open_file(store: Store, mounted: Mounter) -> None:
    """When an object is gone for good, reading on in a file that is open gives `ESTALE`, not wrong bytes or a hang."""
    big = random.Random(9).randbytes(4 << 20)
    datasets.add(store, "set", 100, [big])
    mount = mounted(store.url, warnings=["tar"])
    with (mount.path / "set" / name(100)).open("rb", buffering=0) as file:
        assert file.read(100) == big[:100]
        tar = keys(store, 100)["tar"]
        Dataset(store, "set").delete_datarange(100, 100)
        remove(store, tar)
        assert in_thread(errno_of, os.pread, file.fileno(), 100, 3 << 20) == errno.ESTALE
        assert os.pread(file.fileno(), 50, 50) == big[50:100]
