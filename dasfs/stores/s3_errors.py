"""The door through which the errors of boto3, botocore and urllib3 enter; only `DasfsError`s come out."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError
from urllib3 import exceptions as urllib3_errors

from dasfs.errors import (
    AccessDenied,
    AlreadyExists,
    Conflict,
    Corrupt,
    DasfsError,
    DeadlineExceeded,
    InvalidInput,
    NoSpace,
    NotFound,
    ObjectChanged,
    StoreUnavailable,
    Unsupported,
)
from dasfs.stores.retry import GarbledAnswer, Overloaded

_KEYS_HINT: Final = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_PROFILE"
_REGION_HINT: Final = "set AWS_DEFAULT_REGION to the bucket's region"
_USER_OF_URL: Final = re.compile(r"://[^/@\s]+@")
_SIGNATURE_OF_URL: Final = re.compile(r"\?[^\s\"')]*X-Amz-[^\s\"')]*")
_NETWORK_HINT: Final = "check the network and the endpoint"
_FULL_HINT: Final = "raise the quota, or delete something and run 'dasfs collect'"
_CLOCK_HINT: Final = "set this machine's clock"
# What a store may ask for at most; an answer of "an hour" is no use to a reader that waits.
_MAX_RETRY_AFTER_S: Final = 3600.0

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; names of Ceph and MinIO where they
# differ.
_BY_CODE: Final[Mapping[str, Callable[[str], DasfsError]]] = {
    "AccessDenied": lambda what: AccessDenied(f"{what}: access denied", hint="the keys lack the right to do this"),
    "InvalidAccessKeyId": lambda what: AccessDenied(f"{what}: the access key is unknown", hint=_KEYS_HINT),
    "SignatureDoesNotMatch": lambda what: AccessDenied(f"{what}: the secret key is wrong", hint=_KEYS_HINT),
    "InvalidToken": lambda what: AccessDenied(f"{what}: the session token is wrong", hint=_KEYS_HINT),
    "ExpiredToken": lambda what: AccessDenied(f"{what}: the session token has expired", hint="log in again"),
    "RequestTimeTooSkewed": lambda what: AccessDenied(f"{what}: the clocks differ too much", hint=_CLOCK_HINT),
    "NoSuchBucket": lambda what: NotFound(f"{what}: there is no such bucket", hint="check its name, or make it first"),
    "NoSuchKey": lambda what: NotFound(f"{what}: there is no such object"),
    "NoSuchUpload": lambda what: Conflict(f"{what}: the upload was aborted by someone else"),
    "InvalidPart": lambda what: GarbledAnswer(f"{what}: the store lost a part of the upload"),
    "InvalidRange": lambda what: Corrupt(f"{what}: the object ends before the bytes that were asked for"),
    "BadDigest": lambda what: GarbledAnswer(f"{what}: the bytes were damaged on their way to the store"),
    "IncompleteBody": lambda what: StoreUnavailable(f"{what}: the connection was cut during the upload"),
    "RequestTimeout": lambda what: StoreUnavailable(f"{what}: the store waited too long for this machine"),
    "OperationAborted": lambda what: StoreUnavailable(f"{what}: the store is busy with another write to it"),
    "ConditionalRequestConflict": lambda what: StoreUnavailable(f"{what}: the store is busy with another write to it"),
    "ConcurrentModification": lambda what: StoreUnavailable(f"{what}: the store is busy with another write to it"),
    "QuotaExceeded": lambda what: NoSpace(f"{what}: the store's quota is used up", hint=_FULL_HINT),
    "XMinioStorageFull": lambda what: NoSpace(f"{what}: the store is full", hint=_FULL_HINT),
    "EntityTooLarge": lambda what: InvalidInput(f"{what}: the object is too large for the store"),
    "NotImplemented": lambda what: Unsupported(f"{what}: the store can't do this"),
    "PermanentRedirect": lambda what: InvalidInput(f"{what}: the bucket is in another region", hint=_REGION_HINT),
    "AuthorizationHeaderMalformed": lambda what: InvalidInput(f"{what}: the region is wrong", hint=_REGION_HINT),
    "InvalidBucketName": lambda what: InvalidInput(f"{what}: the bucket's name is not allowed here"),
}
# For answers without a body (HEAD) and for codes that are not known.
_BY_STATUS: Final[Mapping[int, Callable[[str], DasfsError]]] = {
    301: _BY_CODE["PermanentRedirect"],
    401: lambda what: AccessDenied(f"{what}: the keys are wrong", hint=_KEYS_HINT),
    403: lambda what: AccessDenied(f"{what}: access denied", hint=_KEYS_HINT),
    404: lambda what: NotFound(f"{what}: not found"),
    408: _BY_CODE["RequestTimeout"],
    409: _BY_CODE["OperationAborted"],
    416: _BY_CODE["InvalidRange"],
    501: _BY_CODE["NotImplemented"],
    507: _BY_CODE["XMinioStorageFull"],
}
_OVERLOADED_CODES: Final = {
    "SlowDown",
    "ServiceUnavailable",
    "TooManyRequests",
    "ThrottlingException",
    "Throttling",
}


@contextlib.contextmanager
def map_errors(what: str) -> Iterator[None]:
    """Translate what boto3 and urllib3 raise inside. `what` names the object or bucket in the message."""
    try:
        yield
    except DasfsError:
        raise
    except botocore_errors.ClientError as error:
        raise from_client_error(what, error) from error
    except (ResponseParserError, botocore_errors.FlexibleChecksumError) as error:
        raise GarbledAnswer(f"{what}: the answer is not one of an S3 store", hint="check the endpoint URL") from error
    except RecursionError as error:
        raise _in_circles(what) from error
    except botocore_errors.BotoCoreError as error:
        raise _from_botocore(what, error) from error
    except (urllib3_errors.TimeoutError, TimeoutError) as error:
        raise DeadlineExceeded(f"{what}: the store stopped answering") from error
    except (urllib3_errors.HTTPError, OSError) as error:
        raise StoreUnavailable(f"{what}: the connection was cut ({without_secrets(str(error))})") from error


def from_client_error(what: str, error: botocore_errors.ClientError) -> DasfsError:
    """Return what an error answer of the store means."""
    answer: Mapping[str, Any] = error.response
    metadata = answer.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    details = answer.get("Error", {})
    retry_after = str(metadata.get("HTTPHeaders", {}).get("retry-after", ""))
    return from_code(
        what,
        str(details.get("Code", "")),
        status,
        details.get("Message") or "",
        parse_retry_after(retry_after),
    )


def from_code(what: str, code: str, status: int, message: str = "", retry_after_s: float = 0.0) -> DasfsError:
    """Return the error for S3's `code`, or where that is unknown for the HTTP `status` (0: there was none)."""
    if code == "PreconditionFailed" or status == 412:
        # The caller knows which of the two conditions it set: `if_absent` and `if_match` below translate
        # further.
        return _PreconditionFailed(f"{what}: a condition of the request does not hold")
    if code in _OVERLOADED_CODES or status in (429, 503):
        return Overloaded(f"{what}: the store is overloaded", retry_after_s=retry_after_s)
    known = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if known is not None:
        return known(what)
    if status >= 500 or code == "InternalError":
        return StoreUnavailable(f"{what}: the store has an internal error ({code or status})")
    return DasfsError(f"{what}: the store refused: {code or status} {message}".rstrip())


