"""What the commands share: sizes, numbers, ranges, times, and questions."""

import io
from datetime import timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.cli.common import NumberRange, confirm, parse_duration, parse_number, parse_range, parse_size
from dasfs.cli.output import format_size, format_spans
from dasfs.errors import InvalidInput
from dasfs.names import MAX_NUMBER


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("100B", 100),
        ("64MiB", 64 << 20),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("64MB", 64_000_000),
        ("1.5G", 3 << 29),
        ("2 KiB", 2048),
        ("1T", 1 << 40),
    ],
)
def test_sizes_are_read_as_coreutils_read_them(text, size):
    """Binary with and without `iB`, decimal with `B`."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "0", "1X", "1MiBB", "nan", "inf", "1e400", "9999999T", "1 2", "0.1"])
def test_what_is_no_size_is_refused(text):
    """Nothing that is not a size of at least one byte gets through."""
    with pytest.raises(InvalidInput, match="is not a size"):
        parse_size(text)


@given(st.integers(0, MAX_NUMBER), st.integers(0, MAX_NUMBER))
def test_every_range_of_datapoints_is_read(one, other):
    """`FIRST-LAST` and `FIRST..LAST` for any numbers, also with leading zeros."""
    first, last = sorted((one, other))
    assert parse_range(f"{first}-{last}") == parse_range(f"{first:020d}..{last:020d}") == NumberRange(first, last)
    assert parse_range(str(NumberRange(first, last))) == NumberRange(first, last)
    assert parse_range(str(first)) == NumberRange(first, first)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9223372036854775808", r"above 9223372036854775807 \(2\^63-1\)"),
        ("0-9223372036854775808", r"2\^63-1"),
        ("9" * 5000, r"2\^63-1"),
        ("7-3", "the last number is below the first"),
        ("-3", "is not a datapoint's number"),
        ("3-", "is not a datapoint's number"),
        ("x", "'x' is not a datapoint's number"),
        ("1-2-3", "is not a datapoint's number"),
        ("²", "is not a datapoint's number"),
        ("", "is not a datapoint's number"),
    ],
)
def test_what_is_no_range_is_refused(text, message):
    """Numbers above the limit and anything else that is no range are `InvalidInput`."""
    with pytest.raises(InvalidInput, match=message):
        parse_range(text)


def test_the_highest_number_is_a_number():
    """2^63-1 is a datapoint's number, with any number of leading zeros."""
    assert parse_number("0" * 40 + str(MAX_NUMBER)) == MAX_NUMBER


def test_times_have_units():
    """Seconds without a unit, and s, m, h, d."""
    assert [parse_duration(text) for text in ("0", "90", "90s", "30m", "1.5h", "7d")] == [
        timedelta(0),
        timedelta(seconds=90),
        timedelta(seconds=90),
        timedelta(minutes=30),
        timedelta(minutes=90),
        timedelta(days=7),
    ]
    for text in ("", "1w", "-1s", "d", "1 day"):
        with pytest.raises(InvalidInput, match="is not a time"):
            parse_duration(text)


@given(st.integers(0, 1 << 62))
def test_a_size_is_shown_in_few_characters(size):
    """At most three digits, one decimal, and a unit: tables stay narrow."""
    assert len(format_size(size)) <= len("999.9 KiB")


def test_sizes_are_shown_with_the_unit_that_fits():
    """A size is told in the unit in which it has one to three digits."""
    assert [format_size(size) for size in (0, 999, 1000, 1024, 1 << 20, 5 << 29)] == [
        "0 B",
        "999 B",
        "1.0 KiB",
        "1.0 KiB",
        "1.0 MiB",
        "2.5 GiB",
    ]


def test_many_spans_are_cut_short():
    """A dataset with a thousand gaps is still told in one line."""
    spans = [(number, number + number % 2) for number in range(0, 50, 5)]
    assert format_spans(spans, limit=2) == "0, 5..6 and 8 more"
    assert format_spans(spans[:2]) == "0, 5..6"


def test_a_question_without_a_terminal_is_no_yes(monkeypatch):
    """Where nobody can answer, nothing is done, and `--yes` is named."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(InvalidInput, match="--yes"):
        confirm("Delete?", yes=False)
    confirm("Delete?", yes=True)


def test_a_no_ends_the_command(monkeypatch):
    """Whoever answers no has changed nothing."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _prompt: "n")
    with pytest.raises(click.Abort):
        confirm("Delete?", yes=False)
