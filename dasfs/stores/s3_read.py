"""Reading from S3 so that what arrives is what was asked for, or an error.

Gateways and proxies answer 200 with a page of HTML, send another range, or stop in the middle. Each of these
is found here. A read that was cut off goes on where it stopped, pinned to the ETag of its first answer.
"""

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from dasfs.errors import Corrupt, DeadlineExceeded, ObjectChanged, StoreUnavailable
from dasfs.stores.retry import GarbledAnswer
from dasfs.stores.s3_bucket import Bucket, check_etag, clean_etag, is_content_md5
from dasfs.stores.s3_errors import if_match, map_errors
from dasfs.stores.s3_ranges import Answer

# One recv returns less than this on any network; a larger window only costs memory.
_WINDOW: Final = 256 << 10
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class RangeRead:
    """One read of `[offset, offset + len(buffer))` of an object, in as many requests as it takes.

    `arrived` is told how much of `buffer` is filled, again and again.
    """

    def __init__(
        self,
        bucket: Bucket,
        key: str,
        offset: int,
        buffer: memoryview,
        etag: str | None,
        arrived: Callable[[int], None] | None = None,
    ) -> None:
        self._bucket = bucket
        self._what = bucket.describe(key)
        self._full_key = bucket.full_key(key)
        self._offset = offset
        self._buffer = buffer
        self._etag = etag
        self._arrived = arrived
        self._filled = 0

    def run(self) -> None:
        """Fill the buffer."""
        deadline = _deadline(self._bucket)
        with if_match(self._what):
            self._bucket.policy.run(lambda: self._attempt(deadline))

    def _attempt(self, deadline: float) -> None:
        start, end = self._offset + self._filled, self._offset + len(self._buffer)
        ranges = self._bucket.ranges
        with map_errors(self._what), ranges.get(self._full_key, start, end, self._etag) as (answer, raw):
            check_range(answer, start, end, self._what)
            etag = clean_etag(answer, self._what)
            if self._etag not in (None, etag):  # some gateways ignore If-Match
                raise ObjectChanged(f"{self._what}: is not the object that it was: another ETag")
            self._etag = etag
            for data in read_body(raw, end - start, deadline, self._what):
                stop = self._filled + len(data)
                self._buffer[self._filled : stop] = data
                self._filled = stop
                if self._arrived is not None:
                    self._arrived(stop)


def read_whole(bucket: Bucket, key: str, max_size: int) -> bytes:
    """Return one whole object. Its bytes are compared with its ETag where that is their MD5."""
    what, full_key = bucket.describe(key), bucket.full_key(key)
    deadline = _deadline(bucket)

    def attempt() -> bytes:
        with map_errors(what):
            answer: Answer = bucket.client.get_object(Bucket=bucket.name, Key=full_key)
            with contextlib.closing(answer["Body"]):
                etag = clean_etag(answer, what)
                if _length(answer, what) > max_size:
                    raise Corrupt(f"{what}: has {answer['ContentLength']} bytes; at most {max_size} were expected")
                # StreamingBody has no read1.
                raw = answer["Body"]._raw_stream  # noqa: SLF001
                data = b"".join(read_body(raw, _length(answer, what), deadline, what))
        if is_content_md5(answer, etag):
            check_etag(answer, hashlib.md5(data, usedforsecurity=False).hexdigest(), what)
        return data

    return bucket.policy.run(attempt)


def check_range(answer: Answer, start: int, end: int, what: str) -> None:
    """Raise unless `answer` brings exactly `[start, end)` of an object.

    Raises `Corrupt` when the object ends before `end`, `GarbledAnswer` for anything else.
    """
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
    if status != 206 or match is None:
        raise GarbledAnswer(f"{what}: the answer ({status}) is not the range that was asked for")
    first, last, total = int(match[1]), int(match[2]), match[3]
    if total != "*" and int(total) < end:
        raise Corrupt(f"{what}: the object ends at {total}, before {end}")
    if (first, last + 1) != (start, end) or _length(answer, what) != end - start:
        raise GarbledAnswer(f"{what}: the answer is another range than {start}-{end - 1}")


def read_body(raw: Any, length: int, deadline: float, what: str) -> Iterator[bytes]:
    """Yield the `length` bytes of a body as they arrive in `raw`, urllib3's response.

    Raises `StoreUnavailable` when it is cut off, `DeadlineExceeded` when it trickles past `deadline`.
    """
    # A `read` waits until all is there, so that a store that sends a byte a second would never meet a timeout.
    left = length
    while left:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{what}: the answer came too slowly")
        data: bytes = raw.read1(min(_WINDOW, left))
        if not data:
            raise StoreUnavailable(f"{what}: the answer was cut off")
        left -= len(data)
        yield data


def _length(answer: Answer, what: str) -> int:
    length = answer.get("ContentLength")
    if length is None:
        raise GarbledAnswer(f"{what}: the answer does not say how long it is")
    return int(length)


def _deadline(bucket: Bucket) -> float:
    """Return when reading must stop, so that the last recv still ends within the deadline."""
    return time.monotonic() + bucket.policy.deadline_s - bucket.policy.attempt_s
