"""The S3 store against servers that lie, fail, hang and send elsewhere."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from botocore.exceptions import HTTPClientError

from dasfs.errors import (
    AccessDenied,
    AlreadyExists,
    Corrupt,
    DasfsError,
    DeadlineExceeded,
    InvalidInput,
    NoSpace,
    ObjectChanged,
    StoreUnavailable,
)
from dasfs.metrics import Outcome
from dasfs.stores import Store, StoreOptions, open_store
from dasfs.stores.s3_errors import map_errors
from tests.lying_server import HTML, Answer, LyingServer, error, ranged
from tests.mounts import wait_until

# Three attempts of half a second fit.
DEADLINE_S = 1.5
# What a busy machine may add; waiting for ever is far above it.
SLACK_S = 1.5


@pytest.fixture
def liar(server: LyingServer) -> Iterator[Store]:
    """A store on the server that lies."""
    with open_store("s3://bucket/p", StoreOptions(deadline_s=DEADLINE_S)) as store:
        yield store


def read(store: Store, length: int = 10, etag: str | None = None) -> bytes:
    buffer = bytearray(length)
    store.read_into("a", 0, memoryview(buffer), etag=etag)
    return bytes(buffer)


def test_listing_without_a_way_on(liar: Store, server: LyingServer) -> None:
    """A page that says that there are more, but not where, is no listing."""
    server.answers = [Answer(200, {"Content-Type": "application/xml"}, b"<R><IsTruncated>true</IsTruncated></R>")]
    for call in (lambda: list(liar.list("")), lambda: liar.abort_uploads("", before=datetime.now(UTC))):
        with pytest.raises(Corrupt, match="not a listing"):
            call()


def test_page_instead_of_a_range(liar: Store, server: LyingServer) -> None:
    """A page of HTML with status 200 is never taken for data: three tries, then `Corrupt`."""
    server.answers = [Answer(200, {"Content-Type": "text/html"}, HTML)]
    with pytest.raises(Corrupt):
        read(liar, len(HTML))
    assert len(server.requests) == 3


@pytest.mark.parametrize("page", [HTML, b"<html><body>well formed</body></html>"])
@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.get("a"),
        lambda store: store.put("a", b"1"),
        lambda store: store.put_if_absent("a", b"1"),
        lambda store: store.check(),
        lambda store: list(store.list("")),
        lambda store: list(store.list_prefixes("")),
        lambda store: store.delete(["a"]),
        lambda store: store.head("a"),
        lambda store: store.abort_uploads("", before=None),
        lambda store: store.put_stream("a", [bytes(17 << 20)]),
    ],
)
def test_page_instead_of_any_answer(server: LyingServer, call: Callable[[Store], object], page: bytes) -> None:
    """Such a page is an error for every operation: not an empty listing, not an upload that worked."""
    server.answers = [Answer(200, {"Content-Type": "text/html"}, page)]
    # botocore itself takes an answer that it can't parse for an internal error of the server.
    with (
        open_store("s3://bucket/p", StoreOptions(deadline_s=0.6)) as store,
        pytest.raises((Corrupt, StoreUnavailable)),
    ):
        call(store)


@pytest.mark.parametrize(
    "answer",
    [
        ranged(b"0123456789", 5, 100),
        ranged(b"012345678", 0, 100),
        ranged(b"0123456789a", 0, 100),
        Answer(206, {"ETag": '"tag"'}, b"0123456789"),
        Answer(206, {"ETag": '"tag"', "Content-Range": "bytes */10"}, b"0123456789"),
        Answer(200, {"ETag": '"tag"'}, b"0123456789"),
    ],
)
def test_wrong_range(liar: Store, server: LyingServer, answer: Answer) -> None:
    """An answer that is another range than the one asked for, or none, is `Corrupt`."""
    server.answers = [answer]
    with pytest.raises(Corrupt):
        read(liar)


def test_object_that_ends_before(liar: Store, server: LyingServer) -> None:
    """A range that stops at the object's end is `Corrupt` at once: trying again can't help."""
    server.answers = [ranged(b"01234", 0, 5)]
    with pytest.raises(Corrupt, match="ends at 5"):
        read(liar)
    assert len(server.requests) == 1


def test_cut_read_goes_on(liar: Store, server: LyingServer) -> None:
    """A body that is cut off is continued where it stopped, pinned to the same object."""
    server.answers = [ranged(b"0123", 0, 100, length=10), ranged(b"456789", 4, 100)]
    assert read(liar) == b"0123456789"
    assert [headers["Range"] for headers in server.request_headers] == ["bytes=0-9", "bytes=4-9"]
    assert server.request_headers[1]["If-Match"] == '"tag"'


def test_read_that_is_always_cut(liar: Store, server: LyingServer) -> None:
    """When the body never arrives, the read fails within the deadline."""
    server.answers = [ranged(b"", 0, 100, length=10)]
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match="cut"):
        read(liar)
    assert time.monotonic() - start < DEADLINE_S + SLACK_S


def test_cut_get(liar: Store, server: LyingServer) -> None:
    """A whole object that is cut off is fetched again."""
    body = b"0123456789"
    etag = {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
    server.answers = [Answer(200, etag, b"0123", 10), Answer(200, etag, body)]
    assert liar.get("a") == body


def test_flipped_bit_in_get(liar: Store, server: LyingServer) -> None:
    """Content that does not fit the MD5 in its ETag is fetched again, and is `Corrupt` if it stays so."""
    etag = {"ETag": f'"{hashlib.md5(b"right").hexdigest()}"'}
    server.answers = [Answer(200, etag, b"wrong"), Answer(200, etag, b"right")]
    assert liar.get("a") == b"right"
    server.answers = [Answer(200, etag, b"wrong")]
    with pytest.raises(Corrupt, match="checksum"):
        liar.get("a")


def test_etag_of_an_upload_is_compared(liar: Store, server: LyingServer) -> None:
    """An upload whose answer has another MD5 did not arrive as it was sent."""
    server.answers = [Answer(200, {"ETag": f'"{hashlib.md5(b"other").hexdigest()}"'})]
    with pytest.raises(Corrupt, match="checksum"):
        liar.put("a", b"this")


def test_etag_that_is_no_md5(liar: Store, server: LyingServer) -> None:
    """An ETag of KMS encryption, or of another form, says nothing about the content."""
    tag = hashlib.md5(b"other").hexdigest()
    server.answers = [Answer(200, {"ETag": f'"{tag}"', "x-amz-server-side-encryption": "aws:kms"})]
    assert liar.put("a", b"this").etag == tag
    server.answers = [Answer(200, {"ETag": '"opaque-1"'})]
    assert liar.put("a", b"this").etag == "opaque-1"


def test_md5_is_sent(liar: Store, server: LyingServer) -> None:
    """Every upload and every DeleteObjects carries Content-MD5, which any gateway checks."""
    server.answers = [Answer(200, {"ETag": '"opaque-1"'})]
    liar.put("a", b"hello")
    assert server.request_headers[0]["Content-MD5"] == "XUFAKrxLKna5cZ2REBfFkg=="
    server.answers = [
        Answer(
            200, {"Content-Type": "application/xml"}, b"<DeleteResult><Deleted><Key>p/a</Key></Deleted></DeleteResult>"
        )
    ]
    liar.delete(["a"])
    assert "Content-MD5" in server.request_headers[1]


def test_retry_after_is_honoured(liar: Store, server: LyingServer) -> None:
    """A store that asks for a pause gets it, and then the answer counts."""
    server.answers = [error(503, "SlowDown", Retry_After="1"), Answer(200, {"ETag": '"opaque-1"'})]
    # One second of waiting and a half for the attempt do not fit into 1.5 s.
    with open_store("s3://bucket/p", StoreOptions(deadline_s=6)) as store:
        store.put("a", b"1")
    assert server.times[1] - server.times[0] >= 1


def test_retry_after_beyond_the_deadline(liar: Store, server: LyingServer) -> None:
    """A pause that is longer than the deadline is not waited for."""
    server.answers = [error(503, "SlowDown", Retry_After="3600")]
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match="overloaded"):
        liar.put("a", b"1")
    assert time.monotonic() - start < 0.5
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_trouble_passes(liar: Store, server: LyingServer, status: int) -> None:
    """An error of the server is tried again, and the answer counts."""
    server.answers = [error(status, "InternalError"), ranged(b"0123456789", 0, 100)]
    assert read(liar) == b"0123456789"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", AccessDenied),
        (403, "RequestTimeTooSkewed", AccessDenied),
        (400, "ExpiredToken", AccessDenied),
        (403, "QuotaExceeded", NoSpace),
        (507, "Whatever", NoSpace),
        (301, "PermanentRedirect", InvalidInput),
        (400, "NeverHeardOf", DasfsError),
        (400, "BadDigest", Corrupt),
        (412, "PreconditionFailed", AlreadyExists),
    ],
)
def test_refusals_are_translated(
    liar: Store, server: LyingServer, status: int, code: str, expected: type[DasfsError]
) -> None:
    """Each refusal has its error, in one line that names the object."""
    server.answers = [error(status, code)]
    with pytest.raises(expected, match="s3://bucket/p/a") as raised:
        liar.put_if_absent("a", b"1")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("raised", [RecursionError(), HTTPClientError(error=RecursionError())])
def test_redirects_in_circles(raised: Exception) -> None:
    """botocore follows redirects until the stack is used up, wherever that is; it is no failed connection."""
    with (
        pytest.raises(InvalidInput, match="s3://bucket/p/a: the store redirects in circles"),
        map_errors("s3://bucket/p/a"),
    ):
        raise raised


def test_conflict_of_conditions_is_retried(liar: Store, server: LyingServer) -> None:
    """409 says that another conditional write is under way: only the next answer tells who won."""
    server.answers = [error(409, "ConditionalRequestConflict"), error(412, "PreconditionFailed")]
    with pytest.raises(AlreadyExists):
        liar.put_if_absent("a", b"1")
    assert len(server.requests) == 2


def test_changed_object_is_told(liar: Store, server: LyingServer) -> None:
    """412 to a read with an ETag is `ObjectChanged`."""
    server.answers = [error(412, "PreconditionFailed")]
    with pytest.raises(ObjectChanged):
        read(liar, etag="tag")


def test_ignored_condition_is_found(liar: Store, server: LyingServer) -> None:
    """A gateway that ignores If-Match and sends another object is found by that object's ETag."""
    server.answers = [ranged(b"0123456789", 0, 10, etag='"other"')]
    with pytest.raises(ObjectChanged):
        read(liar, etag="tag")


