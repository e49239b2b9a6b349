"""A store that goes away under a mount: errors in time, what is cached goes on, and then all is well again."""

import errno
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dasfs.stores import Store, StoreOptions, open_store
from tests import datasets
from tests.ceph import Ceph
from tests.mounts import Mount, Mounter, errno_of, in_thread, wait_until
from tests.outage import Proxy, proxied

DEADLINE_S = 2.0
# What the deadline of one operation may become for a program that does several, on a machine with other work.
BOUND_S = 10.0
# The outage is told once, what failed meanwhile is told; nothing else.
WARNINGS = ["can't be read", "answer", "deadline", "was not read within", "connect", "cut off"]

BIG = random.Random(3).randbytes(48 << 20)


def name(number: int) -> str:
    return f"{number:020d}.bin"


def content(number: int) -> bytes:
    return random.Random(number).randbytes(300_000)


@pytest.fixture
def proxy(s3_environment: Ceph, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the gateway; mounts go through it."""
    with proxied(s3_environment.endpoint_url) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made


@pytest.fixture
def store(ceph: Ceph, s3_url: str, proxy: Proxy) -> Iterator[Store]:
    """A store with a dataset, reached without the proxy."""
    with open_store(s3_url, StoreOptions(endpoint_url=ceph.endpoint_url)) as opened:
        datasets.add(opened, "set", 0, [content(number) for number in range(10)])
        datasets.add(opened, "set", 10, [content(number) for number in range(10, 20)])
        yield opened


@pytest.fixture
def mount(store: Store, mounted: Mounter) -> Mount:
    """The store, mounted through the proxy, with a short deadline."""
    return mounted(store.url, options=f"deadline={DEADLINE_S}", warnings=WARNINGS)


def drop_pages(path: Path) -> None:
    """Let the kernel forget the pages of a file, so that the mount is asked."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes, which may fail."""
    begun = time.monotonic()
    in_thread(errno_of, function)
    return time.monotonic() - begun


OUTAGES: dict[str, Callable[[Proxy], None]] = {"refuses": Proxy.refuse, "hangs": Proxy.hang}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage(store: Store, mount: Mount, proxy: Proxy, outage: str) -> None:
    """While the store refuses or hangs, cached files are served, others fail in time; afterwards everything works."""
    directory = mount.path / "set"
    assert mount.names("set") == [name(number) for number in range(20)]
    assert (directory / name(3)).read_bytes() == content(3)
    # Reading ahead may have brought it all; another dataset was never touched.
    datasets.add(store, "cold", 0, [content(99)])
    wait_until((mount.path / "cold" / name(0)).exists)

    OUTAGES[outage](proxy)
    drop_pages(directory / name(3))
    assert in_thread(directory.joinpath(name(3)).read_bytes) == content(3)
    begun = time.monotonic()
    assert in_thread(errno_of, (mount.path / "cold" / name(0)).read_bytes) in (errno.EIO, errno.ETIMEDOUT)
    assert time.monotonic() - begun < BOUND_S
    wait_until(lambda: mount.status()["problem"] is not None)
    assert in_thread(mount.names, "set") == [name(number) for number in range(20)]
    assert (directory / name(19)).stat().st_size == 300_000
    assert seconds(mount.names) < BOUND_S

    proxy.recover()
    wait_until(lambda: mount.status()["problem"] is None)
    assert in_thread((mount.path / "cold" / name(0)).read_bytes) == content(99)
    datasets.add(store, "set", 20, [content(20)])
    wait_until((directory / name(20)).exists)
    assert in_thread((directory / name(20)).read_bytes) == content(20)
    assert mount.log.count("can't be read") == 1
    assert mount.log.count("can be read again") == 1


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_warm_cache_serves_a_second_mount(store: Store, mounted: Mounter, proxy: Proxy, outage: str) -> None:
    """What an earlier mount cached is served though the store goes away before anything was looked at."""
    first = mounted(store.url)
    assert [(first.path / "set" / name(number)).read_bytes() for number in range(10)] == list(map(content, range(10)))
    first.stop()
    mount = mounted(store.url, options=f"deadline={DEADLINE_S}", warnings=WARNINGS)
    OUTAGES[outage](proxy)
    begun = time.monotonic()
    assert in_thread(mount.names) == ["set"]
    assert [in_thread((mount.path / "set" / name(k)).read_bytes) for k in range(10)] == list(map(content, range(10)))
    assert time.monotonic() - begun < BOUND_S


def test_a_cut_in_the_middle_of_a_file(store: Store, mounted: Mounter, proxy: Proxy) -> None:
    """Connections that are reset while a large file is read, again and again, cost time and nothing else."""
    datasets.add(store, "big", 0, [BIG])
    mount = mounted(store.url, warnings=WARNINGS)
    path = mount.path / "big" / name(0)
    with path.open("rb", buffering=0) as file:
        read = bytearray()
        while data := in_thread(file.read, 1 << 20):
            read += data
            if len(read) % (5 << 20) == 0:
                proxy.cut()
    assert read == BIG


def test_a_hang_in_the_middle_of_a_file(store: Store, mount: Mount, proxy: Proxy) -> None:
    """A reader in the middle of a large file gets an error in time, and can read on when the store is back."""
    datasets.add(store, "big", 0, [BIG])
    path = mount.path / "big" / name(0)
    wait_until(path.exists)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert os.pread(fd, 1000, 0) == BIG[:1000]
        proxy.hang()
        begun = time.monotonic()
        assert in_thread(errno_of, os.pread, fd, 100, 40 << 20) in (errno.EIO, errno.ETIMEDOUT)
        assert time.monotonic() - begun < BOUND_S
        assert in_thread(os.pread, fd, 1000, 0) == BIG[:1000]
        proxy.recover()
        wait_until(lambda: errno_of(os.pread, fd, 100, 40 << 20) is None)
        assert os.pread(fd, 100, 40 << 20) == BIG[40 << 20 :][:100]
    finally:
        os.close(fd)


def start_readers(mount: Mount, count: int) -> list["subprocess.Popen[bytes]"]:
    """Start processes that read different places of one file that is not cached."""
    path = mount.path / "big" / name(0)
    step = len(BIG) // count // 4096 * 4096
    return [
        subprocess.Popen(
            ["dd", f"if={path}", f"skip={place * step}", "iflag=skip_bytes", "bs=4096", "count=1", "of=/dev/null"],
            stderr=subprocess.DEVNULL,
        )
        for place in range(count)
    ]


def add_big(store: Store, mount: Mount) -> None:
    datasets.add(store, "big", 0, [BIG])
    wait_until((mount.path / "big" / name(0)).exists)


def test_readers_that_are_stuck_do_not_stop_others(store: Store, mounted: Mounter, proxy: Proxy) -> None:
    """While 200 reads wait for a store that hangs, cached files, listings and the status are served at once."""
    mount = mounted(store.url, options=f"deadline={DEADLINE_S}", warnings=WARNINGS)
    assert len(mount.names("set")) == 20
    assert (mount.path / "set" / name(3)).read_bytes() == content(3)
    add_big(store, mount)
    proxy.hang()
    readers = start_readers(mount, 200)
    try:
        wait_until(lambda: mount.status()["block_cache"]["in_flight"] >= 20)
        drop_pages(mount.path / "set" / name(3))
        assert seconds(lambda: mount.status()) < 1
        assert seconds(lambda: mount.names("set")) < 1
        assert seconds((mount.path / "set" / name(3)).read_bytes) < 1
        assert (mount.path / "set" / name(3)).read_bytes() == content(3)
        assert all(reader.wait(30) != 0 for reader in readers)
        proxy.recover()
        wait_until(lambda: errno_of(drop_and_read, mount) is None)
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


def drop_and_read(mount: Mount) -> None:
    """Read places all over the large file."""
    with (mount.path / "big" / name(0)).open("rb", buffering=0) as file:
        for place in range(0, len(BIG), 7 << 20):
            assert os.pread(file.fileno(), 100, place) == BIG[place : place + 100]


def test_readers_that_are_killed(store: Store, mounted: Mounter, proxy: Proxy) -> None:
    """Readers that are killed with -9 while their reads are stuck die within the deadline, and the mount goes on."""
    mount = mounted(store.url, options=f"deadline={DEADLINE_S}", warnings=WARNINGS)
    add_big(store, mount)
    proxy.hang()
    readers = start_readers(mount, 30)
    try:
        wait_until(lambda: mount.status()["block_cache"]["in_flight"] >= 10)
        for reader in readers:
            reader.kill()
        begun = time.monotonic()
        assert [reader.wait(BOUND_S) for reader in readers] == [-signal.SIGKILL] * 30
        assert time.monotonic() - begun < BOUND_S
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    proxy.recover()
    wait_until(lambda: errno_of(drop_and_read, mount) is None)


def test_killed_readers_are_gone_at_once(store: Store, mounted: Mounter, proxy: Proxy) -> None:
    """A reader that waits for a store that hangs and is killed with -9 is gone at once, long before the deadline."""
    mount = mounted(store.url, options="deadline=30", warnings=WARNINGS)
    add_big(store, mount)
    proxy.hang()
    readers = start_readers(mount, 10)
    try:
        wait_until(lambda: mount.status()["block_cache"]["in_flight"] >= 5)
        for reader in readers:
            reader.kill()
        begun = time.monotonic()
        assert [reader.wait(BOUND_S) for reader in readers] == [-signal.SIGKILL] * 10
        assert time.monotonic() - begun < 2
        assert in_thread(mount.status, timeout_s=2)["pid"] == mount.process.pid
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
        proxy.recover()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_reads_are_stuck(
    store: Store, mounted: Mounter, proxy: Proxy, number: signal.Signals
) -> None:
    """SIGTERM and Ctrl-C end a mount within 5 s though reads wait for a store that hangs; the readers get errors."""
    mount = mounted(store.url, options="deadline=60", warnings=WARNINGS)
    add_big(store, mount)
    proxy.hang()
    readers = start_readers(mount, 20)
    try:
        wait_until(lambda: mount.status()["block_cache"]["in_flight"] >= 10)
        begun = time.monotonic()
        mount.signal(number)
        assert mount.wait() == 0
        assert time.monotonic() - begun < 5
        assert all(reader.wait(BOUND_S) != 0 for reader in readers)
        assert "Traceback" not in mount.log
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


def test_umount_while_the_store_hangs(store: Store, mounted: Mounter, proxy: Proxy) -> None:
    """A mount that refreshes from a store that hangs ends quickly as well."""
    mount = mounted(store.url, options="deadline=60", warnings=WARNINGS)
    assert mount.names("set")
    proxy.hang()
    lister = subprocess.Popen(["stat", mount.path / "unknown"], stderr=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            lister.wait(0.5)
        begun = time.monotonic()
        mount.signal(signal.SIGTERM)
        assert mount.wait() == 0
        assert time.monotonic() - begun < 5
    finally:
        lister.kill()
        lister.wait()


def test_many_outages(store: Store, mounted: Mounter, proxy: Proxy) -> None:
    """After several outages with reads stuck in each, no thread and no connection is missing: reads work at once."""
    mount = mounted(store.url, options="deadline=1", warnings=WARNINGS)
    add_big(store, mount)
    for round_number in range(4):
        proxy.hang()
        readers = start_readers(mount, 40)
        for reader in readers:
            reader.wait(30)
        proxy.cut()
        proxy.recover()
        datasets.add(store, f"new-{round_number}", 0, [content(round_number)])
        path = mount.path / f"new-{round_number}" / name(0)
        wait_until(path.exists)
        assert in_thread(path.read_bytes) == content(round_number)


def test_a_listing_that_needs_the_store(store: Store, mount: Mount, proxy: Proxy) -> None:
    """Listing a dataset whose manifests are not known fails within the deadline in an outage, and works afterwards."""
    assert (mount.path / "set").stat()
    datasets.add(store, "other", 0, [b"x"])
    wait_until((mount.path / "other").exists)
    proxy.hang()
    begun = time.monotonic()
    assert in_thread(errno_of, os.listdir, mount.path / "other") in (errno.EIO, errno.ETIMEDOUT)
    assert time.monotonic() - begun < BOUND_S
    proxy.recover()
    wait_until(lambda: errno_of(os.listdir, mount.path / "other") is None)
    assert mount.names("other") == [name(0)]


@pytest.mark.parametrize("scheme", ["file", "sqlite"])
def test_a_local_store_that_is_moved_away(scheme: str, mounted: Mounter, tmp_path: Path) -> None:
    """A store on a disk that goes away and comes back: cached files are served, others `EIO`, then all is well."""
    place = tmp_path / "place"
    place.mkdir()
    url = f"file://{place}/store" if scheme == "file" else f"sqlite://{place}/store.db"
    with open_store(url) as opened:
        opened.create()
        datasets.add(opened, "set", 0, [content(0)])
        datasets.add(opened, "cold", 0, [content(1)])
    mount = mounted(url, warnings=[*WARNINGS, "no such", "tar", "manifest", "lookup", "exist", "disk I/O"])
    assert (mount.path / "set" / name(0)).read_bytes() == content(0)
    assert (mount.path / "cold").exists()
    place.rename(tmp_path / "away")
    wait_until(lambda: mount.status()["problem"] is not None)
    drop_pages(mount.path / "set" / name(0))
    assert (mount.path / "set" / name(0)).read_bytes() == content(0)
    (tmp_path / "away").rename(place)
    wait_until(lambda: mount.status()["problem"] is None)
    assert (mount.path / "cold" / name(0)).read_bytes() == content(1)
