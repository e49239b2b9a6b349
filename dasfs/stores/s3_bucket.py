"""One bucket behind one boto3 client: the place where every request of the S3 store is made.

**Concurrency:** a client may be used from any number of threads; nothing here changes after it was made.
"""

import base64
import hashlib
import io
import re
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import boto3
import botocore.session
from botocore import exceptions as botocore_errors
from botocore.config import Config
from botocore.loaders import create_loader

from dasfs.errors import InvalidInput
from dasfs.metrics import Outcome, RequestCounts
from dasfs.stores.base import StoreOptions
from dasfs.stores.keys import MAX_KEY_LENGTH, check_key, check_prefix
from dasfs.stores.retry import GarbledAnswer, RetryPolicy
from dasfs.stores.s3_errors import map_errors, without_secrets
from dasfs.stores.s3_ranges import Answer, RangeGets
from dasfs.stores.urls import StoreUrl

Data = bytes | bytearray | memoryview

_PLAIN_MD5: Final = re.compile(r"[0-9a-f]{32}")
# What is sent at once: a GB costs 0.2 s of CPU, and 0.7 in pieces of 16 KiB.
SEND_SIZE: Final = 1 << 17
# A bigger body is handed over in pieces, see `PartReader`.
_WHOLE_BODY_SIZE: Final = 1 << 20
# Parsing what S3 can do takes 90 ms: once a process, not once a store.
_DESCRIPTIONS: Final = create_loader()
# Connecting takes one round trip; more than this is a dead route.
_MAX_CONNECT_S: Final = 10.0


class PartReader:
    """A body that is read in pieces out of memory that is not copied.

    http.client sends `bytes` with one `sendall`, whose timeout is for all of it: 16 MiB over a slow line
    would never arrive. From a reader it sends what one `read` returns, and the timeout is for each of these.
    """

    def __init__(self, data: Data, cancelled: threading.Event | None = None) -> None:
        self._view = memoryview(data).cast("B")
        self._position = 0
        self._cancelled = cancelled

    def read(self, size: int = -1) -> memoryview:
        """Return the next 128 KiB, also where fewer are asked for, as http.client does; all that is left for -1."""
        if self._cancelled is not None and self._cancelled.is_set():
            raise ConnectionAbortedError("the upload was cancelled")
        end = len(self._view) if size < 0 else self._position + max(size, SEND_SIZE)
        piece = self._view[self._position : end]
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position


class Bucket:
    """Requests to one bucket, below one prefix: each is retried, bounded in time, its errors translated."""

    def __init__(self, place: StoreUrl, options: StoreOptions) -> None:
        self.url = str(place)
        self.name = place.place
        self.policy = RetryPolicy(options.deadline_s)
        self._prefix = f"{place.prefix}/" if place.prefix else ""
        self.requests = RequestCounts()
        # What the newest answer said in its Date, and when it came.
        self._dated: tuple[str, float] | None = None
        with map_errors(self.url):
            self.client = _make_client(options, self.policy)
        self.client.meta.events.register("response-received.s3", self._count)
        self.ranges = RangeGets(self.client, self.name, self._count)

    def full_key(self, key: str) -> str:
        """Return the key in the bucket of the store's `key`. Raises `InvalidInput`."""
        full = self._prefix + check_key(key)
        if len(full) > MAX_KEY_LENGTH:
            raise InvalidInput(f"key {full[:40]!r}... is longer than {MAX_KEY_LENGTH} bytes")
        return full

    def full_prefix(self, prefix: str) -> str:
        """Return the prefix in the bucket of the store's `prefix`, which may be empty."""
        return self._prefix + check_prefix(prefix)

    def relative(self, full_key: str) -> str:
        """Return the store's key of a key in the bucket."""
        return full_key.removeprefix(self._prefix)

    def describe(self, key: str) -> str:
        """Return how messages name the object."""
        return f"{self.url}/{key}"

    def request(
        self,
        operation: str,
        what: str,
        *,
        check: Callable[[Answer], object] | None = None,
        body: Data | None = None,
        policy: RetryPolicy | None = None,
        cancelled: threading.Event | None = None,
        **parameters: Any,
    ) -> Answer:
        """Return the answer to one S3 operation, by boto3's name for it.

        Args:
            what: names the object or bucket in messages.
            check: looks at each answer, and raises what makes the request be tried again.
            body: is sent with its MD5, which the store checks, and which an ETag that is one must be.
            policy: another one than the bucket's.
            cancelled: ends the attempts, and an upload in the middle, when it is set.
        """
        method = getattr(self.client, operation)
        digest = None
        if body is not None:
            digest = md5(body)
            parameters["ContentMD5"] = base64.b64encode(digest.digest()).decode()

        def attempt() -> Answer:
            if body is not None:
                parameters["Body"] = _make_body(body, cancelled)
            with map_errors(what):
                answer: Answer = method(Bucket=self.name, **parameters)
                if digest is not None:
                    check_etag(answer, digest.hexdigest(), what)
                if check is not None:
                    check(answer)
                return answer

        return (policy or self.policy).run(attempt, cancelled=cancelled)

    def _count(self, event_name: str, response_dict: Mapping[str, Any] | None, **_: Any) -> None:
        """Count an answer, or that there was none: botocore calls this after each attempt."""
        status = "none" if response_dict is None else str(response_dict["status_code"])
        self.requests.add(Outcome(event_name.rpartition(".")[2], status))
        if response_dict is not None and "date" in response_dict["headers"]:
            self._dated = response_dict["headers"]["date"], time.time()

    def clock_skew_s(self) -> float | None:
        """Return how far this machine's clock is ahead of the store's, by its newest answer, also a refusal."""
        if self._dated is None:
            return None
        said, came = self._dated
        try:
            # A Date has no fraction: on average the store's clock was half a second further.
            return came - parsedate_to_datetime(said).timestamp() - 0.5
        except ValueError:
            return None

    def close(self) -> None:
        """Close the idle connections."""
        self.client.close()


