"""The block cache of processes that are killed with -9 at any moment, one after another, their records torn between.

What a kill leaves is real here; what only a power cut leaves, records that are torn or lost, is done by hand.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.blocks import disk_usage, opened_cache, wait_until
from tests.cache_lives import CAPACITY, CONTENTS, handle

EXAMPLES = max(1, int(os.environ.get("DASFS_MODEL_EXAMPLES", "40")) // 2)

# When it is killed, in milliseconds after its first read, and what happens to its files then: which of them, where.
harms = st.sampled_from(["none", "cut", "overwrite", "lose"])
lives = st.tuples(st.integers(0, 60), harms, st.sampled_from(["blocks.db", "blocks.db-wal"]), st.integers(0, 2**32))


class Lives:
    """Starts processes that use a cache, one at a time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def live_and_die(self, root: Path, after_ms: int, seed: int) -> None:
        """Let a process use the cache in `root`, and kill it so long after its first read."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(root), seed]), file=self._process.stdin, flush=True)
        child = int(self._process.stdout.readline())
        select.select([], [], [], after_ms / 1000)  # any moment is as good as any other
        os.kill(child, signal.SIGKILL)
        assert int(self._process.stdout.readline()) == signal.SIGKILL, "it ended by itself"


@pytest.fixture(scope="module")
def processes() -> Iterator[Lives]:
    """A process from which others are forked."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cache_lives"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Lives(process)


def tear(root: Path, harm: str, name: str, seed: int) -> bool:
    """Do to the records what a power cut does; return whether there was anything to do."""
    path, source = root / "cache" / "dasfs-cache" / name, Random(seed)
    if harm == "none" or not path.exists() or not path.stat().st_size:
        return False
    place = source.randrange(path.stat().st_size)
    if harm == "lose":
        path.unlink()
    elif harm == "cut":
        os.truncate(path, place)
    else:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(source.randbytes(200))
    return True


async def prepare(root: Path) -> None:
    """Put what is read into the store."""
    async with opened_cache(root) as opened:
        for number, content in enumerate(CONTENTS):
            opened.store.add_segment(content, number)


async def read_everything(root: Path, is_torn: bool) -> None:
    """Read all bytes, in the room that there is."""
    async with opened_cache(root, capacity=CAPACITY) as opened:
        for number, content in enumerate(CONTENTS):
            assert await opened.read_all(handle(opened, number)) == content
        await wait_until(lambda: not opened.cache.statistics().recovering)
        # Records that somebody changed may say that there is less than there is; the bytes themselves are proven.
        assert is_torn or disk_usage(root) <= CAPACITY


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(lives, min_size=1, max_size=4))
def test_no_kill_and_no_torn_record_makes_a_wrong_byte(
    processes: Lives, script: Sequence[tuple[int, str, str, int]]
) -> None:
    """Each life reads right whatever the one before left, and the last has all bytes."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        root, is_torn = Path(directory), False
        trio.run(prepare, root)
        for after_ms, harm, name, seed in script:
            processes.live_and_die(root, after_ms, seed)
            is_torn = tear(root, harm, name, seed) or is_torn
        trio.run(read_everything, root, is_torn)
