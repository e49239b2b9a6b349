"""Datasets of thousands of dataranges for tests: made quickly, and checked without keeping them in memory.

What a datapoint has is a stretch of one pool of random bytes, so that any number of processes can say what any byte of
a dataset has to be.
"""

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot
from dasfs.dataset.writer import upload
from dasfs.stores import Store
from tests.datasets import pack
from tests.mounts import PATIENCE_S

MIB = 1 << 20
# Four hide the latency of a gateway on the same machine; more would only wait for each other.
_UPLOADS = 4


@dataclass(frozen=True, slots=True)
class Bulk:
    """What a dataset has: for each datarange, in order, the stretches `(offset, size)` of `pool` in its datapoints."""

    dataranges: tuple[tuple[tuple[int, int], ...], ...]
    pool: bytes

    @property
    def datapoints(self) -> list[tuple[int, int]]:
        return [each for datarange in self.dataranges for each in datarange]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.datapoints)

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write what `checking_reader.py` needs, and return the paths of EXPECTED and POOL."""
        expected, pool = directory / "expected.json", directory / "pool"
        expected.write_text(json.dumps(self.datapoints))
        pool.write_bytes(self.pool)
        return expected, pool


def make_bulk(small: int, large: Sequence[int], *, seed: int = 1, large_first: bool = False) -> Bulk:
    """Return a dataset of `small` dataranges of 1 to 4 datapoints of up to 16 kB, and some of these `large` sizes.

    They are shuffled, so that large ones stand beside each other, alone, and with runs of small ones between.
    `large_first`: but it begins with a large one. Small ones there cost up to 10 MiB of a large one once.
    """
    source = random.Random(seed)
    sizes = [[size // 4] * 4 for size in large]
    sizes += [[source.randrange(16_000) for _ in range(source.randint(1, 4))] for _ in range(small)]
    source.shuffle(sizes)
    if large_first:
        first = next(place for place, each in enumerate(sizes) if sum(each) >= 5 * MIB)
        sizes = sizes[first:] + sizes[:first]
    pool = source.randbytes(max(max(each) for each in sizes) + 8 * MIB)
    return Bulk(
        tuple(tuple((source.randrange(len(pool) - size), size) for size in datarange) for datarange in sizes), pool
    )


def add_bulk(store: Store, name: str, bulk: Bulk, *, in_commit: int = 10) -> Snapshot:
    """Upload all dataranges of `bulk` into a new dataset, and commit so many of them at a time."""
    dataset = Dataset(store, name)
    snapshot = dataset.log.create()
    starts = list(accumulate(map(len, bulk.dataranges), initial=0))
    view = memoryview(bulk.pool)

    def send(place: int) -> Datarange:
        contents = [bytes(view[offset : offset + size]) for offset, size in bulk.dataranges[place]]
        with pack(name, starts[place], contents) as packed:
            return upload(store, dataset.keys, packed, place + 1)

    with ThreadPoolExecutor(_UPLOADS) as pool:
        for place in range(0, len(bulk.dataranges), in_commit):
            added = tuple(pool.map(send, range(place, min(place + in_commit, len(bulk.dataranges)))))
            snapshot = dataset.log.commit(Change(Operation.UPLOAD, add=added), snapshot)
    return snapshot


@dataclass(slots=True)
class Readers:
    """Processes that read and check until they are stopped."""

    processes: "list[subprocess.Popen[str]]"

    @property
    def ended(self) -> bool:
        """Whether one of them ended by itself: what it saw is told by `stop`."""
        return any(process.poll() is not None for process in self.processes)

    def stop(self, timeout_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """End them, and return what each says of itself."""
        return [json.loads(process.communicate(timeout=timeout_s)[0]) for process in self.processes]

    def wait(self, timeout_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """Wait until they have read what they were to read, and return what each says of itself."""
        for process in self.processes:
            process.wait(timeout_s)
        return self.stop()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


READER = Path(__file__).with_name("checking_reader.py")


@contextmanager
def reading(bulk_files: tuple[Path, Path], directories: Sequence[Path], *options: str) -> Iterator[Readers]:
    """Read each of `directories` in order and at random, in a process each, and leave none behind."""
    readers = Readers([])
    try:
        for seed, directory in enumerate(directories):
            for how in ("ascending", "random"):
                command = [sys.executable, str(READER), str(directory), *map(str, bulk_files)]
                command += ["--order", how, "--seed", str(seed), *options]
                readers.processes.append(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                )
        yield readers
    finally:
        readers.kill()
