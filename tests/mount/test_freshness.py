"""What the mount shows of a store that changes under it."""

import errno
import os
from pathlib import Path

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.stores import Store
from tests import datasets
from tests.mounts import Mounter, errno_of, in_thread, wait_until


def name(number: int) -> str:
    return f"{number:020d}.bin"


def test_a_new_dataset_appears_by_itself(local_store: Store, mounted: Mounter) -> None:
    """A dataset that is created after the mount began is listed within the refresh interval, and can be read."""
    mount = mounted(local_store.url)
    assert mount.names() == []
    datasets.add(local_store, "late", 0, [b"hello"])
    wait_until(lambda: mount.names() == ["late"])
    assert (mount.path / "late" / name(0)).read_bytes() == b"hello"


def test_a_new_dataset_is_found_by_its_name(local_store: Store, mounted: Mounter) -> None:
    """A dataset that was looked for in vain is found soon after it was created, without listing the root."""
    mount = mounted(local_store.url)
    assert not (mount.path / "late").exists()
    datasets.add(local_store, "late", 0, [b"hello"])
    wait_until((mount.path / "late" / name(0)).exists)


def test_a_new_datarange_appears_by_itself(local_store: Store, mounted: Mounter) -> None:
    """Datapoints that are added to a dataset in use are listed and readable, though they were not there before."""
    datasets.add(local_store, "set", 0, [b"old"])
    mount = mounted(local_store.url)
    assert mount.names("set") == [name(0)]
    assert not (mount.path / "set" / name(1)).exists()
    datasets.add(local_store, "set", 1, [b"new"])
    wait_until(lambda: mount.names("set") == [name(0), name(1)])
    wait_until((mount.path / "set" / name(1)).exists)
    assert (mount.path / "set" / name(1)).read_bytes() == b"new"


def test_a_deleted_datapoint_is_gone(local_store: Store, mounted: Mounter) -> None:
    """A deleted datapoint becomes `ENOENT`, though the kernel was told to keep its name for an hour."""
    datasets.add(local_store, "set", 0, [b"a", b"b"])
    datasets.add(local_store, "set", 2, [b"c"])
    mount = mounted(local_store.url)
    path = mount.path / "set" / name(1)
    assert path.read_bytes() == b"b"
    Dataset(local_store, "set").delete_datarange(0, 1)
    wait_until(lambda: not path.exists())
    assert errno_of(path.read_bytes) == errno.ENOENT
    assert mount.names("set") == [name(2)]
    assert (mount.path / "set" / name(2)).read_bytes() == b"c"


def test_an_open_file_outlives_its_datapoint(local_store: Store, mounted: Mounter) -> None:
    """A file that is open when its datapoint is deleted stays readable to its end, also what was not read before."""
    content = os.urandom(3_000_000)
    datasets.add(local_store, "set", 0, [content])
    mount = mounted(local_store.url)
    path = mount.path / "set" / name(0)
    with path.open("rb", buffering=0) as file:
        start = file.read(10)
        Dataset(local_store, "set").delete_datarange(0, 0)
        wait_until(lambda: not path.exists())
        assert os.fstat(file.fileno()).st_size == len(content)
        rest = in_thread(file.read)
    assert start + rest == content


def test_a_number_that_was_written_anew_has_the_new_bytes(local_store: Store, mounted: Mounter) -> None:
    """A number that was deleted and written again shows the new content, not what kernel or caches held."""
    datasets.add(local_store, "set", 0, [b"old content", b"same size 1"])
    mount = mounted(local_store.url)
    paths = [mount.path / "set" / name(number) for number in (0, 1)]
    assert [path.read_bytes() for path in paths] == [b"old content", b"same size 1"]
    Dataset(local_store, "set").delete_datarange(0, 1)
    datasets.add(local_store, "set", 0, [b"new", b"same size 2"])
    wait_until(lambda: [path.read_bytes() for path in paths] == [b"new", b"same size 2"])
    assert [path.stat().st_size for path in paths] == [3, 11]


