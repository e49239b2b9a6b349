"""A data loader as training jobs have it: workers that are handed batches of files, and one process that collects.

    python loader.py DIRECTORY EXPECTED [--workers N] [--batch N] [--shuffle SEED]

It lists DIRECTORY once, hands batches to its workers in turn, each two ahead, and takes them back in the order in which
they were handed out, as PyTorch does. EXPECTED is a JSON object of `[size, digest]` for each name, see `digest_of`; a
worker compares each file that it read with it. In the end one JSON object is printed, see `Epoch`; exit code 1 where
anything was wrong. It needs nothing but Python.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

# PyTorch's default: batches that each worker has before it is asked for them.
AHEAD = 2
MAX_PROBLEMS = 20

Expected = dict[str, tuple[int, str]]


@dataclass
class Epoch:
    """One pass over the files. `slowest_s` is the longest wait for a batch."""

    files: int = 0
    size: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    problems: list[str] = field(default_factory=list)


def digest_of(data: bytes) -> str:
    """Return what tells contents apart; another sum than the one that the mount checks by."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def read_batch(directory: str, names: Sequence[str], expected: Expected) -> tuple[int, list[str]]:
    """Read files; return how many bytes they had, and what is wrong."""
    size, problems = 0, []
    for name in names:
        try:
            data = Path(directory, name).read_bytes()
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
            continue
        size += len(data)
        if (len(data), digest_of(data)) != tuple(expected[name]):
            problems.append(f"{name}: {len(data)} wrong bytes instead of {expected[name][0]}")
    return size, problems


def work(directory: str, expected: Expected, connection: Connection) -> None:
    """Read what comes until nobody sends any more."""
    with contextlib.suppress(EOFError):
        while True:
            connection.send(read_batch(directory, connection.recv(), expected))


def load(workers: Sequence[Connection], batches: Iterator[list[str]]) -> Epoch:
    """Go over the files once."""
    epoch, began = Epoch(), time.monotonic()
    waiting: deque[tuple[Connection, int]] = deque()

    def hand_out(worker: Connection) -> None:
        batch = next(batches, None)
        if batch is not None:
            worker.send(batch)
            waiting.append((worker, len(batch)))

    for _ in range(AHEAD):
        for worker in workers:
            hand_out(worker)
    while waiting:
        worker, count = waiting.popleft()
        asked = time.monotonic()
        size, problems = worker.recv()
        epoch.slowest_s = max(epoch.slowest_s, time.monotonic() - asked)
        epoch.files, epoch.size = epoch.files + count, epoch.size + size
        epoch.problems += problems[: MAX_PROBLEMS - len(epoch.problems)]
        hand_out(worker)
    epoch.seconds = time.monotonic() - began
    return epoch


def in_batches(names: Sequence[str], size: int) -> Iterator[list[str]]:
    for place in range(0, len(names), size):
        yield list(names[place : place + size])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory")
    parser.add_argument("expected")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="in a random order")
    arguments = parser.parse_args()
    expected: Expected = json.loads(Path(arguments.expected).read_bytes())
    # Before there are workers, as jobs do it: each has the list from its parent.
    names = sorted(os.listdir(arguments.directory))
    context = get_context("fork")
    pairs = [context.Pipe() for _ in range(arguments.workers)]
    processes = [context.Process(target=work, args=(arguments.directory, expected, theirs)) for _, theirs in pairs]
    for process in processes:
        process.start()
    for _, theirs in pairs:
        theirs.close()
    if arguments.shuffle is not None:
        random.Random(arguments.shuffle).shuffle(names)
    epoch = load([ours for ours, _ in pairs], in_batches(names, arguments.batch))
    for process in processes:
        process.kill()
        process.join()
    if sorted(names) != sorted(expected):
        epoch.problems.append("other names are listed than there are files")
    print(json.dumps(asdict(epoch)))
    return 1 if epoch.problems else 0


if __name__ == "__main__":
    sys.exit(main())
