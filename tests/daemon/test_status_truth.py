"""The status tells the truth all along: while the store is away, after a restart, and of what somebody has to do."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from dasfs.dataset.aggregate import aggregate
from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from dasfs_daemon.known import KnownPaths
from tests import datasets
from tests.commands import dasfs
from tests.daemons import Daemon, once, write
from tests.mounts import wait_until


def dataset_state(daemon: Daemon) -> dict[str, Any]:
    """Return what the daemon says of its dataset."""
    state: dict[str, Any] = daemon_state(daemon)["datasets"][0]
    return state


def daemon_state(daemon: Daemon) -> dict[str, Any]:
    answer = dasfs("status", "--json", "--config", str(daemon.config))
    state: dict[str, Any] = json.loads(answer.out)["daemon"]["state"]
    return state


def problems(state: dict[str, Any]) -> list[str]:
    return [each["key"] for each in state["problems"]]


def make_files(count: int, start: int = 0) -> dict[str, bytes]:
    return {f"{k}.bin": bytes(100) for k in range(start, start + count)}


def test_the_backlog_while_the_store_is_away(daemon_of: Callable[..., Daemon], file_url: str, tmp_path: Path) -> None:
    """Files that arrive while the store is away are counted as they come, from the start on and later, too."""
    store, hidden = tmp_path / "store", tmp_path / "hidden"
    daemon = daemon_of(file_url)
    daemon.expected += ["WARNING: d: "]
    store.rename(hidden)
    write(daemon.directory, make_files(7))
    daemon.start()
    wait_until(lambda: dataset_state(daemon)["backlog"]["files"] == 7)
    hidden.rename(store)
    daemon.wait_empty()
    wait_until(lambda: dataset_state(daemon)["phase"] == "running")
    assert dataset_state(daemon)["backlog"] == {"files": 0, "size": 0, "oldest": None}
    store.rename(hidden)
    write(daemon.directory, make_files(2, 10))
    wait_until(lambda: dataset_state(daemon)["phase"] == "waiting")
    write(daemon.directory, make_files(3, 20))
    wait_until(lambda: dataset_state(daemon)["backlog"]["files"] == 5)
    state = dataset_state(daemon)
    assert state["backlog"]["size"] == 500
    assert state["backlog"]["oldest"] is not None
    hidden.rename(store)
    daemon.wait_empty()
    assert daemon.contents() == once(make_files(7) | make_files(2, 10) | make_files(3, 20))


def test_the_backlog_of_a_daemon_before(daemon_of: Callable[..., Daemon], file_url: str, tmp_path: Path) -> None:
    """What a daemon took and did not commit is the backlog of the next one, also while that can't reach the store."""
    daemon = daemon_of(file_url, datarange_age="1h", datarange_size="1GiB")
    daemon.expected += ["WARNING: d: "]
    daemon.start()
    write(daemon.directory, make_files(4))
    wait_until(lambda: dataset_state(daemon)["waiting"]["files"] == 4)
    daemon.end()
    (tmp_path / "store").rename(tmp_path / "hidden")
    daemon.start()
    wait_until(lambda: dataset_state(daemon)["backlog"]["files"] == 4)
    (tmp_path / "hidden").rename(tmp_path / "store")


