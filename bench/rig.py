"""What a case works with: a folder, the store behind its latency, commands of dasfs, and cold caches."""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.environment import Environment
from bench.gateway import Gateway, open_gateway
from bench.outcome import Outcome
from bench.processes import BenchError, Done, Mount, mounted, run
from bench.programs import build
from bench.settings import Settings

HERE: Final = Path(__file__).resolve().parent
DROP: Final = Path("/proc/sys/vm/drop_caches")
INODES: Final = "2"
INODES_AND_PAGES: Final = "3"
SETTLE_S: Final = 0.3
# Most datasets don't change while they are measured.
STILL_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Rig:
    """One case's rig. `work` is an empty folder that goes away after it."""

    work: Path
    gateway: Gateway
    settings: Settings
    environment: Environment

    def dasfs(self, *arguments: str, direct: bool = False) -> Done:
        """Run a command of dasfs; past the latency where it only prepares something."""
        env = self.gateway.direct_environment if direct else self.gateway.environment
        return run(*dasfs_command(*arguments), env=env)

    def mount_dasfs(
        self, name: str, cache: Path, *, store: str = "", refresh_s: float = STILL_S
    ) -> AbstractContextManager[Mount]:
        """Mount every dataset of the store, with the caches in `cache`."""
        arguments = ("mount", store or self.gateway.store, str(self.work / name), "--cache-dir", str(cache))
        command = dasfs_command(*arguments, "--refresh", f"{refresh_s:g}", "--foreground")
        return mounted(self.work / name, command, self.gateway.environment)

    def mount_memory(self, name: str, count: int, size: int, *options: str) -> AbstractContextManager[Mount]:
        """Mount the C program with so many files of so many bytes."""
        command = [str(build("fuse_memory")), *options, str(self.work / name), str(count), str(size)]
        return mounted(self.work / name, command)

    def drop_caches(self, *mounts: Mount, pages: bool = True) -> None:
        """Make the kernel forget all files, with `pages` also those of local file systems, and let mounts settle.

        The files of a FUSE mount lose their pages either way.
        """
        if self.settings.smoke:
            return
        os.sync()
        DROP.write_text(INODES_AND_PAGES if pages else INODES)
        # The kernel tells a mount of each file that it forgot; that work is not what is measured.
        for mount in mounts:
            mount.settle()
        time.sleep(SETTLE_S)


def dasfs_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dasfs", *arguments]


@contextlib.contextmanager
def open_rig(
    settings: Settings, environment: Environment, *, store: str | None, latency_ms: float | None, work: Path | None
) -> Iterator[Rig]:
    """Yield a rig for one case, and leave nothing of it behind."""
    folder = Path(tempfile.mkdtemp(prefix="dasfs-bench-", dir=work)).resolve()
    try:
        with open_gateway(folder, store, latency_ms) as gateway:
            yield Rig(folder, gateway, settings, environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fresh_copy(template: Path, to: Path) -> Path:
    """Return `to` as a new copy of `template`: a cache that is as it was prepared."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(template, to)
    return to


def take_turns(outcome: Outcome, rounds: int, measures: Iterable[tuple[str, Callable[[], None]]]) -> None:
    """Run each measure once a round. A peer that fails is noted with its reason and is out; the others go on."""
    left = dict(measures)
    for _ in range(rounds):
        for name, measure in list(left.items()):
            try:
                measure()
            except (BenchError, OSError) as error:
                outcome.add_problem(name, str(error))
                del left[name]
