"""A store that somebody emptied, or set back to an older state: what is still here is packed again, nothing is lost."""

import os
import shutil
import signal

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from tests.daemons import once, write
from tests.mounts import wait_until

MADE = {f"{k}.txt": os.urandom(500) for k in range(20)} | {f"{100 + k:020d}.x": os.urandom(500) for k in range(5)}


def empty(url):
    """Delete every object of a store."""
    with open_store(url) as store:
        store.delete([info.key for info in store.list("")])


def create(url):
    with open_store(url) as store:
        Dataset(store, "d").log.create()


@pytest.mark.parametrize("state", ["taken", "uploaded", "committed"])
def test_emptied_while_files_are_on_their_way(file_url, daemon_of, tmp_path, state):
    """The daemon says that there is no dataset any more and keeps all; once it is created anew, all go there."""
    daemon = daemon_of(file_url, datarange_age="1h" if state == "taken" else "1s", keep="1h")
    daemon.expected += ["WARNING: d: "]
    daemon.start()
    write(daemon.directory, MADE)
    wanted = {"committed": len(MADE)} if state == "committed" else {"taken": len(MADE)}
    wait_until(lambda: daemon.states() == wanted)
    if state == "uploaded":
        # In the way of the next commit: the numbers of the others are reserved by revision 2.
        (tmp_path / "store" / "datas3t" / "d" / "log" / f"{3:020d}.json").mkdir()
        wait_until(lambda: daemon.states()["uploaded"])
        daemon.end(signal.SIGKILL)
        (tmp_path / "store" / "datas3t" / "d" / "log" / f"{3:020d}.json").rmdir()
    empty(file_url)
    if state != "uploaded":
        assert daemon.end() == 0
    daemon.write_config(keep="0s", datarange_age="0.3s")
    daemon.start()
    daemon.wait_log("WARNING: d: there is no dataset d in .*")
    assert len(daemon.files()) == len(MADE)
    create(file_url)
    daemon.wait_empty()
    assert daemon.contents() == once(MADE)


def test_emptied_and_created_anew_at_once(file_url, daemon_of):
    """Also when nobody noticed that the dataset was gone: what was committed to the old one goes to the new one."""
    daemon = daemon_of(file_url, keep="1h")
    daemon.expected += ["was deleted and created anew", "there is no dataset"]
    write(daemon.directory, MADE)
    daemon.start()
    wait_until(lambda: daemon.states() == {"committed": len(MADE)})
    daemon.end()
    empty(file_url)
    create(file_url)
    daemon.write_config(keep="0s")
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == once(MADE)


def test_deleted_on_purpose(file_url, daemon_of):
    """What was committed to a dataset that was deleted, with its log, and is only kept here does not come back."""
    daemon = daemon_of(file_url, keep="1h")
    write(daemon.directory, MADE)
    daemon.start()
    wait_until(lambda: daemon.states() == {"committed": len(MADE)})
    daemon.end()
    with open_store(file_url) as store:
        Dataset(store, "d").delete()
        Dataset(store, "d").log.create()
    daemon.write_config(keep="0s")
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == {}


def test_set_back_to_an_older_state(file_url, daemon_of, tmp_path):
    """A store that was restored from before the commit: after a restart the files that are kept are packed again."""
    daemon = daemon_of(file_url, keep="1h")
    daemon.expected += ["was seen before", "does not have datapoints"]
    daemon.start()
    write(daemon.directory, {"first": b"1"})
    wait_until(lambda: daemon.states() == {"committed": 1})
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    write(daemon.directory, MADE)
    wait_until(lambda: daemon.states() == {"committed": 1 + len(MADE)})
    shutil.rmtree(tmp_path / "store")
    shutil.move(tmp_path / "backup", tmp_path / "store")
    write(daemon.directory, {"last": b"2"})
    daemon.wait_log("WARNING: d: the log of d ends at revision .* was seen before")
    daemon.end()
    daemon.write_config(keep="0s")
    daemon.start()
    daemon.wait_empty(60)
    assert daemon.contents() == once(MADE | {"first": b"1", "last": b"2"})


def test_objects_that_went_after_the_commit(file_url, daemon_of, tmp_path):
    """A datarange whose objects are gone keeps its local files, and what to run is told."""
    daemon = daemon_of(file_url, keep="1h")
    daemon.expected += ["does not have datapoints"]
    write(daemon.directory, {"a": b"1"})
    daemon.start()
    wait_until(lambda: daemon.states() == {"committed": 1})
    daemon.end()
    for path in (tmp_path / "store").rglob("*.index"):
        path.unlink()
    daemon.write_config(keep="0s")
    daemon.start()
    line = daemon.wait_log("WARNING: d: .*does not have datapoints 0-0 of d as they were uploaded.*")
    assert "the local files stay; run: dasfs dataset verify d 0-0" in line
    assert [path.name for path in daemon.files()] == ["a"]
