"""How a mount is told what will be read: lists posted to `/prefetch` of its socket, and attributes that are read.

    POST /prefetch?dataset=photos                     all of it; with first= and last= a range; with a body a list:
                                                      a number a line, or with Content-Type application/octet-stream
                                                      little-endian 64-bit integers
    POST /prefetch?dataset=photos&name=rank3          beside others of the same dataset instead of in their place
    POST /prefetch?dataset=photos&cancel=1            with name= or id= only that one
    POST /prefetch?dataset=photos&check=1             is it there? With id= that announcement, which goes on while
                                                      somebody asks
    GET /prefetch                                     what is announced, and how far it is

    getxattr(directory, "user.dasfs.prefetch.0-9999")  a range; .all, .cancel; without any of them only the status

A mount is read-only for the kernel, so nothing can be written into it. Attributes that announce are not listed, so that
nobody who copies all attributes announces anything.

**Concurrency:** `receive` runs in the threads of the socket, all else in the mount's trio thread.
"""

import json
import re
import sys
from array import array
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from dasfs.endpoint import JSON, Answer, Posted
from dasfs.errors import InvalidInput
from dasfs.fuse.announcements import MAX_NUMBERS, Announcements, Numbers
from dasfs.fuse.door import Door
from dasfs.loop import LoopCaller
from dasfs.names import MAX_NUMBER, check_dataset_name

BINARY: Final = "application/octet-stream"
PATH: Final = "/prefetch"
XATTR: Final = b"user.dasfs.prefetch"
_KEYS: Final = frozenset({"dataset", "name", "first", "last", "cancel", "check", "id"})
_SPAN: Final = re.compile(r"([0-9]{1,30})(?:-([0-9]{1,30}))?", re.ASCII)
_LINES: Final = re.compile(rb"(?:[ \t]*[0-9]{0,18}[ \t]*\r?\n)*[ \t]*[0-9]{0,18}[ \t]*")


class Announcer:
    """Takes announcements for one mount, and says how they are doing."""

    def __init__(self, announcements: Announcements, caller: LoopCaller) -> None:
        self._announcements = announcements
        self._caller = caller

    def open(self, door: Door) -> None:
        """Let the mount's socket answer and take announcements."""
        show = door.question(self.render)
        door.pages[PATH] = lambda: Answer(HTTPStatus.OK, show(), JSON)
        door.receivers[PATH] = self.receive

    def render(self) -> bytes:
        """Return what is announced as JSON."""
        return _json({"announcements": self._announcements.describe()})

    def receive(self, posted: Posted) -> Answer:
        """Do what was posted to `/prefetch`. Raises `InvalidInput`, `NotFound`, and what the store raises."""
        query = posted.query
        unknown = sorted(query.keys() - _KEYS)
        if unknown:
            raise InvalidInput(f"unknown key {unknown[0][:40]!r}", hint=f"there are {', '.join(sorted(_KEYS))}")
        if "dataset" not in query:
            raise InvalidInput("no dataset is given", hint="post to /prefetch?dataset=NAME")
        dataset = check_dataset_name(query["dataset"])
        which = _number(query["id"]) if "id" in query else None
        if query.get("cancel"):
            return _answer({"cancelled": self._caller.call(self._cancel, dataset, query.get("name"), which)})
        if query.get("check"):
            return _answer(self._caller.call(self._check, dataset, which))
        return _answer(self._caller.call(self._announce, dataset, wanted_of(posted), query.get("name", "")))

    async def attribute(self, dataset: str | None, name: bytes) -> bytes | None:
        """Return the answer to reading `user.dasfs.prefetch...` of a dataset's directory, or of the root (None).

        None where there is no such attribute. Raises as `receive` does.
        """
        words = name.removeprefix(XATTR).decode("ascii", "replace")
        if words and not words.startswith("."):
            return None
        words = words[1:]
        if dataset is None and words:
            dataset, _, words = words.partition(".")
            await self._announcements.find(check_dataset_name(dataset))
        if dataset is not None and words == "cancel":
            self._announcements.cancel(dataset)
        elif dataset is not None and words:
            await self._announcements.announce(dataset, Numbers() if words == "all" else parse_span(words))
        return self._status_text(dataset).encode()

    def _status_text(self, dataset: str | None) -> str:
        lines = [
            f"{each.dataset} {each.state} places={each.counts.places} ready={each.ready} "
            f"reads={each.counts.reads} hits={each.counts.hits}"
            for each in self._announcements.live
            if dataset in (None, each.dataset)
        ]
        return "\n".join(lines) or "nothing"

    async def _announce(self, dataset: str, wanted: "Numbers | array[int]", name: str) -> dict[str, Any]:
        return (await self._announcements.announce(dataset, wanted, name)).describe()

    async def _cancel(self, dataset: str, name: str | None, which: int | None) -> int:
        return self._announcements.cancel(dataset, name, which)

    async def _check(self, dataset: str, which: int | None) -> dict[str, Any]:
        if which is not None:
            return self._announcements.look(dataset, which).describe()
        state = await self._announcements.find(dataset)
        return {"dataset": dataset, "datapoints": state.snapshot.count, "bytes": state.snapshot.data_size}


