"""Running the real `dasfs daemon` in tests, and comparing what it left in a store with what was given to it."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.verify import verify
from dasfs.stores import open_store
from tests.commands import COMMAND, environment, succeed
from tests.mounts import wait_until

# Log lines that every daemon may write; anything else at WARNING or above must be expected by the test.
_ALARM = re.compile(r"(WARNING|ERROR|CRITICAL|Traceback)")
READY = "the daemon runs with"


_STATES = (
    "SELECT coalesce(state, 'taken'), count(*) FROM file"
    " LEFT JOIN datarange ON datarange.id = file.datarange GROUP BY 1"
)


@dataclass
class Daemon:
    """A daemon of one dataset `d` with one write directory, which can be started any number of times."""

    home: Path
    url: str
    settings: Mapping[str, object] = field(default_factory=dict)
    limits: Mapping[str, object] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    store: Mapping[str, object] = field(default_factory=dict)
    command: Sequence[str] = tuple(COMMAND)
    variables: dict[str, str] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_file.touch()
        self.write_config()

    @property
    def directory(self) -> Path:
        return self.home / "in"

    @property
    def rejected(self) -> Path:
        return self.directory / ".rejected"

    @property
    def config(self) -> Path:
        return self.home / "daemon.toml"

    @property
    def log_file(self) -> Path:
        return self.home / "log"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="surrogateescape")

    def write_config(self, **settings: object) -> None:
        """Write the configuration: fast defaults for tests, then what the daemon was made with, then `settings`."""
        fast = {"settle": "0.1s", "datarange_age": "0.2s", "datarange_size": "64KiB", "empty_directories": "0.5s"}
        dataset = {"store": "lab", "directory": str(self.directory), **fast, **self.settings, **settings}
        limits = {"minimum_free_disk": "1MiB", **self.limits}
        lines = [f'state_directory = "{self.home}/state"', "[stores.lab]", f'url = "{self.url}"']
        lines += [f"{name} = {json.dumps(value)}" for name, value in self.store.items()]
        lines += ["[limits]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in limits.items()]
        for table, values in self.tables.items():
            lines += [f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
        lines += ["[datasets.d]", *(f"{name} = {json.dumps(value)}" for name, value in dataset.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, *, wait: bool = True) -> None:
        """Start it, and return once it watches, or at once."""
        started = self.log.count(READY)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "daemon", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(**self.variables),
            )
        if not wait:
            return
        wait_until(lambda: self.log.count(READY) > started or self.process.poll() is not None)
        assert self.process.poll() is None, self.log

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal that ends it; return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def states(self) -> Counter[str]:
        """Return how many files the journal has in each state; `taken` are those that are in no datarange."""
        counts: Counter[str] = Counter()
        journal = self.home / "state" / "journal.db"
        with contextlib.suppress(apsw.Error), contextlib.closing(_open_readonly(journal)) as db:
            counts.update(dict(db.execute(_STATES)))
        return counts

    def alarms(self) -> list[str]:
        """Return the lines of the log that a test has to expect and does not."""
        lines = [line for line in self.log.splitlines() if _ALARM.search(line)]
        return [line for line in lines if not any(re.search(each, line) for each in self.expected)]

    def files(self) -> list[Path]:
        """Return the files that are left in the write directory, `.rejected` not counted."""
        found = [Path(place, name) for place, _, names in os.walk(self.directory) for name in names]
        return [path for path in found if self.rejected not in path.parents]

    def wait_empty(self, timeout_s: float = 30) -> None:
        """Wait until the write directory has no file."""
        wait_until(lambda: not self.files(), timeout_s)

    def wait_taken(self, files: int) -> None:
        """Wait until the journal has so many files."""

        def taken() -> bool:
            with sqlite3.connect(f"file:{self.home}/state/journal.db?mode=ro", uri=True) as db:
                count: int = db.execute("SELECT count(*) FROM file").fetchone()[0]
            db.close()
            return count == files

        wait_until(taken)

    def wait_log(self, pattern: str) -> str:
        """Wait until the log has what matches `pattern`; return it."""
        return wait_until(lambda: (match := re.search(pattern, self.log)) and match[0])

    def contents(self) -> dict[str, list[bytes]]:
        """Return every datapoint of the dataset, by its original path or, if it has none, its name: read by `get`."""
        with open_store(self.url) as store:
            dataset = Dataset(store, "d")
            snapshot = dataset.snapshot()
            assert list(verify(store, "d", snapshot)) == []
            names = {}
            for datarange in snapshot.dataranges:
                manifest = dataset.load_manifest(datarange)
                for k, record in enumerate(manifest.iter_records()):
                    number = datarange.first + k
                    own = f"{number:020d}.{record.extension}"
                    names[own] = manifest.original_name(k) or own
        target = self.home / f"out-{len(list(self.home.iterdir()))}"
        if names:
            succeed("get", "d", f"0-{2**63 - 1}", "--allow-gaps", "--store", self.url, "-o", str(target))
        found: dict[str, list[bytes]] = {}
        for own, name in names.items():
            found.setdefault(name, []).append((target / own).read_bytes())
        return found


def _open_readonly(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(1000)
    return db


def make_store(url: str) -> str:
    """Make a store with an empty dataset `d`."""
    with open_store(url) as store:
        store.create()
        Dataset(store, "d").log.create()
    return url


@contextlib.contextmanager
def daemon_at(daemon: Daemon) -> Iterator[Daemon]:
    """End a daemon that a test started, however the test ends; fail it for log lines that it did not expect."""
    try:
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
    assert daemon.alarms() == []


@contextlib.contextmanager
def disk(path: Path, options: str) -> Iterator[Path]:
    """A small file system in memory at `path`, which may be in use to the end. Needs root."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(directory: Path) -> Path:
    """Fill the file system of a directory to its last byte; return the file that does it."""
    path = directory / ".fill"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a directory, each complete at once under its name."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:100]}.new")
        temporary.write_bytes(content)
        os.rename(temporary, path)


def once(files: Mapping[str, bytes]) -> dict[str, list[bytes]]:
    """Return what `Daemon.contents` is when each file is there exactly once."""
    return {name: [content] for name, content in files.items()}
