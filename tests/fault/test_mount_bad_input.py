"""What can't be mounted: each is one line that says why, an exit code, and nothing left mounted."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dasfs.fuse.mountpoint import find_mount
from dasfs.stores import Store, open_store
from tests import datasets
from tests.ceph import Ceph, free_port
from tests.mounts import Mounter, dasfs, wait_until

NAME = f"{0:020d}.bin"


@pytest.fixture
def url(local_store: Store) -> str:
    """The URL of a store with one datapoint."""
    datasets.add(local_store, "set", 0, [b"hello"])
    return local_store.url


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[..., str]:
    """A function that mounts what can't be mounted, in the foreground, and returns what was said."""

    def mount(*arguments: str | Path, code: int = 1, cache: Path | None = None) -> str:
        path = tmp_path / "mnt"
        path.mkdir(exist_ok=True)
        done = dasfs("mount", "-f", "--cache-dir", cache or tmp_path / "cache", *arguments, path, home=tmp_path)
        said = done.stderr.splitlines()
        assert (done.returncode, len(said), done.stdout) == (code, 1, ""), done.stderr
        assert said[0].startswith("dasfs: ")
        assert find_mount(str(path)) is None
        return said[0]

    return mount


@contextlib.contextmanager
def tmpfs(path: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory at `path`: these tests run as root, whom only the file system can refuse."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.parametrize(
    ("store", "code", "hint"),
    [
        ("s4://bucket", 2, "s3"),
        ("fiel:///somewhere", 2, "file:///"),
        ("file://somewhere", 2, "three slashes"),
        ("s3://", 2, "s3://bucket"),
        ("s3://Bucket_With_Capitals", 2, "bucket"),
        ("nowhere", 2, "store"),
        ("/tmp", 2, "file:///tmp"),
        ("file:///no/such/directory", 1, "no such"),
        ("sqlite:///no/such/file.db", 1, "file.db"),
        ("sqlite:///etc/passwd", 1, "/etc/passwd"),
    ],
)
def test_a_store_that_can_not_be(refuse: Callable[..., str], store: str, code: int, hint: str) -> None:
    """A misspelled URL, a directory or a file that is not there, and a file that is no store."""
    assert hint in refuse(store, code=code)


def test_a_bucket_that_is_not_there(s3_environment: Ceph, refuse: Callable[..., str]) -> None:
    """A bucket that does not exist is named."""
    bucket = f"dasfs-{uuid.uuid4().hex}"
    assert bucket in refuse(f"s3://{bucket}")


