"""What is announced to a real mount is fetched ahead: how much of it, from a real store, and what becomes of it."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dasfs.dataset.model import Snapshot
from dasfs.stores import open_store
from tests import datasets
from tests.ceph import Ceph
from tests.gateway_proxy import GatewayProxy, Trouble, gateway_proxy
from tests.mounts import Mount, Mounter, dasfs, environment, errno_of, wait_until

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def gateway(s3_environment: Ceph, mounted: Mounter) -> Iterator[GatewayProxy]:
    """The gateway that mounts ask, which writes down what they do."""
    with gateway_proxy(s3_environment.endpoint_url) as proxy:
        mounted.endpoint_url = proxy.url
        yield proxy


def make(url: str, count: int, sizes: tuple[int, int], *, dataranges: int = 4, name: str = "set") -> Snapshot:
    """Write a dataset of `count` files of random bytes, each as large as one of `sizes`, in some dataranges."""
    source = random.Random(count)
    with open_store(url) as store:
        for k in range(dataranges):
            each = count // dataranges
            contents = [source.randbytes(source.randint(*sizes)) for _ in range(each)]
            snapshot = datasets.add(store, name, k * each, contents)
    return snapshot


def shuffled(count: int, seed: int = 1) -> list[int]:
    return random.Random(seed).sample(range(count), count)


def fetched(gateway: GatewayProxy) -> int:
    return sum(each.received for each in gateway.tar_reads())


def read(mount: Mount, numbers: Sequence[int], readers: int = 1, name: str = "set") -> int:
    """Read files in an order that `readers` threads share, so that the kernel keeps none; return how many bytes."""

    def size(number: int) -> int:
        with (mount.path / name / f"{number:020d}.bin").open("rb") as file:
            data = file.read()
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return len(data)

    with ThreadPoolExecutor(readers) as pool:
        return sum(pool.map(size, numbers))


def announced(mount: Mount) -> dict[str, Any]:
    (found,) = mount.status()["announced"]
    return dict(found)


def write_list(mounted: Mounter, numbers: Sequence[int]) -> Path:
    path = mounted.directory / "numbers.txt"
    path.write_text("".join(f"{number}\n" for number in numbers))
    return path


def prefetch(mounted: Mounter, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return dasfs("prefetch", *arguments, home=mounted.directory)


def summary(mounted: Mounter, *arguments: str | Path) -> dict[str, Any]:
    """Announce to the mount of the test: those of other tests may show a dataset of the same name."""
    done = prefetch(mounted, *arguments, "--json", "--mount", mounted.directory / "mnt")
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_a_whole_dataset(s3_url: str, gateway: GatewayProxy, mounted: Mounter) -> None:
    """Without numbers all of a dataset is fetched, each byte once in large pieces; readers need the store no more."""
    # The command finds the mount by itself: no other may show a dataset of this name.
    name = f"set-{uuid.uuid4().hex}"
    total = make(s3_url, 400, (20_000, 120_000), name=name).tar_size
    mount = mounted(s3_url)
    done = prefetch(mounted, name)
    assert done.returncode == 0
    assert done.stderr.startswith(f"{name}: 400 files in the cache of {mount.path}, ")
    assert 0.97 * total < fetched(gateway) <= total
    assert max(each.received for each in gateway.tar_reads()) >= MIB
    before = len(gateway.tar_reads())
    read(mount, shuffled(400), readers=4, name=name)
    assert len(gateway.tar_reads()) == before
    found = announced(mount)
    assert (found["state"], found["ready"], found["reads"], found["hits"]) == ("done", 400, 400, 400)


def test_a_range(s3_url: str, gateway: GatewayProxy, mounted: Mounter) -> None:
    """Of a range only the blocks that hold it are fetched; what does not exist in it is skipped and counted."""
    make(s3_url, 400, (50_000, 50_000))
    mount = mounted(s3_url)
    assert summary(mounted, "set", "90-109")["places"] == 20
    assert 20 * 50_000 <= fetched(gateway) <= 20 * 51_000 + 4 * 256 * KIB
    read(mount, range(90, 110))
    assert announced(mount)["hits"] == 20
    found = summary(mounted, "set", "390-1000000")
    assert (found["places"], found["gaps"], found["state"]) == (10, 1_000_001 - 400, "done")


def test_a_shuffled_epoch_that_fits_the_cache(s3_url: str, gateway: GatewayProxy, mounted: Mounter) -> None:
    """Eight readers that follow their announcement fetch each byte about once, and mostly find it there."""
    total = make(s3_url, 800, (20_000, 120_000)).tar_size
    mount = mounted(s3_url)
    order = shuffled(800)
    summary(mounted, "set", write_list(mounted, order), "--no-wait")
    read(mount, order, readers=8)
    assert fetched(gateway) <= 1.02 * total
    assert max(each.received for each in gateway.tar_reads()) >= MIB
    found = announced(mount)
    assert found["reads"] == 800
    assert found["hits"] >= 600
    before = len(gateway.tar_reads())
    read(mount, shuffled(800, seed=2), readers=8)
    assert len(gateway.tar_reads()) == before


@pytest.mark.parametrize("readers", [1, 8])
def test_a_cache_of_a_quarter(s3_url: str, gateway: GatewayProxy, mounted: Mounter, readers: int) -> None:
    """Where the dataset does not fit, blocks that hold what is read next are fetched, and hardly any other."""
    total = make(s3_url, 160, (700_000, 900_000)).tar_size
    mount = mounted(s3_url, "--cache-size", str(total // 4))
    order = shuffled(160)[:120]
    answer = summary(mounted, "set", write_list(mounted, order))
    assert answer["state"] == "waiting"
    assert 0 < answer["ready"] < 120
    assert fetched(gateway) <= total // 8 + 4 * MIB
    size = 0
    for place in range(0, 120, readers):
        # As a job does that computes something between two batches.
        wait_until(lambda last=place + readers - 1: announced(mount)["ready"] > last)
        size += read(mount, order[place : place + readers], readers)
    # A file lies in four or five blocks, of which it shares the first and the last.
    assert fetched(gateway) <= size * 1.45
    found = announced(mount)
    assert found["reads"] == found["hits"] == 120
    status = mount.status()["block_cache"]
    assert status["bytes_used"] <= total // 4
    assert status["hits"] > 20 * status["misses"]


def test_a_list_of_several_epochs(s3_url: str, gateway: GatewayProxy, mounted: Mounter) -> None:
    """Each epoch of a list is followed in its own order, from one end of a small cache to the other."""
    total = make(s3_url, 60, (700_000, 900_000)).tar_size
    mount = mounted(s3_url, "--cache-size", str(total // 2))
    epochs = [number for seed in range(3) for number in shuffled(60, seed)]
    summary(mounted, "set", write_list(mounted, epochs), "--no-wait")
    size = 0
    for place, number in enumerate(epochs):
        wait_until(lambda place=place: announced(mount)["ready"] > place)
        size += read(mount, [number])
    found = announced(mount)
    assert found["position"] >= 176
    assert found["hits"] >= 178
    assert fetched(gateway) <= size * 1.45


def test_training_and_validation_side_by_side(s3_url: str, gateway: GatewayProxy, mounted: Mounter) -> None:
    """Announcements of two datasets, and two of one dataset with names, are all followed."""
    make(s3_url, 80, (50_000, 90_000))
    make(s3_url, 40, (50_000, 90_000), name="val", dataranges=1)
    mount = mounted(s3_url)
    summary(mounted, "set", write_list(mounted, shuffled(80)))
    summary(mounted, "val")
    summary(mounted, "val", "0-9", "--name", "again")
    before = len(gateway.tar_reads())
    read(mount, shuffled(80))
    read(mount, range(40), name="val")
    assert len(gateway.tar_reads()) == before
    found = {(each["dataset"], each["name"]): each for each in mount.status()["announced"]}
    assert {key: each["hits"] for key, each in found.items()} == {
        ("set", ""): 80,
        ("val", ""): 40,
        ("val", "again"): 10,
    }


def test_an_attribute_announces(s3_url: str, gateway: GatewayProxy, mounted: Mounter) -> None:
    """Reading an attribute of a dataset's directory announces; without numbers it only tells, and it is not listed."""
    make(s3_url, 100, (20_000, 20_000))
    mount = mounted(s3_url)
    directory = mount.path / "set"
    assert os.getxattr(directory, "user.dasfs.prefetch") == b"nothing"
    assert not any("prefetch" in name for name in os.listxattr(directory))
    assert os.getxattr(directory, "user.dasfs.prefetch.0-49").startswith(b"set fetching places=50 ready=")
    wait_until(lambda: os.getxattr(directory, "user.dasfs.prefetch") == b"set done places=50 ready=50 reads=0 hits=0")
    first = announced(mount)["id"]
    os.getxattr(directory, "user.dasfs.prefetch.0-49")
    assert announced(mount)["id"] == first
    assert os.getxattr(mount.path, "user.dasfs.prefetch.set.all").startswith(b"set ")
    wait_until(lambda: announced(mount)["ready"] == 100)
    assert os.getxattr(mount.path, "user.dasfs.prefetch.set.cancel") == b"nothing"
    before = len(gateway.tar_reads())
    read(mount, shuffled(100))
    assert len(gateway.tar_reads()) == before


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("set.5-3", errno.EINVAL),
        ("set.x", errno.EINVAL),
        ("none.0-1", errno.ENOENT),
        ("?.-", errno.EINVAL),
        ("set.9-99", errno.ENOENT),
    ],
)
def test_attributes_that_can_not_be(local_url: str, mounted: Mounter, name: str, number: int) -> None:
    """A range that is none is EINVAL, and a dataset or numbers that are not there are ENOENT; the mount goes on."""
    make(local_url, 8, (10, 10), dataranges=1)
    mount = mounted(local_url, warnings=["getxattr"])
    assert errno_of(os.getxattr, mount.path, f"user.dasfs.prefetch.{name}") == number
    assert errno_of(os.getxattr, mount.path / "set", "user.dasfs.prefetchx") == errno.ENODATA
    assert errno_of(os.getxattr, mount.path / "set" / f"{0:020d}.bin", "user.dasfs.prefetch.0-1") == errno.ENODATA
    assert read(mount, range(8)) == 80


