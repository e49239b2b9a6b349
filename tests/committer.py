"""A writer that races: `python -m tests.committer STORE DATASET COMMITS`.

It reserves numbers and commits dataranges on them, replaces neighbours by an aggregate now and then, and
prints what it added as JSON lists of `[first, last]`. Commits name objects that are not there: only the log
is tested.
"""

import json
import sys

from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Operation
from dasfs.stores import open_store
from tests.datasets import datarange


def main(url: str, dataset: str, commits: int) -> None:
    with open_store(url) as store:
        log = CommitLog(store, dataset)
        snapshot = log.head()
        added = []
        made = 0
        while made < commits:
            numbers = log.reserve(4, snapshot)
            halves = [
                datarange(numbers[0], numbers[1], snapshot.last_counter + 1),
                datarange(numbers[2], numbers[3], snapshot.last_counter + 1),
            ]
            snapshot = log.commit(Change(Operation.UPLOAD, add=tuple(halves)), snapshot)
            whole = datarange(numbers[0], numbers[3], snapshot.last_counter + 1)
            change = Change(Operation.AGGREGATE, add=(whole,), remove=tuple(each.id for each in halves))
            snapshot = log.commit(change, snapshot)
            added.append([numbers[0], numbers[3]])
            made += 3
        print(json.dumps({"commits": made, "added": added}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