def test_a_compressed_number_that_was_written_anew_has_the_new_bytes(local_store: Store, mounted: Mounter) -> None:
    """The decoded content of a compressed datapoint is not kept beyond the datapoint."""
    datasets.add(local_store, "set", 0, [b"o" * 5000], compression="zstd")
    mount = mounted(local_store.url)
    path = mount.path / "set" / name(0)
    assert path.read_bytes() == b"o" * 5000
    Dataset(local_store, "set").delete_datarange(0, 0)
    datasets.add(local_store, "set", 0, [b"n" * 5000], compression="zstd")
    wait_until(lambda: path.read_bytes() == b"n" * 5000)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_an_open_file_never_gets_another_ones_bytes(local_store: Store, mounted: Mounter, compression: str) -> None:
    """When a number is written anew while its file is open, its reader keeps the old bytes, others get the new."""
    old, new = b"o" * 2_000_000, b"n" * 500_000
    datasets.add(local_store, "set", 0, [old], compression=compression)
    mount = mounted(local_store.url)
    path = mount.path / "set" / name(0)
    with path.open("rb", buffering=0) as file:
        assert file.read(16) == old[:16]
        Dataset(local_store, "set").delete_datarange(0, 0)
        datasets.add(local_store, "set", 0, [new], compression=compression)
        wait_until(lambda: errno_of(path.read_bytes) is None and path.read_bytes()[:1] == b"n")
        assert path.stat().st_size == len(new)
        for offset in range(0, 2_000_000, 250_000):
            assert os.pread(file.fileno(), 16, offset) == old[:16]
            assert in_thread(path.read_bytes) == new
        assert in_thread(file.read) == old[16:]


def test_readers_see_the_old_or_the_new_content_and_no_mixture(local_store: Store, mounted: Mounter) -> None:
    """Who reads a number again and again while it is written anew gets one whole content or the other, or `ENOENT`.

    Half of the pages are taken from the kernel's memory before each read, so that a mixture would show.
    """
    contents = [bytes([letter]) * size for letter, size in zip(b"abcdef", (900_000, 700_000) * 3, strict=True)]
    datasets.add(local_store, "set", 0, [contents[0]])
    mount = mounted(local_store.url, refresh_s=0.1)
    path = mount.path / "set" / name(0)
    seen = []

    def read() -> bytes:
        try:
            with path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 300_000, 300_000, os.POSIX_FADV_DONTNEED)
                return file.read()
        except FileNotFoundError:
            return b""

    def read_next(expected: bytes) -> bool:
        seen.append(read())
        return seen[-1] == expected

    for content in contents[1:]:
        Dataset(local_store, "set").delete_datarange(0, 0)
        datasets.add(local_store, "set", 0, [content])
        wait_until(lambda content=content: read_next(content))  # type: ignore[misc]
    assert set(seen) <= {b"", *contents}


def test_a_dataset_that_was_created_anew_shows_only_what_is_new(local_store: Store, mounted: Mounter) -> None:
    """A dataset that was deleted and created again under its name shares nothing with the old one."""
    datasets.add(local_store, "set", 0, [b"old 0", b"old 1"])
    mount = mounted(local_store.url)
    path = mount.path / "set" / name(0)
    assert path.read_bytes() == b"old 0"
    Dataset(local_store, "set").delete()
    datasets.add(local_store, "set", 0, [b"new 0"])
    wait_until(lambda: path.read_bytes() == b"new 0")
    assert mount.names("set") == [name(0)]
    wait_until(lambda: not (mount.path / "set" / name(1)).exists())


def test_a_deleted_dataset_is_gone(local_store: Store, mounted: Mounter) -> None:
    """A deleted dataset is no longer listed, and nothing below its directory is found."""
    datasets.add(local_store, "gone", 0, [b"a"])
    datasets.add(local_store, "kept", 0, [b"b"])
    mount = mounted(local_store.url)
    path = mount.path / "gone" / name(0)
    assert path.read_bytes() == b"a"
    Dataset(local_store, "gone").delete()
    wait_until(lambda: not path.exists())
    wait_until(lambda: mount.names() == ["kept"])
    assert errno_of(os.listdir, mount.path / "gone") == errno.ENOENT
    assert (mount.path / "kept" / name(0)).read_bytes() == b"b"


def test_a_listing_under_way_is_whole(local_store: Store, mounted: Mounter) -> None:
    """A listing that began before a change shows one state of the dataset, each name once and in order."""
    datasets.add(local_store, "set", 0, [b""] * 5000)
    datasets.add(local_store, "set", 5000, [b""] * 5000)
    mount = mounted(local_store.url)
    with os.scandir(mount.path / "set") as entries:
        seen = [next(entries).name for _ in range(100)]
        Dataset(local_store, "set").delete_datarange(5000, 9999)
        datasets.add(local_store, "set", 20_000, [b""] * 10)
        wait_until((mount.path / "set" / name(20_000)).exists)
        seen += [entry.name for entry in entries]
    assert seen == [name(number) for number in range(10_000)]
    assert errno_of(os.stat, mount.path / "set" / name(9_999)) == errno.ENOENT
    assert mount.names("set")[-1] == name(20_009)


def test_what_the_kernel_forgot_is_found_again(local_store: Store, mounted: Mounter) -> None:
    """Inode numbers do not depend on what was looked up: they are the same after the kernel dropped its caches."""
    datasets.add(local_store, "set", 0, [b"a", b"b"])
    mount = mounted(local_store.url)
    path = mount.path / "set" / name(1)
    before = path.stat().st_ino
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert path.stat().st_ino == before
    assert path.read_bytes() == b"b"
