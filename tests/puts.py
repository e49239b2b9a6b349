"""What the tests of `dasfs put` that ends early share: files to put, the command, and what must hold at the end."""

import multiprocessing
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

from dasfs.cli.main import run
from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.verify import verify
from dasfs.stores import Store, open_store

FILES = 60

# Commands are forked from a process that has loaded everything, so that a random moment is one of the command's
# work and not of Python's start.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["__main__", "tests.puts", "dasfs.cli.put", "dasfs.stores.s3", "dasfs.stores.sqlite"])


@dataclass(frozen=True, slots=True)
class Files:
    """A directory of files, and the content of each by its original path."""

    top: Path
    content: Mapping[str, bytes]


def make_files(top: Path) -> Files:
    """Make numbered and unnumbered files, which make about 14 dataranges of 64 KiB."""
    content = random.Random(7)
    top.mkdir()
    made = {}
    for number in range(FILES):
        name = f"{number:020d}.bin" if number < 12 else f"f{number:02d}.bin"
        made[name] = content.randbytes(content.randrange(25_000))
        (top / name).write_bytes(made[name])
    return Files(top, made)


def put_command(url: str, dataset: str, files: Files) -> list[str]:
    return ["put", dataset, f"{files.top}/", "--store", url, "--datarange-size", "64KiB"]


def fork(arguments: Sequence[str]) -> BaseProcess:
    """Start a command, with this environment as it is now; its exit code is that of the process."""
    process = _forks.Process(target=_run, args=(list(arguments), dict(os.environ)))
    process.start()
    return process


def _run(arguments: list[str], environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(run(arguments))


def original_names(store: Store, dataset: str) -> list[str]:
    """Return the original path, or the name, of every datapoint, sorted."""
    target = Dataset(store, dataset)
    names = []
    for datarange in target.snapshot().dataranges:
        manifest = target.load_manifest(datarange)
        names += [manifest.original_name(k) or f"{datarange.first + k:020d}.bin" for k in range(manifest.count)]
    return sorted(names)


def check_exactly_once(url: str, dataset: str, files: Files) -> None:
    """Check every content, and that each is there once; then that `collect` leaves only what the log names."""
    with open_store(url) as store:
        target = Dataset(store, dataset)
        snapshot = target.snapshot()
        assert original_names(store, dataset) == sorted(files.content)
        assert snapshot.data_size == sum(map(len, files.content.values()))
        assert list(verify(store, dataset, snapshot)) == []
        collect(store, dataset, grace=Grace(timedelta(0), timedelta(0), timedelta(0)))
        named = {
            key(datarange.id)
            for datarange in snapshot.dataranges
            for key in (target.keys.tar, target.keys.index, target.keys.manifest)
        }
        assert {info.key for info in store.list(target.keys.dataranges)} == named
        assert target.snapshot().dataranges == snapshot.dataranges
