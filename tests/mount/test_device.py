"""The descriptor of a mount: what fusermount3 refuses becomes one clear line, and closing unmounts what is ours."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dasfs.errors import AccessDenied, DasfsError, NotFound
from dasfs.fuse.device import Device
from dasfs.fuse.inodes import Inode
from dasfs.fuse.mountpoint import find_mount
from dasfs.fuse.protocol import Capacity
from tests.mounts import detach

CAPACITY = Capacity(max_readahead=1 << 20, background=512)
OPTIONS = ("ro", "nosuid", "nodev", "subtype=dasfs")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount at, where nothing is mounted afterwards."""
    made = tmp_path / "mnt"
    made.mkdir()
    yield made
    detach(made)


def mount(place: Path, source: str = "one") -> Device:
    return Device.mount(str(place), [*OPTIONS, f"fsname={source}"], CAPACITY)


def source_at(place: Path) -> str | None:
    """Return what is mounted at a place, as /proc says it: nobody there is asked."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4] == str(place):
            found = line.split(" - ")[1].split()[1]
            break
    else:
        found = None
    return found


def unmount(place: Path) -> None:
    subprocess.run(["fusermount3", "-u", "-z", "--", place], check=True, timeout=30)


def test_a_mount_is_there_until_it_is_closed(place: Path) -> None:
    """After `mount` the kernel has agreed and asks nothing more; `close` takes it away."""
    device = mount(place)
    assert source_at(place) == "one"
    assert not os.get_blocking(device.descriptor)
    assert device.receive() == 0
    device.close()
    assert find_mount(str(place)) is None
    assert list(place.iterdir()) == []


def test_a_notice_about_what_the_kernel_does_not_hold(place: Path) -> None:
    """Telling the kernel about names and inodes that it never saw, or after the mount is gone, does nothing."""
    device = mount(place)
    device.drop_name(Inode(1), b"x" * 255)
    device.drop_inode(Inode(1 << 60))
    unmount(place)
    device.drop_inode(Inode(1))
    device.drop_name(Inode(1), b"name")
    device.close()


def test_what_somebody_else_unmounted(place: Path) -> None:
    """A device whose mount was taken away says so, and closing it is no error."""
    device = mount(place)
    unmount(place)
    assert device.receive() is None
    assert device.mountpoint == ""
    device.close()
    assert source_at(place) is None


@pytest.mark.parametrize("noticed", [True, False])
def test_what_is_mounted_there_now_is_left_alone(place: Path, noticed: bool) -> None:
    """Who was unmounted by somebody else does not unmount the next one there, though nobody has noticed it yet."""
    first = mount(place)
    unmount(place)
    second = mount(place, "two")
    if noticed:
        assert first.receive() is None
    first.close()
    assert source_at(place) == "two"
    second.close()
    assert source_at(place) is None


def test_a_place_that_is_no_directory(tmp_path: Path) -> None:
    """fusermount3's own words come in one line, with the place."""
    for place in (tmp_path / "missing", tmp_path / "file" / "below"):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(DasfsError, match=str(place)) as caught:
            mount(place)
        assert "\n" not in str(caught.value)
        assert source_at(place) is None


def with_helper(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str | None) -> None:
    """Let `script` be the only fusermount3 there is, or have none."""
    directory.mkdir()
    env = shutil.which("env")
    assert env is not None
    (directory / "env").symlink_to(env)
    if script is not None:
        helper = directory / "fusermount3"
        helper.write_text(f"#!/bin/sh\n{script}\n")
        helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))


NO_OTHERS = "option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf"
NO_DEVICE = "fuse device not found, try 'modprobe fuse' first"
NO_RIGHTS = "failed to open /dev/fuse: Permission denied"


@pytest.mark.parametrize(
    ("said", "error", "message", "hint"),
    [
        (None, NotFound, "fusermount3 is not installed", "apt-get install fuse3"),
        (f"fusermount3: {NO_OTHERS}", AccessDenied, f"was refused: {NO_OTHERS}", "user_allow_other into"),
        (f"fusermount3: {NO_DEVICE}", AccessDenied, f"for this process: {NO_DEVICE}", "modprobe fuse;"),
        (f"fusermount3: {NO_RIGHTS}", AccessDenied, f"for this process: {NO_RIGHTS}", "--device /dev/fuse"),
        ("one\nfusermount3: two", DasfsError, "was refused: two", ""),
        ("", DasfsError, "was refused: fusermount3 exited with 1", ""),
    ],
)
def test_refusals_are_told(
    tmp_path: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str | None,
    error: type[DasfsError],
    message: str,
    hint: str,
) -> None:
    """Each refusal is one line that says why, and where it can be told what to do."""
    with monkeypatch.context() as patch:
        script = None if said is None else f"printf %s {shlex.quote(said)} >&2\nexit 1"
        with_helper(patch, tmp_path / "bin", script)
        with pytest.raises(error) as caught:
            mount(place)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_a_helper_that_sends_nothing(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fusermount3 that says that all is well and hands nothing over is an error of ours."""
    with monkeypatch.context() as patch:
        with_helper(patch, tmp_path / "bin", "exit 0")
        with pytest.raises(DasfsError, match="handed no mount over"):
            mount(place)