def test_a_mount_of_one_dataset(local_url: str, mounted: Mounter) -> None:
    """With `--dataset` the root is the dataset's directory, and no other dataset can be announced."""
    make(local_url, 8, (1000, 1000))
    make(local_url, 8, (1000, 1000), name="other")
    mount = mounted(local_url, "--dataset", "set")
    assert os.getxattr(mount.path, "user.dasfs.prefetch.all").startswith(b"set ")
    assert summary(mounted, "set")["state"] == "done"
    done = prefetch(mounted, "other", "--mount", mount.path)
    assert (done.returncode, done.stderr) == (1, f"dasfs: {mount.path}: this mount shows no dataset other\n")


def test_ctrl_c_ends_fetching(s3_url: str, gateway: GatewayProxy, mounted: Mounter) -> None:
    """Ctrl-C ends the command and what it began: what is in flight comes, and no more; the mount goes on."""
    total = make(s3_url, 400, (300_000, 500_000)).tar_size
    mount = mounted(s3_url)
    command = [sys.executable, "-m", "dasfs", "prefetch", "set", "--mount", str(mount.path)]
    command.append(str(write_list(mounted, shuffled(400)[:150])))
    slow = 0.2

    def choose(method: str, path: str) -> None:
        if path.endswith(".tar"):
            gateway.ended.wait(slow)

    gateway.choose = choose
    process = subprocess.Popen(command, env=environment(mounted.directory), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(gateway.tar_reads()) > 4)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, len(said.strip().splitlines())) == (130, 1)
    assert "the mount fetches no more of it" in said
    assert mount.status()["announced"] == []
    wait_until(lambda: mount.status()["block_cache"]["in_flight"] == 0)
    count = len(gateway.tar_reads())
    gateway.choose = lambda method, path: None
    assert fetched(gateway) < total / 2
    read(mount, [0])
    assert len(gateway.tar_reads()) <= count + 3