def md5(data: Data) -> "hashlib._Hash":
    """Return the MD5 of `data`, which S3 uses against damage, not against forgery."""
    return hashlib.md5(data, usedforsecurity=False)


def clean_etag(answer: Answer, what: str) -> str:
    """Return an answer's ETag without quotes. Raises `GarbledAnswer` when it has none: that was not S3."""
    etag = answer.get("ETag")
    if not etag:
        raise GarbledAnswer(f"{what}: the answer has no ETag: it is not one of an S3 store")
    return str(etag).removeprefix("W/").strip('"')


def is_content_md5(answer: Answer, etag: str) -> bool:
    """Return whether `etag` is the content's MD5: not so after multipart uploads or with KMS keys."""
    encryption = str(answer.get("ServerSideEncryption", ""))
    hidden = encryption.startswith("aws:kms") or "SSECustomerAlgorithm" in answer
    return not hidden and _PLAIN_MD5.fullmatch(etag) is not None


def check_etag(answer: Answer, digest: str, what: str) -> str:
    """Return an answer's ETag. Raises `GarbledAnswer` when it is an MD5, but not the content's `digest`."""
    etag = clean_etag(answer, what)
    if is_content_md5(answer, etag) and etag != digest:
        raise GarbledAnswer(f"{what}: the ETag is not the checksum of the bytes")
    return etag


def _make_body(data: Data, cancelled: threading.Event | None) -> bytes | PartReader:
    size = memoryview(data).nbytes
    return bytes(data) if size <= _WHOLE_BODY_SIZE else PartReader(data, cancelled)


def _make_client(options: StoreOptions, policy: RetryPolicy) -> Any:
    """Return a client. Path-style addressing is what botocore itself does as soon as an endpoint is set."""
    core = botocore.session.Session()
    core.register_component("data_loader", _DESCRIPTIONS)
    session = boto3.Session(botocore_session=core, profile_name=options.profile, region_name=options.region)
    config = Config(
        signature_version="s3v4",
        connect_timeout=min(_MAX_CONNECT_S, policy.attempt_s),
        read_timeout=policy.attempt_s,
        max_pool_connections=options.connections,
        # A body's MD5 is among the headers that are signed: a SHA-256 of it, too, would cost both ends a third more.
        s3={"payload_signing_enabled": False},
        retries={"total_max_attempts": 1},  # `retry.py` is the one place for them
        # Ceph 16 and others don't know the checksums that newer clients send by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        client = session.client("s3", endpoint_url=options.endpoint_url, config=config)
    except botocore_errors.BotoCoreError:  # some are ValueErrors, too
        raise
    except ValueError as error:  # botocore's way to refuse an endpoint
        raise InvalidInput(
            f"the endpoint of the store can't be used: {without_secrets(str(error))}", hint="check AWS_ENDPOINT_URL"
        ) from error
    client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5)
    return client


def _add_content_md5(params: dict[str, Any], **_: Any) -> None:
    """Send the MD5 that S3 asks for with DeleteObjects: botocore sends a CRC-32 that gateways refuse."""
    params["headers"]["Content-MD5"] = base64.b64encode(md5(params["body"]).digest()).decode()
