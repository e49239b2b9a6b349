"""What the block cache does when the store, the disk or somebody else misbehaves: never a wrong byte."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from dasfs.cache.plan import BLOCK_SIZE
from dasfs.errors import Corrupt, DasfsError, DeadlineExceeded, StoreUnavailable
from dasfs.stores.base import MIB
from tests.blocks import (
    DATASET,
    PATIENCE_S,
    block_files,
    content_of,
    disk_usage,
    opened_cache,
    segment_of,
    wait_until,
)


def spoil(buffer: memoryview, place: int = 0) -> None:
    buffer[place] ^= 0xFF


def test_a_block_that_is_wrong_once_is_fetched_once_more(tmp_path: Path) -> None:
    """One bad answer costs one more GET of that block, and the reader gets the right bytes."""

    async def main() -> None:
        content = content_of(3)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)

            def fault(key: str, offset: int, buffer: memoryview) -> None:
                if len(opened.store.reads) == 1:
                    spoil(buffer, BLOCK_SIZE + 5)

            opened.store.fault = fault
            assert await opened.read_all(segment) == content
            assert [size for _, _, size in opened.store.reads] == [3 * BLOCK_SIZE, BLOCK_SIZE]
            assert opened.cache.statistics().verification_failures == 1
            assert opened.cache.read_cached(segment, 0, len(content)) == content

    trio.run(main)


def test_a_block_that_stays_wrong_is_an_error_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    """A damaged object: the damaged block is `Corrupt`, never its bytes; all others are served."""

    async def main() -> None:
        content = content_of(4)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)
            damaged = bytearray(bytes(1536) + content)
            damaged[1536 + 2 * BLOCK_SIZE + 77] ^= 1
            opened.store.put(segment.tar_key, bytes(damaged))
            for _ in range(2):
                with pytest.raises(Corrupt, match="checksum"):
                    await opened.read_all(segment)
            gets = len(opened.store.reads)
            assert await opened.read(segment, 0, 2 * BLOCK_SIZE) == content[: 2 * BLOCK_SIZE]
            assert await opened.read(segment, 3 * BLOCK_SIZE, len(content)) == content[3 * BLOCK_SIZE :]
            assert len(opened.store.reads) == gets

    trio.run(main)


def test_an_object_that_was_cut_off_serves_the_blocks_it_has(tmp_path: Path) -> None:
    """Of a TAR object that lost its end, the blocks before the cut are right, the others are `Corrupt`."""

    async def main() -> None:
        content = content_of(4)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)
            opened.store.put(segment.tar_key, bytes(1536) + content[: 2 * BLOCK_SIZE + 9])
            with pytest.raises(Corrupt):
                await opened.read_all(segment)
            assert opened.cache.read_cached(segment, 0, 2 * BLOCK_SIZE) == content[: 2 * BLOCK_SIZE]

    trio.run(main)


def test_a_store_that_hangs_ends_in_the_deadline_and_is_forgotten(tmp_path: Path) -> None:
    """A read of a store that hangs is `DeadlineExceeded` in time; cached blocks and later reads work."""

    async def main() -> None:
        content = content_of(3)
        async with opened_cache(tmp_path, get_timeout_s=0.3) as opened:
            segment = opened.segment(content)
            await opened.read(segment, 0, 1)
            with opened.store.hold():
                with trio.fail_after(PATIENCE_S):
                    for deadline_s in (0.05, 60):
                        with pytest.raises(DeadlineExceeded):
                            await opened.cache.read(
                                segment, BLOCK_SIZE, 2 * BLOCK_SIZE, trio.current_time() + deadline_s
                            )
                assert await opened.read(segment, 0, 100) == content[:100]
            assert await opened.read_all(segment) == content
            assert opened.cache.statistics().in_flight == 0

    trio.run(main)


def test_an_outage_is_an_error_and_then_all_is_well(tmp_path: Path) -> None:
    """While the store is away reads raise what it raises, also for all who wait; afterwards they work."""

    async def main() -> None:
        content = content_of(2)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)
            errors: list[DasfsError] = []

            def fault(key: str, offset: int, buffer: memoryview) -> None:
                raise StoreUnavailable("no route to host")

            async def read() -> None:
                with pytest.raises(StoreUnavailable) as caught:
                    await opened.read(segment, 0, 10)
                errors.append(caught.value)

            opened.store.fault = fault
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(read)
            assert len({id(error) for error in errors}) == 20
            assert len(opened.store.reads) == 2
            opened.store.fault = None
            assert await opened.read_all(segment) == content

    trio.run(main)


def test_a_store_with_a_bug_does_not_end_the_mount(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that no store may raise becomes an error of that read, with its traceback in the log."""

    async def main() -> None:
        content = content_of(1)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)

            def fault(key: str, offset: int, buffer: memoryview) -> None:
                raise ZeroDivisionError

            opened.store.fault = fault
            with pytest.raises(DasfsError, match="ZeroDivisionError"):
                await opened.read_all(segment)
            opened.store.fault = None
            assert await opened.read_all(segment) == content

    trio.run(main)
    assert "ZeroDivisionError" in caplog.text


def test_a_block_that_was_damaged_before_a_restart_is_fetched_again(tmp_path: Path) -> None:
    """After a restart each block proves its checksum at its first touch."""

    async def main() -> None:
        content = content_of(4)
        async with opened_cache(tmp_path) as opened:
            await opened.read_all(opened.segment(content))
        with block_files(tmp_path)[0].open("r+b") as file:
            file.seek(BLOCK_SIZE + 1234)
            file.write(b"not what it was")
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)
            assert await opened.read_all(segment) == content
            assert [size for _, _, size in opened.store.reads] == [BLOCK_SIZE]
            assert opened.cache.statistics().verification_failures == 1

    trio.run(main)


