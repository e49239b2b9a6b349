"""What the block cache does when the disk fails, others spoil its files, or it is killed: never a wrong byte."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from dasfs.cache.block_files import BlockFiles
from dasfs.cache.plan import BLOCK_SIZE
from dasfs.stores.base import MIB
from tests.blocks import (
    PATIENCE_S,
    block_files,
    content_of,
    disk_usage,
    mounted_disk,
    opened_cache,
    wait_until,
)

# What came lately is read from memory, which is not what is tested here.
on_disk = partial(opened_cache, keep_recent=False)


def test_a_block_that_was_damaged_before_a_restart_is_fetched_again(tmp_path: Path) -> None:
    """After a restart each block proves its checksum at its first touch."""

    async def main() -> None:
        content = content_of(4)
        async with on_disk(tmp_path) as opened:
            await opened.read_all(opened.segment(content))
        with block_files(tmp_path)[0].open("r+b") as file:
            file.seek(BLOCK_SIZE + 1234)
            file.write(b"not what it was")
        async with on_disk(tmp_path) as opened:
            segment = opened.segment(content)
            assert await opened.read_all(segment) == content
            assert [size for _, _, size in opened.store.reads] == [BLOCK_SIZE]
            assert opened.cache.statistics().verification_failures == 1

    trio.run(main)


def test_a_block_that_is_damaged_under_a_mount_is_fetched_again(tmp_path: Path) -> None:
    """A cache that checks at each read notices every byte that others write into its files while it uses them."""

    async def main() -> None:
        content = content_of(3.5)
        async with on_disk(tmp_path, check_always=True) as opened:
            segment = opened.segment(content)
            await opened.read_all(segment)
            stretches = [(0, 10), (BLOCK_SIZE - 5, 2 * BLOCK_SIZE + 5), (3 * BLOCK_SIZE + 10, len(content)), (7, 7)]
            for start, end in stretches:
                assert opened.cache.read_cached(segment, start, end) == content[start:end]
            gets = len(opened.store.reads)
            for place in (3, 2 * BLOCK_SIZE, len(content) - 1):
                with block_files(tmp_path)[0].open("r+b") as file:
                    file.seek(place)
                    file.write(bytes([content[place] ^ 1]))
                assert opened.cache.read_cached(segment, place, place + 1) is None
                assert await opened.read_all(segment) == content
            assert len(opened.store.reads) == gets + 3
            assert opened.cache.statistics().verification_failures == 3

    trio.run(main)


@pytest.mark.parametrize("harm", ["delete", "cut", "replace", "replace all"])
def test_a_file_that_others_spoil_under_a_mount_is_noticed(tmp_path: Path, harm: str) -> None:
    """A block file that is deleted, cut or replaced costs a fetch, and never a wrong byte, also later."""

    async def main() -> None:
        content = content_of(3)
        others = [content_of(0.2, number) for number in range(1, 6)]
        async with on_disk(tmp_path, open_files=2) as opened:
            segment = opened.segment(content)
            await opened.read(segment, 0, 2 * BLOCK_SIZE)
            spoil_file(block_files(tmp_path)[0], harm)
            assert await opened.read_all(segment) == content
            for number, other in enumerate(others, 1):  # so that its file is closed and opened again
                assert await opened.read_all(opened.segment(other, number)) == other
            assert segment.file is None
            assert await opened.read_all(segment) == content
            if harm != "delete":
                spoil_file(block_files(tmp_path)[0], "delete")
            for number, other in enumerate(others, 1):
                assert await opened.read_all(opened.segment(other, number)) == other
            assert await opened.read_all(segment) == content

    def spoil_file(file: Path, how: str) -> None:
        size = file.stat().st_size
        if how == "cut":
            os.truncate(file, 1000)
            return
        replacement = tmp_path / "replacement"
        if how.startswith("replace"):
            replacement.write_bytes(bytes(size))
            os.replace(replacement, file)
        else:
            file.unlink()

    trio.run(main)


def test_a_file_that_was_cut_does_not_grow_again_over_its_hole(tmp_path: Path) -> None:
    """Writing a later block into a file that others cut must not make the earlier ones read as zeros."""

    async def main() -> None:
        content = content_of(3)
        async with on_disk(tmp_path) as opened:
            segment = opened.segment(content)
            await opened.read(segment, 0, 2 * BLOCK_SIZE)
            os.truncate(block_files(tmp_path)[0], 1000)
            await opened.read(segment, 2 * BLOCK_SIZE, 3 * BLOCK_SIZE)
            assert await opened.read_all(segment) == content

    trio.run(main)


def test_a_block_that_is_read_while_its_space_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fetched between the choice of an eviction and its end is not lost in the hole."""
    go_on = threading.Event()
    punched: list[int] = []
    punch = BlockFiles.punch

    def slow_punch(files: BlockFiles, name: str, blocks: Iterable[int]) -> None:
        punched.extend(blocks)
        assert go_on.wait(PATIENCE_S)
        punch(files, name, blocks)

    monkeypatch.setattr(BlockFiles, "punch", slow_punch)

    async def main() -> None:
        content = content_of(64)
        async with on_disk(tmp_path, capacity=64 * BLOCK_SIZE) as opened:
            segment = opened.segment(content)
            await opened.read(segment, 0, 63 * BLOCK_SIZE)
            await wait_until(lambda: bool(punched))
            start = punched[0] * BLOCK_SIZE
            assert opened.cache.read_cached(segment, start, start + 10) is None
            assert await opened.read(segment, start, start + 10) == content[start : start + 10]
            assert opened.cache.read_cached(segment, start, start + 10) is None
            go_on.set()
            await wait_until(lambda: opened.cache.statistics().bytes_used < 63 * BLOCK_SIZE)
            assert await opened.read_all(segment) == content

    trio.run(main)


