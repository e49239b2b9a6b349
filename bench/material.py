"""The files that are read: made from a seed, incompressible, with a list of their sizes and checksums."""

import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import run
from bench.rig import Rig

DATASET: Final = "bench"
PIECE: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Material:
    """Files that are in the store in every form that some client reads.

    Under the gateway's prefix: `files/NAME` one object a file, `data.tar` one TAR with all, `store` a store of dasfs
    with the dataset `bench`. `listing` is the JSON list of [name, size, sha256], in the order of names.
    """

    folder: Path
    listing: Path
    files: Sequence[tuple[str, int]]
    tar: Path
    tar_sha256: str

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)


def make(rig: Rig, sizes: Sequence[int], *, as_objects: bool = True) -> Material:
    """Make files of these sizes and put them into the store, past the latency."""
    folder, tar = rig.work / "files", rig.work / "data.tar"
    source = random.Random(rig.settings.seed)
    folder.mkdir()
    listing = []
    for number, size in enumerate(sizes):
        name = f"{number:020d}.bin"
        listing.append((name, size, write_random(folder / name, size, source)))
    path = rig.work / "files.json"
    path.write_text(json.dumps(listing))
    files = [(name, size) for name, size, _ in listing]
    names = rig.work / "names"
    names.write_text("".join(f"{name}\n" for name, _ in files))
    run("tar", "-cf", str(tar), "--format=ustar", "-C", str(folder), "-T", str(names))
    with tar.open("rb") as file:
        tar_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    put_dataset(rig, DATASET, folder)
    objects = {f"files/{name}": folder / name for name, _ in files} if as_objects else {}
    rig.gateway.upload({"data.tar": tar, **objects})
    return Material(folder, path, files, tar, tar_sha256)


def write_random(path: Path, size: int, source: random.Random) -> str:
    """Write so many random bytes to a file, and return their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while size:
            piece = source.randbytes(min(size, PIECE))
            file.write(piece)
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest()


def make_files(folder: Path, size: int, count: int, seed: int) -> None:
    """Make files of random bytes, all of one size, named as datapoints from 0 on."""
    source = random.Random(seed)
    folder.mkdir()
    for number in range(count):
        write_random(folder / f"{number:020d}.bin", size, source)
    os.sync()


def make_synthetic(rig: Rig, store: str, name: str, count: int) -> None:
    """Make a dataset of so many datapoints that nobody reads, past the latency."""
    command = (sys.executable, "-m", "bench.synthetic", store, name, str(count))
    run(*command, env=rig.gateway.direct_environment)


def dataset_sizes(rig: Rig) -> list[int]:
    """Return the sizes of the files of the reading cases: even between the smallest and the largest."""
    settings = rig.settings
    source = random.Random(settings.seed)
    return [source.randint(settings.smallest, settings.largest) for _ in range(settings.files)]


def put_dataset(rig: Rig, name: str, *paths: Path) -> None:
    """Put files into a new dataset of the store, past the latency."""
    rig.dasfs("dataset", "create", name, "--store", rig.gateway.store, direct=True)
    rig.dasfs("put", name, *map(str, paths), "--store", rig.gateway.store, direct=True)


def index_only_cache(rig: Rig, dataset: str = DATASET) -> Path:
    """Return a cache directory that has the index of a dataset, and none of its data."""
    cache = rig.work / "index-only"
    with rig.mount_dasfs("index-only-mount", cache) as mount:
        names = os.listdir(mount.path / dataset)
        os.stat(mount.path / dataset / names[0])
    return cache


def disk_usage(directory: Path) -> int:
    """Return the bytes that a directory takes on its disk."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
