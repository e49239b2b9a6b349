"""The cache directory: locked, checked, and never more than its own part of it."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dasfs.cache.directory import CacheDirectory
from dasfs.errors import AccessDenied, AlreadyExists, InvalidInput, NoSpace
from tests.blocks import mounted_disk


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """A missing directory is made, with its parents; nobody else may look into the cache."""
    with CacheDirectory.open(str(tmp_path / "a" / "cache")) as directory:
        assert os.stat(directory.root).st_mode & 0o777 == 0o700
        assert directory.path("x").startswith(str(tmp_path / "a" / "cache"))


def test_a_user_who_is_about_to_leave_is_waited_for(tmp_path: Path) -> None:
    """A mount right after an umount finds the cache directory locked for a moment, and takes it then."""
    first = CacheDirectory.open(str(tmp_path))
    leaving = threading.Timer(0.2, first.close)
    leaving.start()
    with CacheDirectory.open(str(tmp_path)):
        leaving.join()


def test_a_second_user_is_told_who_the_first_is(tmp_path: Path) -> None:
    """Two mounts can't share a directory: the second is refused in one line; after the first it may."""
    with (
        CacheDirectory.open(str(tmp_path), mount_point="/mnt/data"),
        pytest.raises(AlreadyExists) as caught,
    ):
        CacheDirectory.open(str(tmp_path))
    assert str(caught.value) == (
        f"the cache directory {tmp_path} is in use by process {os.getpid()} (mount at /mnt/data); "
        "give another --cache-dir"
    )
    CacheDirectory.open(str(tmp_path)).close()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    """A mount that was killed leaves no lock behind."""
    code = (
        "import sys; from dasfs.cache.directory import CacheDirectory; "
        "d = CacheDirectory.open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(AlreadyExists, match=f"process {process.pid}"):
            CacheDirectory.open(str(tmp_path))
        process.kill()
        process.wait()
    CacheDirectory.open(str(tmp_path)).close()


@pytest.mark.parametrize("where", ["cache", "cache/below", "cache/dasfs-cache"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, where: str) -> None:
    """A path that is a file, or lies below one, can't be the cache directory, and the file is left alone."""
    file = tmp_path / "cache"
    if where.endswith("dasfs-cache"):
        file.mkdir()
        file = file / "dasfs-cache"
    file.write_text("mine")
    with pytest.raises(InvalidInput, match="is a file"):
        CacheDirectory.open(str(tmp_path / where.removesuffix("/dasfs-cache")))
    assert file.read_text() == "mine"


def test_a_read_only_file_system_is_refused(tmp_path: Path) -> None:
    """Where nothing can be written there can't be a cache."""
    with mounted_disk("tmpfs", tmp_path / "disk", "ro") as disk, pytest.raises(AccessDenied, match="Read-only"):
        CacheDirectory.open(str(disk / "cache"))


def test_a_full_file_system_is_refused(tmp_path: Path) -> None:
    """A full disk is told at the start, and nothing is left open."""
    with mounted_disk("tmpfs", tmp_path / "disk", "size=256k") as disk, pytest.raises(NoSpace, match="No space left"):
        CacheDirectory.open(str(disk / "cache"))


def test_what_is_not_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A directory of our name that somebody else filled is not deleted."""
    (tmp_path / "dasfs-cache").mkdir()
    (tmp_path / "dasfs-cache" / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInput, match="not a cache of dasfs"):
        CacheDirectory.open(str(tmp_path))
    assert (tmp_path / "dasfs-cache" / "thesis.tex").read_text() == "years of work"


def test_another_version_is_built_anew_and_its_neighbours_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache of another version is emptied with one WARNING; what lies beside it is not touched."""
    (tmp_path / "neighbour").write_text("stays")
    with CacheDirectory.open(str(tmp_path)) as directory:
        Path(directory.path("blocks.db")).write_text("old")
    (tmp_path / "dasfs-cache" / "version").write_text("dasfs cache 0\n")
    for _ in range(2):
        with CacheDirectory.open(str(tmp_path)) as directory:
            assert not os.path.exists(directory.path("blocks.db"))
            directory.remove_discarded()
            assert sorted(os.listdir(directory.root)) == ["lock", "version"]
    assert (tmp_path / "neighbour").read_text() == "stays"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_what_is_given_up_is_out_of_the_way_at_once(tmp_path: Path) -> None:
    """A discarded directory can be made anew before the old one is deleted, any number of times."""
    with CacheDirectory.open(str(tmp_path)) as directory:
        for _ in range(3):
            os.mkdir(directory.path("blocks"))
            directory.discard("blocks")
        directory.discard("never there")
        assert len(os.listdir(directory.root)) == 5
        directory.remove_discarded()
        assert sorted(os.listdir(directory.root)) == ["lock", "version"]
