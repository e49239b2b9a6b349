"""kill -9 of the daemon at random moments, under load: every file is in the dataset exactly once, and whole.

`DASFS_KILLS` says how often each is killed; CI makes do with a few, 100 take three minutes a store.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from tests.bad_gateway import bad_gateway
from tests.daemons import make_store, once, write

KILLS = int(os.environ.get("DASFS_KILLS", "3"))
STATES = ("taken", "packed", "uploaded", "committed")
# Each kill waits for one of these to be in the journal; the last two, for no matter what: also while it starts.
WISHES = (*STATES, None, None)
WISH_TIMEOUT_S = 8.0
SHARE = 1 / 3
MAX_FILES = 1_000_000
# Above that files come slowly: what is left at the end must be done in a minute or two.
MAX_BACKLOG = 800
PAUSE = threading.Event()


def load(daemon, seed, made, stop):
    """Write files without end, some with numbers, until told to stop; note each before it can be seen."""
    generator = random.Random(seed)
    pause_s = 0.0
    for k in range(MAX_FILES):
        if k % 20 == 0:
            pause_s = 0.015 if len(daemon.files()) < MAX_BACKLOG else 1.0
        if stop.wait(pause_s):
            return
        name = f"{k // 5:020d}.bin" if k % 5 == 0 else f"{k % 7}/{k}.txt"
        content = generator.randbytes(generator.randrange(6000))
        made[name] = content
        write(daemon.directory, {name: content})


def kill_at(daemon, generator, wish):
    """Start the daemon and kill it at a random moment, or at the first after that with a file in the state `wish`."""
    daemon.variables["FAULTY_SEED"] = str(generator.randrange(1 << 30))
    daemon.start(wait=False)
    PAUSE.wait(generator.uniform(0.2, 1.6))
    deadline = time.monotonic() + WISH_TIMEOUT_S
    while wish is not None and not daemon.states()[wish] and time.monotonic() < deadline:
        PAUSE.wait(generator.uniform(0, 0.01))
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL, daemon.log
    return daemon.states()


def kill_under_load(daemon, kills):
    """Kill and restart a daemon while files arrive; return the files, and how many kills met each state."""
    # The numbered files come at any time: their numbers are set aside, or the others would be given some of them.
    with open_store(daemon.url) as store:
        Dataset(store, "d").log.reserve(MAX_FILES)
    generator = random.Random(daemon.url[:4])
    made, stop, met = {}, threading.Event(), Counter()
    writer = threading.Thread(target=load, args=(daemon, 3, made, stop))
    writer.start()
    try:
        for k in range(kills):
            met.update(kill_at(daemon, generator, WISHES[k % len(WISHES)]).keys())
    finally:
        stop.set()
        writer.join()
    daemon.start()
    daemon.wait_empty(60 + kills)
    assert daemon.end() == 0
    return made, met


def check(daemon, made, met, kills):
    found = daemon.contents()
    assert {name: len(contents) for name, contents in found.items() if len(contents) != 1} == {}
    assert sorted(found) == sorted(made)
    assert found == once(made)
    print(f"{daemon.url}: {kills} kills met {dict(met)}; {len(made)} files, {daemon.log.count(' committed ')} commits")
    assert set(met) >= (set(STATES) if kills >= 4 * len(WISHES) else {"taken", "packed"})


@pytest.mark.timeout(120 + 6 * KILLS)
@pytest.mark.parametrize("bad", [False, True], ids=["well", "a-third-fails"])
def test_killed_on_a_local_store(local_url, daemon_of, bad):
    """After any number of kills nothing is lost, nothing is there twice, and the write directory is empty.

    Also where a third of what is asked of the store fails, loses its answer or hangs.
    """
    daemon = daemon_of(local_url)
    if bad:
        daemon.command = (sys.executable, "-m", "tests.faulty_daemon")
        daemon.expected += ["by a test", "WARNING: d: "]
    made, met = kill_under_load(daemon, KILLS)
    check(daemon, made, met, KILLS)


@pytest.mark.timeout(120 + 6 * KILLS)
@pytest.mark.parametrize("share", [0, SHARE], ids=["well", "a-third-fails"])
def test_killed_on_s3(s3_url, s3_environment, daemon_of, share):
    """The same on Ceph, and through a gateway that answers 500 or 503, cuts, halves, or is silent every third time."""
    make_store(s3_url)
    with bad_gateway(s3_environment.endpoint_url) as gateway:
        daemon = daemon_of(s3_url, stores={"endpoint_url": gateway.url, "deadline": "1.5s" if share else "60s"})
        daemon.expected += ["WARNING: d: .*s3://"] if share else []
        gateway.share = share
        made, met = kill_under_load(daemon, KILLS)
        assert gateway.troubled >= gateway.served * share * 0.8
    check(daemon, made, met, KILLS)


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
