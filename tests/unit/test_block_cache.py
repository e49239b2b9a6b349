"""What readers of the block cache may rely on."""

from pathlib import Path

import pytest
import trio
import trio.testing

from dasfs.cache.plan import BLOCK_SIZE
from dasfs.errors import InvalidInput, NotFound
from dasfs.stores.base import MIB
from tests.blocks import DATASET, PATIENCE_S, content_of, disk_usage, opened_cache, wait_until


def test_a_miss_fetches_the_blocks_it_needs_and_no_other(tmp_path: Path) -> None:
    """A random read costs one GET of the blocks that hold it, from the segment's place in its object."""

    async def main() -> None:
        content = content_of(8)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)
            start = 2 * BLOCK_SIZE - 10
            assert await opened.read(segment, start, start + 20) == content[start : start + 20]
            key = segment.tar_key
            assert opened.store.reads == [(key, 1536 + BLOCK_SIZE, 2 * BLOCK_SIZE)]

    trio.run(main)


def test_what_was_read_once_is_served_at_once_without_the_store(tmp_path: Path) -> None:
    """A hit needs no await and no GET."""

    async def main() -> None:
        content = content_of(2.5)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)
            assert opened.cache.read_cached(segment, 5, 500_000) is None
            await opened.read_all(segment)
            gets = len(opened.store.reads)
            assert opened.cache.read_cached(segment, 5, 500_000) == content[5:500_000]
            assert opened.cache.read_cached(segment, len(content) - 7, len(content)) == content[-7:]
            assert len(opened.store.reads) == gets

    trio.run(main)


def test_an_empty_range_is_no_read_and_one_outside_is_refused(tmp_path: Path) -> None:
    """Ranges are checked, so that a wrong one can't become a read of something else."""

    async def main() -> None:
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content_of(1.5))
            assert await opened.read(segment, 100, 100) == b""
            for start, end in ((-1, 10), (10, 9), (0, segment.length + 1)):
                with pytest.raises(InvalidInput):
                    opened.cache.read_cached(segment, start, end)

    trio.run(main)


def test_many_readers_of_a_block_cause_one_get(tmp_path: Path) -> None:
    """200 readers of one block: one GET, and all get the bytes."""

    async def main() -> None:
        content = content_of(1)
        answers: list[bytes] = []
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)

            async def reader(place: int) -> None:
                answers.append(await opened.read(segment, place, place + 1))

            with opened.store.hold():
                async with trio.open_nursery() as nursery:
                    for place in range(200):
                        nursery.start_soon(reader, place)
                    await wait_until(lambda: len(opened.store.reads) == 1)
                    opened.store._open.set()
            assert len(opened.store.reads) == 1
        assert sorted(answers) == sorted(content[place : place + 1] for place in range(200))

    trio.run(main)


def test_reads_that_overlap_fetch_each_block_once(tmp_path: Path) -> None:
    """A read that finds part of its blocks here and part in flight fetches only the rest."""

    async def main() -> None:
        content = content_of(6)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)
            await opened.read(segment, 0, 1)

            async def check(start: int, end: int) -> None:
                assert await opened.read(segment, start, end) == content[start:end]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(check, 0, 3 * BLOCK_SIZE)
                nursery.start_soon(check, BLOCK_SIZE + 5, 5 * BLOCK_SIZE)
                nursery.start_soon(check, 0, 6 * BLOCK_SIZE)
            assert sum(size for _, _, size in opened.store.reads) == len(content)

    trio.run(main)


def test_a_restart_keeps_the_blocks(tmp_path: Path) -> None:
    """What was cached before is served after a restart without a GET."""

    async def main() -> None:
        content = content_of(4.2)
        async with opened_cache(tmp_path) as opened:
            await opened.read_all(opened.segment(content))
            used = opened.cache.statistics().bytes_used
        async with opened_cache(tmp_path) as opened:
            assert opened.cache.statistics().bytes_used == used
            segment = opened.segment(content)
            assert opened.cache.read_cached(segment, 0, len(content)) == content
            assert opened.store.reads == []

    trio.run(main)


def test_a_segment_that_moved_keeps_its_blocks(tmp_path: Path) -> None:
    """When aggregation moves a segment, cached blocks are served, and others come from the new place."""

    async def main() -> None:
        content = content_of(3)
        async with opened_cache(tmp_path) as opened:
            old_key, old = opened.store.add_segment(content)
            handle = opened.cache.segment(DATASET, old_key, old)
            await opened.read(handle, 0, 10)
            new_key = old_key.replace(".tar", "-aggregated.tar")
            opened.store.put(new_key, bytes(99 * 512) + content)
            opened.store.delete([old_key])
            with pytest.raises(NotFound):
                await opened.read_all(handle)
            moved = type(old)(old.origin, old.origin_offset, 99 * 512, old.length, old.block_crcs)
            assert opened.cache.segment(DATASET, new_key, moved) is handle
            opened.store.reads.clear()
            assert await opened.read_all(handle) == content
            assert opened.store.reads == [(new_key, 99 * 512 + BLOCK_SIZE, 2 * BLOCK_SIZE)]

    trio.run(main)


