"""The main job on real input: thousands of files of this machine's Python, put, mounted and read back."""

import io
import itertools
import os
import random
import struct
import subprocess
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dasfs.names import DatasetKeys
from dasfs.stores import open_store
from tests.mounts import Mounter, dasfs

COUNT: Final = 5_000
MAX_SIZE: Final = 1 << 20


def real_files() -> Iterator[Path]:
    """Yield files of the Python library and of what is installed beside it, some of them empty, none huge."""
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.stat().st_size <= MAX_SIZE:
                yield path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of links to the files."""
    directory = tmp_path_factory.mktemp("real") / "library"
    directory.mkdir()
    for number, path in enumerate(itertools.islice(real_files(), COUNT)):
        (directory / f"{number:04d} {path.name}").symlink_to(path)
    assert len(os.listdir(directory)) == COUNT, "this machine has too few files"
    return directory


def expected_index(tar: bytes) -> bytes:
    """Return what datas3t asks for: u64 offset, u16 number of header blocks, u48 size, for each member."""
    entries = []
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
        for member in archive:
            blocks = (member.offset_data - member.offset) // 512
            entries.append(struct.pack(">QHHI", member.offset, blocks, member.size >> 32, member.size & 0xFFFFFFFF))
    return b"".join(entries)


def check_objects(store_url: str, folder: Path) -> int:
    """Check every datarange object with `tar` and against its index; return how many members they hold."""
    count = 0
    with open_store(store_url) as store:
        for info in list(store.list(DatasetKeys("library").dataranges)):
            if not info.key.endswith(".tar"):
                continue
            tar = store.get(info.key)
            (folder / "object.tar").write_bytes(tar)
            listed = subprocess.run(
                ["tar", "-tf", folder / "object.tar"], capture_output=True, text=True, check=True, timeout=60
            )
            assert listed.stderr == ""
            count += len(listed.stdout.splitlines())
            assert store.get(info.key.removesuffix("tar") + "index") == expected_index(tar)
    return count


def test_real_files_come_back(store_url: str, sources: Path, mounted: Mounter, tmp_path: Path) -> None:
    """5,000 real files put into each kind of store are listed, and read back through the mount byte for byte.

    `tar` lists every datarange object, and the index objects are what datas3t's format asks for.
    """
    assert dasfs("dataset", "create", "library", "--store", store_url, home=tmp_path).returncode == 0
    put = dasfs("put", "library", sources, "--store", store_url, "--datarange-size", "8MiB", home=tmp_path)
    assert put.returncode == 0, put.stderr
    mount = mounted(store_url, refresh_s=10)
    directory = mount.path / "library"
    listed = mount.names("library")
    assert len(listed) == COUNT
    assert [int(each.partition(".")[0]) for each in listed] == list(range(COUNT))
    shuffled = random.Random(5).sample(listed, COUNT)
    originals = set()
    for each in shuffled:
        original = os.getxattr(directory / each, "user.dasfs.original_name").decode()
        source = sources.parent / original
        assert (directory / each).read_bytes() == source.read_bytes(), original
        assert (directory / each).stat().st_mtime == int(source.stat().st_mtime)
        originals.add(original)
    assert len(originals) == COUNT
    assert check_objects(store_url, tmp_path) == COUNT
    again = dasfs("put", "library", sources, "--store", store_url, home=tmp_path)
    assert again.returncode == 0, again.stderr
    assert mount.status()["datasets"]["library"]["datapoints"] == COUNT
