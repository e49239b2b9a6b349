"""Everything at once: a store that fails a third of its requests, aggregation under the readers, a spoilt cache."""

import contextlib
import random
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dasfs.dataset.aggregate import aggregate
from dasfs.dataset.aggregation_plan import AggregationPolicy, plan_aggregation
from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.names import DatasetKeys
from dasfs.stores import open_store
from tests.bulk import MIB, Readers, add_bulk, make_bulk, reading
from tests.ceph import Ceph
from tests.gateway_proxy import at_random, gateway_proxy, nothing
from tests.mounts import Mount, Mounter, wait_until

NOW = Grace(timedelta(minutes=-1), timedelta(minutes=-1), timedelta(minutes=-1))
PATIENCE_S = 90.0


@contextlib.contextmanager
def spoiling(cache: Path) -> Iterator[list[Path]]:
    """Write other bytes into the block files of a running mount, again and again; hand out the list of them."""
    ended = threading.Event()
    spoilt: list[Path] = []
    source = random.Random(3)

    def work() -> None:
        while not ended.wait(0.02):
            files = sorted((cache / "dasfs-cache" / "blocks").glob("??/*.blk"))
            if not files:
                continue
            path = source.choice(files)
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                size = path.stat().st_size
                for _ in range(1 + size // 100_000):
                    place = source.randrange(size + 1)
                    file.seek(place)
                    file.write(source.randbytes(50)[: size - place])  # a file that grew would be noticed at once
                spoilt.append(path)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield spoilt
    finally:
        ended.set()
        thread.join()


def aggregate_step_by_step(url: str, mount: Mount, readers: Readers) -> int:
    """Aggregate until nothing is due, collecting at once, each step while readers read; return the number of steps."""
    steps = 0
    policy = AggregationPolicy(target_size=16 * MIB, max_sources=20)
    with open_store(url) as store:
        dataset = Dataset(store, "set")
        while plans := plan_aggregation(dataset.snapshot().dataranges, policy):
            for plan in plans:
                seen = mount.status()["reads"] + 50
                aggregate(dataset, plan.dataranges)
                collect(store, "set", grace=NOW)
                wait_until(lambda seen=seen: readers.ended or mount.status()["reads"] > seen)  # type: ignore[misc]
                steps += 1
    return steps


@pytest.mark.timeout(240)  # two minutes on a machine that is ten times too busy
def test_every_byte_is_right(s3_url: str, ceph: Ceph, mounted: Mounter, tmp_path: Path) -> None:
    """Readers, one in random order, see errors at most: every byte that they get is right, and in the end they get all.

    Meanwhile the store fails a third of the mount's requests in all the ways that the proxy knows, everything is
    aggregated and what was there is deleted, and somebody writes into the block cache all the time.
    """
    bulk = make_bulk(80, [6 * MIB, 7 * MIB])
    with gateway_proxy(ceph.endpoint_url) as proxy, open_store(s3_url) as store:
        before = {DatasetKeys("set").tar(each.id) for each in add_bulk(store, "set", bulk).dataranges}
        mounted.endpoint_url, mounted.watchdog_s = proxy.url, 220.0
        mount = mounted(s3_url, options="verify=always,deadline=20", warnings=[".*"])
        files = bulk.write(tmp_path)
        directory = mount.path / "set"
        proxy.choose = at_random(5, 1 / 3)
        with reading(files, [directory], "--retry", "--whole") as readers, spoiling(mount.cache) as spoilt:
            assert aggregate_step_by_step(s3_url, mount, readers) > 4
            wait_until(lambda: readers.ended or all(count > 0 for count in proxy.troubles.values()), PATIENCE_S)
            answers = readers.stop(PATIENCE_S)
        assert [answer["problems"] for answer in answers] == [[], []]
        assert all(answer["passes"] > 0 for answer in answers)
        read = {each.key.removeprefix("some/prefix/") for each in proxy.tar_reads()}
        assert read & before, "nothing was read before it was aggregated"
        assert read - before, "nothing was read of what was aggregated"
        assert spoilt
        assert mount.status()["block_cache"]["verification_failures"] > 0
        proxy.choose = nothing
        with reading(files, [directory], "--once") as readers:
            assert [answer["problems"] for answer in readers.wait(PATIENCE_S)] == [[], []]
