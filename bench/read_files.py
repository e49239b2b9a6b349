#!/usr/bin/env python3
"""Read every file of a directory once, with R processes, and print how fast that went as one line of JSON.

Each file is opened, read to its end and closed. Reader r takes every R-th file from the r-th on, in ascending
order of names, or in an order shuffled with `--seed`, which is the same for every run with that seed.

`--drop-inodes` makes the kernel forget all files before (root). A file of a FUSE mount loses its pages with
that, files of local file systems keep theirs: what is measured is a mount that answers from warm local files.
`--drop-pages` makes the kernel forget those too.

    python bench/read_files.py /mnt/data/imagenet --readers 4 --seed 1 --drop-inodes
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final

BUFFER: Final = 1 << 20  # what a read asks for; smaller files take one read and the one that finds the end
DROP_INODES: Final = "2"
DROP_INODES_AND_PAGES: Final = "3"
SETTLE_S: Final = 0.5
START_TIMEOUT_S: Final = 60.0  # forking the readers takes milliseconds; more than this is a fault


@dataclass(frozen=True, slots=True)
class Part:
    """What one reader did, its times on the clock that all processes of a machine share."""

    files: int
    size: int
    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """What all readers did together."""

    files: int
    size: int
    readers: int
    seconds: float
    files_per_s: float
    bytes_per_s: float


def read_all(names: Sequence[str], directory: str) -> Part:
    """Open, read and close each file."""
    buffer = bytearray(BUFFER)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    total = 0
    started = time.monotonic()
    for name in names:
        file = os.open(name, os.O_RDONLY, dir_fd=root)
        while count := os.readv(file, [buffer]):
            total += count
        os.close(file)
    ended = time.monotonic()
    os.close(root)
    return Part(len(names), total, started, ended)


def reader(names: Sequence[str], directory: str, start: Barrier, answer: Connection) -> None:
    """Be one reader process: wait for the others, read, answer with a `Part` or with what went wrong."""
    try:
        start.wait(START_TIMEOUT_S)
        answer.send(read_all(names, directory))
    except OSError as error:
        answer.send(f"{error.strerror}: {error.filename or directory}")


def drop_caches(what: str) -> None:
    """Make the kernel forget `what`. Written pages are synced first, as only clean ones can go."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text(what)
    # The kernel tells a FUSE process of each file that it forgot; that work is not what is measured.
    time.sleep(SETTLE_S)


def measure(directory: str, names: Sequence[str], readers: int) -> Result:
    """Read `names` with so many processes at once. Raises `OSError` where one of them met an error."""
    # fork, not spawn: a child that imports takes longer than what is measured.
    context = get_context("fork")
    start = context.Barrier(readers)
    answers: list[Connection] = []
    for number in range(readers):
        answer, question = context.Pipe(duplex=False)
        context.Process(target=reader, args=(names[number::readers], directory, start, question)).start()
        question.close()
        answers.append(answer)
    parts: list[Part] = []
    for answer in answers:
        part = answer.recv()
        if not isinstance(part, Part):
            raise OSError(part)
        parts.append(part)
    seconds = max(part.ended_s for part in parts) - min(part.started_s for part in parts)
    files, size = sum(part.files for part in parts), sum(part.size for part in parts)
    return Result(files, size, readers, seconds, files / seconds, size / seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory")
    parser.add_argument("--readers", type=int, default=1, metavar="R", help="processes that read (default 1)")
    parser.add_argument("--seed", type=int, help="shuffle the names with this seed; without it ascending")
    parser.add_argument("--limit", type=int, help="read only the first so many names of that order")
    parser.add_argument("--drop-inodes", action="store_true", help="make the kernel forget the files first (root)")
    parser.add_argument("--drop-pages", action="store_true", help="make it forget all cached pages too (root)")
    arguments = parser.parse_args()
    try:
        names = sorted(entry.name for entry in os.scandir(arguments.directory) if entry.is_file())
        if arguments.seed is not None:
            random.Random(arguments.seed).shuffle(names)
        names = names[: arguments.limit]
        if arguments.readers < 1 or len(names) < arguments.readers:
            parser.error(f"{len(names)} files are too few for {arguments.readers} readers")
        if arguments.drop_pages or arguments.drop_inodes:
            drop_caches(DROP_INODES_AND_PAGES if arguments.drop_pages else DROP_INODES)
        result = measure(arguments.directory, names, arguments.readers)
    except OSError as error:
        print(f"read_files: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
