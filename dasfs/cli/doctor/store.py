"""A store, seen from this machine: whether it answers, how soon, how much, by which clock, and what it can do.

Nothing is written unless it is asked for; then below a key of our own, `dasfs-doctor-...`, which is deleted again.
"""

import itertools
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from dasfs.cli.doctor.finding import Finding, ok, problem, warning
from dasfs.cli.output import format_size
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.exclusive import honours_condition
from dasfs.errors import AlreadyExists, DasfsError, NotFound, Unsupported
from dasfs.names import ROOT_PREFIX, DatasetKeys
from dasfs.stores.base import MIB, CopyPiece, ObjectInfo, Store

# Enough for a median that one slow answer does not move.
SMALL_REQUESTS: Final = 9
# What a mount fetches with one request at most, and how many of them fill its link.
RANGE_SIZE: Final = 8 * MIB
AT_ONCE: Final = 8
# What is looked through for something to read.
MAX_DATASETS: Final = 20
MAX_OBJECTS: Final = 3000
# Datasets whose log is read for what it says of the store.
MAX_LOGS: Final = 3
# Behind a link that takes longer, a random read of something new does too.
GOOD_LATENCY_S: Final = 0.15
# 100 files of 100 KiB a second, for all readers of this machine together.
GOOD_THROUGHPUT: Final = 10e6
# A signature of S3 is refused when the clocks differ by 15 min; a clock that is off by 30 s is not looked after.
SKEW_PROBLEM_S: Final = 600.0
SKEW_WARNING_S: Final = 30.0
PROBE_PREFIX: Final = "dasfs-doctor-"
_RACERS: Final = 8


@dataclass(frozen=True, slots=True)
class Throughput:
    """Bytes a second of ranged reads: one after the other, and several at once."""

    alone: float
    together: float


def check_store(store: Store, *, write: bool) -> Iterator[Finding]:
    """Yield what is found. With `write`, also what only writing can tell."""
    try:
        seconds = measure_latency(store)
    except DasfsError as error:
        yield problem("store", error.message, error.hint)
        yield from check_clock(store.clock_skew_s())
        return
    yield judge_latency(store.url, seconds)
    yield from check_clock(store.clock_skew_s())
    checks = {"reading": check_reading, **({"writing": check_writing} if write else {"conditional PUT": check_records})}
    for name, check in checks.items():
        try:
            yield from check(store)
        except DasfsError as error:
            yield problem(name, error.message, error.hint)


def check_clock(skew_s: float | None) -> Iterator[Finding]:
    """Say how far this machine's clock is from the store's; nothing where there is none to compare with."""
    if skew_s is None:
        return
    distance = abs(skew_s)
    told = f"this machine's clock is {format_distance(distance)} {'ahead of' if skew_s > 0 else 'behind'} the store's"
    hint = "set it, and keep it with chrony or systemd-timesyncd"
    if distance >= SKEW_PROBLEM_S:
        yield problem("clock", f"{told}: at 15 min the store refuses every request", hint, skew_s=skew_s)
    elif distance >= SKEW_WARNING_S:
        yield warning("clock", told, hint, skew_s=skew_s)
    else:
        # What an answer's date can't tell from none.
        near = "as the store's, to a second or two" if distance < 2 else f"{distance:.0f} s off the store's"
        yield ok("clock", f"this machine's clock is {near}", skew_s=skew_s)