def test_prefetch_brings_a_stretch_in_parallel_and_within_its_budget(tmp_path: Path) -> None:
    """Prefetching GETs what is missing, several at once, and never more bytes in flight than half the memory."""

    async def main() -> None:
        content = content_of(16)
        limits = {"max_get_size": 2 * BLOCK_SIZE, "memory": 12 * BLOCK_SIZE}
        async with opened_cache(tmp_path, **limits) as opened:
            segment = opened.segment(content)
            await opened.read(segment, 0, 1)
            opened.store.reads.clear()
            async with trio.open_nursery() as nursery:
                with opened.store.hold():
                    nursery.start_soon(opened.cache.prefetch, segment, 0, len(content))
                    await wait_until(lambda: len(opened.store.reads) == 3)
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    assert len(opened.store.reads) == 3
            assert sum(size for _, _, size in opened.store.reads) == 15 * BLOCK_SIZE
            assert opened.cache.read_cached(segment, 0, len(content)) == content

    trio.run(main)


def test_a_reader_joins_a_prefetch_and_does_not_depend_on_it(tmp_path: Path) -> None:
    """A reader waits for a prefetch that is in flight; when that fails, it fetches for itself."""

    async def main() -> None:
        content = content_of(4)
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content)

            def fail(key: str, offset: int, buffer: memoryview) -> None:
                opened.store.fault = None
                raise NotFound("just this once")

            opened.store.fault = fail
            async with trio.open_nursery() as nursery:
                with opened.store.hold():
                    nursery.start_soon(opened.cache.prefetch, segment, 0, len(content))
                    await wait_until(lambda: len(opened.store.reads) == 1)
                    answers: list[bytes] = []

                    async def read() -> None:
                        answers.append(await opened.read(segment, 10, 20))

                    nursery.start_soon(read)
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    assert len(opened.store.reads) == 1
            assert answers == [content[10:20]]

    trio.run(main)


def test_a_failed_prefetch_is_silent(tmp_path: Path) -> None:
    """Prefetching an object that is gone is no error; reading it is."""

    async def main() -> None:
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content_of(2))
            opened.store.delete([segment.tar_key])
            await opened.cache.prefetch(segment, 0, segment.length)
            assert opened.cache.statistics().fetch_errors == 1
            with pytest.raises(NotFound):
                await opened.read(segment, 0, 1)

    trio.run(main)


def test_the_cache_stays_below_its_capacity_on_the_disk(tmp_path: Path) -> None:
    """Many times the capacity is read: the blocks on the disk never take more than the capacity."""

    async def main() -> None:
        capacity = 40 * BLOCK_SIZE
        async with opened_cache(tmp_path, capacity=capacity) as opened:
            for number in range(12):
                content = content_of(16, number)
                segment = opened.segment(content, number)
                for start in range(0, len(content), 4 * BLOCK_SIZE):
                    assert await opened.read(segment, start, start + 100) == content[start : start + 100]
                assert await opened.read_all(segment) == content
                assert disk_usage(tmp_path) <= capacity
            statistics = opened.cache.statistics()
            assert statistics.evictions >= 12 * 16 - 40
            assert capacity * 0.8 <= statistics.bytes_used <= capacity

    trio.run(main)


def test_the_least_recently_used_blocks_go_first(tmp_path: Path) -> None:
    """What is read again and again stays, however much else passes through."""

    async def main() -> None:
        async with opened_cache(tmp_path, capacity=32 * BLOCK_SIZE) as opened:
            favourite = opened.segment(content_of(4), 1000)
            await opened.read_all(favourite)
            for number in range(40):
                await opened.read_all(opened.segment(content_of(4, number), number))
                assert opened.cache.read_cached(favourite, 0, favourite.length) is not None

    trio.run(main)