def test_hanging_server_meets_the_deadline(liar: Store, server: LyingServer) -> None:
    """A server that hangs costs the deadline in every operation."""
    server.answers = [Answer(hang=True)]
    for call in (lambda: read(liar), lambda: liar.put("a", b"1"), lambda: list(liar.list(""))):
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            call()
        assert time.monotonic() - start < DEADLINE_S + SLACK_S


def test_trickling_answer_meets_the_deadline(server: LyingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that comes byte by byte, each in time, does not outlast the deadline."""
    stop = threading.Event()

    def trickle(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            head = 'HTTP/1.1 206 OK\r\nETag: "tag"\r\nContent-Range: bytes 0-999/1000\r\nContent-Length: 1000\r\n\r\n'
            connection.sendall(head.encode())
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=[listener])
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with open_store("s3://bucket", StoreOptions(endpoint_url=endpoint, deadline_s=DEADLINE_S)) as store:
                start = time.monotonic()
                with pytest.raises(DeadlineExceeded, match="slowly"):
                    read(store, 1000)
                assert time.monotonic() - start < DEADLINE_S + SLACK_S
        finally:
            stop.set()
            thread.join()


def test_failed_abort_is_only_a_warning(liar: Store, server: LyingServer, caplog: pytest.LogCaptureFixture) -> None:
    """When even the abort of a failed upload fails, the first error is raised, and a warning tells of the rest."""
    created = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    server.answers = [Answer(200, {"Content-Type": "application/xml"}, created), error(403, "AccessDenied")]

    def chunks() -> Iterator[bytes]:
        yield bytes(16 << 20)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        liar.put_stream("a", chunks())
    assert any("unfinished upload" in record.message for record in caplog.records)
    assert any(request.startswith("DELETE") for request in server.requests)


def test_interrupt_does_not_wait_for_parts(server: LyingServer) -> None:
    """Ctrl-C ends the parts that are under way, however slow the line is."""
    xml = {"Content-Type": "application/xml"}
    created = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    server.answers = [Answer(200, xml, created), Answer(200, {"ETag": '"opaque"'}, slow=True), Answer(204)]

    def chunks() -> Iterator[bytes]:
        yield bytes(16 << 20)  # takes 50 s
        raise KeyboardInterrupt

    start = time.monotonic()
    with open_store("s3://bucket/p") as store, pytest.raises(KeyboardInterrupt):
        store.put_stream("a", chunks())
    assert time.monotonic() - start < 5
    assert server.requests[-1].startswith("DELETE")


def test_completion_without_etag(liar: Store, server: LyingServer) -> None:
    """Ceph 16 leaves out the ETag of what it completed: that is no reason to ask again."""
    xml = {"Content-Type": "application/xml"}
    created = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    completed = b"<CompleteMultipartUploadResult><Key>p/a</Key><ETag></ETag></CompleteMultipartUploadResult>"
    time_of = {"Last-Modified": "Fri, 20 Nov 2026 10:00:00 GMT"}
    server.answers = [
        Answer(200, xml, created),
        Answer(200, {"ETag": '"opaque"'}),
        Answer(200, xml, completed),
        Answer(200, {"ETag": '"x-1"', **time_of}, length=16 << 20),
    ]
    assert liar.put_stream("a", [bytes(16 << 20)]).etag == "x-1"
    assert [request.split()[0] for request in server.requests] == ["POST", "PUT", "POST", "HEAD"]


def test_lost_answer_of_a_completion(liar: Store, server: LyingServer) -> None:
    """When the answer to the completion was lost, the upload that is gone is found to be the object that is there."""
    xml = {"Content-Type": "application/xml"}
    created = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    digest = hashlib.md5(bytes(16 << 20))
    whole = f"{hashlib.md5(digest.digest()).hexdigest()}-1"
    time_of = {"Last-Modified": "Fri, 20 Nov 2026 10:00:00 GMT"}
    server.answers = [
        Answer(200, xml, created),
        Answer(200, {"ETag": f'"{digest.hexdigest()}"'}),
        error(500, "InternalError"),
        error(404, "NoSuchUpload"),
        Answer(200, {"ETag": f'"{whole}"', **time_of}, length=16 << 20),
    ]
    info = liar.put_stream("a", [bytes(16 << 20)])
    assert (info.size, info.etag) == (16 << 20, whole)


def test_completion_of_the_wrong_size(liar: Store, server: LyingServer) -> None:
    """A store that makes an object of another size out of the parts is found out."""
    xml = {"Content-Type": "application/xml"}
    created = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    completed = b'<CompleteMultipartUploadResult><ETag>"x-1"</ETag></CompleteMultipartUploadResult>'
    time_of = {"Last-Modified": "Fri, 20 Nov 2026 10:00:00 GMT"}
    server.answers = [
        Answer(200, xml, created),
        Answer(200, {"ETag": '"opaque"'}),
        Answer(200, xml, completed),
        Answer(200, {"ETag": '"x-1"', **time_of}, length=5),
    ]
    with pytest.raises(Corrupt, match="made 5 bytes"):
        liar.put_stream("a", [bytes(16 << 20)])


def test_no_signature_is_told(server: LyingServer) -> None:
    """A read is signed in its URL; what is said of a failure, here of TLS, shows no more than the place."""
    endpoint = server.endpoint_url.replace("http:", "https:")
    with open_store("s3://bucket/p", StoreOptions(endpoint_url=endpoint, deadline_s=DEADLINE_S)) as store:
        with pytest.raises(StoreUnavailable, match="can't connect") as raised:
            read(store)
        assert "X-Amz" not in str(raised.value)


def test_a_refused_url_is_not_used_again(liar: Store, server: LyingServer) -> None:
    """Reads share what signs them; after a refusal it is made anew: the keys may be others by then."""
    answer = ranged(b"0123456789", 0, 100)
    server.answers = [answer, answer, error(403, "ExpiredToken"), answer]
    assert read(liar) == read(liar) == b"0123456789"
    before = int(time.time())
    wait_until(lambda: int(time.time()) > before)  # a signature is of a second
    with pytest.raises(AccessDenied, match="has expired"):
        read(liar)
    assert read(liar) == b"0123456789"
    first, second, refused, anew = server.requests
    assert first == second == refused != anew
    assert liar.requests.all() == {Outcome("GetObject", "206"): 3, Outcome("GetObject", "403"): 1}


def test_a_bucket_in_another_region(liar: Store, server: LyingServer) -> None:
    """A store that leads elsewhere is asked through boto3 from then on, which follows."""
    answer = ranged(b"0123456789", 0, 100)
    server.answers = [error(400, "AuthorizationQueryParametersError"), answer, answer]
    assert read(liar) == read(liar) == b"0123456789"
    assert ["Authorization" in headers for headers in server.request_headers] == [False, True, True]