class _PreconditionFailed(DasfsError):
    """412: what it means depends on the condition; it never leaves the S3 store."""


@contextlib.contextmanager
def if_absent(what: str) -> Iterator[None]:
    """Say `AlreadyExists` where a request inside was sent with `If-None-Match: *` and refused."""
    try:
        yield
    except _PreconditionFailed as error:
        raise AlreadyExists(f"{what}: exists already") from error


@contextlib.contextmanager
def if_match(what: str) -> Iterator[None]:
    """Say `ObjectChanged` where a request inside was sent with `If-Match` and refused."""
    try:
        yield
    except _PreconditionFailed as error:
        raise ObjectChanged(f"{what}: is not the object that it was: another ETag") from error


def parse_retry_after(text: str) -> float:
    """Return the seconds that a Retry-After header asks for; 0 for none, nonsense, or a date."""
    return min(float(text), _MAX_RETRY_AFTER_S) if text.isdecimal() else 0.0


def _in_circles(what: str) -> DasfsError:
    """Return what an endless recursion means: botocore follows a bucket to its region without a bound."""
    return InvalidInput(f"{what}: the store redirects in circles", hint=_REGION_HINT)


def _from_botocore(what: str, error: botocore_errors.BotoCoreError) -> DasfsError:
    said = without_secrets(str(error))
    match error:
        case botocore_errors.HTTPClientError() if isinstance(error.kwargs.get("error"), RecursionError):
            return _in_circles(what)  # the stack was used up inside of urllib3
        case botocore_errors.NoCredentialsError() | botocore_errors.PartialCredentialsError():
            return AccessDenied(f"{what}: no keys were found", hint=_KEYS_HINT)
        case botocore_errors.CredentialRetrievalError() | botocore_errors.TokenRetrievalError():
            return AccessDenied(f"{what}: the keys can't be had: {said}", hint=_KEYS_HINT)
        case botocore_errors.ConnectTimeoutError() | botocore_errors.ReadTimeoutError():
            return DeadlineExceeded(f"{what}: no answer from {_host(error)}")
        case botocore_errors.SSLError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return AccessDenied(f"{what}: the certificate of the store is not trusted", hint="set AWS_CA_BUNDLE")
        case botocore_errors.EndpointConnectionError():
            return StoreUnavailable(f"{what}: can't connect to {_host(error)}", hint=_NETWORK_HINT)
        case botocore_errors.ConnectionError():  # TLS, or a proxy
            return StoreUnavailable(f"{what}: can't connect: {said}", hint=_NETWORK_HINT)
        case botocore_errors.HTTPClientError() if "Invalid header value" in str(error):
            return AccessDenied(f"{what}: the access key or the session token has a line break", hint=_KEYS_HINT)
        case botocore_errors.HTTPClientError():
            return StoreUnavailable(f"{what}: the connection failed: {said}")
        case botocore_errors.IncompleteReadError() | botocore_errors.ResponseStreamingError():
            return StoreUnavailable(f"{what}: the answer was cut off")
        case _:
            return InvalidInput(f"{what}: {said}")


def _host(error: botocore_errors.BotoCoreError) -> str:
    """Return where a request went, without its path and query."""
    return without_secrets("/".join(str(error.kwargs.get("endpoint_url")).split("/", 3)[:3]))


def without_secrets(text: str) -> str:
    """Return a message without passwords and signatures of the URLs in it: it goes to logs and to `dasfs status`."""
    return _SIGNATURE_OF_URL.sub("", _USER_OF_URL.sub("://", text))