def format_distance(seconds: float) -> str:
    """Return a distance in time as people say it."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def measure_latency(store: Store) -> float:
    """Return how long a small request takes, the median of some. Raises what the store raises."""
    store.check()  # makes the connection

    def once() -> float:
        begun = time.perf_counter()
        store.check()
        return time.perf_counter() - begun

    return statistics.median(once() for _ in range(SMALL_REQUESTS))


def judge_latency(url: str, seconds: float) -> Finding:
    told = f"{url} answers within {1000 * seconds:.1f} ms"
    if seconds < GOOD_LATENCY_S:
        return ok("store", told, latency_s=seconds)
    message = f"{told}: each read of something that is not cached takes as long, unless it is read in order"
    return warning("store", message, "use a store that is nearer", latency_s=seconds)


def check_reading(store: Store) -> Iterator[Finding]:
    """Say how quick ranges are read, if the store has anything large enough to read."""
    sample = find_sample(store)
    if sample is None:
        yield ok("reading", "there is no datarange of 1 MiB or more yet to measure with")
        return
    yield judge_throughput(measure_throughput(store, sample), min(RANGE_SIZE, sample.size))


def judge_throughput(found: Throughput, size: int) -> Finding:
    alone, together = f"{found.alone / 1e6:,.0f} MB/s", f"{found.together / 1e6:,.0f} MB/s"
    told = f"a range of {format_size(size)} comes with {alone}, {AT_ONCE} at once with {together}"
    measured = {"bytes_per_second": found.alone, "bytes_per_second_at_once": found.together}
    if found.together >= GOOD_THROUGHPUT:
        return ok("reading", told, **measured)
    return warning("reading", told, "look after the network, or use a store that is nearer", **measured)


def find_sample(store: Store) -> ObjectInfo | None:
    """Return a large TAR object, or None where there is none of 1 MiB."""
    best: ObjectInfo | None = None
    left = MAX_OBJECTS
    for dataset in dataset_names(store, MAX_DATASETS):
        for info in itertools.islice(store.list(DatasetKeys(dataset).dataranges), max(0, left)):
            left -= 1
            if info.key.endswith(".tar") and info.size >= MIB and (best is None or info.size > best.size):
                best = info
        if best is not None and best.size >= AT_ONCE * RANGE_SIZE:
            break
    return best


def dataset_names(store: Store, limit: int) -> Iterator[str]:
    """Return the names of the first datasets."""
    return itertools.islice(store.list_prefixes(ROOT_PREFIX), limit)


def measure_throughput(store: Store, sample: ObjectInfo) -> Throughput:
    """Return how quick ranges of an object come. Raises what the store raises."""
    size = min(RANGE_SIZE, sample.size)
    # Other ranges each, where there are, so that nobody's cache answers.
    offsets = [size * k % (sample.size - size + 1) for k in range(AT_ONCE + 1)]
    buffers = [memoryview(bytearray(size)) for _ in range(AT_ONCE)]

    def read(offset: int, buffer: memoryview) -> None:
        store.read_into(sample.key, offset, buffer)

    begun = time.perf_counter()
    read(offsets[0], buffers[0])
    alone = size / (time.perf_counter() - begun)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = time.perf_counter()
        list(pool.map(read, offsets[1:], buffers))
        return Throughput(alone, AT_ONCE * size / (time.perf_counter() - begun))


def check_records(store: Store) -> Iterator[Finding]:
    """Say what the datasets of the store tell of its abilities, which were probed when they were made."""
    recorded: dict[str, bool] = {}
    for name in dataset_names(store, MAX_LOGS):
        try:
            snapshot = Dataset(store, name).log.replay()
        except DasfsError as error:
            yield problem("conditional PUT", f"the log of {name} can't be read: {error.message}", error.hint)
            continue
        if snapshot.revision:
            recorded[name] = snapshot.configuration.conditional_put
    yield judge_records(recorded)


def judge_records(recorded: dict[str, bool]) -> Finding:
    """Say what is recorded, by dataset."""
    name = "conditional PUT"
    if not recorded:
        return ok(name, "not known: no dataset has it recorded; --write finds out")
    refused = [dataset for dataset, honoured in recorded.items() if not honoured]
    if refused:
        return warning(
            name,
            f"the store ignored it when {', '.join(refused)} was made: only one writer at a time is safe",
            "let one host write, or use a store that honours If-None-Match; --write asks again",
        )
    return ok(name, f"honoured when {', '.join(recorded)} was made; --write asks again")


def check_writing(store: Store) -> Iterator[Finding]:
    """Write objects of our own, say what the store does with them, and delete them."""
    root = f"{PROBE_PREFIX}{uuid.uuid4().hex}/"
    try:
        for check in (_probe_condition, _probe_copy, _probe_listing):
            yield check(store, root)
    finally:
        store.delete([info.key for info in store.list(root)])
    left = [info.key for info in store.list(root)]
    if left:
        yield problem("deleting", f"{store.url} still lists {left[0]}, which was deleted", "delete it by hand")


def _probe_condition(store: Store, root: str) -> Finding:
    """Overwrite on condition, then let several write one key at once: one must win."""
    honoured = honours_condition(store, f"{root}condition")
    return judge_condition(honoured, _race(lambda: _wins(store, f"{root}race")) if honoured else 0)


def judge_condition(honoured: bool, winners: int) -> Finding:
    """Say whether commits are safe: `winners` of several writers of one key at once were told that they won."""
    name = "conditional PUT"
    if honoured and winners == 1:
        return ok(name, f"honoured, also by {_RACERS} writers at once")
    hint = "let one host write, or use a store that honours If-None-Match"
    if not honoured:
        return warning(name, "the store ignores If-None-Match: only one writer at a time is safe", hint)
    return problem(name, f"{winners} of {_RACERS} writers of one key at once were told that they won", hint)


def _wins(store: Store, key: str) -> bool:
    try:
        store.put_if_absent(key, uuid.uuid4().bytes)
    except AlreadyExists:
        return False
    return True


def _race(run: Callable[[], bool]) -> int:
    with ThreadPoolExecutor(_RACERS) as pool:
        return sum(pool.map(lambda _: run(), range(_RACERS)))


def _probe_copy(store: Store, root: str) -> Finding:
    """Copy a range of an object inside the store, as aggregation does."""
    name, size = "copying", max(store.min_copy_size, MIB)
    source, target, tail = f"{root}source", f"{root}copy", b"tail"
    data = bytes(1) + uuid.uuid4().bytes * (size // 16)
    store.put_stream(source, [data])
    try:
        store.compose(target, [CopyPiece(source, 1, size), tail])
    except Unsupported as error:
        hint = "use another store, or leave aggregation off"
        return warning(name, f"the store can't copy ranges, so it can't aggregate: {error.message}", hint)
    if store.get(target) != data[1 : size + 1] + tail:
        return problem(name, "what the store copied is not what was there", "don't use this store")
    return ok(name, "ranges of objects are copied inside the store")


def _probe_listing(store: Store, root: str) -> Finding:
    """See whether what was written is listed at once, and what was deleted no longer is."""
    name, key = "listing", f"{root}listed"
    store.put(key, b"x")
    listed = key in _keys(store, root)
    store.delete([key])
    try:
        store.head(key)
        gone = False
    except NotFound:
        gone = key not in _keys(store, root)
    if listed and gone:
        return ok(name, "what was written is listed at once, what was deleted is not")
    what = "what was deleted stays there" if listed else "what was written is not listed"
    return problem(name, f"{what} for a while: readers would miss commits", "use a store that is consistent")


def _keys(store: Store, root: str) -> set[str]:
    return {info.key for info in store.list(root)}
