"""kill -9 of the daemon at random moments, under load: every file is in the dataset exactly once, and whole."""

import random
import signal
import subprocess
import threading

from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from tests.daemons import once, write

MOMENTS = 15
MAX_FILES = 1_000_000
PAUSE = threading.Event()


def load(daemon, seed, made, stop):
    """Write files without end, some with numbers, until told to stop; note each before it can be seen."""
    generator = random.Random(seed)
    for k in range(MAX_FILES):
        if stop.wait(0.006):
            return
        name = f"{k:020d}.bin" if k % 5 == 0 else f"{k % 7}/{k}.txt"
        content = generator.randbytes(generator.randrange(6000))
        made[name] = content
        write(daemon.directory, {name: content})


def test_killed_at_any_moment(local_url, daemon_of):
    """After fifteen kills and restarts nothing is lost, nothing is there twice, and the write directory is empty."""
    daemon = daemon_of(local_url)
    # The numbered files come at any time: their numbers are set aside, or the others would be given some of them.
    with open_store(local_url) as store:
        Dataset(store, "d").log.reserve(MAX_FILES)
    moments = random.Random(local_url[:4])
    made, stop = {}, threading.Event()
    writer = threading.Thread(target=load, args=(daemon, 3, made, stop))
    writer.start()
    try:
        for _ in range(MOMENTS):
            daemon.start()
            PAUSE.wait(moments.uniform(0.0, 0.5))
            assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    finally:
        stop.set()
        writer.join()
    daemon.start()
    daemon.wait_empty()
    assert daemon.end() == 0
    found = daemon.contents()
    assert {name: len(contents) for name, contents in found.items() if len(contents) != 1} == {}
    assert found == once(made)
    assert len(made) > 500


def test_killed_while_files_are_removed(file_url, daemon_of):
    """A kill right after a commit leaves files that are in the log: the restart removes them and packs none again."""
    daemon = daemon_of(file_url, datarange_size="64MiB", datarange_age="0.5s")
    made = {f"{k}.bin": bytes([k % 256]) * 100 for k in range(3000)}
    write(daemon.directory, made)
    daemon.start()
    daemon.wait_log("committed 0-")
    daemon.end(signal.SIGKILL)
    left = len(daemon.files())
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == once(made)
    assert left > 0


def test_a_journal_that_was_lost(file_url, daemon_of):
    """Without its journal the daemon recognises what is in the dataset already: nothing is packed twice."""
    daemon = daemon_of(file_url, datarange_age="0.3s", keep="1h")
    made = {f"{k}.bin": bytes([k]) * 100 for k in range(50)} | {f"{7:020d}.x": b"numbered"}
    write(daemon.directory, made)
    daemon.start()
    daemon.wait_log("committed 8-")
    daemon.end(signal.SIGKILL)
    subprocess.run(["rm", "-r", daemon.home / "state"], check=True)
    daemon.write_config(keep="0s")
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == once(made)
