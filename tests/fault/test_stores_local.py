"""The stores on local disks against missing places, odd keys, full disks and crashes."""

import errno
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dasfs.errors import (
    AccessDenied,
    AlreadyExists,
    Corrupt,
    DasfsError,
    InvalidInput,
    NoSpace,
    NotFound,
    StoreUnavailable,
)
from dasfs.stores import CopyPiece, files, open_store
from dasfs.stores.directory import TEMPORARY

MIB = 1 << 20


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_missing_place(tmp_path: Path, kind: str) -> None:
    """A place that does not exist is told by every call, and made by none but `create`."""
    place = tmp_path / "not" / "there"
    with open_store(f"{kind}://{place}") as store:
        calls: list[Callable[[], object]] = [
            store.check,
            lambda: store.get("a"),
            lambda: store.put("a", b"1"),
            lambda: store.put("d/a", b"1"),
            lambda: store.put_if_absent("a", b"1"),
            lambda: store.put_stream("a", [b"1"]),
            lambda: list(store.list("")),
        ]
        for call in calls:
            with pytest.raises(NotFound, match=r"not/there"):
                call()
        assert not place.parent.exists()
        store.create()
        store.put("d/a", b"1")
        assert store.get("d/a") == b"1"


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_place_that_goes_away(tmp_path: Path, kind: str) -> None:
    """A store that is removed while it is open is `NotFound`: neither an empty store, nor a place for lost writes."""
    place = tmp_path / "disk" / "store"
    with open_store(f"{kind}://{place}") as store:
        store.create()
        store.put("d/a", b"1")
        place.parent.rename(tmp_path / "moved")
        calls: list[Callable[[], object]] = [
            lambda: store.put("d/b", b"2"),
            lambda: store.put_stream("b", [b"2"]),
            lambda: store.get("d/a"),
            lambda: list(store.list("")),
            lambda: list(store.list("d/")),
            lambda: list(store.list_prefixes("d/")),
        ]
        for call in calls:
            with pytest.raises(NotFound, match="store"):
                call()
        store.create()
        store.put("d/new", b"3")
        with open_store(f"{kind}://{place}") as other:
            assert [info.key for info in other.list("")] == ["d/new"]


def test_what_others_put_into_the_directory(tmp_path: Path) -> None:
    """Files that no key names, links that lead nowhere and FIFOs are no objects, and don't stop a listing."""
    with open_store(f"file://{tmp_path}") as store:
        store.put("d/a", b"1")
        (tmp_path / "d" / "größe.txt").write_text("mine")
        (tmp_path / "d" / "größe").mkdir()
        (tmp_path / "d" / "loop").symlink_to("loop")
        (tmp_path / "d" / "nowhere").symlink_to("nothing")
        os.mkfifo(tmp_path / "d" / "fifo")
        assert [info.key for info in store.list("")] == ["d/a"]
        assert list(store.list_prefixes("d/")) == []
        for name in ("loop", "nowhere", "fifo"):
            with pytest.raises(NotFound, match=name):
                store.get(f"d/{name}")


def test_offset_beyond_every_file(tmp_path: Path) -> None:
    """An offset of a broken index, that no file can have, is `Corrupt`."""
    with open_store(f"file://{tmp_path}") as store:
        store.put("a", b"12345")
        with pytest.raises(Corrupt, match="ends at 5"):
            store.read_into("a", 2**64 - 512, memoryview(bytearray(10)))


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    """A file where the directory should be is told as such, not overwritten."""
    path = tmp_path / "file"
    path.write_text("precious")
    with open_store(f"file://{path}") as store:
        with pytest.raises(DasfsError):
            store.check()
        with pytest.raises(DasfsError):
            store.create()
        with pytest.raises(DasfsError):
            store.put("a", b"1")
    assert path.read_text() == "precious"


def test_file_and_directory_at_once(tmp_path: Path) -> None:
    """A key below an object, or an object above keys, can't be in a directory: that is told, and nothing is lost."""
    with open_store(f"file://{tmp_path}") as store:
        store.put("a", b"1")
        store.put("b/c", b"2")
        for write in (store.put, store.put_if_absent):
            with pytest.raises(InvalidInput, match="stands where"):
                write("a/b", b"3")
        with pytest.raises(InvalidInput, match="at once"):
            store.put("b", b"4")
        with pytest.raises(AlreadyExists):
            store.put_if_absent("b", b"4")
        assert [info.key for info in store.list("")] == ["a", "b/c"]
        assert store.abort_uploads("", before=in_an_hour()) == 0