@pytest.mark.parametrize("harm", ["delete", "cut", "replace", "replace all"])
def test_a_file_that_others_spoil_under_a_mount_is_noticed(tmp_path: Path, harm: str) -> None:
    """A block file that is deleted, cut or replaced costs a fetch, and never a wrong byte, also later."""

    async def main() -> None:
        content = content_of(3)
        others = [content_of(0.2, number) for number in range(1, 6)]
        async with opened_cache(tmp_path, open_files=2) as opened:
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


def test_a_thread_that_was_left_behind_does_no_harm(tmp_path: Path) -> None:
    """A GET that comes after it was given up, after its block was fetched and evicted, changes nothing."""

    async def main() -> None:
        content = content_of(2)
        async with opened_cache(tmp_path, get_timeout_s=0.2) as opened:
            key, stored = opened.store.add_segment(content)
            segment = opened.cache.segment(DATASET, key, stored)
            with opened.store.hold(), pytest.raises(DeadlineExceeded):
                await opened.read(segment, 0, 1)
            assert await opened.read_all(segment) == content
            await opened.cache.drop(DATASET, stored)
            assert opened.cache.read_cached(segment, 0, 1) is None
            assert await opened.read_all(segment) == content

    trio.run(main)


@contextmanager
def mounted(kind: str, path: Path, options: str) -> Iterator[Path]:
    """A file system of its own. Needs root."""
    path.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", options, "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_only_makes_the_cache_smaller(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the cache's disk is full reads still work, the cache holds less, and one WARNING says so."""

    async def main(disk: Path) -> None:
        async with opened_cache(tmp_path, directory=disk, capacity=256 * MIB) as opened:
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

    with mounted("tmpfs", tmp_path / "disk", "size=12m") as disk:
        trio.run(main, disk)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        message for message in caplog.messages if "the cache's disk is full" in message
    ]
    assert len(caplog.records) >= 1


def test_without_holes_whole_segments_are_evicted(tmp_path: Path) -> None:
    """On a file system that can't punch holes the capacity holds, and bytes are right."""

    async def main(disk: Path) -> None:
        capacity = 16 * BLOCK_SIZE
        async with opened_cache(tmp_path, directory=disk, capacity=capacity) as opened:
            contents = [content_of(3, number) for number in range(12)]
            handles = [opened.segment(content, number) for number, content in enumerate(contents)]
            for _ in range(2):
                for handle, content in zip(handles, contents, strict=True):
                    assert await opened.read(handle, 0, 10) == content[:10]
                    assert await opened.read_all(handle) == content
                    assert disk_usage(disk) <= capacity

    with mounted("ramfs", tmp_path / "disk", "mode=700") as disk:
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
        async with opened_cache(tmp_path, capacity=capacity) as opened:
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
        async with opened_cache(tmp_path) as opened:
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
        async with opened_cache(tmp_path) as opened:
            await wait_until(lambda: disk_usage(tmp_path) <= BLOCK_SIZE + 4096)
            assert not orphan.exists()
            segment = opened.segment(content)
            assert opened.cache.read_cached(segment, 0, BLOCK_SIZE) == content[:BLOCK_SIZE]
            assert await opened.read_all(segment) == content

    trio.run(main)


def _mark_unclean(path: Path) -> None:
    import apsw

    connection = apsw.Connection(str(path / "cache" / "dasfs-cache" / "blocks.db"))
    connection.execute("UPDATE cache SET clean = 0")
    connection.close()


@pytest.mark.parametrize("harm", ["garbage", "empty", "other version", "missing", "half", "bad row"])
def test_a_database_that_is_damaged_is_built_anew(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged, foreign or missing database costs the cached blocks and one WARNING, nothing else."""
    contents = [content_of(2, number) for number in range(3)]

    async def fill() -> None:
        async with opened_cache(tmp_path) as opened:
            for number, content in enumerate(contents):
                assert await opened.read_all(opened.segment(content, number)) == content

    async def check() -> None:
        for _ in range(2):
            async with opened_cache(tmp_path) as opened:
                for number, content in enumerate(contents):
                    assert await opened.read_all(opened.segment(content, number)) == content
        async with opened_cache(tmp_path) as opened:
            segments = [opened.segment(content, number) for number, content in enumerate(contents)]
            assert all(opened.cache.read_cached(each, 0, each.length) for each in segments)

    trio.run(fill)
    _damage(tmp_path / "cache" / "dasfs-cache" / "blocks.db", harm)
    trio.run(check)
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert disk_usage(tmp_path) <= 6 * BLOCK_SIZE


def _damage(database: Path, harm: str) -> None:
    import apsw

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


def test_one_segment_with_other_checksums_is_not_trusted(tmp_path: Path) -> None:
    """When a manifest has other checksums for what is cached, blocks must prove them to be served."""

    async def main() -> None:
        old, new = content_of(1, 1), content_of(1, 2)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(old)
            assert await opened.read_all(segment) == old
            key = segment.tar_key
            opened.store.put(key, bytes(1536) + new)
            segment = opened.cache.segment(DATASET, key, segment_of(new, offset=1536))
            assert opened.cache.read_cached(segment, 0, 10) is None
            assert await opened.read_all(segment) == new

    trio.run(main)
