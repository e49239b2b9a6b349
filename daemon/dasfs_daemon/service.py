"""The daemon as a whole: one `trio.run`, a worker for each dataset, signals, and a configuration that can change.

- SIGTERM and SIGINT end it within seconds: what is on its way is abandoned, and found again in the journal.
- SIGHUP reads the configuration again. A wrong one is told and the old one stays; of a right one only the datasets
  that changed are stopped and started.

**Concurrency:** `run_service` belongs to the main thread. `Service.state` is for the trio thread and never waits.
"""

import fcntl
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from dasfs import __version__
from dasfs.config import StoreLocation
from dasfs.dataset.local import local_error
from dasfs.errors import AccessDenied, AlreadyExists, DasfsError, InvalidInput
from dasfs.notify import Notifier
from dasfs_daemon.attempts import THREADS
from dasfs_daemon.checks import find_absences, find_clashes, find_nonsense
from dasfs_daemon.config import DaemonConfig, DatasetConfig, Mistake, Reader
from dasfs_daemon.describe import describe
from dasfs_daemon.door import Door
from dasfs_daemon.journal import Journal, Leftover
from dasfs_daemon.known import KnownPaths
from dasfs_daemon.log_fields import log_fields
from dasfs_daemon.problems import Problems
from dasfs_daemon.shared import Shared, free_bytes
from dasfs_daemon.state import DaemonState
from dasfs_daemon.throttle import Throttle
from dasfs_daemon.worker import Worker

log = logging.getLogger(__name__)

JOURNAL: Final = "journal.db"
KNOWN_PATHS: Final = "paths.db"
LOCK: Final = "lock"


def check(file: str) -> list[Mistake]:
    """Return all that is wrong with a configuration, also with what it names on this host and elsewhere, by line.

    Raises `NotFound` and `AccessDenied` where the file itself can't be read.
    """
    reader = Reader(file)
    config = reader.read()
    if config is not None:
        find_nonsense(reader, config)
        find_clashes(reader, config)
        find_absences(reader, config)
    return sorted(reader.mistakes, key=lambda mistake: mistake.line or 0)


def load(file: str) -> DaemonConfig:
    """Return a configuration that the daemon can start with.

    Raises `InvalidInput` with the first mistake and how many there are, `NotFound`, `AccessDenied`.
    """
    reader = Reader(file)
    config = reader.read()
    if config is not None:
        find_nonsense(reader, config)
        find_clashes(reader, config)
    if config is None or reader.mistakes:
        more = len(reader.mistakes) - 1
        rest = f"{more} more: " if more else ""
        raise InvalidInput(str(reader.mistakes[0]), hint=f"{rest}'dasfs daemon --config {file} --check' lists them all")
    return config


def run_service(file: str, *, ready: Callable[[], None], notifier: Notifier | None = None) -> None:
    """Run the daemon until it is told to end. `ready` is called, and `notifier` told, once it watches.

    Raises `InvalidInput` for a configuration that can't be, `AlreadyExists` when another daemon has the state
    directory, and what opening the journal raises.
    """
    config = load(file)
    # A lease that is broken in the microsecond in which it is held (see `files`) must not end the process.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    with _state_directory(config) as directory, Journal(os.path.join(directory, JOURNAL)) as journal:
        known = KnownPaths(os.path.join(directory, KNOWN_PATHS))
        try:
            trio.run(Service(file, config, journal, known, notifier or Notifier()).run, ready)
        finally:
            known.close()


