"""A running `dasfs daemon` for the cases: one write directory, its log and its journal looked at."""

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

from bench.processes import memory, running, wait_until
from bench.rig import dasfs_command

DATASET: Final = "bench"
READY: Final = b"the daemon runs with"
_COMMITTED: Final = re.compile(rb"committed \d+-\d+: (\d+) files")
_TICKS_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_JOURNAL_POLL_S: Final = 0.05


@dataclass(slots=True)
class Daemon:
    """A daemon of one dataset, below `home`. `settings` are those of the dataset, `tables` the other tables."""

    home: Path
    store: str
    environment: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pid: int = 0
    started: float = 0.0

    @property
    def directory(self) -> Path:
        """The write directory."""
        return self.home / "in"

    @property
    def log(self) -> bytes:
        return (self.home / "log").read_bytes()

    def prepare(self) -> None:
        """Make the directories and the configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = [f'state_directory = "{self.home}/state"', f"[datasets.{DATASET}]", f'store = "{self.store}"']
        lines += [f'directory = "{self.directory}"', *(f'{key} = "{value}"' for key, value in self.settings.items())]
        for name, table in self.tables.items():
            lines += [f"[{name}]", *(f'{key} = "{value}"' for key, value in table.items())]
        (self.home / "daemon.toml").write_text("\n".join(lines) + "\n")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the daemon, and end it with the block."""
        self.started = monotonic()
        command = dasfs_command("daemon", "--config", str(self.home / "daemon.toml"))
        with running(self.home / "log", command, self.environment) as process:
            self.pid = process.pid
            yield
            process.check()

    def wait_ready(self, timeout_s: float = 60.0) -> float:
        """Return the seconds from the start until it watches."""
        wait_until(lambda: READY in self.log, "the start of the daemon", timeout_s)
        return monotonic() - self.started

    def wait_committed(self, files: int, timeout_s: float) -> float:
        """Return the seconds from the start until so many files are committed."""
        wait_until(lambda: sum(map(int, _COMMITTED.findall(self.log))) >= files, f"{files} commits", timeout_s)
        return monotonic() - self.started

    def wait_empty(self, timeout_s: float) -> float:
        """Return the seconds from the start until the write directory has nothing in it."""
        wait_until(lambda: next(os.scandir(self.directory), None) is None, "emptying the directory", timeout_s)
        return monotonic() - self.started

    def wait_taken(self, files: int, timeout_s: float) -> float:
        """Return the seconds from the start until so many files wait in the journal."""
        what = f"taking {files} files"
        wait_until(lambda: self._count("SELECT sum(files) FROM waiting") >= files, what, timeout_s, _JOURNAL_POLL_S)
        return monotonic() - self.started

    def wait_done(self, timeout_s: float) -> float:
        """Return the seconds from the start until the journal has no file any more."""
        some = "SELECT EXISTS (SELECT 1 FROM file)"
        wait_until(lambda: self._count(some) == 0, "removing all files", timeout_s, _JOURNAL_POLL_S)
        return monotonic() - self.started

    def _count(self, query: str) -> int:
        """Return the number that a query of the journal gives; -1 while there is none."""
        path = self.home / "state" / "journal.db"
        if not path.exists():
            return -1
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
                (count,) = journal.execute(query).fetchone()
        except sqlite3.OperationalError:
            return -1  # it is being made
        return -1 if count is None else int(count)

    def cpu_s(self) -> float:
        """Return the seconds of CPU that it took so far, with its children."""
        return sum(map(_cpu_s, _family(self.pid)))

    def peak(self) -> int:
        """Return the most memory that it ever had resident, in bytes, with its children."""
        return sum(memory(pid, "VmHWM:") for pid in _family(self.pid))


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def _cpu_s(pid: int) -> float:
    # After the name: utime, stime, and both of the children that ended.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * _TICKS_S
