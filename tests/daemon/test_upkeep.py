"""The daemon aggregates and collects by itself, and nobody who reads or writes notices."""

import os
import random
import re
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from dasfs.dataset.aggregation_plan import AggregationPolicy, plan_aggregation
from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Operation
from dasfs.dataset.verify import verify
from dasfs.stores import open_store
from tests import datasets
from tests.commands import succeed
from tests.daemons import make_store, once, write
from tests.mounts import in_thread, mounting, wait_until

KIB = 1 << 10
# Tiers of 32 KiB, 128 KiB and 512 KiB: some hundred small files go through all of them.
SMALL = {"target_size": "1MiB", "growth": 4, "interval": "1s"}
POLICY = AggregationPolicy(1 << 20, 4)
# Dataranges of 20 KiB, one after the other.
FINE = {"datarange_size": "20KiB", "datarange_age": "0.1s"}
SOON = {"interval": "1s", "removed": "2s"}


def make(count, seed=1, size=9000):
    """Return `count` files of up to `size` bytes, by their names."""
    content = random.Random(seed)
    return {f"{seed}/{k}.bin": content.randbytes(content.randrange(size)) for k in range(count)}


def snapshot(url):
    with open_store(url) as store:
        return Dataset(store, "d").snapshot()


def commits(url):
    with open_store(url) as store:
        return list(Dataset(store, "d").log.commits())


def keys_of(url):
    """Return the keys of all objects of dataranges, and of those that are live."""
    with open_store(url) as store:
        keys, live = Dataset(store, "d").keys, Dataset(store, "d").snapshot().dataranges
        named = {key(each.id) for each in live for key in (keys.tar, keys.index, keys.manifest)}
        return {info.key for info in store.list(keys.dataranges)}, named


def is_aggregated(url):
    """Return whether nothing more is due, and something was done."""
    live = snapshot(url).dataranges
    return live and not plan_aggregation(live, POLICY) and any(each.operation == "aggregate" for each in commits(url))


def test_what_it_wrote_is_aggregated_while_a_mount_reads(store_url, daemon_of, tmp_path):
    """Small dataranges become few by themselves, on each kind of store; a mount that reads sees every byte."""
    daemon = daemon_of(make_store(store_url), aggregation=SMALL, collection=SOON, **FINE)
    made = make(70)
    with mounting(tmp_path) as mounted:
        mount = mounted(store_url)
        daemon.start()
        write(daemon.directory, made)
        daemon.wait_empty()
        wait_until(lambda: is_aggregated(store_url))
        wait_until(lambda: len(mount.names("d")) == len(made))
        paths = [mount.path / "d" / name for name in mount.names("d")]
        found = sorted(in_thread(path.read_bytes) for path in paths)
        wait_until(lambda: (keys := keys_of(store_url))[0] == keys[1])
        again = sorted(in_thread(path.read_bytes) for path in paths)
    assert found == again == sorted(made.values())
    assert daemon.end() == 0
    assert daemon.contents() == once(made)
    assert re.search(
        r"d: joined \d+-\d+: \d+ dataranges, \d+ bytes \(\d+ copied in the store, \d+ fetched\)", daemon.log
    )
    assert re.search(r"d: collected \d+ objects, \d+ bytes, and 0 unfinished uploads; 0 unknown objects", daemon.log)


def test_a_byte_is_rewritten_at_most_once_a_tier(file_url, daemon_of):
    """A writer that makes many small dataranges has each byte rewritten no more often than there are tiers."""
    daemon = daemon_of(file_url, aggregation=SMALL, **FINE)
    daemon.start()
    for seed in range(12):
        write(daemon.directory, make(15, seed))
        daemon.wait_empty()
    wait_until(lambda: is_aggregated(file_url))
    daemon.end()
    added = dict.fromkeys(Operation, 0)
    rewritten = {}
    for commit in commits(file_url):
        added[commit.operation] += sum(each.tar_size for each in commit.add)
        for each in commit.add if commit.operation == "aggregate" else ():
            for number in range(each.first, each.last + 1):
                rewritten[number] = rewritten.get(number, 0) + 1
    assert added["upload"] > 500 * KIB
    assert max(rewritten.values()) <= len(POLICY.boundaries())
    assert added["aggregate"] <= len(POLICY.boundaries()) * added["upload"]