@contextmanager
def _state_directory(config: DaemonConfig) -> Iterator[str]:
    """Make the daemon's own directories, and keep other daemons out of them."""
    directory = config.state_directory
    try:
        for each in (directory, config.spool):
            os.makedirs(each, mode=0o700, exist_ok=True)
        lock = open(os.path.join(directory, LOCK), "ab+", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise local_error(error, error.filename or directory) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().decode().strip() or "unknown"
            raise AlreadyExists(
                f"another daemon (process {owner}) uses {directory}",
                hint="end that one, or give this one another state_directory and other datasets",
            ) from None
        except OSError as error:
            raise AccessDenied(f"{directory} can't be locked: {error.strerror}") from error
        try:
            lock.truncate(0)
            lock.write(b"%d\n" % os.getpid())
        except OSError as error:
            raise local_error(error, os.path.join(directory, LOCK)) from error
        yield directory


@dataclass(frozen=True, slots=True)
class _Running:
    """A worker under way, and how to end it."""

    worker: Worker
    scope: trio.CancelScope
    ended: trio.Event


class Service:
    """A running daemon."""

    def __init__(
        self, file: str, config: DaemonConfig, journal: Journal, known: KnownPaths, notifier: Notifier
    ) -> None:
        self._file = file
        self._config = config
        self._read = self._started = datetime.now(UTC)
        self._problems = Problems("daemon")
        self._running: dict[str, _Running] = {}
        self._journal = journal
        self._known = known
        self._notifier = notifier

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until SIGTERM or SIGINT."""
        limits = self._config.limits
        self._shared = Shared(
            journal=self._journal,
            known=self._known,
            spool=self._config.spool,
            throttle=Throttle(limits.bandwidth),
            uploads=trio.CapacityLimiter(limits.uploads),
            threads=trio.CapacityLimiter(THREADS),
            minimum_free_disk=limits.minimum_free_disk,
            aggregation=self._config.aggregation,
            collection=self._config.collection,
        )
        with (
            trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals,
            Door(self.state) as self._door,
        ):
            await trio.to_thread.run_sync(self._door.open, self._config)
            async with trio.open_nursery() as nursery:
                for name in self._config.datasets:
                    self._start(name, nursery)
                self._tell_leftovers()
                ready()
                self._notifier.ready()
                nursery.start_soon(self._notifier.run, self._describe)
                async for number in signals:
                    if number != signal.SIGHUP:
                        log.info("ending: %s", signal.Signals(number).name)
                        self._notifier.stopping()
                        break
                    self._notifier.reloading()
                    await self._reload(nursery)
                    self._notifier.ready()
                nursery.cancel_scope.cancel()

    def state(self) -> DaemonState:
        """Return what the daemon is doing."""
        limits = self._config.limits
        return DaemonState(
            version=__version__,
            host=socket.gethostname(),
            pid=os.getpid(),
            time=datetime.now(UTC),
            started=self._started,
            config_file=self._file,
            config_read=self._read,
            state_directory=self._config.state_directory,
            free_disk=_free_disk(self._config.spool),
            minimum_free_disk=limits.minimum_free_disk,
            uploads=self._shared.uploads.borrowed_tokens,
            upload_limit=limits.uploads,
            datasets=tuple(each.worker.state() for each in self._running.values()),
            problems=self._problems.all(),
        )

    def _describe(self) -> str:
        datasets = [each.worker.state() for each in self._running.values()]
        return describe(datasets, self._problems.all())

    def _start(self, name: str, nursery: trio.Nursery) -> None:
        config = self._config.datasets[name]
        location = self._config.location(name)
        running = _Running(Worker(name, config, location, self._shared), trio.CancelScope(), trio.Event())
        self._running[name] = running
        nursery.start_soon(_run, running)
        fields = log_fields(dataset=name)
        log.info("%s: %s is packed into %s", name, config.directory, location.url, extra=fields)

    async def _stop(self, name: str) -> None:
        running = self._running.pop(name)
        running.scope.cancel()
        await running.ended.wait()

    async def _reload(self, nursery: trio.Nursery) -> None:
        """Read the configuration again, and bring what changed into effect."""
        try:
            config = await trio.to_thread.run_sync(load, self._file)
            for key, attribute in (("state_directory", "state_directory"), ("spool_directory", "spool")):
                if getattr(config, attribute) != getattr(self._config, attribute):
                    raise InvalidInput(
                        f"{key} can only change at a restart", hint="run: systemctl restart dasfs-daemon"
                    )
            await trio.to_thread.run_sync(self._door.open, config)
        except DasfsError as error:
            self._problems.report("configuration", DasfsError(f"the old configuration stays: {error}"))
            return
        self._problems.clear("configuration")
        old, self._config, self._read = self._config, config, datetime.now(UTC)
        self._shared.throttle.set_rate(config.limits.bandwidth)
        self._shared.uploads.total_tokens = config.limits.uploads
        self._shared.minimum_free_disk = config.limits.minimum_free_disk
        self._shared.aggregation, self._shared.collection = config.aggregation, config.collection
        changed = {name for name in {*old.datasets, *config.datasets} if _parts(old, name) != _parts(config, name)}
        for name in sorted(changed & self._running.keys()):
            await self._stop(name)
        for name in sorted(changed & config.datasets.keys()):
            self._start(name, nursery)
        for running in self._running.values():
            running.worker.look_again()
        log.info("read %s again: %d of %d datasets changed", self._file, len(changed), len(config.datasets))
        self._tell_leftovers()

    def _tell_leftovers(self) -> None:
        """Tell of files that are on their way from where nothing is configured any more."""
        configured = {
            self._journal.origin(name, each.config.directory, each.location.url)
            for name, each in ((name, running.worker) for name, running in self._running.items())
        }
        self._problems.set("leftovers", _leftover_error(self._journal.leftovers(configured)))


async def _run(running: _Running) -> None:
    with running.scope:
        await running.worker.run()
    running.ended.set()


def _leftover_error(leftovers: Sequence[Leftover]) -> DasfsError | None:
    """Return what to tell of the files of directories that are not configured any more; None where there is none."""
    if not leftovers:
        return None
    first, others = leftovers[0], len(leftovers) - 1
    more = f"; and those of {others} more" if others else ""
    return DasfsError(
        f"{first.files:,} files of {first.dataset} are on their way from {first.directory} to {first.store_url}, "
        f"which is not configured any more; they stay there{more}",
        hint="configure it again until it is empty; see docs/daemon.md for one that is gone for good",
    )


def _free_disk(spool: str) -> int:
    try:
        return free_bytes(spool)
    except OSError:
        return 0  # whoever packs tells why


def _parts(config: DaemonConfig, name: str) -> tuple[DatasetConfig, StoreLocation] | None:
    """Return all that a worker is made of."""
    return (config.datasets[name], config.location(name)) if name in config.datasets else None
