"""Who reads what, as `.dasfs/top.json` shows it: counters that grow, for whoever looks twice.

**Concurrency:** the trio thread. Asking begins the counting, see `dasfs.fuse.recorder`.
"""

import heapq
import json
import os
import time
from functools import partial
from typing import Any, Final

from dasfs.fuse.access_log_switch import AccessLogSwitch
from dasfs.fuse.door import Door
from dasfs.fuse.recorder import Recorder, Wait
from dasfs.fuse.status import Status
from dasfs.fuse.tallies import Tally

# Waiting reads that are told one by one, those that wait longest; the others are only counted.
MAX_WAITS: Final = 200


def render_top(status: Status) -> bytes:
    """Return as JSON who reads what, ending in a newline."""
    recorder, cache = status.recorder, status.blocks.statistics()
    now = time.monotonic()
    tallies = recorder.count()
    document = {
        "pid": os.getpid(),
        "store": status.store,
        "mountpoint": status.mountpoint,
        # Of one clock that only differences count of.
        "monotonic_s": now,
        "counted_for_s": now - tallies.since,
        "problem": status.catalog.problem,
        "reads": status.reads,
        "bytes_read": status.bytes_read,
        "read_errors": recorder.errors,
        "hits": cache.hits,
        "misses": cache.misses,
        "bytes_fetched": cache.bytes_fetched,
        "fetches": cache.fetches,
        "fetches_in_flight": cache.in_flight,
        "readers": [_describe(tally) for tally in tallies.all()],
        "waiting_reads": len(recorder.waiting),
        "waiting": _waiting(recorder),
    }
    return json.dumps(document).encode() + b"\n"


def open_to_observers(door: Door, status: Status) -> None:
    """Let a mount's socket and port tell who reads what, and its socket switch the access log."""
    door.pages["/top.json"] = door.show_json(partial(render_top, status))
    door.receivers["/access-log"] = AccessLogSwitch(status.recorder, status.mountpoint, os.geteuid()).receive


def _describe(tally: Tally) -> dict[str, Any]:
    return {
        "pid": tally.process.pid,
        "uid": tally.uid,
        "command": tally.process.command,
        "dataset": tally.dataset,
        "files": tally.files,
        "reads": tally.reads,
        "bytes": tally.bytes,
        "hits": tally.hits,
        "errors": tally.errors,
        "seconds": round(tally.seconds, 6),
    }


def _waiting(recorder: Recorder) -> list[dict[str, Any]]:
    now = time.perf_counter()
    longest = heapq.nsmallest(MAX_WAITS, recorder.waiting.values(), key=lambda each: each.begun)
    return [_describe_wait(recorder, each, now) for each in longest]


def _describe_wait(recorder: Recorder, wait: Wait, now: float) -> dict[str, Any]:
    process, place = recorder.processes.find(wait.thread), recorder.place_of(wait.inode)
    return {
        "pid": process.pid,
        "uid": wait.uid,
        "command": process.command,
        "dataset": place.dataset if place else "",
        "number": place.number if place else None,
        "offset": wait.offset,
        "size": wait.size,
        "seconds": round(now - wait.begun, 3),
    }
