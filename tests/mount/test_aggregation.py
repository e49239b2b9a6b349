"""What a running mount makes of an aggregation: nothing that its readers could notice."""

import os
import random
import threading
from datetime import timedelta
from pathlib import Path

from dasfs.dataset.aggregate import aggregate
from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.stores import Store, open_store
from tests import datasets
from tests.mounts import Mount, Mounter, in_thread, wait_until

MIB = 1 << 20
NOW = Grace(timedelta(minutes=-1), timedelta(minutes=-1), timedelta(minutes=-1))


def name(number: int) -> str:
    return f"{number:020d}.bin"


def fill(store: Store, sizes: list[int]) -> list[bytes]:
    """Add a datarange of two datapoints, of these bytes together, for each size; return all contents."""
    source = random.Random(9)
    contents = []
    for size in sizes:
        new = [source.randbytes(size // 2), source.randbytes(size - size // 2)]
        datasets.add(store, "set", len(contents), new)
        contents += new
    return contents


def aggregate_all(store: Store) -> None:
    snapshot = Dataset(store, "set").snapshot()
    aggregate(Dataset(store, "set"), snapshot.dataranges, snapshot)


def read_all(mount: Mount, count: int) -> list[bytes]:
    return [in_thread((mount.path / "set" / name(number)).read_bytes) for number in range(count)]


def dataranges_seen(mount: Mount) -> int:
    seen: int = mount.status()["datasets"]["set"]["dataranges"]
    return seen


def drop_pages() -> None:
    """Let the kernel forget the contents of files, so that reading asks the mount."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")


def test_nothing_that_is_cached_is_fetched_again(store: Store, mounted: Mounter) -> None:
    """Of dataranges of 5 MiB and more, a mount that had them fetches no byte again, however they were put together."""
    contents = fill(store, [6 * MIB, 7 * MIB + 1000, 30_000, 12 * MIB])
    mount = mounted(store.url)
    assert read_all(mount, len(contents)) == contents
    before = mount.status()["block_cache"]
    aggregate_all(store)
    collect(store, "set", grace=NOW)
    wait_until(lambda: dataranges_seen(mount) == 1)
    drop_pages()
    assert read_all(mount, len(contents)) == contents
    after = mount.status()["block_cache"]
    assert after["bytes_fetched"] == before["bytes_fetched"]
    assert after["bytes_served"] >= before["bytes_served"] + sum(map(len, contents))
    mount.stop()
    again = mounted(store.url)
    assert read_all(again, len(contents)) == contents
    assert again.status()["block_cache"]["bytes_fetched"] == 0


def test_an_open_file_goes_on_in_the_new_object(local_store: Store, mounted: Mounter) -> None:
    """Files that were open before are read to their end after the old objects are gone, also what was not cached."""
    contents = fill(local_store, [9 * MIB, 40_000, 50_000, 8 * MIB])
    mount = mounted(local_store.url)
    files = [(mount.path / "set" / name(number)).open("rb", buffering=0) for number in range(len(contents))]
    try:
        starts = [file.read(10) for file in files]
        aggregate_all(local_store)
        collect(local_store, "set", grace=NOW)
        rests = [in_thread(file.read) for file in files]
    finally:
        for file in files:
            file.close()
    assert [start + rest for start, rest in zip(starts, rests, strict=True)] == contents


def test_small_ones_that_were_merged_are_right(local_store: Store, mounted: Mounter) -> None:
    """Small neighbours have a new segment: they are fetched again, and have the bytes that they had."""
    contents = fill(local_store, [30_000] * 10)
    mount = mounted(local_store.url)
    assert read_all(mount, len(contents)) == contents
    aggregate_all(local_store)
    wait_until(lambda: dataranges_seen(mount) == 1)
    drop_pages()
    assert read_all(mount, len(contents)) == contents


def test_readers_do_not_notice(local_url: str, local_store: Store, mounted: Mounter) -> None:
    """Who reads at random while everything is aggregated again and again, and collected, gets every byte right."""
    contents = fill(local_store, [200_000] * 6 + [6 * MIB] * 2 + [100_000] * 4)
    mount = mounted(local_url, refresh_s=0.1)
    ended = threading.Event()
    problems: list[str] = []
    read = 0

    def work() -> None:
        nonlocal read
        source = random.Random(2)
        while not ended.is_set():
            number = source.randrange(len(contents))
            offset = source.randrange(len(contents[number]))
            fd = os.open(mount.path / "set" / name(number), os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                if os.pread(fd, 50_000, offset) != contents[number][offset : offset + 50_000]:
                    problems.append(f"{number} at {offset}")
            finally:
                os.close(fd)
            read += 1

    def aggregate_in_steps() -> None:
        with open_store(local_url) as store:
            dataset = Dataset(store, "set")
            while len(live := dataset.snapshot().dataranges) > 1:
                seen = read
                aggregate(dataset, live[:3])
                collect(store, "set", grace=NOW)
                wait_until(lambda seen=seen: read > seen + 20)  # type: ignore[misc]

    def run_readers() -> None:
        try:
            work()
        except OSError as error:
            problems.append(str(error))

    readers = [threading.Thread(target=run_readers, daemon=True) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        aggregate_in_steps()
    finally:
        ended.set()
        for reader in readers:
            reader.join(30)
    assert problems == []
    wait_until(lambda: dataranges_seen(mount) == 1)


def test_a_mount_goes_on_from_what_it_never_read(local_store: Store, mounted: Mounter) -> None:
    """A mount that knows the dataranges of before, and none of their manifests, finds all when they are gone."""
    contents = fill(local_store, [30_000] * 6)
    mount = mounted(local_store.url, refresh_s=3600)
    assert in_thread((mount.path / "set" / name(0)).read_bytes) == contents[0]
    aggregate_all(local_store)
    collect(local_store, "set", grace=NOW)
    assert read_all(mount, len(contents)) == contents


def test_a_listing_goes_on_from_what_it_never_read(local_store: Store, mounted: Mounter) -> None:
    """The same for `ls`: all names are listed, though the manifests that the mount would ask for are gone."""
    contents = fill(local_store, [30_000] * 6)
    mount = mounted(local_store.url, refresh_s=3600)
    assert in_thread((mount.path / "set" / name(0)).read_bytes) == contents[0]
    aggregate_all(local_store)
    collect(local_store, "set", grace=NOW)
    assert in_thread(mount.names, "set") == [name(number) for number in range(len(contents))]
