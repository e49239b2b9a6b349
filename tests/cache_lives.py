"""Processes that use a block cache until they are killed, one after another.

    python -m tests.cache_lives

For each line `[ROOT, SEED]` (JSON) on stdin a process is forked, which says its number once it reads, and goes on until
it is killed; then it is told how it ended, as `waitpid` has it. A fork costs a hundredth of what a start costs.
"""

import json
import os
import sys
from pathlib import Path
from random import Random

import trio

from dasfs.cache.blocks import CachedSegment
from dasfs.cache.plan import BLOCK_SIZE
from tests.blocks import DATASET, OpenedCache, content_of, opened_cache, segment_of

CAPACITY = 12 * BLOCK_SIZE
CONTENTS = [content_of(blocks, seed) for seed, blocks in enumerate((0.01, 1, 2.5, 4, 7.3, 9))]


def handle(opened: OpenedCache, number: int) -> CachedSegment:
    """Return one of the segments of `CONTENTS`, which are in the store."""
    segment = segment_of(CONTENTS[number], number, offset=1536)
    return opened.cache.segment(DATASET, f"datas3t/test/dataranges/{segment.origin}.tar", segment)


async def read_some(opened: OpenedCache, source: Random) -> None:
    """Read a part of a segment and compare it."""
    number = source.randrange(len(CONTENTS))
    content = CONTENTS[number]
    start = source.randrange(len(content))
    end = source.randint(start, min(len(content), start + 3 * BLOCK_SIZE))
    assert await opened.read(handle(opened, number), start, end) == content[start:end]


async def live(root: Path, seed: int) -> None:
    """Read and evict until killed; a wrong byte ends it otherwise."""
    source = Random(seed)
    async with opened_cache(root, capacity=CAPACITY, save_interval_s=0.005, max_get_size=3 * BLOCK_SIZE) as opened:
        await read_some(opened, source)
        print(os.getpid(), flush=True)
        while True:
            await read_some(opened, source)


def main() -> None:
    for line in sys.stdin:
        root, seed = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                trio.run(live, Path(root), seed)
            finally:
                os._exit(1)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
