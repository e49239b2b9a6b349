"""What the block cache does when the store misbehaves: an error or the right bytes."""

import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from dasfs.cache.plan import BLOCK_SIZE
from dasfs.errors import Corrupt, DasfsError, DeadlineExceeded, StoreUnavailable
from tests.blocks import (
    DATASET,
    PATIENCE_S,
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


def test_a_get_that_comes_after_its_segment_was_dropped_is_not_kept(tmp_path: Path) -> None:
    """What was written to a file that is gone since is not taken for what the new file holds."""

    async def main() -> None:
        content = content_of(2)
        go_on = threading.Event()
        async with opened_cache(tmp_path) as opened:
            key, stored = opened.store.add_segment(content)
            segment = opened.cache.segment(DATASET, key, stored)

            def wait_in_first_block(key: str, offset: int, buffer: memoryview) -> None:
                assert offset != 1536 or go_on.wait(PATIENCE_S)

            async def read_first_block() -> None:
                assert await opened.read(segment, 0, 10) == content[:10]

            opened.store.fault = wait_in_first_block
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_first_block)
                await wait_until(lambda: len(opened.store.reads) == 1)
                await opened.cache.drop(DATASET, stored)
                assert await opened.read(segment, BLOCK_SIZE, 2 * BLOCK_SIZE) == content[BLOCK_SIZE:]
                go_on.set()
            assert await opened.read_all(segment) == content

    trio.run(main)


def test_a_get_that_comes_after_a_drop_takes_no_space(tmp_path: Path) -> None:
    """What comes for a dropped segment goes to its reader, and neither stays on the disk nor is counted."""

    async def main() -> None:
        content = content_of(1)
        async with opened_cache(tmp_path) as opened:
            key, stored = opened.store.add_segment(content)
            segment = opened.cache.segment(DATASET, key, stored)

            async def read() -> None:
                assert await opened.read_all(segment) == content

            async with trio.open_nursery() as nursery:
                with opened.store.hold():
                    nursery.start_soon(read)
                    await wait_until(lambda: len(opened.store.reads) == 1)
                    await opened.cache.drop(DATASET, stored)
            assert opened.cache.statistics().bytes_used == disk_usage(tmp_path / "cache") == 0

    trio.run(main)


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