def test_wrong_keys(s3_url: str, refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that the gateway does not know are told as such."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOSUCHKEY00000000001")
    assert "access key" in refuse(s3_url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no keys" in refuse(s3_url)


def test_no_network(s3_url: str, refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that nobody answers at is told within seconds."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    refuse(s3_url, "-o", "deadline=2")


def test_a_mount_point_that_can_not_be(url: str, tmp_path: Path) -> None:
    """A mount point that is missing, a file, not empty, below a file, or too long, is refused at once."""
    (tmp_path / "file").touch()
    full = tmp_path / "full"
    full.mkdir()
    (full / "something").touch()
    for path, code, words in (
        (tmp_path / "missing", 1, "mkdir"),
        (tmp_path / "file", 2, "not a directory"),
        (full, 2, "not empty"),
        (tmp_path / "file" / "below", 2, "not a directory"),
        (tmp_path / ("x" * 300), 2, "too long"),
    ):
        for background in ((), ("-f",)):
            done = dasfs("mount", url, path, "--cache-dir", tmp_path / "cache", *background, home=tmp_path)
            assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
            assert words in done.stderr.lower()
    assert os.listdir(full) == ["something"]


def test_a_mount_point_that_is_taken(url: str, mounted: Mounter) -> None:
    """A second mount at the same place is refused, and the first goes on."""
    mount = mounted(url)
    done = dasfs("mount", url, mount.path, "-f", "--cache-dir", mounted.directory / "other", home=mounted.directory)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "already" in done.stderr
    assert (mount.path / "set" / NAME).read_bytes() == b"hello"


def test_two_mounts_that_share_a_cache(url: str, mounted: Mounter) -> None:
    """A cache directory serves one mount: the second is refused with the place of the first, which goes on."""
    mount = mounted(url)
    other = mounted.directory / "other"
    other.mkdir()
    done = dasfs("mount", url, other, "-f", "--cache-dir", mount.cache, home=mounted.directory)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert str(mount.path) in done.stderr
    assert find_mount(str(other)) is None
    assert (mount.path / "set" / NAME).read_bytes() == b"hello"
    mount.stop()
    assert (mounted(url).path / "set" / NAME).read_bytes() == b"hello"


def test_a_cache_that_is_a_file(url: str, tmp_path: Path, refuse: Callable[..., str]) -> None:
    """A file where the cache directory should be is left as it is."""
    (tmp_path / "file").write_text("precious")
    assert "file" in refuse(url, cache=tmp_path / "file", code=2)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_cache_on_a_disk_that_can_not_be_written(url: str, tmp_path: Path, refuse: Callable[..., str]) -> None:
    """A cache directory on a read-only file system is refused, in the foreground and in the background."""
    with tmpfs(tmp_path / "readonly", "ro") as path:
        assert "read-only" in refuse(url, cache=path / "cache").lower()
        done = dasfs("mount", url, tmp_path / "mnt", "--cache-dir", path / "cache", home=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert find_mount(str(tmp_path / "mnt")) is None


def test_a_cache_on_a_disk_that_is_full(url: str, tmp_path: Path, refuse: Callable[..., str]) -> None:
    """A cache directory without any space is refused; `ENOSPC` is what the line says."""
    with tmpfs(tmp_path / "full", "size=64k") as path:
        assert "no space" in refuse(url, cache=path / "cache").lower()


def test_a_cache_below_the_mount_point(url: str, tmp_path: Path, refuse: Callable[..., str]) -> None:
    """A cache below the mount point would wait for itself: it is refused, and nothing is left there."""
    assert "below the mount point" in refuse(url, cache=tmp_path / "mnt" / "cache", code=2)
    done = dasfs("mount", url, tmp_path / "mnt", "--cache-dir", tmp_path / "mnt" / "cache", home=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert os.listdir(tmp_path / "mnt") == []
    (tmp_path / "link").symlink_to(tmp_path / "mnt")
    assert "below the mount point" in refuse(url, cache=tmp_path / "link" / "cache", code=2)


def test_a_directory_that_is_not_ours(url: str, tmp_path: Path, refuse: Callable[..., str]) -> None:
    """What stands in the cache directory beside `dasfs-cache` is not touched; a foreign `dasfs-cache` is refused."""
    (tmp_path / "cache" / "dasfs-cache").mkdir(parents=True)
    (tmp_path / "cache" / "dasfs-cache" / "thesis.txt").write_text("precious")
    refuse(url, code=2)
    assert (tmp_path / "cache" / "dasfs-cache" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("frobnicate", "frobnicate"),
        ("rw", "read-only"),
        ("uid=root", "uid"),
        ("gid=-1", "gid"),
        ("umask=999", "umask"),
        ("cache-size=many", "many"),
        ("refresh=never", "never"),
        ("refresh=0", "refresh"),
        ("deadline=nan", "deadline"),
        ("uid", "uid"),
        ("allow_other=yes", "allow_other"),
        ("dataset=a/b", "a/b"),
        ("dataset=", "dataset"),
    ],
)
def test_an_option_that_can_not_be(url: str, refuse: Callable[..., str], option: str, word: str) -> None:
    """An unknown option, and a value that an option can't have, is named: exit code 2."""
    assert word in refuse(url, "-o", option, code=2)


def test_a_dataset_that_is_not_there(url: str, refuse: Callable[..., str]) -> None:
    """`-o dataset=NAME` of a dataset that the store does not have."""
    assert "other" in refuse(url, "-o", "dataset=other")


def test_a_cache_of_another_version(url: str, mounted: Mounter) -> None:
    """A cache that another version of dasfs wrote is built anew, with a warning, and the mount works."""
    mounted(url).stop()
    (mounted.directory / "cache" / "dasfs-cache" / "version").write_text("dasfs cache 999\n")
    mount = mounted(url, warnings=["another version"])
    assert (mount.path / "set" / NAME).read_bytes() == b"hello"
    assert mount.log.count("another version") == 1


def overwrite(path: Path, start: int) -> None:
    """Overwrite a file with garbage from `start` on."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(start)
        file.write(os.urandom(max(size - start, 100)))


@pytest.mark.parametrize("database", ["index.sqlite", "blocks.db"])
@pytest.mark.parametrize("start", [0, 200, 4096])
def test_a_corrupt_cache_database(url: str, mounted: Mounter, database: str, start: int) -> None:
    """A database of the cache that was overwritten, from its first byte or behind its header, is built anew."""
    first = mounted(url)
    assert (first.path / "set" / NAME).read_bytes() == b"hello"
    first.stop()
    overwrite(first.cache / "dasfs-cache" / database, start)
    mount = mounted(url, warnings=["damaged", "anew"])
    assert (mount.path / "set" / NAME).read_bytes() == b"hello"
    assert mount.names("set") == [NAME]
    mount.stop()
    last = mounted(url)
    assert (last.path / "set" / NAME).read_bytes() == b"hello"


def test_a_cache_database_of_another_schema(url: str, mounted: Mounter) -> None:
    """A database of another version, in an otherwise good cache, is built anew with one warning."""
    mounted(url).stop()
    path = mounted.directory / "cache" / "dasfs-cache" / "index.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
        connection.commit()
    mount = mounted(url, warnings=["another version"])
    assert (mount.path / "set" / NAME).read_bytes() == b"hello"


def test_a_corrupt_database_under_a_mount(local_store: Store, mounted: Mounter) -> None:
    """The index cache that is overwritten while the mount runs is built anew when that is noticed; reads go on."""
    for number in range(50):
        datasets.add(local_store, "set", number * 2000, [b"%d" % number] * 2000)
    mount = mounted(local_store.url, warnings=["damaged", "anew", "index cache"])
    assert len(mount.names("set")) == 100_000
    for file in (mount.cache / "dasfs-cache").glob("index.sqlite*"):
        if not file.name.endswith("-shm"):
            overwrite(file, 0)
    datasets.add(local_store, "other", 0, [b"hello"])
    for number in range(0, 100_000, 777):
        assert (mount.path / "set" / f"{number:020d}.bin").read_bytes() == b"%d" % (number // 2000)
    wait_until((mount.path / "other" / NAME).exists)
    assert (mount.path / "other" / NAME).read_bytes() == b"hello"
    assert len(mount.names("set")) == 100_000


def test_a_cache_that_fills_up_under_a_mount(local_store: Store, mounted: Mounter) -> None:
    """When the cache's disk gets full while the mount runs, data is served without being kept."""
    contents = [os.urandom(1 << 20) for _ in range(4)]
    datasets.add(local_store, "set", 0, contents)
    with tmpfs(mounted.directory / "small", "size=8m") as path:
        mount = mounted(local_store.url, cache=path / "cache", warnings=["full", "space"])
        assert (mount.path / "set" / NAME).read_bytes() == contents[0]
        with contextlib.suppress(OSError), (path / "filler").open("wb") as filler:
            while filler.write(bytes(4096)):
                filler.flush()
        assert shutil.disk_usage(path).free < 1 << 20
        for number, content in enumerate(contents):
            assert (mount.path / "set" / f"{number:020d}.bin").read_bytes() == content
        mount.stop()


def test_the_configuration_is_checked(url: str, tmp_path: Path) -> None:
    """A value in the configuration file that a mount can't have is told, like one on the command line."""
    (tmp_path / "mnt").mkdir()
    (tmp_path / "dasfs.toml").write_text("[mount]\nrefresh = 1000000\n")
    done = dasfs("--config", tmp_path / "dasfs.toml", "mount", "-f", url, tmp_path / "mnt", home=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "refresh" in done.stderr


def test_a_log_with_an_unknown_format(local_url: str, mounted: Mounter) -> None:
    """A dataset whose log is corrupt, or of a newer dasfs, is an error of its own; the others are shown."""
    with open_store(local_url) as store:
        datasets.add(store, "bad", 0, [b"x"])
        datasets.add(store, "good", 0, [b"hello"])
        store.put("datas3t/bad/log/00000000000000000001.json", b"{ not json")
    mount = mounted(local_url, warnings=["bad"])
    assert (mount.path / "good" / NAME).read_bytes() == b"hello"
    with pytest.raises(OSError, match="Input/output error"):
        os.listdir(mount.path / "bad")
    assert (mount.path / "good" / NAME).exists()