def wanted_of(posted: Posted) -> "Numbers | array[int]":
    """Return what was announced: the list in the body, else the range of the query, else everything."""
    query = posted.query
    if posted.body:
        if "first" in query or "last" in query:
            raise InvalidInput("both a list and a range were given", hint="post one of them")
        return unpack_numbers(posted.body) if posted.content_type == BINARY else parse_numbers(posted.body)
    if "first" in query or "last" in query:
        return _span(_number(query.get("first", "0")), _number(query.get("last", str(MAX_NUMBER))))
    return Numbers()


def parse_span(text: str) -> Numbers:
    """Return what `FIRST-LAST` or `NUMBER` stands for. Raises `InvalidInput`."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise InvalidInput(f"{text[:40]!r} is no range of numbers", hint="write it as 0-9999")
    first = _number(match[1])
    return _span(first, first if match[2] is None else _number(match[2]))


def parse_numbers(text: bytes) -> "array[int]":
    """Return the numbers of a list, one a line; empty lines are passed over. Raises `InvalidInput` with the line."""
    if _LINES.fullmatch(text):
        numbers = array("q", map(int, text.split()))
    else:
        lines = (_line(place, line) for place, line in enumerate(text.split(b"\n"), 1))
        numbers = array("q", (number for number in lines if number is not None))
    return _checked(numbers)


def pack_numbers(numbers: "array[int]") -> bytes:
    """Return numbers as they are posted: little-endian 64-bit integers."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def unpack_numbers(data: bytes) -> "array[int]":
    """Return what `pack_numbers` was given. Raises `InvalidInput`."""
    numbers = array("q")
    if len(data) % numbers.itemsize:
        raise InvalidInput(f"{len(data)} bytes are no 64-bit integers")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    _checked(numbers)
    if min(numbers) < 0:
        raise InvalidInput(f"{min(numbers)} is not a datapoint's number")
    return numbers


def _checked(numbers: "array[int]") -> "array[int]":
    if not numbers:
        raise InvalidInput("the list has no numbers")
    if len(numbers) > MAX_NUMBERS:
        raise InvalidInput(
            f"the list has {len(numbers):,} numbers, and at most {MAX_NUMBERS:,} can be announced at once",
            hint="announce the rest later",
        )
    return numbers


def _line(place: int, line: bytes) -> int | None:
    """Return the number on a line, or None on an empty one."""
    text = line.strip()
    if not text:
        return None
    try:
        return _number(text.decode("ascii", "backslashreplace"))
    except InvalidInput as error:
        raise InvalidInput(f"line {place}: {error.message}") from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"{text[:40]!r} is not a datapoint's number")
    number = int(text) if len(text.lstrip("0")) < 30 else MAX_NUMBER + 1
    if number > MAX_NUMBER:
        raise InvalidInput(f"{text[:40]} is above {MAX_NUMBER} (2^63-1), the highest number a datapoint can have")
    return number


def _span(first: int, last: int) -> Numbers:
    if last < first:
        raise InvalidInput(f"{first}-{last}: the last number is below the first")
    return Numbers(first, last)


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"


def _answer(document: Mapping[str, Any]) -> Answer:
    return Answer(HTTPStatus.OK, _json(document), JSON)
