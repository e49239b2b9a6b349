"""What a key may look like, and the order of keys.

Keys are kept to what all three kinds of store can hold: printable ASCII, no empty, `.` or `..` segment, and
segments that are file names. So a key can never point outside a directory store.
"""

import re
from typing import Final

from dasfs.errors import InvalidInput

# S3 allows 1,024 bytes including the prefix of the store's URL; 255 is the longest name of Linux file
# systems.
MAX_KEY_LENGTH: Final = 1024
MAX_SEGMENT_LENGTH: Final = 255
_SEGMENT: Final = re.compile(r"[\x20-\x2e\x30-\x7e]+")


def check_key(key: str) -> str:
    """Return `key`, which can name an object in any kind of store. Raises `InvalidInput`."""
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidInput(f"key {key[:40]!r}... is longer than {MAX_KEY_LENGTH} bytes")
    for segment in key.split("/"):
        if not is_name(segment):
            raise InvalidInput(f"key {key!r} is not made of plain names with single slashes between them")
        if len(segment) > MAX_SEGMENT_LENGTH:
            raise InvalidInput(f"key {key[:40]!r}... has a name longer than {MAX_SEGMENT_LENGTH} bytes")
    return key


def is_name(segment: str) -> bool:
    """Return whether `segment` can stand between two slashes of a key. Says nothing about its length."""
    return _SEGMENT.fullmatch(segment) is not None and segment not in (".", "..")


def check_prefix(prefix: str) -> str:
    """Return `prefix`: empty, or the beginning of keys. Raises `InvalidInput`."""
    directory, _, name = prefix.rpartition("/")
    if directory:
        check_key(directory)
    if name:
        check_key(name)
    if prefix.startswith("/"):
        raise InvalidInput(f"prefix {prefix!r} starts with a slash")
    return prefix


def check_directory_prefix(prefix: str) -> str:
    """Return `prefix`: empty, or whole segments with a slash at the end. Raises `InvalidInput`."""
    if prefix and not prefix.endswith("/"):
        raise InvalidInput(f"prefix {prefix!r} does not end in a slash")
    return check_prefix(prefix)


def after_prefix(prefix: str) -> str:
    """Return the smallest string above every key that starts with `prefix`, which is not empty."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
