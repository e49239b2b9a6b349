"""`dasfs` whose stores fail a third of all operations: `FAULTY_SEED=N python -m tests.faulty_daemon ARGUMENTS`.

It waits less between two attempts than the real one, or a test would take an hour.
"""

import os
import sys

from dasfs.cli.main import run
from dasfs.stores import Store, StoreOptions, open_store
from dasfs_daemon import attempts, outlet, worker
from tests.faulty import Fault, FaultyStore, at_random

SHARE = 1 / 3


def open_faulty(url: str, options: StoreOptions) -> Store:
    """Open a store that fails, loses answers and hangs."""
    faults = (Fault.FAIL, Fault.LOSE_ANSWER, Fault.HANG)
    return FaultyStore(
        open_store(url, options), at_random(int(os.environ["FAULTY_SEED"]), SHARE, *faults), deadline_s=0.1
    )


if __name__ == "__main__":
    worker.open_store = open_faulty
    attempts.FIRST_PAUSE_S, attempts.LONGEST_PAUSE_S = 0.02, 0.1
    outlet.RETRY_S = 0.1
    sys.exit(run(sys.argv[1:]))