def test_temporary_directory_is_hidden(tmp_path: Path) -> None:
    """The store's own directory is neither listed nor reached by a key."""
    with open_store(f"file://{tmp_path}") as store:
        store.put("a", b"1")
        (tmp_path / TEMPORARY / "left").write_bytes(b"junk")
        assert [info.key for info in store.list("")] == ["a"]
        assert list(store.list(f"{TEMPORARY}/")) == []
        assert list(store.list_prefixes("")) == []
        for call in (store.get, store.head):
            with pytest.raises(InvalidInput, match="own"):
                call(f"{TEMPORARY}/left")
        with pytest.raises(InvalidInput, match="own"):
            store.put(f"{TEMPORARY}/x", b"")


def test_long_keys_of_uploads(tmp_path: Path) -> None:
    """A key of the greatest length can be written and its upload found, though its name is shortened."""
    key = "/".join(["k%" * 100] * 5)
    with open_store(f"file://{tmp_path}") as store:
        counts = []

        def chunks() -> Iterator[bytes]:
            yield b"1"
            counts.append(store.abort_uploads("k%" * 10, before=in_an_hour()))

        with pytest.raises(DasfsError, match="aborted"):
            store.put_stream(key, chunks())
        assert counts == [1]
        store.put(key, b"1")
        assert store.get(key) == b"1"


def test_copy_without_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system can't copy ranges by itself, composing works all the same."""

    def refuse(*_args: object, **_named: object) -> int:
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    with open_store(f"file://{tmp_path}") as store:
        store.put("a", b"0123456789" * 100_000)
        store.compose("b", [CopyPiece("a", 5, 500_000), b"end"])
        assert store.get("b") == (b"0123456789" * 100_000)[5:500_005] + b"end"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EROFS, AccessDenied),
        (errno.EACCES, AccessDenied),
        (errno.EIO, StoreUnavailable),
        (errno.ENOTDIR, NotFound),
        (errno.EEXIST, AlreadyExists),
        (errno.EISDIR, InvalidInput),
        (errno.EPIPE, DasfsError),
    ],
)
def test_os_errors_are_translated(number: int, expected: type[DasfsError]) -> None:
    """Each errno has its error, in one line with the name of the object."""
    with pytest.raises(expected, match="file:///data/a") as raised, files.map_errors("file:///data/a"):
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(raised.value)


def test_full_disk(tmp_path: Path) -> None:
    """A write that hits a limit is `NoSpace`; nothing of it stays, and what was there is intact."""
    script = f"""
import resource, signal, sys
from dasfs.errors import NoSpace
from dasfs.stores import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
with open_store("file://{tmp_path}") as store:
    store.put("a", b"small")
    try:
        store.put("a", bytes(2 << 20))
    except NoSpace:
        sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 7
    with open_store(f"file://{tmp_path}") as store:
        assert store.get("a") == b"small"
    assert list((tmp_path / TEMPORARY).iterdir()) == []


def write_for_ever(url: str, started: "multiprocessing.synchronize.Event") -> None:
    """Write objects until killed."""

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(MIB)
        started.set()
        while True:
            yield bytes(MIB)

    with open_store(url) as store:
        store.put_stream("big", chunks())


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_killed_writer(tmp_path: Path, kind: str) -> None:
    """After kill -9 in an upload nothing of it is seen, and `abort_uploads` removes what is left, once."""
    url = f"{kind}://{tmp_path}/store"
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    with open_store(url) as store:
        store.create()
        store.put("before", b"1")
        process = context.Process(target=write_for_ever, args=(url, started))
        process.start()
        assert started.wait(timeout=30)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert [info.key for info in store.list("")] == ["before"]
        assert store.abort_uploads("", before=datetime.now(UTC) - timedelta(hours=1)) == 0
        assert store.abort_uploads("", before=in_an_hour()) == 1
        assert store.abort_uploads("", before=in_an_hour()) == 0
        store.put_if_absent("big", b"2")
        assert store.get("big") == b"2"
    if kind == "sqlite":
        with sqlite3.connect(f"{tmp_path}/store") as raw:
            assert raw.execute("SELECT count(*) FROM chunk").fetchone() == (2,)
            assert raw.execute("SELECT count(*) FROM pending").fetchone() == (0,)
        raw.close()
