"""GETs of ranges, which are what a mount does all day, past most of boto3.

boto3's `get_object` takes 3.4 ms of CPU, for events, rules of endpoints and parsers of what is known here; this takes
0.9, and who waits for first bytes waits that much less. What must not go wrong stays boto3's: keys, signatures and
addresses (a presigned URL), TLS, proxies and connections (the client's HTTP session), and what error answers mean.

**Concurrency:** any number of threads.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final

from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HeadersDict
from botocore.exceptions import ClientError
from botocore.parsers import create_parser

Answer = Mapping[str, Any]

# A URL is used for a while, so that new keys are taken soon; it is valid for longer, so that clocks may differ.
_USE_S: Final = 300.0
_VALID_S: Final = 3600
# Objects that are read at the same time are far fewer; a URL has some 500 bytes.
_MAX_URLS: Final = 4096
# How a store says that a bucket is in another region. boto3 finds it, so from then on it is asked.
_ELSEWHERE: Final = frozenset({301, 302, 307, 308, 400})
_ERROR_SIZE: Final = 1 << 20  # no error of S3 is that long


class RangeGets:
    """GETs of ranges from one bucket through one boto3 client.

    `count` is told of each answer as botocore tells its hooks.
    """

    def __init__(self, client: Any, bucket: str, count: Callable[..., None]) -> None:
        self._client = client
        self._bucket = bucket
        self._count = count
        # There is no public way to send what is signed already with a client's proxies and certificates.
        self._session: Any = client._endpoint.http_session  # noqa: SLF001
        self._parser: Any = create_parser("rest-xml")
        self._urls: dict[str, tuple[str, float]] = {}
        self._is_elsewhere = False

    @contextmanager
    def get(self, full_key: str, start: int, end: int, etag: str | None) -> Iterator[tuple[Answer, Any]]:
        """GET `[start, end)`; yield the answer's head, by boto3's names, and urllib3's response to read all of it from.

        Raises `ClientError` for an error answer, and what botocore raises where there is none.
        """
        span = f"bytes={start}-{end - 1}"
        condition = {} if etag is None else {"IfMatch": f'"{etag}"'}
        if not self._is_elsewhere:
            headers: Any = HeadersDict()  # which is what a request has, whatever its stubs say
            headers["Range"] = span
            headers["User-Agent"] = self._client.meta.config.user_agent
            if condition:
                headers["If-Match"] = condition["IfMatch"]
            response = self._send(full_key, headers)
            with closing(response.raw) as raw:
                if response.status_code < 300:
                    yield _head(response), raw
                    raw.release_conn()
                    return
                self._urls.pop(full_key, None)
                if response.status_code not in _ELSEWHERE:
                    raise self._error(response)
        answer = self._client.get_object(Bucket=self._bucket, Key=full_key, Range=span, **condition)
        self._is_elsewhere = True
        with closing(answer["Body"]) as body:
            yield answer, body._raw_stream  # noqa: SLF001

    def _send(self, full_key: str, headers: Any) -> AWSResponse:
        """Return the answer to a GET; its body is still to be read."""
        request = AWSPreparedRequest("GET", self._url(full_key), headers, None, stream_output=True)
        head = None
        try:
            response: AWSResponse = self._session.send(request)
            head = {"status_code": response.status_code, "headers": response.headers}
        finally:
            self._count("response-received.s3.GetObject", head)
        return response

    def _url(self, full_key: str) -> str:
        now = time.monotonic()
        url, made = self._urls.get(full_key, ("", 0.0))
        if not url or now - made > _USE_S:
            if len(self._urls) >= _MAX_URLS:
                self._urls.clear()
            place = {"Bucket": self._bucket, "Key": full_key}
            url = self._client.generate_presigned_url("get_object", Params=place, ExpiresIn=_VALID_S)
            self._urls[full_key] = url, now
        return url

    def _error(self, response: AWSResponse) -> ClientError:
        body = response.raw.read(_ERROR_SIZE)
        head = {"status_code": response.status_code, "headers": response.headers, "body": body}
        return ClientError(self._parser.parse(head, None), "GetObject")


def _head(response: AWSResponse) -> Answer:
    """Return what an answer says about itself."""
    headers = response.headers
    length = headers.get("Content-Length", "")
    return {
        "ResponseMetadata": {"HTTPStatusCode": response.status_code},
        "ContentRange": headers.get("Content-Range", ""),
        "ContentLength": int(length) if length.isdecimal() else None,
        "ETag": headers.get("ETag", ""),
    }
