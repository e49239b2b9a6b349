"""Thousands of dataranges become a few while everything is read through two mounts, and nobody notices.

A small edition runs everywhere; `DASFS_SCALE=full` is ten thousand small dataranges and a hundred of 5 to 40 MiB, which
takes some minutes and 10 GiB of memory. What it measured goes to stdout: run it with `pytest -s`.
"""

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from dasfs.dataset.aggregation_plan import plan_aggregation
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Snapshot
from dasfs.formats.manifest import Manifest, Segment
from dasfs.names import DatarangeId, DatasetKeys
from dasfs.stores import Store, open_store
from tests.bulk import MIB, Bulk, add_bulk, make_bulk, reading
from tests.ceph import Ceph
from tests.commands import COMMAND, environment
from tests.gateway_proxy import Exchange, gateway_proxy
from tests.mounts import Mount, Mounter, wait_until

LARGE = 5 * MIB


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of it. `targets` are the target sizes of aggregations one after another."""

    small: int
    large: int
    largest: int
    targets: tuple[str, ...]
    patience_s: float


SCALES = {
    "small": Scale(300, 6, 8 * MIB, ("24MiB", "1GiB"), 100),
    "full": Scale(10_000, 100, 40 * MIB, ("1GiB",), 3600),
}
SCALE = SCALES[os.environ.get("DASFS_SCALE", "small")]
pytestmark = pytest.mark.timeout(SCALE.patience_s + 20)


@pytest.fixture(scope="module")
def bulk() -> Bulk:
    source = random.Random(4)
    sizes = [source.randrange(LARGE + 4096, SCALE.largest) for _ in range(SCALE.large)]
    return make_bulk(SCALE.small, sizes, large_first=SCALE.large < 100)


@dataclass(slots=True)
class Measured:
    """A command that ran to its end: what it answered, how long it took, and the most memory that it had."""

    answer: Any
    seconds: float
    memory: int


def run(*arguments: str, **variables: str) -> Measured:
    """Run a command with `--json`, which has to work."""
    began = time.monotonic()
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
    )
    memory = 0
    try:
        with ThreadPoolExecutor(1) as pool:
            output = pool.submit(process.communicate, timeout=SCALE.patience_s)
            while not output.done():
                with contextlib.suppress(psutil.Error):
                    memory = max(memory, psutil.Process(process.pid).memory_info().rss)
                wait([output], timeout=0.1)
            out, err = output.result()
    finally:
        process.kill()
    assert process.returncode == 0, err.decode()
    return Measured(json.loads(out), time.monotonic() - began, memory)


@dataclass(frozen=True, slots=True)
class Scene:
    """Two mounts of one store, and what is read through them."""

    url: str
    bulk: Bulk
    files: tuple[Path, Path]
    mounts: tuple[Mount, Mount]

    @property
    def directories(self) -> list[Path]:
        return [mount.path / "set" for mount in self.mounts]

    def aggregate_all(self, collect: Sequence[str], **variables: str) -> list[Measured]:
        """Aggregate until nothing is due, for each of the target sizes, and collect after each."""
        steps = []
        for target in SCALE.targets:
            command = ("aggregate", "set", "--store", self.url, "--target-size", target)
            steps.append(run(*command, **variables))
            run("collect", "set", "--store", self.url, *collect, **variables)
        with open_store(self.url) as store:
            assert plan_aggregation(Dataset(store, "set").snapshot().dataranges) == []
        return steps

    def read_once(self) -> None:
        """Read and check every datapoint through each mount."""
        with reading(self.files, self.directories, "--once") as readers:
            check(readers.wait(SCALE.patience_s))

    def wait_for(self, dataranges: int) -> None:
        for mount in self.mounts:
            wait_until(lambda mount=mount: mount.status()["datasets"]["set"]["dataranges"] == dataranges)  # type: ignore[misc]


def check(answers: Sequence[dict[str, Any]]) -> None:
    """Fail where a reader saw an error or a wrong byte, or read nothing."""
    assert [answer["problems"] for answer in answers] == [[]] * len(answers)
    assert all(answer["files"] > 0 for answer in answers)


Begin = Callable[..., Scene]


@pytest.fixture
def begin(store_url: str, tmp_path: Path, bulk: Bulk, mounted: Mounter) -> Begin:
    """A function that makes the dataset and mounts it twice; the first mount asks `endpoint` if there is one."""

    def start(refresh_s: float, endpoint: str | None = None) -> Scene:
        with open_store(store_url) as store:
            add_bulk(store, "set", bulk)
        mounted.watchdog_s = SCALE.patience_s
        mounts = []
        for name in ("one", "two"):
            mounted.endpoint_url = endpoint if name == "one" else None
            mounts.append(mounted(store_url, name=name, cache=tmp_path / f"cache-{name}", refresh_s=refresh_s))
        return Scene(store_url, bulk, bulk.write(tmp_path), (mounts[0], mounts[1]))

    return start


def large_bytes(store: Store, exchanges: Iterable[Exchange], large: Set[DatarangeId]) -> int:
    """Return how many of the bytes that `exchanges` brought were first uploaded in one of the `large` dataranges."""
    keys, found = DatasetKeys("set"), 0
    segments: dict[str, tuple[Segment, ...]] = {}
    for each in exchanges:
        key = each.key[each.key.index(keys.root) :]
        parsed = keys.parse_datarange(key)
        assert parsed is not None
        assert each.range is not None
        if key not in segments:
            segments[key] = Manifest.decode(store.get(keys.manifest(parsed[0]))).segments
        start, end = each.range
        for segment in segments[key]:
            if segment.origin in large:
                found += max(0, min(end, segment.offset + segment.length) - max(start, segment.offset))
    return found


def report(
    scene: Scene,
    steps: Sequence[Measured],
    answers: Sequence[dict[str, Any]],
    before: Snapshot,
    after: Snapshot,
    **figures: int,
) -> None:
    """Print what was measured, as one JSON object."""
    aggregations = [
        {
            "seconds": round(each.seconds, 1),
            "memory": each.memory,
            "steps": len(each.answer["steps"]),
            "copied": sum(step["copied"] for step in each.answer["steps"]),
            "fetched": sum(step["fetched"] for step in each.answer["steps"]),
        }
        for each in steps
    ]
    mounts = [
        {
            "memory": psutil.Process(mount.process.pid).memory_info().rss,
            "block_cache": mount.status()["block_cache"],
        }
        for mount in scene.mounts
    ]
    document = {
        "dataranges": [len(before.dataranges), len(after.dataranges)],
        "bytes": scene.bulk.size,
        "aggregations": aggregations,
        "mounts": mounts,
        "readers": answers,
        **figures,
    }
    print(json.dumps(document, indent=1))


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_readers_of_two_mounts_do_not_notice(begin: Begin) -> None:
    """While all is aggregated and collected with the usual grace, no reader sees an error or a wrong byte."""
    scene = begin(refresh_s=0.2)
    with reading(scene.files, scene.directories) as readers:
        scene.aggregate_all(())
        check(readers.stop())
    scene.read_once()


@pytest.mark.parametrize("store_url", ["file"], indirect=True)
def test_readers_go_on_where_everything_went(begin: Begin) -> None:
    """Mounts that hear of nothing by themselves, and find every object gone, go on in the new ones without an error."""
    scene = begin(refresh_s=86400)
    with reading(scene.files, scene.directories) as readers:
        scene.aggregate_all(("--removed", "0"))
        check(readers.stop())
    scene.read_once()


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_large_ones_stay_where_they_are(begin: Begin, ceph: Ceph) -> None:
    """Of the bytes of large ones less than 1 % pass through the machine that aggregates; a mount fetches none again.

    What the store was asked for says so, in either direction. The mount had read them before.
    """
    with gateway_proxy(ceph.endpoint_url) as machine, gateway_proxy(ceph.endpoint_url) as mount:
        scene = begin(refresh_s=0.2, endpoint=mount.url)
        with open_store(scene.url) as store:
            before = Dataset(store, "set").snapshot()
            large = {each.id: each.tar_size for each in before.dataranges if each.tar_size >= LARGE}
            scene.read_once()
            seen = len(mount.tar_reads())
            with reading(scene.files, scene.directories) as readers:
                steps = scene.aggregate_all((), AWS_ENDPOINT_URL=machine.url)
                answers = readers.stop()
                check(answers)
            scene.read_once()
            after = Dataset(store, "set").snapshot()
            again = large_bytes(store, mount.tar_reads()[seen:], large.keys())
            fetched = large_bytes(store, machine.tar_reads(), large.keys())
            received = sum(each.received for each in machine.tar_reads())
            sent = sum(each.sent for each in machine.exchanges if "/log/" not in each.key)
            small = received - fetched
            report(scene, steps, answers, before, after, large=sum(large.values()), fetched=fetched, sent=sent)
            assert len(after.dataranges) < 30  # what waits for more is among them
            assert again == 0
            assert fetched < sum(large.values()) / 100
            assert sent - small < sum(large.values()) / 100
