"""One dataset of the daemon, for as long as it is configured: life after life, and what is told of it.

**Concurrency:** one task runs `run`; `state` is for the trio thread.
"""

import logging
from datetime import UTC, datetime
from typing import Final

import trio

from dasfs.config import StoreLocation
from dasfs.errors import DasfsError
from dasfs.stores import open_store
from dasfs_daemon.attempts import Attempts
from dasfs_daemon.backlog import BacklogView
from dasfs_daemon.config import DatasetConfig
from dasfs_daemon.life import Life
from dasfs_daemon.log_fields import log_fields
from dasfs_daemon.problems import Problems
from dasfs_daemon.rows import Waiting
from dasfs_daemon.shared import Record, Shared
from dasfs_daemon.shipping import Replaced
from dasfs_daemon.state import AggregationState, Backlog, CollectionState, DatasetState, Phase
from dasfs_daemon.tally import Tally

log = logging.getLogger(__name__)

# What ends a life is a defect or a dataset that was replaced: neither is helped by haste.
PAUSE_S: Final = 5.0
# Problems that must end before files go on. With others (something was rejected, say) they do.
HOLDING: Final = frozenset({"store", "disk", "directory", "journal", "daemon"})


class Worker:
    """Moves what arrives in one write directory into its dataset, whatever happens."""

    def __init__(self, name: str, config: DatasetConfig, location: StoreLocation, shared: Shared) -> None:
        self.name = name
        self.config = config
        self.location = location
        self._shared = shared
        self._problems = Problems(name, log_fields(dataset=name))
        aggregation, collection = AggregationState(enabled=config.aggregate), CollectionState(enabled=config.collect)
        self._record = Record(Tally(), aggregation=aggregation, collection=collection)
        self._attempts = Attempts(self._problems, shared.threads, lambda: self._record.tally.add(failed_attempts=1))
        self._life: Life | None = None
        self._backlog: BacklogView | None = None  # of the newest life, also when that is over
        self._stopped = False

    async def run(self) -> None:
        """Work until cancelled. Whatever goes wrong is told, and everything begins anew after a moment."""
        try:
            while True:
                try:
                    await self._live()
                except* Replaced as group:
                    log.warning("%s: %s", self.name, group.exceptions[0], extra=log_fields(dataset=self.name))
                except* DasfsError as group:
                    self._problems.report("daemon", _first(group))
                except* Exception as group:  # a defect of ours must not end a daemon that others rely on
                    log.exception("%s: unexpected error", self.name, extra=log_fields(dataset=self.name))
                    message = f"unexpected {_first(group)!r}"
                    self._problems.report("daemon", DasfsError(message, hint="the log has the traceback"))
                await trio.sleep(PAUSE_S)
        finally:
            self._stopped = True

    def state(self) -> DatasetState:
        """Return what the dataset is doing, without waiting for anything."""
        life, record = self._life, self._record
        files_per_second, bytes_per_second = record.tally.rates()
        waiting, in_flight = (Waiting(0, 0, 0, None), []) if self._backlog is None else self._backlog.now()
        return DatasetState(
            name=self.name,
            store_url=self.location.url,
            directory=self.config.directory,
            phase=self._phase(),
            settling=0 if life is None else life.inlet.settling,
            waiting=Backlog(waiting.files, waiting.size, _time(waiting.oldest)),
            in_flight=Backlog(
                files=sum(row.count for row in in_flight),
                size=sum(row.size for row in in_flight),
                oldest=_time(min((row.oldest for row in in_flight), default=None)),
            ),
            in_flight_dataranges=len(in_flight),
            kept_files=0 if life is None else life.outlet.kept_files,
            files_per_second=files_per_second,
            bytes_per_second=bytes_per_second,
            last_commit=record.last_commit,
            last_scan=None if life is None else life.inlet.last_scan,
            aggregation=record.aggregation if life is None else life.aggregator.state(),
            collection=record.collection if life is None else life.collector.state(),
            counters=record.tally.counters(),
            problems=self._problems.all(),
        )

    def look_again(self) -> None:
        """Bring limits that changed into effect."""
        if self._life is not None:
            self._life.look_again()

    async def _live(self) -> None:
        with open_store(self.location.url, self.location.options) as store:
            life = await self._attempts.once(Life, self.name, self.config, store, self._shared, self._attempts)
            try:
                life.begin(self._record)
                self._life, self._backlog = life, life.backlog
                self._problems.clear("daemon")
                await life.run()
            finally:
                self._life = None
                life.close()

    def _phase(self) -> Phase:
        if self._stopped:
            return Phase.STOPPED
        if any(each.key in HOLDING for each in self._problems.all()):
            return Phase.WAITING
        return Phase.RUNNING if self._life is not None and self._life.recovered else Phase.STARTING


def _first(group: BaseExceptionGroup[Exception]) -> DasfsError:
    """Return one error of a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, DasfsError) else DasfsError(repr(error))


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
