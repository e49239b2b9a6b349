"""What training jobs do to a mount, with every byte compared: fio, `find | xargs sha256sum`, and a data loader.

A small edition runs everywhere; `DASFS_SCALE=full` is 100,000 files, which takes some minutes. What it measured goes to
stdout: run it with `pytest -s`.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from tests import loader
from tests.ceph import Ceph
from tests.mounts import Mount, Mounter, environment

PATIENCE_S = 3000.0 if os.environ.get("DASFS_SCALE") == "full" else 100.0
pytestmark = pytest.mark.timeout(PATIENCE_S + 20)

STEP = 16 << 10  # what fio writes and reads at once
READERS = 3  # of fio, each of which reads everything


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of it. Sizes are bytes: of the loader's files up to `largest`, of fio's files one of two."""

    files: int
    largest: int
    fio_small: tuple[int, int]  # how many, of which size
    fio_large: tuple[int, int]


SCALES = {
    "small": Scale(1_000, 30_000, (30, 4 * STEP), (1, 4 << 20)),
    "full": Scale(100_000, 40_000, (1_000, 4 * STEP), (4, 64 << 20)),
}
SCALE = SCALES[os.environ.get("DASFS_SCALE", "small")]


@dataclass(frozen=True, slots=True)
class Stored:
    """A directory that was put into the dataset `set` of a store."""

    url: str
    directory: Path
    expected: Path

    @property
    def size(self) -> int:
        return sum(entry.stat().st_size for entry in os.scandir(self.directory))


def put(url: str, directory: Path) -> None:
    """Put all files of a directory into the dataset `set`, with the command that people use."""
    home = directory.parent
    for command in (("dataset", "create", "set"), ("put", "set", str(directory), "--datarange-size", "64MiB")):
        process = subprocess.run(
            [sys.executable, "-m", "dasfs", *command, "--store", url],
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert process.returncode == 0, process.stderr


@pytest.fixture(scope="module")
def bucket(ceph: Ceph) -> Iterator[str]:
    """The URL of a bucket for this module, to which boto3's environment leads."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ceph.environment.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        boto3.client("s3").create_bucket(Bucket="training")
        yield "s3://training"


@pytest.fixture(scope="module")
def stored(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Many small files, some of them empty, and what is in them."""
    folder = tmp_path_factory.mktemp("training")
    directory = folder / "files"
    directory.mkdir()
    source, expected = random.Random(7), {}
    for number in range(SCALE.files):
        name, data = f"{number:020d}.bin", source.randbytes(source.randrange(SCALE.largest))
        (directory / name).write_bytes(data)
        expected[name] = (len(data), loader.digest_of(data))
    (folder / "expected.json").write_text(json.dumps(expected))
    put(f"{bucket}/loader", directory)
    return Stored(f"{bucket}/loader", directory, folder / "expected.json")


def mount_with(mounted: Mounter, stored: Stored, share: float) -> Mount:
    """Mount the files with a cache that holds so much of them."""
    mounted.watchdog_s = PATIENCE_S
    return mounted(stored.url, "--cache-size", str(int(stored.size * share)))


def report(what: str, mount: Mount, began: float, **figures: Any) -> None:
    """Print what was measured, as one JSON object."""
    cache = mount.status()["block_cache"]
    kept = {name: cache[name] for name in ("bytes_fetched", "bytes_served", "capacity", "fetches", "evictions")}
    figures |= {
        "seconds": round(time.monotonic() - began, 1),
        "memory": psutil.Process(mount.process.pid).memory_info().rss,
    }
    print(json.dumps({"what": what, **figures, **kept}))


@pytest.mark.parametrize(("order", "share"), [("in order", 2), ("shuffled", 2), ("shuffled", 0.1)])
def test_a_loader_with_eight_workers(stored: Stored, mounted: Mounter, order: str, share: float) -> None:
    """A loader of eight processes gets each file whole and right, and the cache keeps to its size."""
    mount = mount_with(mounted, stored, share)
    began = time.monotonic()
    command = [sys.executable, loader.__file__, str(mount.path / "set"), str(stored.expected)]
    command += ["--shuffle", "3"] if order == "shuffled" else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    epoch = json.loads(done.stdout)
    assert (epoch["files"], epoch["size"]) == (SCALE.files, stored.size)
    cache = mount.status()["block_cache"]
    assert cache["bytes_used"] <= cache["capacity"]
    assert cache["verification_failures"] == 0
    report(
        f"loader, {order}, a cache of {share:.0%}",
        mount,
        began,
        files_a_second=round(epoch["files"] / epoch["seconds"]),
        **epoch,
    )


def checksums(directory: Path) -> list[str]:
    """Return what `find | xargs sha256sum` says of all files below a directory."""
    command = "find . -type f -print0 | xargs -0 -P 4 -n 100 sha256sum"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return sorted(done.stdout.splitlines())


def test_find_and_sha256sum(stored: Stored, mounted: Mounter) -> None:
    """`find | xargs sha256sum` of the mount says the same as of the files that were put."""
    mount = mount_with(mounted, stored, 0.1)
    began = time.monotonic()
    assert checksums(mount.path / "set") == checksums(stored.directory)
    report("sha256sum", mount, began)


def fio(*options: str) -> "subprocess.CompletedProcess[str]":
    """Run fio on all files of a directory or to write some: in steps of one size, with a checksum in each."""
    fixed = ["--ioengine=psync", f"--bs={STEP}", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"]
    command = ["fio", "--thread", *fixed, "--group_reporting", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def fio_read(directory: Path, output: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Let readers of fio read and verify each block of each file in random order."""
    reading = ("--readonly", "--rw=randread", f"--opendir={directory}", f"--numjobs={READERS}")
    return fio("--name=verify", *reading, "--output-format=json", f"--output={output}", *options)


@pytest.fixture(scope="module")
def written(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Files that fio wrote, small and large ones."""
    folder = tmp_path_factory.mktemp("fio")
    directory = folder / "files"
    directory.mkdir()
    for name, (count, size) in (("small", SCALE.fio_small), ("large", SCALE.fio_large)):
        done = fio(
            f"--name={name}", f"--directory={directory}", "--rw=write", "--do_verify=0", f"--nrfiles={count}",
            f"--filesize={size}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    put(f"{bucket}/fio", directory)
    return Stored(f"{bucket}/fio", directory, folder)


def test_fio_verifies_what_it_wrote(written: Stored, mounted: Mounter, tmp_path: Path) -> None:
    """What fio wrote before it was put, several readers of fio find on the mount, block by block in random order."""
    mount = mount_with(mounted, written, 0.1)
    began = time.monotonic()
    done = fio_read(mount.path / "set", tmp_path / "fio.json")
    assert done.returncode == 0, done.stderr
    job = json.loads((tmp_path / "fio.json").read_text())["jobs"][0]
    assert job["error"] == 0
    assert job["read"]["io_bytes"] == READERS * written.size
    report("fio", mount, began, rate=job["read"]["bw_bytes"])


def test_fio_would_notice(written: Stored, tmp_path: Path) -> None:
    """One wrong byte in a copy of the files makes fio fail: what passes above was looked at."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", written.directory, copy], check=True)
    victim = min(copy.iterdir())
    with victim.open("r+b") as file:
        file.seek(victim.stat().st_size - STEP // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    done = fio_read(copy, tmp_path / "fio.json")
    assert done.returncode != 0
    assert "verify failed" in done.stderr
