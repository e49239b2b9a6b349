"""What stands at a mount point, and what may be mounted there."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dasfs.errors import DasfsError, InvalidInput, NotFound
from dasfs.fuse.mountpoint import check, check_outside, find_mount, is_dead, unmount


@contextlib.contextmanager
def tmpfs(path: Path, source: str = "none") -> Iterator[None]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", source, path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("name", ["plain", "with space", "tab\there", "back\\slash", "ünïcode", "new\nline"])
def test_a_mount_is_found_by_its_path(tmp_path: Path, name: str) -> None:
    """The kernel's table of mounts is read also where it writes a path with escapes."""
    path = tmp_path / name
    assert find_mount(str(path)) is None
    with tmpfs(path, source="some source"):
        found = find_mount(str(path))
        assert found is not None
        assert (found.path, found.file_system, found.source) == (str(path), "tmpfs", "some source")
        major, _, minor = found.device.partition(":")
        assert os.makedev(int(major), int(minor)) == path.stat().st_dev
        assert find_mount(str(path / "below")) is None
        assert find_mount(str(tmp_path)) is None
    assert find_mount(str(path)) is None


def test_the_uppermost_mount_counts(tmp_path: Path) -> None:
    """Of two mounts at one place the one that is seen is found."""
    with tmpfs(tmp_path / "mnt", "below"), tmpfs(tmp_path / "mnt", "above"):
        found = find_mount(str(tmp_path / "mnt"))
        assert found is not None
        assert found.source == "above"


def test_an_empty_directory_is_prepared(tmp_path: Path) -> None:
    """An empty directory, also an empty file system, can be mounted at; links and relative paths are resolved."""
    place = tmp_path / "mnt"
    place.mkdir()
    (tmp_path / "link").symlink_to("mnt")
    assert check(str(tmp_path / "link"), replace=False) == str(place)
    assert check(f"{tmp_path}/mnt/../mnt/", replace=True) == str(place)
    with tmpfs(place):
        assert check(str(place), replace=False) == str(place)


def test_what_can_not_be_mounted_at(tmp_path: Path) -> None:
    """A missing place, a file, a place below a file, one that is not empty, and a link to nothing, are refused."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for place, error, words in (
        ("missing", NotFound, "mkdir -p"),
        ("dangling", NotFound, "does not exist"),
        ("file", InvalidInput, "not a directory"),
        ("file/below", InvalidInput, "not a directory"),
        (".", InvalidInput, "not empty"),
        ("x" * 300, InvalidInput, "too long"),
    ):
        with pytest.raises(error, match=words):
            check(str(tmp_path / place), replace=False)


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    """A link that leads to itself is an error of ours."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DasfsError):
        check(str(tmp_path / "loop"), replace=False)


def test_what_lies_below_the_mount_point_is_refused(tmp_path: Path) -> None:
    """A path at or below the mount point is refused, also by way of a link; a neighbour of a similar name is not."""
    place = tmp_path / "mnt"
    place.mkdir()
    (tmp_path / "link").symlink_to(place)
    for inner in (place, place / "cache", place / "a" / "b", tmp_path / "link" / "cache", place / ".." / "mnt" / "c"):
        with pytest.raises(InvalidInput, match=r"the cache directory .* lies below"):
            check_outside(str(inner), str(place), "the cache directory")
    with pytest.raises(InvalidInput):
        check_outside(str(place / "cache"), str(tmp_path / "link"), "the cache directory")
    for outside in (tmp_path, tmp_path / "mnt2", tmp_path / "m", place / ".." / "cache"):
        check_outside(str(outside), str(place), "the cache directory")


def test_only_dead_mounts_are_dead(tmp_path: Path) -> None:
    """A directory, a missing path and a mount that works are not dead."""
    assert not is_dead(str(tmp_path))
    assert not is_dead(str(tmp_path / "missing"))
    with tmpfs(tmp_path / "mnt"):
        assert not is_dead(str(tmp_path / "mnt"))


def test_only_mounts_of_dasfs_are_unmounted(tmp_path: Path) -> None:
    """Another file system, and a place where nothing is mounted, are `InvalidInput` and stay as they are."""
    with pytest.raises(InvalidInput, match="nothing is mounted"):
        unmount(str(tmp_path))
    with tmpfs(tmp_path / "mnt"):
        with pytest.raises(InvalidInput, match="tmpfs"):
            unmount(str(tmp_path / "mnt"))
        assert find_mount(str(tmp_path / "mnt")) is not None
