"""What goes wrong around a running daemon: nothing is lost, it is told, and when it is over the daemon goes on."""

import os
import signal
import sqlite3
import subprocess

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from tests import datasets
from tests.commands import COMMAND, dasfs, environment
from tests.daemons import once, write
from tests.mounts import wait_until


def in_journal(daemon):
    """Return how many files the journal knows."""
    with sqlite3.connect(f"file:{daemon.home}/state/journal.db?mode=ro", uri=True) as db:
        count = db.execute("SELECT count(*) FROM file").fetchone()[0]
    db.close()
    return count


def test_a_file_that_is_still_being_written(file_url, daemon_of):
    """A file that is open for writing is not taken, however long nothing is written to it; then it is taken whole."""
    daemon = daemon_of(file_url, scan_interval="0.2s")
    daemon.start()
    with (daemon.directory / "slow").open("wb") as file:
        file.write(b"first")
        file.flush()
        for k in range(5):
            write(daemon.directory, {f"other{k}": b"x"})
            wait_until(lambda k=k: not (daemon.directory / f"other{k}").exists())
        assert (daemon.directory / "slow").exists()
        file.write(b" and last")
    daemon.wait_empty()
    assert daemon.contents() == once({"slow": b"first and last"} | {f"other{k}": b"x" for k in range(5)})


def test_a_file_that_changes_or_goes_after_it_was_taken(file_url, daemon_of):
    """What changed is packed as it is then, what vanished is left out, and their neighbours are packed once."""
    daemon = daemon_of(file_url, datarange_age="1.5s")
    made = {f"{k}": bytes([k]) * 50 for k in range(20)}
    write(daemon.directory, made)
    daemon.start()
    wait_until(lambda: in_journal(daemon) == 20)
    (daemon.directory / "3").write_bytes(b"another content")
    (daemon.directory / "4").unlink()
    daemon.wait_empty()
    wait_until(lambda: in_journal(daemon) == 0)
    del made["4"]
    assert daemon.contents() == once(made | {"3": b"another content"})


def test_a_store_that_is_away(file_url, daemon_of, tmp_path):
    """While the store is away everything is kept and one line says so; when it is back everything arrives."""
    daemon = daemon_of(file_url)
    daemon.expected += ["WARNING: d: .*store"]
    daemon.start()
    os.rename(tmp_path / "store", tmp_path / "away")
    made = {f"{k}": bytes([k]) * 50 for k in range(10)}
    write(daemon.directory, made)
    daemon.wait_log("WARNING: d: ")
    assert len(daemon.files()) == 10
    daemon.end()
    daemon.start()
    os.rename(tmp_path / "away", tmp_path / "store")
    daemon.wait_empty()
    assert daemon.contents() == once(made)
    assert daemon.log.count("WARNING") <= 4


def test_a_write_directory_that_is_away(file_url, daemon_of):
    """A missing write directory is told and waited for; one that is replaced is watched again."""
    daemon = daemon_of(file_url)
    daemon.expected += ["the write directory .* is missing"]
    daemon.directory.rmdir()
    daemon.start()
    daemon.wait_log("in is missing; mount it, or run: mkdir -p")
    write(daemon.directory, {"a": b"1"})
    daemon.wait_empty()
    assert daemon.contents() == once({"a": b"1"})


def test_what_can_never_be_packed_is_rejected(file_url, daemon_of):
    """A number that is taken by another content, and impossible names, go to `.rejected` with the reason beside."""
    with open_store(file_url) as store:
        datasets.add(store, "d", 5, [b"there already"])
    daemon = daemon_of(file_url)
    daemon.expected += ["is rejected", "rejected files? (is|are) in"]
    clash, huge, long = f"{5:020d}.bin", f"{10**20 - 1}.bin", f"{6:020d}.{'e' * 90}"
    write(daemon.directory, {f"sub/{clash}": b"another", huge: b"1", long: b"2", "good": b"3"})
    write(daemon.directory, {f"same/{clash}": b"there already"})
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == once({"good": b"3", clash: b"there already"})
    assert (daemon.rejected / "sub" / clash).read_bytes() == b"another"
    assert "datapoint 5 is there already with another content" in (daemon.rejected / f"sub/{clash}.txt").read_text()
    assert "above 9223372036854775807" in (daemon.rejected / f"{huge}.txt").read_text()
    assert (daemon.rejected / long).read_bytes() == b"2"
    assert not (daemon.rejected / "same").exists()


