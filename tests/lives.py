"""One life of a dataset of the daemon inside the process of a test, on any store: also on one with faults."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from dasfs.stores import Store
from dasfs_daemon.attempts import Attempts
from dasfs_daemon.config import DatasetConfig
from dasfs_daemon.journal import Journal
from dasfs_daemon.known import KnownPaths
from dasfs_daemon.life import Life
from dasfs_daemon.problems import Problems
from dasfs_daemon.shared import Record, Shared
from dasfs_daemon.tally import Tally
from dasfs_daemon.throttle import Throttle


def make_config(home: Path, **settings: Any) -> DatasetConfig:
    """Make a write directory; return the configuration of a dataset with fast defaults for tests."""
    (home / "in").mkdir(exist_ok=True)
    fast = {"datarange_size": 20 << 10, "datarange_age": 0.1, "settle": 0.05}
    return DatasetConfig(store="x", directory=str(home / "in"), **(fast | settings))


@asynccontextmanager
async def opened_life(
    home: Path, store: Store, config: DatasetConfig, problems: Problems | None = None, **shared: Any
) -> AsyncIterator[Life]:
    """Hand out a life of dataset `d` that has begun; its `run` is up to the test."""
    threads = trio.CapacityLimiter(20)
    attempts = Attempts(problems or Problems("d"), threads, lambda: None)
    with Journal(str(home / "journal.db")) as journal:
        known = KnownPaths(str(home / "paths.db"))
        uploads = trio.CapacityLimiter(2)
        everything = Shared(journal, known, str(home), Throttle(), uploads, threads, 1, **shared)
        life = Life("d", config, store, everything, attempts)
        try:
            life.begin(Record(Tally()))
            yield life
        finally:
            life.close()
            known.close()


def live(
    home: Path,
    store: Store,
    config: DatasetConfig,
    until: Callable[[Life], bool],
    problems: Problems | None = None,
    **shared: Any,
) -> Record:
    """Run one life until a condition holds, within a minute; return what is noted of it."""

    async def main() -> Record:
        async with opened_life(home, store, config, problems, **shared) as life, trio.open_nursery() as nursery:
            nursery.start_soon(life.run)
            with trio.fail_after(60):
                while not until(life):  # noqa: ASYNC110  # what it waits for is not always a task's doing
                    await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
        return life.record

    return trio.run(main)