def test_eviction_knows_what_was_used_before_a_restart(tmp_path: Path) -> None:
    """Times of use survive a restart: what was used last before it is not evicted first after it."""

    async def main() -> None:
        contents = [content_of(4, number) for number in range(8)]
        async with opened_cache(tmp_path, capacity=33 * BLOCK_SIZE) as opened:
            handles = [opened.segment(content, number) for number, content in enumerate(contents)]
            for handle in handles[:7]:
                await opened.read_all(handle)
            assert opened.cache.read_cached(handles[0], 0, 4 * BLOCK_SIZE) is not None
        async with opened_cache(tmp_path, capacity=24 * BLOCK_SIZE) as opened:
            handles = [opened.segment(content, number) for number, content in enumerate(contents)]
            await opened.read_all(handles[7])
            assert opened.cache.read_cached(handles[0], 0, 4 * BLOCK_SIZE) is not None
            assert opened.cache.read_cached(handles[1], 0, 4 * BLOCK_SIZE) is None

    trio.run(main)


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_cache_without_room_still_reads(tmp_path: Path, blocks: int) -> None:
    """With no capacity, or less than one read needs, reads go through memory and are right."""

    async def main() -> None:
        content = content_of(9.5)
        async with opened_cache(tmp_path, capacity=blocks * BLOCK_SIZE) as opened:
            segment = opened.segment(content)
            for _ in range(2):
                assert await opened.read_all(segment) == content
                for start in range(0, len(content), BLOCK_SIZE):
                    assert await opened.read(segment, start, start + 9) == content[start : start + 9]
            await opened.cache.prefetch(segment, 0, len(content))
            assert disk_usage(tmp_path) <= blocks * BLOCK_SIZE

    trio.run(main)


def test_drop_frees_the_space_and_readers_fetch_again(tmp_path: Path) -> None:
    """A dropped segment leaves no file; a reader that still holds it gets the bytes from the store."""

    async def main() -> None:
        content = content_of(3)
        async with opened_cache(tmp_path) as opened:
            key, stored = opened.store.add_segment(content)
            segment = opened.cache.segment(DATASET, key, stored)
            await opened.read_all(segment)
            await opened.cache.drop(DATASET, stored)
            assert disk_usage(tmp_path) == 0
            assert opened.cache.statistics().bytes_used == 0
            assert opened.cache.read_cached(segment, 0, 1) is None
            assert await opened.read_all(segment) == content

    trio.run(main)


def test_two_datasets_do_not_share_blocks(tmp_path: Path) -> None:
    """A dataset that was deleted and made anew has the same keys and another UUID: nothing is mixed."""

    async def main() -> None:
        first, second = content_of(1, 1), content_of(1, 2)
        async with opened_cache(tmp_path) as opened:
            key, stored = opened.store.add_segment(first)
            handle = opened.cache.segment("uuid-1", key, stored)
            assert await opened.read_all(handle) == first
            key, stored = opened.store.add_segment(second)
            assert await opened.read_all(opened.cache.segment("uuid-2", key, stored)) == second

    trio.run(main)


def test_few_files_are_open_at_once(tmp_path: Path) -> None:
    """However many segments are in use, only so many file descriptors are."""

    async def main() -> None:
        async with opened_cache(tmp_path, open_files=4) as opened:
            contents = [content_of(0.1, number) for number in range(20)]
            handles = [opened.segment(content, number) for number, content in enumerate(contents)]
            for _ in range(2):
                for handle, content in zip(handles, contents, strict=True):
                    assert await opened.read_all(handle) == content
                assert sum(handle.file is not None for handle in handles) == 4
            assert len(opened.store.reads) == 20

    trio.run(main)


def test_the_exception_of_the_body_comes_out_as_it_is(tmp_path: Path) -> None:
    """Who opens the cache gets back what was raised inside, not a group of it."""

    async def main() -> None:
        async with opened_cache(tmp_path):
            raise NotFound("mine")

    with pytest.raises(NotFound, match="mine"):
        trio.run(main)


def test_statistics_count_what_happened(tmp_path: Path) -> None:
    """Hits, misses, bytes and GETs are counted once each."""

    async def main() -> None:
        async with opened_cache(tmp_path) as opened:
            segment = opened.segment(content_of(2))
            await opened.read(segment, 0, 100)
            await opened.read(segment, 50, 60)
            with trio.fail_after(PATIENCE_S):
                await opened.cache.prefetch(segment, 0, segment.length)
            statistics = opened.cache.statistics()
            assert (statistics.hits, statistics.misses, statistics.bytes_served) == (1, 1, 110)
            assert (statistics.fetches, statistics.bytes_fetched) == (2, 2 * BLOCK_SIZE)
            assert (statistics.blocks, statistics.bytes_used) == (2, 2 * BLOCK_SIZE)
            assert (statistics.capacity, statistics.in_flight) == (64 * MIB, 0)
            assert not statistics.recovering

    trio.run(main)