def test_two_daemons_aggregate_one_dataset(file_url, daemon_of):
    """Two daemons that write into one dataset and aggregate it: each step is done once, every file is there once."""
    first, second = (daemon_of(file_url, aggregation=SMALL, collection=SOON, **FINE) for _ in range(2))
    made = make(100, 1), make(100, 2)
    for daemon, files in zip((first, second), made, strict=True):
        daemon.start()
        write(daemon.directory, files)
    first.wait_empty()
    second.wait_empty()
    wait_until(lambda: is_aggregated(file_url))
    assert (first.end(), second.end()) == (0, 0)
    assert first.contents() == once(made[0] | made[1])
    removed = [each for commit in commits(file_url) for each in commit.remove]
    assert len(removed) == len(set(removed))


def test_killed_in_the_middle_of_upkeep(local_url, daemon_of):
    """kill -9 at seven moments of aggregation and collection: everything is there exactly once, and nothing is left."""
    # A line so slow that a step takes longer than a process lives.
    daemon = daemon_of(local_url, limits={"bandwidth": "300KiB"}, aggregation=SMALL, collection=SOON, **FINE)
    moments = random.Random(local_url[:4])
    made = {}
    for seed in range(7):
        made |= (new := make(12, seed))
        write(daemon.directory, new)
        daemon.start()
        with pytest.raises(AssertionError, match="in time"):
            wait_until(lambda: False, moments.uniform(0.2, 1.7))
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    daemon.limits = {}
    daemon.write_config()
    daemon.start()
    daemon.wait_empty()
    wait_until(lambda: is_aggregated(local_url))
    assert daemon.end() == 0
    assert daemon.contents() == once(made)
    with open_store(local_url) as store:
        collect(store, "d", grace=Grace(timedelta(0), timedelta(0), timedelta(0)))
        assert list(verify(store, "d", Dataset(store, "d").snapshot())) == []
    found, named = keys_of(local_url)
    assert found == named


def test_what_is_collected_and_what_stays(file_url, daemon_of, tmp_path):
    """Removed dataranges go after their grace, uploads of a week ago, too; what is live, young or unknown stays."""
    with open_store(file_url) as store:
        keys = Dataset(store, "d").keys
        for first in range(0, 4, 2):
            datasets.add(store, "d", first, [b"a", b"b"])
        old = datasets.upload_only(store, "d", 100, [b"aborted"], counter=50)
        young = datasets.upload_only(store, "d", 200, [b"on its way"], counter=51)
        store.put(f"{keys.dataranges}README", b"what is this?")
        removed = snapshot(file_url).dataranges[0].id
        Dataset(store, "d").delete_datarange(0, 1)
    top = Path(file_url.removeprefix("file://"))
    for path in (path for path in top.rglob("*") if path.is_file()):
        if str(young.id) not in path.name:
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 8 * 86400))
    daemon = daemon_of(file_url, aggregate=False, collection={"interval": "1s", "removed": "2s"})
    daemon.start()
    wait_until(lambda: sum(map(int, re.findall(r"d: collected (\d+) objects", daemon.log))) == 6)
    daemon.wait_log("d: collected .* 1 unknown objects are left")
    daemon.end()
    live = snapshot(file_url).dataranges[0].id
    stays = {f"{each}.{kind}" for each in (live, young.id) for kind in ("tar", "index", "manifest")}
    assert {path.name for path in top.rglob("dataranges/*")} == stays | {"README"}
    assert live not in (old.id, removed)


