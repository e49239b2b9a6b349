"""The block cache over an S3 service that lies, as hypothesis plans it: never a wrong byte, and errors that fit."""

import errno
import os
import re
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum, auto
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dasfs.cache.blocks import BlockCache, BlockCacheOptions, CachedSegment, open_block_cache
from dasfs.cache.directory import CacheDirectory
from dasfs.cache.plan import BLOCK_SIZE
from dasfs.errors import DasfsError
from dasfs.stores import StoreOptions, open_store
from dasfs.stores.base import MIB
from tests.blocks import DATASET, content_of, segment_of
from tests.lying_server import HTML, Answer, LyingServer, error, lying_server, ranged

EXAMPLES = int(os.environ.get("DASFS_MODEL_EXAMPLES", "40"))
# Three attempts of 0.1 s fit: a test of many outages must not take long, and the server is in this process.
DEADLINE_S = 0.3
# What a busy machine may add; waiting for ever is far above it.
SLACK_S = 20.0
CONTENT = content_of(5.3)
BEFORE = 1536
OBJECT = bytes(BEFORE) + CONTENT + bytes(1024)
# What a reader can be told: it can't be read, it took too long, it is another one, it is gone, it may not be read.
ERRNOS = {errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.ENOENT, errno.EACCES}


class Lie(Enum):
    """What is wrong with one answer."""

    FAIL = auto()
    SLOW_DOWN = auto()
    SLOW_DOWN_LONG = auto()
    FORBIDDEN = auto()
    GONE = auto()
    PAGE = auto()
    PAGE_OF_THE_SAME_LENGTH = auto()
    WHOLE = auto()
    CUT = auto()
    SHORT = auto()
    LONG = auto()
    ELSEWHERE = auto()
    SMALL_OBJECT = auto()
    ANOTHER_ETAG = auto()
    NO_ETAG = auto()
    OTHER_BYTES = auto()
    ONE_BIT = auto()
    CLOSE = auto()
    HANG = auto()


def answer(lie: Lie | None, start: int, end: int, place: int) -> Answer:
    """Return the answer to a request for `[start, end)`; `place` says where in it something is wrong."""
    total = len(OBJECT)
    end = min(end, total)
    body, size = OBJECT[start:end], end - start
    cut = place % max(1, size)
    spoiled = body[:cut] + bytes([body[cut] ^ 1]) + body[cut + 1 :]
    page, tag = {"Content-Type": "text/html"}, {"ETag": '"tag"'}
    lies: dict[Lie | None, Callable[[], Answer]] = {
        None: lambda: ranged(body, start, total),
        Lie.FAIL: lambda: error(500, "InternalError"),
        Lie.SLOW_DOWN: lambda: error(503, "SlowDown", Retry_After="0"),
        Lie.SLOW_DOWN_LONG: lambda: error(503, "SlowDown", Retry_After="120"),
        Lie.FORBIDDEN: lambda: error(403, "AccessDenied"),
        Lie.GONE: lambda: error(404, "NoSuchKey"),
        Lie.PAGE: lambda: Answer(200, page, HTML),
        Lie.PAGE_OF_THE_SAME_LENGTH: lambda: Answer(200, page | tag, (HTML * (size // len(HTML) + 1))[:size]),
        Lie.WHOLE: lambda: Answer(200, tag, OBJECT),
        Lie.CUT: lambda: ranged(body[:cut], start, total, length=size),
        Lie.SHORT: lambda: ranged(body[:cut], start, total),
        Lie.LONG: lambda: ranged(body + bytes(cut + 1), start, total),
        Lie.ELSEWHERE: lambda: ranged(OBJECT[start + 512 :][:size], start + 512, total),
        Lie.SMALL_OBJECT: lambda: ranged(body[:cut], start, start + cut),
        Lie.ANOTHER_ETAG: lambda: ranged(body[:cut], start, total, etag=f'"tag{place}"', length=size),
        Lie.NO_ETAG: lambda: Answer(206, {"Content-Range": f"bytes {start}-{end - 1}/{total}"}, body),
        Lie.OTHER_BYTES: lambda: ranged(bytes(size), start, total),
        Lie.ONE_BIT: lambda: ranged(spoiled, start, total),
        Lie.CLOSE: lambda: Answer(206, {}, b"", length=size),
        Lie.HANG: lambda: Answer(hang=True),
    }
    return lies[lie]()


@pytest.fixture(scope="module")
def server() -> Iterator[LyingServer]:
    """A server that lies, to which boto3's environment leads."""
    with pytest.MonkeyPatch.context() as environment, lying_server() as running:
        environment.setenv("AWS_ENDPOINT_URL", running.endpoint_url)
        environment.setenv("AWS_ACCESS_KEY_ID", "key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield running


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[BlockCache, CachedSegment]]:
    options = BlockCacheOptions(64 * MIB, max_get_size=2 * BLOCK_SIZE, get_timeout_s=2 * DEADLINE_S)
    with (
        open_store("s3://bucket", StoreOptions(deadline_s=DEADLINE_S)) as store,
        CacheDirectory.open(str(path)) as directory,
    ):
        async with open_block_cache(directory, store, options) as cache:
            yield cache, cache.segment(DATASET, "object", segment_of(CONTENT, offset=BEFORE))


lies = st.sampled_from(list(Lie))
plans = st.lists(st.tuples(st.none() | lies, st.integers(0, 2**20)), max_size=6)
places = st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1))
reads = st.lists(st.tuples(plans, st.lists(places, min_size=1, max_size=3)), min_size=1, max_size=4)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=reads)
def test_a_store_that_lies(server: LyingServer, script: list[tuple[list[object], list[tuple[float, float]]]]) -> None:
    """Whatever is answered: the right bytes, or an error with an errno that fits, in time; afterwards all is well."""
    planned: deque[tuple[Lie | None, int]] = deque()

    def respond(_path: str, headers: Mapping[str, str]) -> Answer:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", headers["Range"])
        assert found is not None
        lie, place = planned.popleft() if planned else (None, 0)
        return answer(lie, int(found[1]), int(found[2]) + 1, place)

    async def main(path: Path) -> None:
        async with opened(path) as (cache, segment):
            for plan, wanted in script:
                planned.extend(plan)
                async with trio.open_nursery() as nursery:
                    for start, size in wanted:
                        first = int(start * len(CONTENT))
                        end = first + 1 + int(size * (len(CONTENT) - first - 1))
                        nursery.start_soon(read, cache, segment, first, end)
                planned.clear()
            # Tried again: on a busy machine also a healthy server can be late.
            with trio.fail_after(SLACK_S):
                while await attempt(cache, segment, 0, len(CONTENT)):
                    pass

    server.respond = respond
    for told in (server.requests, server.request_headers, server.times):
        told.clear()
    with tempfile.TemporaryDirectory() as path:
        trio.run(main, Path(path))


async def read(cache: BlockCache, segment: CachedSegment, first: int, end: int) -> None:
    """Read once; an error must be one that a mount can answer with."""
    began = time.monotonic()
    problem = await attempt(cache, segment, first, end)
    if problem is not None:
        assert problem.errno_value in ERRNOS, repr(problem)
        assert "\n" not in str(problem)
    assert time.monotonic() - began < 4 * DEADLINE_S + SLACK_S


async def attempt(cache: BlockCache, segment: CachedSegment, first: int, end: int) -> DasfsError | None:
    """Read once; return the error, or None where all bytes are right."""
    try:
        data = await cache.read(segment, first, end, trio.current_time() + 4 * DEADLINE_S)
    except DasfsError as problem:
        return problem
    assert data == CONTENT[first:end]
    return None
