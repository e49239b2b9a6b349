"""Objects that are written in parts: streams of any size, and concatenations made inside the store.

**Concurrency:** parts go up in a few threads that belong to one upload. When anything fails, they are ended
first and the upload is aborted then, because a part that arrives after the abort would stay and be charged
for.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from dasfs.errors import Conflict, Corrupt, DasfsError, InvalidInput
from dasfs.stores.base import MIB, CopyPiece, ObjectInfo
from dasfs.stores.retry import GarbledAnswer
from dasfs.stores.s3_bucket import Bucket, Data, clean_etag, md5
from dasfs.stores.s3_ranges import Answer
from dasfs.stores.s3_read import RangeRead

log = logging.getLogger(__name__)

# Limits of S3: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAX_PARTS: Final = 10_000
MIN_PART_SIZE: Final = 5 * MIB
# 16 MiB makes the request's fixed cost small against its transfer. A stream's length is not known, so parts
# grow by 16 MiB every 150 of them: the 10,000 together carry 5 TiB, the largest object, and the first 2.4 GiB
# stay cheap.
FIRST_PART_SIZE: Final = 16 * MIB
_PARTS_PER_STEP: Final = 150
# Four transfers at once reach 60 % of what eight do, with half the memory.
MAX_IN_FLIGHT: Final = 4
_MAX_BYTES_IN_FLIGHT: Final = 256 * MIB
# A gateway copies by reading and writing, and must be done before the request's read timeout of 20 s: also one
# that copies 7 MiB a second.
MAX_COPY_SIZE: Final = 128 * MIB


def part_size(number: int) -> int:
    """Return the size of part `number` (from 1) of a stream whose length is not known."""
    return FIRST_PART_SIZE * (1 + number // _PARTS_PER_STEP)


def split_stream(chunks: Iterable[Data]) -> Iterator[bytearray | memoryview]:
    """Yield consecutive parts, each of its `part_size` but the last, which is never empty.

    What comes in chunks that are parts already is not copied.
    """
    number, part = 1, bytearray()
    for chunk in chunks:
        rest = memoryview(chunk).cast("B")
        while rest:
            room = part_size(number) - len(part)
            if not part and len(rest) >= room:
                yield rest[:room]
                number += 1
            else:
                part += rest[:room]
                if len(part) == part_size(number):
                    yield part
                    number, part = number + 1, bytearray()
            rest = rest[room:]
    if part:
        yield part


def split_pieces(pieces: Iterable[CopyPiece | bytes]) -> Iterator[CopyPiece | bytes]:
    """Yield `pieces` without empty ones and with large copies cut evenly, so that each can be one part.

    Takes one piece more than it yields, to know the last one. Raises `InvalidInput` when a piece but the last is
    below S3's minimum, or when there are too many.
    """
    count = 0
    held: CopyPiece | bytes | None = None
    full: Iterator[CopyPiece | bytes | None] = (piece for piece in pieces if piece_length(piece))
    for piece in itertools.chain(full, [None]):
        if held is not None:
            if piece is not None and piece_length(held) < MIN_PART_SIZE:
                raise InvalidInput(f"a piece of {piece_length(held)} bytes is too small: S3 needs {MIN_PART_SIZE}")
            parts = _cut_evenly(held)
            count += len(parts)
            if count > MAX_PARTS:
                raise InvalidInput(f"there are too many pieces for one S3 object: at most {MAX_PARTS} parts")
            yield from parts
        held = piece


def _cut_evenly(piece: CopyPiece | bytes) -> Sequence[CopyPiece | bytes]:
    if isinstance(piece, bytes):
        return [piece]
    count = -(-piece.length // MAX_COPY_SIZE)
    bounds = [piece.length * i // count for i in range(count + 1)]
    return [CopyPiece(piece.key, piece.offset + a, b - a) for a, b in itertools.pairwise(bounds)]


def piece_length(piece: CopyPiece | bytes) -> int:
    """Return how many bytes `piece` stands for."""
    return len(piece) if isinstance(piece, bytes) else piece.length


@dataclass(frozen=True, slots=True)
class _Part:
    etag: str
    size: int


class MultipartUpload:
    """One multipart upload, as a context: it is aborted unless `complete` was reached."""

    def __init__(self, bucket: Bucket, key: str, head: Callable[[str], ObjectInfo]) -> None:
        self._bucket = bucket
        self._key = key
        self._what = bucket.describe(key)
        self._full_key = bucket.full_key(key)
        self._head = head
        self._upload_id = ""
        self._cancelled = threading.Event()
        self._threads = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="dasfs-part")
        self._parts: list[Future[_Part]] = []
        self._under_way: dict[Future[_Part], int] = {}
        self._is_complete = False

    def __enter__(self) -> Self:
        answer = self._bucket.request(
            "create_multipart_upload", self._what, check=self._check_upload_id, Key=self._full_key
        )
        self._upload_id = answer["UploadId"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if not self._is_complete:
            self._abort()

    def send(self, data: Data) -> None:
        """Begin to upload the next part. Waits while enough is in flight; raises what failed meanwhile."""
        self._submit(lambda number: self._upload(number, data), len(data))

    def copy(self, piece: CopyPiece) -> None:
        """Begin to copy the next part inside the store. Waits and raises as `send` does."""
        self._submit(lambda number: self._copy(number, piece), 0)

    def complete(self) -> ObjectInfo:
        """Wait for all parts, publish the object, and return it as the store then describes it."""
        parts = [future.result() for future in self._parts]
        listed = [{"PartNumber": number, "ETag": f'"{part.etag}"'} for number, part in enumerate(parts, 1)]
        try:
            self._bucket.request(
                "complete_multipart_upload",
                self._what,
                # Ceph 16 leaves the ETag empty.
                check=lambda answer: _require(answer, self._what, "ETag", "Key"),
                Key=self._full_key,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": listed},
            )
        except Conflict:
            # The first answer may have been lost: then the upload is gone because it was completed.
            if not self._is_published(parts):
                raise
        self._is_complete = True
        info = self._head(self._key)
        size = sum(part.size for part in parts)
        if info.size != size:
            raise Corrupt(f"{self._what}: the store made {info.size} bytes of an upload of {size}")
        return info

    def _submit(self, work: Callable[[int], _Part], size: int) -> None:
        while self._under_way and self._is_full(size):
            done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
            for future in done:
                del self._under_way[future]
                future.result()
        number = len(self._parts) + 1
        future = self._threads.submit(work, number)
        self._parts.append(future)
        self._under_way[future] = size

    def _is_full(self, size: int) -> bool:
        in_flight = sum(self._under_way.values())
        return len(self._under_way) >= MAX_IN_FLIGHT or in_flight + size > _MAX_BYTES_IN_FLIGHT

    def _upload(self, number: int, data: Data) -> _Part:
        answer = self._request_part("upload_part", number, self._what, body=data)
        return _Part(clean_etag(answer, self._what), len(data))

    def _copy(self, number: int, piece: CopyPiece) -> _Part:
        source = self._bucket.describe(piece.key)
        answer = self._request_part(
            "upload_part_copy",
            number,
            source,
            check=lambda answer: _require(answer, source, "CopyPartResult"),
            CopySource={"Bucket": self._bucket.name, "Key": self._bucket.full_key(piece.key)},
            CopySourceRange=f"bytes={piece.offset}-{piece.offset + piece.length - 1}",
        )
        return _Part(clean_etag(answer["CopyPartResult"], self._what), piece.length)

    def _request_part(
        self,
        operation: str,
        number: int,
        what: str,
        *,
        check: Callable[[Answer], object] | None = None,
        **parameters: Any,
    ) -> Answer:
        return self._bucket.request(
            operation,
            what,
            check=check,
            cancelled=self._cancelled,
            Key=self._full_key,
            UploadId=self._upload_id,
            PartNumber=number,
            **parameters,
        )

    def _check_upload_id(self, answer: Answer) -> None:
        _require(answer, self._what, "UploadId")

    def _is_published(self, parts: Sequence[_Part]) -> bool:
        """Return whether the object under the key is this upload's: its ETag is made of its parts'."""
        try:
            digests = b"".join(bytes.fromhex(part.etag) for part in parts)
            return self._head(self._key).etag == f"{md5(digests).hexdigest()}-{len(parts)}"
        except (ValueError, FileNotFoundError):
            return False

    def _abort(self) -> None:
        try:
            self._bucket.request("abort_multipart_upload", self._what, Key=self._full_key, UploadId=self._upload_id)
        except Conflict:
            return  # someone else did it
        except DasfsError as error:
            log.warning("an unfinished upload is left until `dasfs collect` removes it: %s", error)


def _require(answer: Answer, what: str, *fields: str) -> None:
    """Raise unless `answer` has one of `fields`."""
    if not any(map(answer.get, fields)):
        raise GarbledAnswer(f"{what}: the answer has no {fields[0]}: it is not one of an S3 store")


def read_piece(bucket: Bucket, piece: CopyPiece) -> bytes:
    """Return the bytes of a piece that is too small to be copied inside the store."""
    data = bytearray(piece.length)
    RangeRead(bucket, piece.key, piece.offset, memoryview(data), None).run()
    return bytes(data)