def test_a_full_disk_only_makes_the_cache_smaller(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the cache's disk is full reads still work, the cache holds less, and one WARNING says so."""

    async def main(disk: Path) -> None:
        async with on_disk(tmp_path, directory=disk, capacity=256 * MIB) as opened:
            for number in range(8):
                content = content_of(8, number)
                segment = opened.segment(content, number)
                for start in range(0, len(content), 2 * BLOCK_SIZE):
                    end = start + 2 * BLOCK_SIZE
                    assert await opened.read(segment, start, end) == content[start:end]
            assert 0 < opened.cache.statistics().capacity < 16 * MIB
            content = content_of(1, 99)
            segment = opened.segment(content, 99)
            await wait_until(lambda: opened.cache.statistics().bytes_used < 8 * MIB)
            assert await opened.read_all(segment) == content
            assert opened.cache.read_cached(segment, 0, len(content)) == content

    with mounted_disk("tmpfs", tmp_path / "disk", "size=12m") as disk:
        trio.run(main, disk)
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert "the cache's disk is full" in warnings[0]


def test_without_holes_whole_segments_are_evicted(tmp_path: Path) -> None:
    """On a file system that can't punch holes the capacity holds, and bytes are right."""

    async def main(disk: Path) -> None:
        capacity = 16 * BLOCK_SIZE
        async with on_disk(tmp_path, directory=disk, capacity=capacity) as opened:
            contents = [content_of(3, number) for number in range(12)]
            handles = [opened.segment(content, number) for number, content in enumerate(contents)]
            for _ in range(2):
                for handle, content in zip(handles, contents, strict=True):
                    assert await opened.read(handle, 0, 10) == content[:10]
                    assert await opened.read_all(handle) == content
                    assert disk_usage(disk) <= capacity

    with mounted_disk("ramfs", tmp_path / "disk", "mode=700") as disk:
        trio.run(main, disk)


_VICTIM = """
import sys, trio
from pathlib import Path
from tests.blocks import content_of, opened_cache

async def main():
    async with opened_cache(Path(sys.argv[1]), capacity=int(sys.argv[2]), save_interval_s=0.05) as opened:
        for number in range(1000):
            content = content_of(4, number % 12)
            segment = opened.segment(content, number % 12)
            assert await opened.read_all(segment) == content
            print(number, flush=True)

trio.run(main)
"""


@pytest.mark.parametrize("reads", [1, 9, 30])
def test_a_killed_mount_leaves_a_cache_that_can_be_used(tmp_path: Path, reads: int) -> None:
    """Killed with -9 while it fetches and evicts: the next one serves right bytes, within the capacity."""
    capacity = 30 * BLOCK_SIZE
    process = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(tmp_path), str(capacity)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while int(process.stdout.readline()) < reads:
        pass
    process.kill()
    process.wait()
    process.stdout.close()

    async def main() -> None:
        async with on_disk(tmp_path, capacity=capacity) as opened:
            # The recovery gives back what was written and never recorded.
            await wait_until(lambda: not opened.cache.statistics().recovering)
            assert disk_usage(tmp_path) <= opened.cache.statistics().bytes_used
            for number in range(12):
                content = content_of(4, number)
                assert await opened.read_all(opened.segment(content, number)) == content
                assert disk_usage(tmp_path) <= capacity

    trio.run(main)


def test_recovery_removes_what_no_record_knows(tmp_path: Path) -> None:
    """After a kill, blocks and files that were never recorded do not take space for ever."""

    async def main() -> None:
        content = content_of(4)
        async with on_disk(tmp_path) as opened:
            segment = opened.segment(content)
            await opened.read(segment, 0, BLOCK_SIZE)
        file = block_files(tmp_path)[0]
        with file.open("r+b") as blocks:
            blocks.seek(BLOCK_SIZE)
            blocks.write(content[BLOCK_SIZE:])
        orphan = file.parent.with_name("ab") / ("ab" * 16 + ".blk")
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(bytes(BLOCK_SIZE))
        _mark_unclean(tmp_path)
        async with on_disk(tmp_path) as opened:
            await wait_until(lambda: disk_usage(tmp_path) <= BLOCK_SIZE + 4096)
            assert not orphan.exists()
            segment = opened.segment(content)
            assert opened.cache.read_cached(segment, 0, BLOCK_SIZE) == content[:BLOCK_SIZE]
            assert await opened.read_all(segment) == content

    trio.run(main)


def _mark_unclean(path: Path) -> None:
    connection = apsw.Connection(str(path / "cache" / "dasfs-cache" / "blocks.db"))
    connection.execute("UPDATE cache SET clean = 0")
    connection.close()


@pytest.mark.parametrize("harm", ["garbage", "empty", "other version", "missing", "half", "bad row"])
def test_a_database_that_is_damaged_is_built_anew(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged, foreign or missing database costs the cached blocks and one WARNING, nothing else."""
    contents = [content_of(2, number) for number in range(3)]

    async def fill() -> None:
        async with on_disk(tmp_path) as opened:
            for number, content in enumerate(contents):
                assert await opened.read_all(opened.segment(content, number)) == content

    async def check() -> None:
        for _ in range(2):
            async with on_disk(tmp_path) as opened:
                for number, content in enumerate(contents):
                    assert await opened.read_all(opened.segment(content, number)) == content
        async with on_disk(tmp_path) as opened:
            segments = [opened.segment(content, number) for number, content in enumerate(contents)]
            assert all(opened.cache.read_cached(each, 0, each.length) for each in segments)

    trio.run(fill)
    _damage(tmp_path / "cache" / "dasfs-cache" / "blocks.db", harm)
    trio.run(check)
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert disk_usage(tmp_path) <= 6 * BLOCK_SIZE


def _damage(database: Path, harm: str) -> None:
    match harm:
        case "garbage":
            database.write_bytes(b"this is no database" * 1000)
        case "empty":
            database.write_bytes(b"")
        case "missing":
            database.unlink()
        case "half":
            os.truncate(database, database.stat().st_size // 2)
        case _:
            connection = apsw.Connection(str(database))
            if harm == "other version":
                connection.pragma("user_version", 99)
            else:
                connection.execute("UPDATE segment SET states = x'010203', last_used = 'text'")
            connection.close()