def test_neither_where_it_is_told_so(file_url, daemon_of):
    """With `aggregate = false` and `collect = false` a dataset is left as it is."""
    daemon = daemon_of(file_url, aggregation=SMALL, collection=SOON, aggregate=False, collect=False, **FINE)
    with open_store(file_url) as store:
        datasets.add(store, "d", 0, [b"removed"])
        Dataset(store, "d").clear()
    daemon.start()
    for seed in range(3):
        write(daemon.directory, make(20, seed))
        daemon.wait_empty()
    daemon.end()
    assert plan_aggregation(snapshot(file_url).dataranges, POLICY)
    assert {each.operation for each in commits(file_url)} <= {"create", "upload", "clear", "reserve"}
    found, named = keys_of(file_url)
    assert len(found - named) == 3


def test_a_step_ends_with_the_daemon(file_url, daemon_of):
    """SIGTERM in the middle of a step ends the daemon within seconds, and changes nothing; it is done next time."""
    with open_store(file_url) as store:
        for first in range(8):
            datasets.add(store, "d", first, [os.urandom(30_000)])
    before = snapshot(file_url)
    # Four seconds to fetch all, and four to send it.
    daemon = daemon_of(file_url, limits={"bandwidth": "60KiB"}, aggregation=SMALL)
    daemon.start()
    wait_until(lambda: any(f"-{7:020d}-" in key and key.endswith(".manifest") for key in keys_of(file_url)[0]))
    assert daemon.end() == 0
    assert snapshot(file_url) == before
    daemon.limits = {}
    daemon.write_config()
    daemon.start()
    wait_until(lambda: is_aggregated(file_url))
    daemon.end()
    with open_store(file_url) as store:
        assert list(verify(store, "d", Dataset(store, "d").snapshot())) == []


def test_new_intervals_and_sizes(file_url, daemon_of):
    """SIGHUP brings other sizes and intervals into effect at once, and restarts no dataset for them."""
    daemon = daemon_of(file_url, aggregation={"target_size": "20KiB"}, collection={"interval": "6h"}, **FINE)
    daemon.start()
    write(daemon.directory, make(60))
    daemon.wait_empty()
    before = len(snapshot(file_url).dataranges)
    daemon.tables = {"aggregation": SMALL, "collection": SOON}
    daemon.write_config()
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: is_aggregated(file_url))
    daemon.wait_log("d: collected")
    assert len(snapshot(file_url).dataranges) < before
    assert "again: 0 of 1 datasets changed" in daemon.log


def test_two_daemons_on_one_write_directory(file_url, daemon_of):
    """A second daemon with the same write directory takes nothing and says so; it goes on when the first has ended."""
    first = daemon_of(file_url)
    second = daemon_of(file_url, directory=str(first.directory))
    second.expected += ["empties the write directory"]
    first.start()
    write(first.directory, {"a": b"1"})
    first.wait_empty()
    second.start()
    second.wait_log(
        rf"another daemon \(process {first.process.pid}\) empties the write directory {first.directory}; end"
    )
    write(first.directory, {"b": b"2"})
    first.wait_empty()
    assert "committed" not in second.log
    assert sorted(os.listdir(first.directory)) == []
    assert succeed("daemon", "--config", str(first.config), "--check") == ""
    first.end()
    write(first.directory, {"c": b"3"})
    first.wait_empty()
    assert "committed 2-2" in second.log
    second.end()
    assert first.contents() == once({"a": b"1", "b": b"2", "c": b"3"})


def test_what_waits_in_the_journal_of_another_daemon(file_url, daemon_of):
    """A daemon that finds its write directory with another one touches none of the files that it once took there."""
    first = daemon_of(file_url, keep="1h")
    second = daemon_of(file_url, directory=str(first.directory), datarange_age="1h")
    second.expected += ["empties the write directory"]
    write(first.directory, {"a": b"1"})
    second.start()
    second.wait_taken(1)
    second.end()
    first.start()
    first.wait_log("committed 0-0")
    second.write_config(datarange_age="0s")
    second.start()
    second.wait_log("empties the write directory")
    assert second.end() == 0
    assert [path.name for path in first.files()] == ["a"]
