"""Extended headers of TAR files: PAX records and GNU long names, which are about the member after them.

Source: POSIX.1-2017 pax, "pax Header Block"; the GNU tar manual, "Basic Tar Format".
"""

import re
from dataclasses import dataclass, field
from typing import Final

from dasfs.errors import Corrupt

# X is what Solaris wrote before x was agreed on.
EXTENDED_TYPES: Final = frozenset((b"x", b"g", b"X", b"L", b"K"))

_LENGTH = re.compile(rb"([0-9]{1,9}) ")
# At most 20 digits: a 64-bit number, and nothing that takes long to convert.
_SIZE = re.compile(rb"[0-9]{1,20}")
_TIME = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?")


@dataclass(slots=True)
class ExtendedHeaders:
    """What the extended headers so far say about the next member."""

    first_offset: int | None = None  # of the first of them that belongs to the next member
    long_name: str | None = None
    _own: dict[str, bytes] = field(default_factory=dict)
    _global: dict[str, bytes] = field(default_factory=dict)  # holds for all members that follow

    def take(self, offset: int, kind: bytes, content: bytes) -> None:
        """Take the extended header at `offset`. Raises `Corrupt` when it is malformed."""
        if self.first_offset is None:
            self.first_offset = offset
        if kind == b"L":
            self.long_name = text(content)
        elif kind == b"g":
            self._global.update(parse_records(content, offset))
        elif kind != b"K":  # the long name of a link's target
            self._own.update(parse_records(content, offset))

    @property
    def pending(self) -> bool:
        """Whether something was said about a member that has not come yet."""
        return self.long_name is not None or bool(self._own)

    def records(self) -> dict[str, bytes]:
        """Return the PAX records that hold for the next member. An empty value takes a global one back."""
        return {key: value for key, value in (self._global | self._own).items() if value}

    def forget(self) -> None:
        """Drop what was about one member, which has come."""
        self.first_offset = self.long_name = None
        self._own = {}


def parse_records(content: bytes, offset: int) -> dict[str, bytes]:
    """Return the records of the header at `offset`: `<length of the whole record> <key>=<value>\\n`."""
    records = {}
    position = 0
    while position < len(content) and content[position]:
        match = _LENGTH.match(content, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(content) or content[end - 1] != ord("\n"):
            raise Corrupt(f"the extended header at {offset} is malformed at its byte {position}")
        key, equals, value = content[match.end() : end - 1].partition(b"=")
        if not equals:
            raise Corrupt(f"the extended header at {offset} is malformed at its byte {position}: no '='")
        records[text(key)] = value
        position = end
    return records


def parse_size(value: bytes) -> int | None:
    """Return the size that a PAX record says, or None where it says none."""
    return int(value) if _SIZE.fullmatch(value) else None


def parse_time(value: bytes) -> int | None:
    """Return the seconds that a PAX time says, rounded down, or None where it says none."""
    match = _TIME.fullmatch(value)
    if match is None:
        return None
    sign, whole, fraction = match.groups()
    if sign:
        return -int(whole) - bool((fraction or b"").strip(b"0"))
    return int(whole)


def text(raw: bytes) -> str:
    """Return the text of a NUL-terminated field; undecodable bytes become surrogates (PEP 383)."""
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
