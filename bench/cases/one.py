"""One datapoint at a random place, with nothing cached but the index, beside one raw ranged GET of the same bytes."""

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bench.material import Material, dataset_sizes, make
from bench.outcome import DASFS, Aim, Outcome, Row
from bench.peers import LINK, Dasfs
from bench.processes import BenchError
from bench.read_ranges import connect, read_range
from bench.rig import Rig

TAR_BLOCK = 512
BUFFER = 1 << 20


def one(rig: Rig) -> Outcome:
    """Read datapoints that lie far from each other, by turns through the mount and by a GET on an open connection."""
    outcome = Outcome("one", "One random datapoint")
    material = make(rig, dataset_sizes(rig))
    peer = Dasfs()
    outcome.machine["versions"] = {peer.name: peer.prepare(rig, material)}
    url = urlsplit(rig.gateway.link("data.tar"))
    offsets = content_offsets(material.files)
    connection = connect(url)
    buffer = memoryview(bytearray(BUFFER))
    with peer.cold() as client:
        rig.drop_caches()
        for number in far_apart(rig, material):
            name, size = material.files[number]
            started = time.monotonic()
            read_range(connection, url, offsets[number], buffer[:size])
            outcome.add_sample(f"{LINK}, ms", 1000 * (time.monotonic() - started))
            started = time.monotonic()
            read_file(client.directory / name, buffer, size)
            outcome.add_sample(f"{DASFS}, ms", 1000 * (time.monotonic() - started))
    connection.close()
    ours, peers = outcome.median(f"{DASFS}, ms"), outcome.median(f"{LINK}, ms")
    row = Row("one random datapoint, index cached", "ms", ours, "one raw ranged GET", peers, Aim(1.25, at_most=True))
    outcome.rows.append(row)
    return outcome


def content_offsets(files: Sequence[tuple[str, int]]) -> list[int]:
    """Return where the contents of the members of a ustar begin."""
    offsets, position = [], 0
    for _, size in files:
        offsets.append(position + TAR_BLOCK)
        position += TAR_BLOCK + size + -size % TAR_BLOCK
    return offsets


def far_apart(rig: Rig, material: Material) -> list[int]:
    """Return numbers in random order, so far from each other that reading one fetches nothing of another."""
    count = len(material.files)
    numbers = list(range(0, count, max(count // rig.settings.random_reads, 1)))
    random.Random(rig.settings.seed).shuffle(numbers)
    return numbers[: rig.settings.random_reads]


def read_file(path: Path, buffer: memoryview, size: int) -> None:
    """Open, read and close one file. Raises `BenchError` where it has another size."""
    file = os.open(path, os.O_RDONLY)
    done = 0
    while count := os.readv(file, [buffer[done:]]):
        done += count
    os.close(file)
    if done != size:
        raise BenchError(f"{path}: {done} bytes were read of {size}")
