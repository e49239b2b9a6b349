"""Many processes that commit to one dataset at once, on every kind of store."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import apply, find_overlap, nothing
from dasfs.names import Revision
from dasfs.stores import Store, open_store

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 8
COMMITS = 21


def race(url: str, dataset: str) -> list[dict[str, Any]]:
    """Run the writers at once and return what each says that it did."""
    command = [sys.executable, "-m", "tests.committer", url, dataset, str(COMMITS)]
    writers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(PROCESSES)
    ]
    outcomes = [writer.communicate(timeout=100) for writer in writers]
    assert [(writer.returncode, error) for writer, (_, error) in zip(writers, outcomes, strict=True)] == [
        (0, b"")
    ] * PROCESSES
    return [json.loads(output) for output, _ in outcomes]


def test_racing_processes_end_with_one_clean_history(store_url: str, store: Store) -> None:
    """What eight processes commit at once is all there, once: revisions without a gap, no overlap, nothing lost."""
    log = CommitLog(store, "raced")
    log.create()
    told = race(store_url, "raced")
    commits = list(log.commits())
    assert [commit.revision for commit in commits] == list(range(1, len(commits) + 1))
    assert len(commits) == 1 + sum(each["commits"] for each in told)
    assert len({commit.commit_id for commit in commits}) == len(commits)
    head = log.head()
    assert find_overlap(head.dataranges) is None
    assert [[each.first, each.last] for each in head.dataranges] == sorted(
        part for each in told for part in each["added"]
    )
    # The checkpoint that one of the racers wrote says what the commits up to it say.
    assert log.list_checkpoints() == [100]
    assert log.read_checkpoint(Revision(100)) == apply(nothing("raced"), *commits[:100])


def test_a_commit_is_seen_by_the_next_look_of_others(store_url: str, store: Store) -> None:
    """What one process's store object commits, another one sees with its next look."""
    mine = CommitLog(store, "shared")
    known = mine.create()
    with open_store(store_url) as other:
        numbers = CommitLog(other, "shared").reserve(3)
    assert mine.head(known).next_number == numbers.stop == 3
