#!/usr/bin/env python3
"""Read the files of a directory once, with R processes, and print how fast that went as one line of JSON.

Each file is opened, read to its end and closed. Reader r takes every R-th file from the r-th on, in ascending
order of names, or in an order shuffled with `--seed`, which is the same for every run with that seed.

`--list FILE` names the files, as a JSON list of [name, size, sha256], so that the directory needs no listing and each
file's size is checked. `--verify` compares the checksums too, which takes time of its own.

`--drop-inodes` makes the kernel forget all files before (root). A file of a FUSE mount loses its pages with
that, files of local file systems keep theirs: what is measured is a mount that answers from warm local files.
`--drop-pages` makes the kernel forget those too.

    python bench/read_files.py /mnt/data/imagenet --readers 4 --seed 1 --drop-inodes
"""

import argparse
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final, NamedTuple

BUFFER: Final = 1 << 20  # what a read asks for; smaller files take one read and the one that finds the end
DROP_INODES: Final = "2"
DROP_INODES_AND_PAGES: Final = "3"
SETTLE_S: Final = 0.5
START_TIMEOUT_S: Final = 60.0  # forking the readers takes milliseconds; more than this is a fault
FOR_EVER_S: Final = 86_400.0


class File(NamedTuple):
    """A file to read. Without a list, size and checksum are not known."""

    name: str
    size: int | None = None
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """What one reader did, its times on the clock that all processes of a machine share. One `end` a file."""

    size: int
    started_s: float
    ends_s: list[float]


def result(parts: Sequence[Part]) -> dict[str, Any]:
    """Return what all readers did together, as it is printed. `marks` are [n, seconds until n files were read]."""
    started = min(part.started_s for part in parts)
    ends = sorted(end - started for part in parts for end in part.ends_s)
    files, size = len(ends), sum(part.size for part in parts)
    seconds = ends[-1] if ends else 0.0
    return {
        "files": files,
        "size": size,
        "readers": len(parts),
        "seconds": seconds,
        "files_per_s": files / seconds if seconds else 0.0,
        "bytes_per_s": size / seconds if seconds else 0.0,
        "marks": [[n, ends[n - 1]] for n in mark_numbers(files)],
    }


def mark_numbers(count: int) -> list[int]:
    """Return 1, 2, 5, 10, 20, 50 and so on below `count`, and `count`."""
    numbers = [digit * 10**power for power in range(12) for digit in (1, 2, 5)]
    return [*(number for number in numbers if number < count), *([count] if count else [])]


def read_all(files: Sequence[File], directory: str, seconds: float, verify: bool) -> Part:
    """Open, read and close each file, until all are read or so many seconds are over."""
    buffer = bytearray(BUFFER)
    view = memoryview(buffer)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    total, ends = 0, []
    started = time.monotonic()
    for name, expected, checksum in files:
        digest = hashlib.sha256()
        file = os.open(name, os.O_RDONLY, dir_fd=root)
        size = 0
        while count := os.readv(file, [buffer]):
            size += count
            if verify:
                digest.update(view[:count])
        os.close(file)
        ends.append(time.monotonic())
        if expected not in (None, size) or (verify and checksum != digest.hexdigest()):
            raise ValueError(f"{name}: {size} bytes were read, which are not the {expected} that it has")
        total += size
        if ends[-1] - started > seconds:
            break
    os.close(root)
    return Part(total, started, ends)


def reader(
    files: Sequence[File], directory: str, seconds: float, verify: bool, start: Barrier, answer: Connection
) -> None:
    """Be one reader process: wait for the others, read, answer with a `Part` or with what went wrong."""
    try:
        start.wait(START_TIMEOUT_S)
        answer.send(read_all(files, directory, seconds, verify))
    except OSError as error:
        answer.send(f"{error.strerror}: {error.filename or directory}")
    except ValueError as error:
        answer.send(str(error))


def drop_caches(what: str) -> None:
    """Make the kernel forget `what`. Written pages are synced first, as only clean ones can go."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text(what)
    # The kernel tells a FUSE process of each file that it forgot; that work is not what is measured.
    time.sleep(SETTLE_S)


def measure(
    directory: str, files: Sequence[File], readers: int, *, seconds: float = FOR_EVER_S, verify: bool = False
) -> list[Part]:
    """Read `files` with so many processes at once. Raises `OSError` where one of them met an error."""
    # fork, not spawn: a child that imports takes longer than what is measured.
    context = get_context("fork")
    start = context.Barrier(readers)
    answers: list[Connection] = []
    for number in range(readers):
        answer, question = context.Pipe(duplex=False)
        arguments = (files[number::readers], directory, seconds, verify, start, question)
        context.Process(target=reader, args=arguments).start()
        question.close()
        answers.append(answer)
    parts: list[Part] = []
    for answer in answers:
        part = answer.recv()
        if not isinstance(part, Part):
            raise OSError(part)
        parts.append(part)
    return parts


def find_files(directory: str, listing: str | None) -> list[File]:
    if listing is not None:
        return [File(*each) for each in json.loads(Path(listing).read_text())]
    return [File(name) for name in sorted(entry.name for entry in os.scandir(directory) if entry.is_file())]


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory")
    parser.add_argument("--readers", type=int, default=1, metavar="R", help="processes that read (default 1)")
    parser.add_argument(
        "--list", metavar="FILE", help="JSON of [name, size, sha256]; without it the directory is listed"
    )
    parser.add_argument("--seed", type=int, help="shuffle the names with this seed; without it ascending")
    parser.add_argument("--limit", type=int, help="read only the first so many names of that order")
    parser.add_argument("--seconds", type=float, default=FOR_EVER_S, help="stop after so many seconds")
    parser.add_argument("--verify", action="store_true", help="compare the checksums of the list")
    parser.add_argument("--drop-inodes", action="store_true", help="make the kernel forget the files first (root)")
    parser.add_argument("--drop-pages", action="store_true", help="make it forget all cached pages too (root)")
    return parser, parser.parse_args()


def main() -> int:
    parser, arguments = parse()
    try:
        files = find_files(arguments.directory, arguments.list)
        if arguments.seed is not None:
            random.Random(arguments.seed).shuffle(files)
        files = files[: arguments.limit]
        if arguments.readers < 1 or len(files) < arguments.readers:
            parser.error(f"{len(files)} files are too few for {arguments.readers} readers")
        if arguments.drop_pages or arguments.drop_inodes:
            drop_caches(DROP_INODES_AND_PAGES if arguments.drop_pages else DROP_INODES)
        parts = measure(
            arguments.directory, files, arguments.readers, seconds=arguments.seconds, verify=arguments.verify
        )
    except OSError as error:
        print(f"read_files: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result(parts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
