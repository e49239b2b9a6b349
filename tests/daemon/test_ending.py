"""SIGTERM while a store says nothing any more: the daemon ends soon, whatever its threads wait for."""

import os
import signal
import time

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from tests.daemons import make_store, once, write
from tests.mounts import wait_until
from tests.outage import proxied

# A store that is silent is waited for far longer than this; systemd kills after 90 s.
SOON_S = 15


@pytest.mark.parametrize("moment", ["reading the log", "uploading"])
def test_it_ends_while_the_store_is_silent(s3_url, s3_environment, daemon_of, moment):
    """Threads that wait for a store don't keep the process, and what they did not finish is done next time."""
    make_store(s3_url)
    made = {"a": os.urandom(40_000_000 if moment == "uploading" else 2_000_000), "b": os.urandom(10)}
    with open_store(s3_url) as store, proxied(s3_environment.endpoint_url) as proxy:
        for _ in range(40):
            Dataset(store, "d").log.reserve(1)
        limits = {"bandwidth": 10_000_000 if moment == "uploading" else 100_000}
        daemon = daemon_of(s3_url, stores={"endpoint_url": proxy.url, "deadline": "10m"}, limits=limits)
        write(daemon.directory, made)
        if moment == "reading the log":
            proxy.hang_after(20_000)
        daemon.start()
        if moment != "reading the log":
            wait_until(lambda: daemon.states()["packed"])
            proxy.hang_after(proxy.forwarded + (12_000_000 if moment == "uploading" else 0))
        wait_until(lambda: proxy.hangs)
        started = time.monotonic()
        assert daemon.end(signal.SIGTERM) == 0
        assert time.monotonic() - started < SOON_S
        proxy.recover()
        daemon.limits = {}
        daemon.write_config()
        daemon.start()
        daemon.wait_empty()
    assert daemon.contents() == once(made)
