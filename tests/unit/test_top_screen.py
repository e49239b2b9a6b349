"""`dasfs top`: rates from two looks at the counters of a mount, and the screen. Pure."""

import json
from typing import Any

import pytest

from dasfs.cli.top_sample import MountSample, compare, describe
from dasfs.cli.top_screen import lay_out


def reader(pid: int, dataset: str, **counters: float) -> dict[str, Any]:
    known = dict.fromkeys(("files", "reads", "bytes", "hits", "errors", "seconds"), 0)
    return {"pid": pid, "uid": 0, "command": f"job{pid}", "dataset": dataset, **known, **counters}


def document(at: float, *readers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "monotonic_s": at,
        "problem": None,
        "reads": sum(each["reads"] for each in readers),
        "bytes_read": sum(each["bytes"] for each in readers),
        "read_errors": 0,
        "bytes_fetched": 0,
        "fetches": 0,
        "fetches_in_flight": 0,
        "readers": list(readers),
        "waiting_reads": 0,
        "waiting": [],
        **changes,
    }


def waiting(pid: int, dataset: str, seconds: float) -> dict[str, Any]:
    return {"pid": pid, "uid": 0, "command": f"job{pid}", "dataset": dataset, "seconds": seconds}


BEFORE = document(100.0, reader(1, "a", reads=50, bytes=500, hits=50))
AFTER = document(
    102.0,
    reader(1, "a", files=10, reads=70, bytes=2_000_500, hits=65, seconds=0.5),
    reader(2, "b", files=4, reads=4, bytes=400, hits=0, errors=1, seconds=1.0),
    reader(3, "a"),
    read_errors=1,
    bytes_fetched=4000,
    fetches=8,
    fetches_in_flight=3,
    waiting_reads=2,
    waiting=[waiting(4, "b", 7.5), waiting(4, "b", 1.0)],
)
SAMPLE = compare("/mnt", "s3://bucket", BEFORE, AFTER)


def test_rates_of_readers() -> None:
    """Each process has what it did between the looks; who only waits is there, who did nothing is not."""
    found = {each["pid"]: each for each in describe(SAMPLE)["readers"]}
    assert list(found) == [1, 2, 4]
    assert (found[1]["files_per_s"], found[1]["reads_per_s"], found[1]["bytes_per_s"]) == (5, 10, 1_000_000)
    assert (found[1]["hits_per_s"], found[1]["misses_per_s"], found[1]["hit_share"]) == (7.5, 2.5, 0.75)
    assert found[1]["mean_read_ms"] == 25
    assert found[2]["errors_per_s"] == 0.5
    assert (found[4]["waiting"], found[4]["longest_wait_s"], found[4]["hit_share"]) == (2, 7.5, None)


def test_rates_of_datasets_and_the_mount() -> None:
    """Datasets add up their readers; the mount's own counters tell the total."""
    told = describe(SAMPLE)
    assert [(each["dataset"], each["reads_per_s"], each["waiting"]) for each in told["datasets"]] == [
        ("a", 10, 0),
        ("b", 2, 2),
    ]
    assert (told["total"]["reads_per_s"], told["total"]["errors_per_s"], told["total"]["waiting"]) == (12, 0.5, 2)
    assert (told["fetched_bytes_per_s"], told["fetches_per_s"], told["fetches_in_flight"]) == (2000, 4, 3)
    assert json.loads(json.dumps(told)) == told


def test_counters_that_began_anew() -> None:
    """A mount that was mounted again has no negative rates."""
    told = describe(compare("/mnt", "s3://bucket", AFTER, document(103.0, reader(1, "a", reads=5, bytes=5))))
    assert told["readers"][0]["reads_per_s"] == 5
    assert told["total"]["reads_per_s"] == 5


def test_a_look_alone() -> None:
    """Compared with itself, a mount did nothing."""
    assert compare("/mnt", "s3://bucket", BEFORE, BEFORE).readers == {}


@pytest.mark.parametrize(("width", "height"), [(40, 5), (80, 24), (200, 50), (None, None)])
def test_the_screen_fits(width: int | None, height: int | None) -> None:
    """No line is wider than the terminal, no more lines than it has, nothing moves the cursor."""
    odd = compare("/mnt/\x1b[2J", "s3://b", document(1.0), document(2.0, *[reader(n, "d", reads=1) for n in range(99)]))
    broken = MountSample("/dead", "s3://b", problem="the process of the mount at /dead is gone")
    lines = [line.text for line in lay_out([SAMPLE, odd, broken], width, height)]
    assert width is None or max(map(len, lines)) <= width
    assert height is None or len(lines) <= height
    assert all(line.isprintable() for line in lines)
    if width is None:
        text = "\n".join(lines)
        assert "2 reads waiting, the longest for 7.5 s" in text
        assert "problem: the process of the mount at /dead is gone" in text
        assert "job98" in text


def test_an_idle_mount_says_so() -> None:
    """Without readers one line says why that may be."""
    assert "nobody reads just now" in lay_out([compare("/m", "s3://b", BEFORE, BEFORE)], None, None)[-1].text
