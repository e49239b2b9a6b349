"""What every store promises about large, composed, contested and aborted writes."""

import multiprocessing
import random
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

from dasfs.errors import AlreadyExists, Conflict, Corrupt, InvalidInput, NotFound
from dasfs.stores import CopyPiece, Store, open_store

MIB = 1 << 20


class SourceBrokeError(Exception):
    """What the source of a stream may raise: nothing that dasfs knows."""


def pieces_of(data: bytes, size: int) -> Iterator[memoryview]:
    view = memoryview(data)
    for offset in range(0, len(data), size):
        yield view[offset : offset + size]


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize("size", [0, 1, 256 << 10, 8 * MIB, 16 * MIB, 16 * MIB + 1, 40 * MIB + 3])
def test_stream_is_read_back(store: Store, size: int) -> None:
    """A stream of any length becomes one object with just its bytes, around the sizes of parts and batches too."""
    data = random.Random(size).randbytes(size)
    info = store.put_stream("a/stream", pieces_of(data, 1_000_003))
    seen = store.head("a/stream")
    assert (info.key, info.size, info.etag) == ("a/stream", size, seen.etag) == (seen.key, seen.size, seen.etag)
    assert store.get("a/stream") == data


def test_stream_of_empty_and_large_chunks(store: Store) -> None:
    """How the stream is cut does not matter."""
    data = random.Random(3).randbytes(17 * MIB)
    store.put_stream("a", [b"", data[:5], b"", memoryview(data)[5:], b""])
    assert store.get("a") == data


def test_stream_replaces(store: Store) -> None:
    """A stream replaces what was there, and not before its end."""
    store.put("a", b"old")

    def chunks() -> Iterator[bytes]:
        yield bytes(20 * MIB)
        assert store.get("a") == b"old"
        yield b"end"

    store.put_stream("a", chunks())
    assert store.head("a").size == 20 * MIB + 3


