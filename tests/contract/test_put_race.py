"""Puts at the same moment, on each kind of store: every file is there exactly once."""

import json
import os

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.put import PutOptions, put
from dasfs.dataset.sources import find_sources
from dasfs.errors import AlreadyExists
from tests.commands import finish, start
from tests.puts import Files, check_exactly_once, original_names

WRITERS = 8
COUNT = 60


@pytest.fixture
def dataset(store):
    dataset = Dataset(store, "d")
    dataset.log.create()
    return dataset


class Meanwhile:
    """A report that lets something happen between the plan of a put and its first commit."""

    def __init__(self, action):
        self.plans = 0
        self._action = action

    def planned(self, sources, skipped):
        self.plans += 1
        if self.plans == 1:
            self._action()

    def sent(self, size):
        pass

    def committed(self, datarange):
        pass


def put_paths(dataset, *paths, meanwhile=lambda: None):
    report = Meanwhile(meanwhile)
    return put(dataset, find_sources(map(str, paths), print), PutOptions(datarange_size=1024), report)


@pytest.fixture
def top(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.bin").write_text(name)
    return tmp_path / "in"


def test_what_another_put_put_meanwhile_is_skipped(dataset, store, top):
    """A path that was taken after the plan and before the commit is there once; the other paths are put."""
    result = put_paths(
        dataset, top / "a.bin", top / "b.bin", top / "c.bin", meanwhile=lambda: put_paths(dataset, top / "b.bin")
    )
    assert (result.count, result.skipped) == (2, 1)
    assert original_names(store, "d") == ["a.bin", "b.bin", "c.bin"]


def test_another_content_that_was_put_meanwhile_is_refused(dataset, store, top, tmp_path):
    """A path that was taken by another content is refused, as it would have been a moment later."""
    (tmp_path / "b.bin").write_text("other")
    with pytest.raises(AlreadyExists, match=r"'b.bin' was put before with another content"):
        put_paths(dataset, top / "b.bin", meanwhile=lambda: put_paths(dataset, tmp_path / "b.bin"))
    assert dataset.snapshot().count == 1


def test_other_paths_that_were_put_meanwhile_cost_no_second_plan(dataset, top):
    """Puts of different files do not disturb each other."""
    report = Meanwhile(lambda: put_paths(dataset, top / "b.bin"))
    put(dataset, find_sources([str(top / "a.bin")], print), PutOptions(), report)
    assert report.plans == 1
    assert dataset.snapshot().count == 2


@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "unnumbered"])
def test_eight_puts_of_the_same_files_put_them_once(dataset, store_url, tmp_path, numbered):
    """Eight processes that put the same files all succeed, and each file is there once."""
    content = {f"{number:020d}.bin" if numbered else f"{number}.bin": os.urandom(number) for number in range(COUNT)}
    top = tmp_path / "same"
    top.mkdir()
    for name, data in content.items():
        (top / name).write_bytes(data)
    command = ["put", "d", f"{top}/", "--store", store_url, "--datarange-size", "4KiB", "--json"]
    answers = [finish(process) for process in [start(*command) for _ in range(WRITERS)]]
    assert [answer.code for answer in answers] == [0] * WRITERS, answers
    results = [json.loads(answer.out) for answer in answers]
    assert sum(result["put"] for result in results) == COUNT
    assert all(result["put"] + result["skipped"] == COUNT for result in results)
    check_exactly_once(store_url, "d", Files(top, content))
