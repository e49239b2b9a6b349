"""A program that reads datapoints of a mount until its stdin ends, and compares every byte with what it has to be.

    python checking_reader.py DIRECTORY EXPECTED POOL [--order random|ascending] [--seed N] [--once] [--whole] [--retry]

EXPECTED is a JSON list of `[offset, size]`: what datapoint number k has are these bytes of POOL. It needs nothing but
Python, so that it starts in an instant. In the end it prints one JSON object: see `Summary`.
"""

import argparse
import errno
import json
import os
import random
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

# As much as a program asks for in one read of a large file.
STRETCH = 1 << 20
MAX_PROBLEMS = 20
SLOWEST = 10
# With --retry: errors of a store that fails, each of which may be gone at the next try.
PASSING = (errno.EIO, errno.ETIMEDOUT)


@dataclass
class Summary:
    """What one reader did. Times are seconds, `slowest` are `[seconds, what, number, when]`."""

    files: int = 0
    size: int = 0
    passes: int = 0
    errors: int = 0
    problems: list[str] = field(default_factory=list)
    median_s: float = 0.0
    p99_s: float = 0.0
    slowest: list[tuple[float, str, int, float]] = field(default_factory=list)


class Reader:
    """Reads one directory."""

    def __init__(self, directory: str, expected: list[tuple[int, int]], pool: memoryview, *, retry: bool) -> None:
        self.summary = Summary()
        self._expected = expected
        self._pool = pool
        self._retry = retry
        self._root = self._open(directory)
        self._times: list[float] = []

    def run(self, numbers: Iterator[int], at_least: int) -> None:
        """Read until `numbers` end, or until stdin ends and there were `at_least` so many."""
        for number in numbers:
            is_enough = self.summary.files >= at_least and select.select([sys.stdin], [], [], 0)[0]
            if is_enough or len(self.summary.problems) >= MAX_PROBLEMS:
                return
            while not self._read(number):
                self.summary.errors += 1

    def finish(self) -> Summary:
        if self._times:
            ordered = sorted(self._times)
            self.summary.median_s = ordered[len(ordered) // 2]
            self.summary.p99_s = ordered[len(ordered) * 99 // 100]
        self.summary.passes = self.summary.files // max(1, len(self._expected))
        return self.summary

    def _open(self, directory: str) -> int:
        while True:
            try:
                return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                if not self._retry or error.errno not in PASSING:
                    raise
                self.summary.errors += 1

    def _read(self, number: int) -> bool:
        """Read and check one datapoint; return whether that is done."""
        try:
            self._check(number)
        except OSError as error:
            if self._retry and error.errno in PASSING:
                return False
            self._complain(f"{number}: {error.strerror}")
        self.summary.files += 1
        return True

    def _check(self, number: int) -> None:
        start, size = self._expected[number]
        began = time.monotonic()
        file = os.open(f"{number:020d}.bin", os.O_RDONLY, dir_fd=self._root)
        try:
            self._note("open", number, began)
            # The kernel would serve what was read before, and it is the mount that is asked here.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in range(0, size + 1, STRETCH):
                began = time.monotonic()
                data = os.pread(file, STRETCH, offset)
                self._note("read", number, began)
                wanted = self._pool[start + offset : start + min(offset + STRETCH, size)]
                if data != wanted:
                    self._complain(f"{number}: {len(data)} wrong bytes at {offset} instead of {len(wanted)}")
                    return
                self.summary.size += len(data)
        finally:
            os.close(file)

    def _note(self, what: str, number: int, began: float) -> None:
        seconds = time.monotonic() - began
        self._times.append(seconds)
        slowest = self.summary.slowest
        if len(slowest) < SLOWEST or seconds > slowest[-1][0]:
            slowest.append((seconds, what, number, time.time()))
            slowest.sort(reverse=True)
            del slowest[SLOWEST:]

    def _complain(self, problem: str) -> None:
        self.summary.problems.append(problem)


def order(count: int, how: str, seed: int, *, once: bool) -> Iterator[int]:
    """Yield numbers below `count`, each once in a pass: in order or in another random order each time."""
    generator = random.Random(seed)
    numbers = list(range(count))
    while True:
        if how == "random":
            generator.shuffle(numbers)
        yield from numbers
        if once:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory")
    parser.add_argument("expected")
    parser.add_argument("pool")
    parser.add_argument("--order", choices=["random", "ascending"], default="random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--retry", action="store_true", help="read again what gave EIO or ETIMEDOUT")
    parser.add_argument("--whole", action="store_true", help="read each datapoint at least once")
    parser.add_argument("--once", action="store_true", help="end after each datapoint was read once")
    arguments = parser.parse_args()
    os.nice(5)  # what is tested besides must not wait for those who only watch
    expected = json.loads(Path(arguments.expected).read_bytes())
    pool = memoryview(Path(arguments.pool).read_bytes())
    reader = Reader(arguments.directory, expected, pool, retry=arguments.retry)
    numbers = order(len(expected), arguments.order, arguments.seed, once=arguments.once)
    reader.run(numbers, len(expected) if arguments.whole or arguments.once else 0)
    print(json.dumps(asdict(reader.finish())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
