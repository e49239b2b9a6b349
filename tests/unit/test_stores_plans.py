"""The pure parts of the stores: keys, how streams and compositions are cut, when a request is tried again."""

import itertools
import random
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.errors import Corrupt, InvalidInput, NotFound, StoreUnavailable
from dasfs.stores import CopyPiece, s3_multipart
from dasfs.stores.keys import after_prefix, check_key, check_prefix
from dasfs.stores.retry import GarbledAnswer, Overloaded, RetryPolicy
from dasfs.stores.s3_bucket import SEND_SIZE, PartReader
from dasfs.stores.s3_multipart import (
    FIRST_PART_SIZE,
    MAX_COPY_SIZE,
    MAX_PARTS,
    MIN_PART_SIZE,
    part_size,
    piece_length,
    split_pieces,
    split_stream,
)

MIB = 1 << 20
KEY_TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20)


@given(KEY_TEXT, KEY_TEXT)
def test_after_prefix_bounds_the_prefix(prefix: str, key: str) -> None:
    """A key lies in `[prefix, after_prefix)` just when it starts with the prefix."""
    assert key.startswith(prefix) == (prefix <= key < after_prefix(prefix))


@given(KEY_TEXT)
def test_keys_have_prefixes(key: str) -> None:
    """What is a key cut anywhere but behind a first dot is a prefix, and never leaves its directory."""
    try:
        check_key(key)
    except InvalidInput:
        return
    assert ".." not in key.split("/")
    for end in range(len(key)):
        if key[:end].rpartition("/")[2] not in (".", ".."):
            check_prefix(key[:end])


def test_parts_carry_the_largest_object() -> None:
    """10,000 parts hold 5 TiB, none is below S3's minimum, none above its maximum, and they never shrink."""
    sizes = [part_size(number) for number in range(1, MAX_PARTS + 1)]
    assert sum(sizes) >= 5 << 40
    assert min(sizes) >= MIN_PART_SIZE
    assert max(sizes) <= 5 << 30
    assert sizes == sorted(sizes)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_split_stream_keeps_the_bytes(chunks: list[bytes]) -> None:
    """The parts are the stream; each but the last is full, and none is empty."""
    small = pytest.MonkeyPatch()
    with small.context() as patch:
        patch.setattr(s3_multipart, "part_size", lambda number: 3 + number)
        parts = list(split_stream(chunks))
    assert b"".join(parts) == b"".join(chunks)
    assert [len(part) for part in parts[:-1]] == [3 + number for number in range(1, len(parts))]
    assert all(parts)


PIECES = st.one_of(
    st.integers(MIN_PART_SIZE, MIN_PART_SIZE + 3).map(bytes),
    st.builds(CopyPiece, st.just("a"), st.integers(0, 10), st.integers(MIN_PART_SIZE, 20 * MAX_COPY_SIZE)),
    st.just(b""),
)


@given(st.lists(PIECES, max_size=5), st.integers(0, 100))
def test_split_pieces_keeps_the_order(pieces: list[CopyPiece | bytes], last: int) -> None:
    """The parts cover the pieces in order without a gap; each copy is within S3's limits."""
    whole = [*pieces, CopyPiece("b", 7, last)]
    parts = list(split_pieces(whole))
    assert sum(map(piece_length, parts)) == sum(map(piece_length, whole))
    copies = [part for part in parts if isinstance(part, CopyPiece)]
    for before, after in itertools.pairwise(copies):
        if after.key == before.key and after.offset > 10:
            assert after.offset == before.offset + before.length
    assert all(MIN_PART_SIZE <= part.length <= MAX_COPY_SIZE for part in copies if part.key == "a")


def test_split_pieces_refuses_too_many() -> None:
    """More parts than S3 takes are refused before anything is copied."""
    with pytest.raises(InvalidInput, match="too many"):
        list(split_pieces([CopyPiece("a", 0, (MAX_PARTS + 1) * MAX_COPY_SIZE)]))


def test_part_reader_hands_out_what_it_has() -> None:
    """The reader gives views of the bytes, 128 KiB at a time whoever asks for less, from any position."""
    data = random.Random(1).randbytes(SEND_SIZE + 1000)
    reader = PartReader(bytearray(data))
    assert (reader.read(16384), reader.read(16384), reader.read(16384)) == (data[:SEND_SIZE], data[SEND_SIZE:], b"")
    assert reader.seek(0, 2) == reader.tell() == len(data)
    assert reader.seek(-5, 1) == len(data) - 5
    assert reader.read() == data[-5:]
    assert reader.seek(0) == 0
    assert reader.read() == data


def test_split_stream_does_not_copy_whole_parts() -> None:
    """Parts that come as they are sent are views of where they stand; what comes in other sizes is put together."""
    data = memoryview(random.Random(1).randbytes(2 * FIRST_PART_SIZE + 5))
    whole = [data[start : start + FIRST_PART_SIZE] for start in range(0, len(data), FIRST_PART_SIZE)]
    parts = list(split_stream(whole))
    assert [bytes(part) for part in parts] == [bytes(part) for part in whole]
    assert all(isinstance(part, memoryview) and part.obj is data.obj for part in parts[:2])
    odd = list(split_stream([data[:7], data[7:]]))
    assert [bytes(part) for part in odd] == [bytes(part) for part in whole]


class Attempts:
    """An operation that fails as it is told and counts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_retry_until_it_works() -> None:
    """What can be retried is retried."""
    attempts = Attempts(StoreUnavailable("one"), GarbledAnswer("two"), StoreUnavailable("three"))
    assert RetryPolicy(30).run(attempts) == "done"
    assert attempts.count == 4


@pytest.mark.parametrize("error", [NotFound("no"), Corrupt("no"), KeyError("a bug")])
def test_no_retry_where_it_cannot_help(error: Exception) -> None:
    """Other errors come out at once, unchanged."""
    attempts = Attempts(error)
    with pytest.raises(type(error)) as raised:
        RetryPolicy(30).run(attempts)
    assert raised.value is error
    assert attempts.count == 1


def test_garbled_answers_end_soon() -> None:
    """The third garbled answer in a row is the last."""
    attempts = Attempts(*[GarbledAnswer("page") for _ in range(9)])
    with pytest.raises(GarbledAnswer):
        RetryPolicy(30).run(attempts)
    assert attempts.count == 3


def test_deadline_leaves_room_for_the_last_attempt() -> None:
    """No attempt starts later than the deadline less the time of one attempt; the last error is raised."""

    def attempt() -> None:
        starts.append(time.monotonic())
        raise StoreUnavailable("down")

    starts: list[float] = []
    policy = RetryPolicy(0.6)
    with pytest.raises(StoreUnavailable, match="down"):
        policy.run(attempt)
    assert starts[-1] - starts[0] <= 0.6 - policy.attempt_s + 0.05
    assert len(starts) > 1


def test_retry_after_is_the_least_wait() -> None:
    """A store that asks for half a second gets it."""
    attempts = Attempts(Overloaded("busy", retry_after_s=0.5))
    start = time.monotonic()
    RetryPolicy(30).run(attempts)
    assert time.monotonic() - start >= 0.5


def test_cancelled_retries_stop() -> None:
    """An upload that is given up does not go on trying, nor waiting."""
    cancelled = threading.Event()

    def attempt() -> None:
        cancelled.set()
        raise Overloaded("busy", retry_after_s=10)

    run: Callable[[], None] = lambda: RetryPolicy(60).run(attempt, cancelled=cancelled)  # noqa: E731
    start = time.monotonic()
    with pytest.raises(Overloaded):
        run()
    assert time.monotonic() - start < 5
