"""The clock jumps by hours and days while the daemon runs: files are taken as before, and none twice."""

import glob
import os
import sys
from datetime import UTC, datetime, timedelta

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Operation
from dasfs.stores import open_store
from tests.daemons import once, write

# Debian's libfaketime; the daemon reads its clock through it, and files keep their true times.
LIBRARY = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
# It takes the monotonic time until which Python sleeps for wall clock time: after a jump, time.sleep may raise EINVAL.
PROGRAM = """
import select, sys, time
time.sleep = lambda seconds: select.select([], [], [], seconds)
from dasfs.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "jumps", [("-2h", "+3d", "-30d"), ("+400d", "-1d", "+0d")], ids=["back-first", "forward-first"]
)
def test_a_clock_that_jumps(file_url, daemon_of, jumps):
    """Files that arrive after a jump are in the dataset seconds later, and so are those that waited meanwhile."""
    assert LIBRARY, "apt-get install libfaketime"
    daemon = daemon_of(file_url, datarange_age="1s", scan_interval="0.5s")
    daemon.command = (sys.executable, "-c", PROGRAM)
    clock = daemon.home / "clock"
    clock.write_text("+0")
    daemon.variables.update(
        LD_PRELOAD=LIBRARY[0],
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
        NO_FAKE_STAT="1",
    )
    daemon.start()
    made = {}
    for k, jump in enumerate(jumps):
        waiting = {f"{k}/{n}": os.urandom(300) for n in range(5)}
        write(daemon.directory, waiting)
        after = {f"{k}/after{n}": os.urandom(300) for n in range(5)}
        temporary = daemon.home / "clock.new"
        temporary.write_text(jump)
        os.rename(temporary, clock)
        write(daemon.directory, after)
        made |= waiting | after
        daemon.wait_empty()
    assert daemon.end() == 0
    assert daemon.contents() == once(made)
    with open_store(file_url) as store:
        times = [commit.time for commit in Dataset(store, "d").log.commits() if commit.operation is Operation.UPLOAD]
    assert max(abs(time - datetime.now(UTC)) for time in times) > timedelta(hours=20)