def test_cancel_and_replace(s3_url: str, gateway: GatewayProxy, mounted: Mounter) -> None:
    """`--cancel` drops what was announced; the next announcement of a dataset takes the place of the one before."""
    make(s3_url, 80, (10_000, 10_000))
    mount = mounted(s3_url)
    first = summary(mounted, "set", "0-9")
    second = summary(mounted, "set", "10-19")
    assert first["id"] != second["id"] == announced(mount)["id"]
    assert summary(mounted, "set", "--cancel")["cancelled"] == 1
    assert mount.status()["announced"] == []
    done = prefetch(mounted, "set", "--cancel", "--mount", mount.path)
    assert (done.returncode, done.stderr) == (0, f"set: nothing was announced to {mount.path}\n")
    metrics = (mount.path / ".dasfs" / "metrics").read_text()
    assert f'dasfs_mount_announced_datapoints_total{{mountpoint="{mount.path}"}} 20.0' in metrics


def test_a_store_that_is_away_for_a_while(s3_url: str, gateway: GatewayProxy, mounted: Mounter) -> None:
    """While the store refuses, nothing is lost: fetching goes on when it is back, and all of it comes."""
    make(s3_url, 200, (100_000, 200_000))
    mount = mounted(s3_url, "-o", "deadline=3", warnings=["can't be read", "store"])
    assert len(mount.names("set")) == 200
    gateway.choose = lambda method, path: Trouble.REFUSE if path.endswith(".tar") or "list-type" in path else None
    command = [sys.executable, "-m", "dasfs", "prefetch", "set", "--json", "--mount", str(mount.path)]
    process = subprocess.Popen(
        command, env=environment(mounted.directory), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: mount.status()["announced"] and announced(mount)["state"] == "away")
    gateway.choose = lambda method, path: None
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert json.loads(out)["state"] == "done"
    assert json.loads(out)["failed"] == 0
