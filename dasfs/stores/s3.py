"""The S3 store: a bucket of AWS, Ceph, MinIO or another gateway, through boto3.

Where an answer was lost, the request is sent again, so a `put_if_absent` can meet its own success. Content is
guarded on both ways: every upload carries its MD5, every answer's ETag, range and length are compared with
what was asked for.

**Concurrency:** any number of threads. `StoreOptions.connections` should be no less than the threads that
call at once.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final

from dasfs.errors import Conflict, NotFound
from dasfs.stores.base import MAX_WHOLE_OBJECT, CopyPiece, ObjectInfo, Store, StoreOptions
from dasfs.stores.keys import check_directory_prefix
from dasfs.stores.retry import GarbledAnswer, RetryPolicy
from dasfs.stores.s3_bucket import Bucket, Data, clean_etag
from dasfs.stores.s3_errors import from_code, if_absent
from dasfs.stores.s3_multipart import (
    FIRST_PART_SIZE,
    MIN_PART_SIZE,
    MultipartUpload,
    read_piece,
    split_pieces,
    split_stream,
)
from dasfs.stores.s3_ranges import Answer
from dasfs.stores.s3_read import RangeRead, read_whole
from dasfs.stores.urls import StoreUrl

_DELETE_BATCH: Final = 1000  # S3's limit for DeleteObjects
# Somebody waits in front of a terminal for the first answer: a store that is down is told sooner than in a
# read. (One that accepts and says nothing costs the 20 s of any attempt.)
_CHECK_DEADLINE_S: Final = 10.0


class S3Store(Store):
    """Objects in one bucket, below the prefix of the URL."""

    min_copy_size = MIN_PART_SIZE

    def __init__(self, place: StoreUrl, options: StoreOptions) -> None:
        self.url = str(place)
        self._bucket = Bucket(place, options)
        self.requests = self._bucket.requests
        self._check_policy = RetryPolicy(min(_CHECK_DEADLINE_S, options.deadline_s))

    def check(self) -> None:
        self._list_page(policy=self._check_policy, Prefix=self._bucket.full_prefix(""), MaxKeys=1)

    def clock_skew_s(self) -> float | None:
        return self._bucket.clock_skew_s()

    def create(self) -> None:
        self.check()

    def head(self, key: str) -> ObjectInfo:
        what = self._bucket.describe(key)
        answer = self._bucket.request(
            "head_object",
            what,
            check=lambda answer: _check_head(answer, what),
            Key=self._bucket.full_key(key),
        )
        return ObjectInfo(key, answer["ContentLength"], clean_etag(answer, what), _utc(answer["LastModified"]))

    def read_into(self, key: str, offset: int, buffer: memoryview, *, etag: str | None = None) -> None:
        if buffer.nbytes:
            RangeRead(self._bucket, key, offset, buffer.cast("B"), etag).run()

    def read_arriving(self, key: str, offset: int, buffer: memoryview, arrived: Callable[[int], None]) -> None:
        if buffer.nbytes:
            RangeRead(self._bucket, key, offset, buffer.cast("B"), None, arrived).run()

    def get(self, key: str, *, max_size: int = MAX_WHOLE_OBJECT) -> bytes:
        return read_whole(self._bucket, key, max_size)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        return self._put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> ObjectInfo:
        with if_absent(self._bucket.describe(key)):
            return self._put(key, data, IfNoneMatch="*")

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> ObjectInfo:
        self._bucket.full_key(key)
        parts = split_stream(chunks)
        first = next(parts, memoryview(b""))
        if len(first) < FIRST_PART_SIZE:
            return self._put(key, first)
        with MultipartUpload(self._bucket, key, self.head) as upload:
            upload.send(first)
            del first  # or it would be kept until the end
            for part in parts:
                upload.send(part)
            return upload.complete()

    def compose(self, key: str, pieces: Iterable[CopyPiece | bytes]) -> ObjectInfo:
        self._bucket.full_key(key)
        # AWS refuses to copy ranges out of objects below 5 MiB; only the last part can be that small.
        parts = map(self._fetch_small, split_pieces(pieces))
        first, second = next(parts, b""), next(parts, None)
        if second is None and isinstance(first, bytes) and len(first) < FIRST_PART_SIZE:
            return self._put(key, first)
        with MultipartUpload(self._bucket, key, self.head) as upload:
            for part in itertools.chain((first,), () if second is None else (second,), parts):
                if isinstance(part, bytes):
                    upload.send(part)
                else:
                    upload.copy(part)
            return upload.complete()

    def _fetch_small(self, piece: CopyPiece | bytes) -> CopyPiece | bytes:
        if isinstance(piece, CopyPiece) and piece.length < MIN_PART_SIZE:
            return read_piece(self._bucket, piece)
        return piece

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        start = {"StartAfter": self._bucket.full_prefix("") + after} if after else {}
        for page in self._list_pages(Prefix=self._bucket.full_prefix(prefix), **start):
            for item in page.get("Contents", []):
                key = self._bucket.relative(item["Key"])
                yield ObjectInfo(key, item["Size"], clean_etag(item, key), _utc(item["LastModified"]))

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        full = self._bucket.full_prefix(check_directory_prefix(prefix))
        last = None
        for page in self._list_pages(Prefix=full, Delimiter="/"):
            for item in page.get("CommonPrefixes", []):
                segment = item["Prefix"].removeprefix(full).removesuffix("/")
                if segment != last:  # some gateways say one again on the next page
                    yield segment
                last = segment

    def delete(self, keys: Iterable[str]) -> None:
        full_keys = (self._bucket.full_key(key) for key in keys)
        while batch := list(itertools.islice(full_keys, _DELETE_BATCH)):
            objects = [{"Key": key} for key in batch]
            self._bucket.request(
                "delete_objects",
                self.url,
                check=partial(_check_deleted, self._bucket, len(batch)),
                Delete={"Objects": objects, "Quiet": False},
            )

    def abort_uploads(self, prefix: str, *, before: datetime) -> int:
        count = 0
        for page in self._upload_pages(self._bucket.full_prefix(prefix)):
            for item in page.get("Uploads", []):
                if _utc(item["Initiated"]) < before:
                    count += self._abort_upload(item["Key"], item["UploadId"])
        return count

    def close(self) -> None:
        self._bucket.close()

    def _put(self, key: str, data: Data, **parameters: Any) -> ObjectInfo:
        what = self._bucket.describe(key)
        answer = self._bucket.request("put_object", what, body=data, Key=self._bucket.full_key(key), **parameters)
        return ObjectInfo(key, len(data), clean_etag(answer, what), _date_of(answer))

    def _list_page(self, *, policy: RetryPolicy | None = None, **parameters: Any) -> Answer:
        check = partial(self._check_page, "NextContinuationToken")
        return self._bucket.request("list_objects_v2", self.url, check=check, policy=policy, **parameters)

    def _check_page(self, marker: str, answer: Answer) -> None:
        # A proxy's page must not look like a log without news.
        if "IsTruncated" not in answer or (answer["IsTruncated"] and not answer.get(marker)):
            raise GarbledAnswer(f"{self.url}: the answer is not a listing of an S3 store")

    def _list_pages(self, **parameters: Any) -> Iterator[Answer]:
        while True:
            page = self._list_page(**parameters)
            yield page
            if not page["IsTruncated"]:
                return
            parameters["ContinuationToken"] = page["NextContinuationToken"]

    def _upload_pages(self, full_prefix: str) -> Iterator[Answer]:
        markers: dict[str, Any] = {}
        check = partial(self._check_page, "NextUploadIdMarker")
        while True:
            page = self._bucket.request("list_multipart_uploads", self.url, check=check, Prefix=full_prefix, **markers)
            yield page
            if not page["IsTruncated"]:
                return
            markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _abort_upload(self, full_key: str, upload_id: str) -> int:
        what = self._bucket.describe(self._bucket.relative(full_key))
        try:
            self._bucket.request("abort_multipart_upload", what, Key=full_key, UploadId=upload_id)
        except (Conflict, NotFound):
            return 0  # it was completed or aborted just now
        return 1


def _check_head(answer: Answer, what: str) -> None:
    clean_etag(answer, what)
    if "ContentLength" not in answer or "LastModified" not in answer:
        raise GarbledAnswer(f"{what}: the answer has no size or no time: it is not one of an S3 store")


def _check_deleted(bucket: Bucket, count: int, answer: Answer) -> None:
    """Raise the first refusal of a DeleteObjects, or `GarbledAnswer` when it is not about `count` keys."""
    errors = answer.get("Errors", [])
    for error in errors:
        what = bucket.describe(bucket.relative(error.get("Key", "")))
        raise from_code(what, error.get("Code", ""), 0, error.get("Message") or "")
    if len(answer.get("Deleted", [])) < count:
        raise GarbledAnswer(f"{bucket.url}: the store did not say that it deleted all {count} objects")


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC)


def _date_of(answer: Answer) -> datetime:
    """Return when the store says that it answered: close to the object's own time, which PUT keeps back."""
    try:
        return _utc(parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]))
    except (KeyError, ValueError):
        return datetime.now(UTC)
