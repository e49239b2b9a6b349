"""How announcements are written: lists, ranges, and what is told about mistakes in them."""

import contextlib
from array import array
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.endpoint import Posted
from dasfs.errors import DasfsError, InvalidInput
from dasfs.fuse import announcing
from dasfs.fuse.announcements import Numbers
from dasfs.fuse.announcing import BINARY, pack_numbers, parse_numbers, parse_span, unpack_numbers, wanted_of
from dasfs.loop import LoopCaller
from dasfs.names import MAX_NUMBER
from tests.mounts import in_thread

NUMBERS = st.lists(st.integers(0, MAX_NUMBER), min_size=1, max_size=50)


@given(NUMBERS)
def test_numbers_arrive_as_they_were_sent(values: list[int]) -> None:
    """A list comes out as it went in: binary, and one number a line, with empty lines, blanks and either line end."""
    numbers = array("q", values)
    assert unpack_numbers(pack_numbers(numbers)) == numbers
    assert pack_numbers(numbers[:1]) == values[0].to_bytes(8, "little")
    assert parse_numbers("\n".join(map(str, values)).encode()) == numbers
    assert parse_numbers("".join(f"\n \t{value:020d} \r\n" for value in values).encode()) == numbers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "the list has no numbers"),
        (b"\n \n", "the list has no numbers"),
        (b"1\n2\nx\n", "line 3: 'x' is not a datapoint's number"),
        (b"1 2\n", "line 1: '1 2' is not a datapoint's number"),
        (b"\n-1\n", "line 2: '-1' is not a datapoint's number"),
        (b"1\n\n0x10", "line 3: '0x10' is not a datapoint's number"),
        (b"1_000", "line 1: '1_000' is not"),
        (b"7\n9223372036854775808", "line 2: 9223372036854775808 is above 9223372036854775807"),
        (b"7\n" + b"9" * 5000, "line 2: 9999999999999999999999999999999999999999 is above"),
        (b"1\n\xff\xfe\n", "line 2: "),
        (b"1\0", "line 1: "),
    ],
)
def test_a_mistake_in_a_list_is_told_with_its_line(text: bytes, said: str) -> None:
    """What is no list of numbers is refused with the number of the line that is wrong."""
    with pytest.raises(InvalidInput) as caught:
        parse_numbers(text)
    assert str(caught.value).startswith(said)


@given(st.binary(max_size=60))
def test_no_bytes_are_an_unexpected_error(data: bytes) -> None:
    """Whatever is sent is a list of numbers that there can be, or refused."""
    for parse in (parse_numbers, unpack_numbers):
        with contextlib.suppress(InvalidInput):
            assert all(0 <= number <= MAX_NUMBER for number in parse(data))


def test_a_list_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """More numbers than a mount takes are refused before they are sent."""
    monkeypatch.setattr(announcing, "MAX_NUMBERS", 3)
    with pytest.raises(InvalidInput, match="the list has 4 numbers, and at most 3"):
        parse_numbers(b"1\n2\n3\n4\n")


@pytest.mark.parametrize(
    ("query", "body", "content_type", "wanted"),
    [
        ({}, b"", "", Numbers()),
        ({"first": "3", "last": "7"}, b"", "", Numbers(3, 7)),
        ({"first": "3"}, b"", "", Numbers(3, MAX_NUMBER)),
        ({"last": "7"}, b"", "", Numbers(0, 7)),
        ({}, b"3\n1\n", "text/plain", array("q", [3, 1])),
        ({}, bytes(8), BINARY, array("q", [0])),
    ],
)
def test_what_is_announced(
    query: Mapping[str, str], body: bytes, content_type: str, wanted: "Numbers | array[int]"
) -> None:
    """A body is a list, a range stands in the query, and without both it is everything."""
    assert wanted_of(Posted(body, content_type, query)) == wanted


@pytest.mark.parametrize(
    ("query", "body", "content_type"),
    [
        ({"first": "7", "last": "3"}, b"", ""),
        ({"first": "x"}, b"", ""),
        ({"first": ""}, b"", ""),
        ({"last": str(2**63)}, b"", ""),
        ({"first": "1"}, b"1\n", ""),
        ({}, bytes(7), BINARY),
        ({}, b"\xff" * 8, BINARY),
    ],
)
def test_what_can_not_be_announced(query: Mapping[str, str], body: bytes, content_type: str) -> None:
    """A range that is reversed or none, both at once, half an integer and a negative one are refused."""
    with pytest.raises(InvalidInput):
        wanted_of(Posted(body, content_type, query))


def test_ranges() -> None:
    """A range is `FIRST-LAST` or one number; anything else is refused."""
    assert parse_span("0-9") == Numbers(0, 9)
    assert parse_span("007") == Numbers(7, 7)
    for text in ("", "-", "1-", "-1", "9-0", "1-2-3", "a", "²", f"0-{2**63}", "9" * 31):
        with pytest.raises(InvalidInput):
            parse_span(text)


def test_calls_into_a_loop_that_is_gone_or_stuck() -> None:
    """A thread that asks the main loop gets its answer, its error, or within bounds that there is none."""
    import trio

    async def answer(value: int) -> int:
        if value < 0:
            raise InvalidInput("negative")
        await trio.sleep(0 if value else 60)
        return value

    async def main() -> LoopCaller:
        async with trio.open_nursery() as nursery:
            caller = LoopCaller(nursery, timeout_s=0.1)
            assert await trio.to_thread.run_sync(caller.call, answer, 7) == 7
            with pytest.raises(InvalidInput, match="negative"):
                await trio.to_thread.run_sync(caller.call, answer, -1)
            with pytest.raises(DasfsError, match=r"not done within 0\.1 s"):
                await trio.to_thread.run_sync(caller.call, answer, 0)
            nursery.cancel_scope.cancel()
        return caller

    caller = trio.run(main)
    with pytest.raises(DasfsError, match="has ended"):
        in_thread(caller.call, answer, 1)