def test_the_last_copy_is_not_removed(file_url, daemon_of, tmp_path):
    """A file whose object the store lost is no duplicate, and is not removed: it is packed again, or rejected."""
    daemon = daemon_of(file_url)
    daemon.expected += ["is rejected", "rejected files? (is|are) in"]
    files = {"a": b"1", f"{9:020d}.x": b"2"}
    write(daemon.directory, files)
    daemon.start()
    daemon.wait_empty()
    for path in (tmp_path / "store").rglob("*.tar"):
        path.unlink()
    write(daemon.directory, files)
    daemon.wait_empty()
    assert (daemon.rejected / f"{9:020d}.x").read_bytes() == b"2"
    assert "the store does not have the objects of 9-9" in (daemon.rejected / f"{9:020d}.x.txt").read_text()
    assert len(list((tmp_path / "store").rglob("*.tar"))) == 1


def test_numbers_that_another_writer_took(file_url, daemon_of):
    """Where another writer commits our reserved numbers before us, our files get other ones."""
    daemon = daemon_of(file_url, datarange_age="1s")
    with open_store(file_url) as store:
        write(daemon.directory, {"a": b"1", "b": b"2"})
        daemon.start()
        wait_until(lambda: in_journal(daemon) == 2)
        # Their numbers will be 0 and 1, unless somebody has these by then.
        datasets.add(store, "d", 0, [b"x", b"y", b"z"])
        daemon.wait_empty()
        assert Dataset(store, "d").snapshot().count == 5
    found = daemon.contents()
    assert (found["a"], found["b"]) == ([b"1"], [b"2"])


def test_a_dataset_that_was_created_anew(file_url, daemon_of):
    """When a dataset is deleted and created anew, what is not committed goes to the new one, with new numbers."""
    daemon = daemon_of(file_url)
    daemon.expected += ["was deleted"]
    daemon.start()
    write(daemon.directory, {"a": b"1"})
    daemon.wait_empty()
    with open_store(file_url) as store:
        Dataset(store, "d").delete()
        write(daemon.directory, {"b": b"2"})
        daemon.wait_log("WARNING: d: .*was deleted")
        Dataset(store, "d").log.create()
    daemon.wait_empty(60)
    assert daemon.contents() == once({"b": b"2"})


def test_a_disk_that_is_almost_full(file_url, daemon_of):
    """Below the minimum of free disk nothing is packed, and it is told; with a lower minimum it goes on by itself."""
    daemon = daemon_of(file_url, limits={"minimum_free_disk": "1000TiB"})
    daemon.expected += ["bytes free"]
    write(daemon.directory, {"a": b"1"})
    daemon.start()
    daemon.wait_log("WARNING: d: .* bytes free and needs .*make room, or lower limits.minimum_free_disk")
    assert daemon.files() != []
    daemon.limits = {"minimum_free_disk": "1MiB"}
    daemon.write_config()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_empty()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_soon(file_url, daemon_of, number):
    """SIGTERM and SIGINT end the daemon with code 0, also in the middle of an upload; the rest is done next time."""
    daemon = daemon_of(file_url, limits={"bandwidth": 1000})
    write(daemon.directory, {f"{k}": os.urandom(30_000) for k in range(10)})
    daemon.start()
    wait_until(lambda: list((daemon.home.parent / "store").rglob("*.manifest")))
    assert daemon.end(number) == 0
    assert len(daemon.files()) == 10
    daemon.limits = {}
    daemon.write_config()
    daemon.start()
    daemon.wait_empty()
    assert len(daemon.contents()) == 10


