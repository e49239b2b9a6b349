"""Store URLs: `s3://bucket[/prefix]`, `file:///directory`, `sqlite:///file.db`.

Paths and prefixes are taken as they are written: nothing is percent-decoded.
"""

import difflib
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dasfs.errors import InvalidInput
from dasfs.stores.keys import check_key


class Scheme(StrEnum):
    """The kinds of store."""

    S3 = "s3"
    DIRECTORY = "file"
    SQLITE = "sqlite"


FORMS: Final = {
    Scheme.S3: "s3://bucket[/prefix]",
    Scheme.DIRECTORY: "file:///directory",
    Scheme.SQLITE: "sqlite:///file.db",
}
_ALL_FORMS: Final = "a store is " + ", ".join(list(FORMS.values())[:-1]) + f" or {FORMS[Scheme.SQLITE]}"
# The rules of AWS for general-purpose buckets; what other gateways allow beyond them breaks virtual-host
# addressing.
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where a store is: `place` is the bucket or the absolute path; only S3 has a `prefix`."""

    scheme: Scheme
    place: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}" + (f"/{self.prefix}" if self.prefix else "")


def parse_store_url(text: str) -> StoreUrl:
    """Return the place that `text` names, without looking whether it exists.

    Raises `InvalidInput` with the right form as the hint.
    """
    name, separator, rest = text.partition("://")
    if not separator:
        raise InvalidInput(f"{text!r} is not a store URL", hint=_suggest(text))
    if name not in set(Scheme):
        raise InvalidInput(f"{text!r}: there is no store of the kind {name!r}", hint=_suggest(text))
    scheme = Scheme(name)
    return _parse_s3(text, rest) if scheme is Scheme.S3 else _parse_path(text, scheme, rest)


def _suggest(text: str) -> str:
    """Return a hint for `text`, whose scheme is missing or unknown."""
    if text.startswith(("/", "./", "../", "~")):
        path = os.path.abspath(os.path.expanduser(text))
        scheme = Scheme.SQLITE if path.endswith((".db", ".sqlite", ".sqlite3")) else Scheme.DIRECTORY
        return f"did you mean {scheme}://{path}?"
    word, separator, rest = text.partition(":")
    near = difflib.get_close_matches(word.lower(), [str(scheme) for scheme in Scheme], n=1, cutoff=0.5)
    if not separator or not near:
        return _ALL_FORMS
    scheme = Scheme(near[0])
    path = rest.lstrip("/")
    if not path:
        return f"write {FORMS[scheme]}"
    return f"did you mean {scheme}://{'' if scheme is Scheme.S3 else '/'}{path}?"


def _parse_s3(text: str, rest: str) -> StoreUrl:
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise InvalidInput(f"{text!r} names no bucket", hint=f"write {FORMS[Scheme.S3]}")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise InvalidInput(
            f"{bucket!r} can't be the name of a bucket",
            hint="it has 3 to 63 characters: lower-case letters, digits, dots and hyphens",
        )
    prefix = prefix.strip("/")
    if prefix:
        try:
            check_key(prefix)
        except InvalidInput as error:
            raise InvalidInput(f"{text!r}: {error.message}", hint=f"write {FORMS[Scheme.S3]}") from error
    return StoreUrl(Scheme.S3, bucket, prefix)


def _parse_path(text: str, scheme: Scheme, path: str) -> StoreUrl:
    form = FORMS[scheme]
    if "\0" in path:
        raise InvalidInput(f"{text!r} has a zero byte in its path", hint=f"write {form}")
    if not path.startswith("/"):
        guess = f"did you mean {scheme}://{os.path.abspath(os.path.expanduser(path))}?" if path else f"write {form}"
        raise InvalidInput(f"{text!r} has no absolute path: three slashes are needed", hint=guess)
    if scheme is Scheme.SQLITE and path.endswith("/"):
        raise InvalidInput(f"{text!r} names no file", hint=f"write {form}")
    # normpath keeps two leading slashes; one is meant.
    return StoreUrl(scheme, "/" + os.path.normpath(path).lstrip("/"))
