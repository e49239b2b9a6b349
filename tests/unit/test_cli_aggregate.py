"""`dasfs aggregate` as its users see it."""

import json
import os

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from tests.commands import dasfs, succeed
from tests.datasets import add


@pytest.fixture
def url(tmp_path):
    """A store with a dataset of ten small dataranges, and one more behind a gap."""
    made = f"file://{tmp_path}/store"
    with open_store(made) as store:
        store.create()
        for number in range(10):
            add(store, "set", number, [os.urandom(30_000)])
        add(store, "set", 20, [b"x"])
    return made


def spans(url):
    with open_store(url) as store:
        return [(each.first, each.last) for each in Dataset(store, "set").snapshot().dataranges]


def test_a_dry_run_tells_and_does_nothing(url):
    """The plan has what is joined, what is copied and what is fetched, and the dataset stays as it is."""
    before = spans(url)
    out = succeed("aggregate", "set", "--dry-run", "--store", url)
    assert out == "0..9\t10\t10\t308224\t0\t307200\n"
    assert spans(url) == before
    plan = json.loads(succeed("aggregate", "set", "--dry-run", "--json", "--store", url))
    assert plan["dry_run"]
    assert [(step["first"], step["last"], step["dataranges"]) for step in plan["steps"]] == [(0, 9, 10)]


def test_what_is_due_is_joined_until_nothing_is(url):
    """Without a range all that is due is done, a line a step; a second time there is nothing to do."""
    answer = dasfs("aggregate", "set", "--store", url)
    assert answer.code == 0
    assert answer.err.splitlines()[0].startswith("joined 0..9 (1 of 1): 10 dataranges, 301.0 KiB")
    assert answer.err.splitlines()[-1] == "made 10 dataranges into 1"
    assert spans(url) == [(0, 9), (20, 20)]
    again = dasfs("aggregate", "set", "--store", url)
    assert (again.code, again.out, again.err) == (0, "", "nothing is to be joined\n")


def test_a_range_by_hand(url):
    """What is named is joined, whatever is due; with a size, into several."""
    done = json.loads(succeed("aggregate", "set", "0-2", "--json", "--store", url))
    assert [(step["first"], step["last"], step["fetched"]) for step in done["steps"]] == [(0, 2, 92_160)]
    succeed("aggregate", "set", "3-9", "--target-size", "100KiB", "--store", url)
    assert spans(url) == [(0, 2), (3, 5), (6, 8), (9, 9), (20, 20)]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("0-20", "a gap between 9-9 and 20-20"),
        ("10-15", "has no datapoints 10-15"),
        ("9-20", "a gap"),
        ("20-25", "there is 20-20"),
    ],
)
def test_a_range_that_is_none_is_named(url, numbers, message):
    """A gap, and boundaries within a datarange, are wrong usage, with what is there."""
    answer = dasfs("aggregate", "set", numbers, "--store", url)
    assert answer.code == 2
    assert message in answer.message


def test_a_dataset_that_is_not_there(url):
    """The usual line, and no traceback."""
    answer = dasfs("aggregate", "nothing", "--store", url)
    assert answer.code == 1
    assert "there is no dataset nothing" in answer.message