def test_stream_in_bounded_memory(store: Store) -> None:
    """A stream is never held whole: 160 MiB go through less than 112."""
    chunk = bytes(MIB)
    tracemalloc.start()
    try:
        store.put_stream("a", (chunk for _ in range(160)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert store.head("a").size == 160 * MIB
    # S3 holds the part that fills and the four that are under way, of 16 MiB each.
    assert peak < 112 * MIB


@pytest.mark.parametrize("size", [0, MIB, 9 * MIB, 17 * MIB, 40 * MIB])
def test_broken_source_leaves_nothing(store: Store, size: int) -> None:
    """What the source raises comes out unchanged, and neither an object nor an unfinished upload stays."""

    def chunks() -> Iterator[bytes]:
        yield bytes(size)
        raise SourceBrokeError("disk on fire")

    with pytest.raises(SourceBrokeError, match="disk on fire"):
        store.put_stream("a", chunks())
    assert list(store.list("")) == []
    assert store.abort_uploads("", before=in_an_hour()) == 0


def test_interrupt_leaves_nothing(store: Store) -> None:
    """Ctrl-C in the middle of an upload is passed on, and the upload is gone."""

    def chunks() -> Iterator[bytes]:
        yield bytes(40 * MIB)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put_stream("a", chunks())
    assert list(store.list("")) == []
    assert store.abort_uploads("", before=in_an_hour()) == 0


def test_broken_source_keeps_the_old_object(store: Store) -> None:
    """A failed stream does not touch what was there."""
    store.put("a", b"old")

    def chunks() -> Iterator[bytes]:
        yield bytes(20 * MIB)
        raise SourceBrokeError

    with pytest.raises(SourceBrokeError):
        store.put_stream("a", chunks())
    assert store.get("a") == b"old"


def test_aborted_upload_fails(store: Store) -> None:
    """An upload that `abort_uploads` took away ends in a `Conflict`, and leaves nothing."""
    aborted = []

    def chunks() -> Iterator[bytes]:
        yield bytes(40 * MIB)
        aborted.append(store.abort_uploads("data/", before=in_an_hour()))
        yield bytes(40 * MIB)

    with pytest.raises(Conflict, match="data/a"):
        store.put_stream("data/a", chunks())
    assert aborted == [1]
    assert list(store.list("")) == []


def test_abort_uploads_spares_others(store: Store) -> None:
    """Uploads elsewhere, and those that are younger, go on."""
    counts = []

    def chunks() -> Iterator[bytes]:
        yield bytes(40 * MIB)
        counts.append(store.abort_uploads("data/b", before=in_an_hour()))
        counts.append(store.abort_uploads("", before=datetime.now(UTC) - timedelta(hours=1)))
        yield b"end"

    assert store.put_stream("data/a", chunks()).size == 40 * MIB + 3
    assert counts == [0, 0]


def test_abort_uploads_spares_objects(store: Store) -> None:
    """What is finished is not an upload."""
    store.put("a", b"1")
    store.put_stream("b", [bytes(20 * MIB)])
    assert store.abort_uploads("", before=in_an_hour()) == 0
    assert [info.key for info in store.list("")] == ["a", "b"]


def test_compose_copies_and_inserts(store: Store) -> None:
    """The result is the concatenation of copied ranges and given bytes, in order."""
    one, two = random.Random(1).randbytes(12 * MIB), random.Random(2).randbytes(6 * MIB)
    store.put_stream("one", [one])
    store.put("two", two)
    filler = random.Random(3).randbytes(5 * MIB)
    info = store.compose(
        "all",
        [
            CopyPiece("one", 1000, 11 * MIB),
            filler,
            b"",
            CopyPiece("two", 0, 6 * MIB),
            CopyPiece("one", 77, 0),
            CopyPiece("two", 5, 10),
        ],
    )
    expected = one[1000 : 1000 + 11 * MIB] + filler + two + two[5:15]
    assert store.get("all") == expected
    assert (info.size, info.etag) == (len(expected), store.head("all").etag)


@pytest.mark.parametrize("pieces", [[], [b""], [b"small"], [CopyPiece("source", 2, 3)]])
def test_compose_of_little(store: Store, pieces: list[CopyPiece | bytes]) -> None:
    """The last piece may have any size, and so may the only one."""
    store.put("source", b"0123456789")
    expected = b"".join(piece if isinstance(piece, bytes) else b"234" for piece in pieces)
    assert store.compose("target", pieces).size == len(expected)
    assert store.get("target") == expected


def test_compose_of_a_missing_object(store: Store) -> None:
    """A source that is not there is `NotFound`, and nothing is written."""
    with pytest.raises(NotFound, match="missing"):
        store.compose("target", [bytes(6 * MIB), CopyPiece("missing", 0, 6 * MIB)])
    assert list(store.list("")) == []
    assert store.abort_uploads("", before=in_an_hour()) == 0


def test_compose_past_the_end(store: Store) -> None:
    """A range that the source does not have is `Corrupt`, and nothing is written."""
    store.put("source", bytes(6 * MIB))
    with pytest.raises(Corrupt):
        store.compose("target", [CopyPiece("source", MIB, 6 * MIB), b"end"])
    assert [info.key for info in store.list("")] == ["source"]
    assert store.abort_uploads("", before=in_an_hour()) == 0


def test_compose_takes_pieces_one_after_another(store: Store) -> None:
    """Pieces that are made while they are taken need no more memory than a few of them, however many there are."""
    alive = most = 0

    class Counted(bytes):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def pieces() -> Iterator[bytes]:
        nonlocal alive, most
        for number in range(24):
            alive += 1
            most = max(most, alive)
            yield Counted(bytes([number]) * (5 * MIB))

    info = store.compose("target", pieces())
    assert info.size == 24 * 5 * MIB
    buffer = bytearray(2)
    store.read_into("target", 17 * 5 * MIB - 1, memoryview(buffer))
    assert bytes(buffer) == bytes([16, 17])
    assert most <= 10


def test_compose_passes_an_error_of_its_pieces(store: Store) -> None:
    """When the pieces end in an error, that comes out, and nothing is written."""

    def pieces() -> Iterator[bytes]:
        for _ in range(4):
            yield bytes(5 * MIB)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.compose("target", pieces())
    assert list(store.list("")) == []
    assert store.abort_uploads("", before=in_an_hour()) == 0


def test_compose_refuses_small_pieces(store: Store) -> None:
    """A piece below the store's minimum is refused before anything is done."""
    store.put("source", bytes(100))
    if store.min_copy_size:
        with pytest.raises(InvalidInput, match="too small"):
            store.compose("target", [CopyPiece("source", 0, 100), b"end"])
    else:
        assert store.compose("target", [CopyPiece("source", 0, 100), b"end"]).size == 103


def test_one_of_many_threads_wins(store: Store) -> None:
    """Of 16 threads that write one key if it is absent, one succeeds, in each of 5 rounds."""
    barrier = Barrier(16)

    def write(key: str, number: int) -> bool:
        barrier.wait(timeout=30)
        try:
            store.put_if_absent(key, b"%d" % number)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        for turn in range(5):
            key = f"log/{turn}"
            won = list(threads.map(lambda number, key=key: write(key, number), range(16)))
            assert won.count(True) == 1
            assert store.get(key) == b"%d" % won.index(True)


def count_up(url: str, writer: int, target: int) -> list[int]:
    """Take the next free number again and again until `target` is reached; return the numbers that were taken."""
    taken = []
    with open_store(url) as store:
        for number in range(target):
            try:
                store.put_if_absent(f"log/{number:04d}", b"%d" % writer)
            except AlreadyExists:
                continue
            taken.append(number)
    return taken


def test_one_of_many_processes_wins(store_url: str, store: Store) -> None:
    """Four processes that race for 40 numbers get each number once."""
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as processes:
        taken = list(processes.map(count_up, [store_url] * 4, range(4), [40] * 4))
    assert sorted(number for numbers in taken for number in numbers) == list(range(40))
    for writer, numbers in enumerate(taken):
        assert all(store.get(f"log/{number:04d}") == b"%d" % writer for number in numbers)


def test_writers_and_readers_at_once(store: Store) -> None:
    """While one thread writes large objects, others write and read small ones; all of it is right."""

    def large(number: int) -> int:
        return store.put_stream(f"large/{number}", (bytes([number]) * MIB for _ in range(20))).size

    def small(number: int) -> bytes:
        store.put(f"small/{number}", b"%d" % number)
        return store.get(f"small/{number}")

    with ThreadPoolExecutor(8) as threads:
        sizes = threads.map(large, range(2))
        contents = threads.map(small, range(60))
        assert list(contents) == [b"%d" % number for number in range(60)]
        assert list(sizes) == [20 * MIB] * 2
    assert store.get("large/1") == bytes([1]) * (20 * MIB)


def test_streams_to_one_key(store: Store) -> None:
    """Of many that stream to one key at once all succeed, and the object is one of theirs, whole."""
    contents = [bytes([number]) * (17 * MIB) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        sizes = list(threads.map(lambda content: store.put_stream("a", [content]).size, contents))
    assert sizes == [17 * MIB] * 4
    assert store.get("a") in contents
    assert store.abort_uploads("", before=in_an_hour()) == 0


def test_readers_never_see_half(store: Store) -> None:
    """While an object is replaced, a reader gets the whole old one or the whole new one."""
    contents = {bytes([value]) * (600 << 10) for value in range(8)}
    store.put("a", min(contents))

    def replace() -> None:
        for content in sorted(contents):
            store.put("a", content)

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(replace)
        while not done.done():
            assert store.get("a") in contents
        done.result()