def test_a_new_configuration(file_url, daemon_of):
    """SIGHUP brings a new configuration into effect; a wrong one is told with its line, and the old one stays."""
    daemon = daemon_of(file_url)
    daemon.expected += ["the old configuration stays"]
    daemon.start()
    daemon.write_config(settle="soon")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log(r"the old configuration stays: .*daemon.toml:9: datasets.d.settle: 'soon' is not a time")
    daemon.write_config(ignore=["*.skip"])
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log("read .* again: 1 of 1 datasets changed")
    write(daemon.directory, {"a.skip": b"1", "b.tmp": b"2"})
    wait_until(lambda: [path.name for path in daemon.files()] == ["a.skip"])


def test_two_daemons(file_url, daemon_of):
    """A second daemon with the same state directory ends at once, with one line that names the first."""
    daemon = daemon_of(file_url)
    daemon.start()
    answer = dasfs("daemon", "--config", str(daemon.config))
    assert answer.code == 1
    assert f"another daemon (process {daemon.process.pid}) uses" in answer.message


@pytest.mark.parametrize("damage", ["garbage", "version", "foreign"])
def test_a_journal_that_can_not_be_trusted(file_url, daemon_of, damage):
    """A journal that is damaged, of another version, or not ours stops the daemon; one line says what to do."""
    daemon = daemon_of(file_url)
    daemon.start()
    daemon.end()
    journal = daemon.home / "state" / "journal.db"
    if damage == "garbage":
        journal.write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    else:
        subprocess.run(["rm", "-f", f"{journal}-wal", f"{journal}-shm"], check=True)
        with sqlite3.connect(journal) as db:
            db.execute("PRAGMA user_version = 99" if damage == "version" else "PRAGMA application_id = 1")
        db.close()
    answer = dasfs("daemon", "--config", str(daemon.config))
    assert answer.code == 1
    assert str(journal) in answer.message
    assert "move it away" in answer.message or "version 99" in answer.message


def test_a_directory_that_is_not_watched_any_more(file_url, daemon_of):
    """Files of another directory that were on their way are told of when that is no longer configured."""
    daemon = daemon_of(file_url, datarange_age="1h")
    daemon.expected += ["is not configured any more"]
    daemon.start()
    write(daemon.directory, {"a": b"1"})
    wait_until(lambda: in_journal(daemon) == 1)
    daemon.end()
    (daemon.home / "other").mkdir()
    daemon.write_config(directory=str(daemon.home / "other"))
    daemon.start()
    daemon.wait_log(f"1 files of d are on their way from {daemon.directory}")
    assert (daemon.directory / "a").read_bytes() == b"1"


def test_a_directory_that_was_filled_before_it_was_watched(file_url, daemon_of):
    """Files that came before anybody watched their directory are found by a scan."""
    daemon = daemon_of(file_url, scan_interval="0.3s")
    daemon.start()
    # Made and filled before anybody can watch it.
    script = "mkdir -p a/b/c/d/e && for k in 1 2 3; do echo $k > a/b/c/d/e/$k; done"
    subprocess.run(["sh", "-c", script], cwd=daemon.directory, check=True, env=environment())
    daemon.wait_empty()
    assert daemon.contents() == once({f"a/b/c/d/e/{k}": f"{k}\n".encode() for k in (1, 2, 3)})


def test_the_daemon_without_a_configuration(tmp_path):
    """A configuration file that is not there is one line and exit code 1."""
    answer = dasfs("daemon", "--config", str(tmp_path / "none.toml"))
    assert (answer.code, COMMAND[-1]) == (1, "dasfs")
    assert "none.toml: no such configuration file" in answer.message