def test_rejected_files_are_told_at_once(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """A rejected file is a problem of the status at once, and none any more soon after it was taken out; others go on.

    A `.txt` file is a file like others, and not a reason.
    """
    daemon = daemon_of(file_url, scan_interval="1h")
    daemon.expected += ["reject"]
    daemon.start()
    wait_until(lambda: dataset_state(daemon)["counters"]["scans"] == 1)
    write(daemon.directory, {f"{2**63:020d}.txt": b"1", f"{2**63:020d}.jpg": b"2"})
    wait_until(lambda: "rejected" in problems(dataset_state(daemon)))
    state = wait_until(
        lambda: (state := dataset_state(daemon))["problems"][0]["message"].startswith("2 rejected files") and state
    )
    assert state["phase"] == "running"
    write(daemon.directory, {"other": b"3"})
    wait_until(lambda: dataset_state(daemon)["counters"]["committed_files"] == 1)
    shutil.rmtree(daemon.rejected)
    wait_until(lambda: problems(dataset_state(daemon)) == [], 60)


def test_a_clash_is_told_at_once(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """So is a file that is rejected for what the dataset has."""
    with open_store(file_url) as store:
        datasets.add(store, "d", 5, [b"one"])
    daemon = daemon_of(file_url, scan_interval="1h")
    daemon.expected += ["reject"]
    daemon.start()
    wait_until(lambda: dataset_state(daemon)["counters"]["scans"] == 1)
    write(daemon.directory, {f"{5:020d}.bin": b"another"})
    wait_until(lambda: problems(dataset_state(daemon)) == ["rejected"])


def test_a_directory_that_is_not_configured_any_more(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """Files of a directory that was taken out of the configuration are a problem until it is there again."""
    daemon = daemon_of(file_url, datarange_age="1h", datarange_size="1GiB")
    daemon.expected += ["is not configured any more"]
    daemon.start()
    write(daemon.directory, make_files(1))
    wait_until(lambda: dataset_state(daemon)["waiting"]["files"] == 1)
    daemon.end()
    (daemon.home / "other").mkdir()
    daemon.write_config(directory=str(daemon.home / "other"))
    daemon.start()
    (problem,) = daemon_state(daemon)["problems"]
    assert problem["key"] == "leftovers"
    assert str(daemon.directory) in problem["message"]
    daemon.end()
    daemon.write_config(datarange_age="0.2s")
    daemon.start()
    daemon.wait_empty()
    assert daemon_state(daemon)["problems"] == []


def test_a_spool_directory_that_is_removed(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """Somebody who tidies up removes the empty spool directory: it is made again, and all goes on."""
    daemon = daemon_of(file_url)
    daemon.start()
    shutil.rmtree(daemon.home / "state" / "spool")
    assert daemon_state(daemon)["free_disk"] > 0
    shutil.rmtree(daemon.home / "state" / "spool")
    write(daemon.directory, make_files(3))
    daemon.wait_empty()
    assert daemon.contents() == once(make_files(3))


def test_a_spool_directory_that_can_not_be_made(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """Where something else is in its place, the status says so; once that is gone all goes on."""
    daemon = daemon_of(file_url)
    daemon.expected += ["spool: "]
    daemon.start()
    spool = daemon.home / "state" / "spool"
    os.rename(spool, daemon.home / "state" / "aside")
    spool.symlink_to("/proc/self/nowhere/spool")
    write(daemon.directory, make_files(3))
    wait_until(lambda: problems(dataset_state(daemon)) == ["disk"])
    state = daemon_state(daemon)
    assert state["free_disk"] == 0
    assert state["datasets"][0]["backlog"]["files"] == 3
    spool.unlink()
    daemon.wait_empty()


def test_another_spool_directory_needs_a_restart(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """A SIGHUP that would move the spool directory is told with the key, and what was before stays."""
    daemon = daemon_of(file_url)
    daemon.expected += ["the old configuration stays"]
    daemon.start()
    daemon.config.write_text(f'spool_directory = "{daemon.home}/other"\n{daemon.config.read_text()}')
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log("the old configuration stays: spool_directory can only change at a restart")
    assert problems(daemon_state(daemon)) == ["configuration"]


def test_dataranges_that_are_gone_are_forgotten(file_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of paths does not grow with every datarange that ever was; what it knows of paths stays."""
    monkeypatch.setattr("dasfs_daemon.known.MAX_GONE", 8)
    known = KnownPaths(str(tmp_path / "paths.db"))
    with open_store(file_url) as store:
        dataset = Dataset(store, "d")
        for k in range(12):
            datasets.add(store, "d", k, [b"x"], names={k: f"f{k}"})
        before = dataset.snapshot()
        known.update(dataset, before)
        assert count_seen(tmp_path) == 12
        aggregate(dataset, before.dataranges)
        known.update(dataset, dataset.snapshot())
        assert count_seen(tmp_path) == 1
        assert [each.number for each in known.candidates(before.dataset_id, [(b"f3", 1)])[0]] == [3]
    known.close()


def count_seen(directory: Path) -> int:
    with contextlib.closing(apsw.Connection(str(directory / "paths.db"))) as db:
        count: int = db.execute("SELECT count(*) FROM seen").get
        return count
