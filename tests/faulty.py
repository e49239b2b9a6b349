"""A store that wraps a store and goes wrong as a test plans it.

A plan is asked before each operation, with its name, its key and its number (from 1, over all operations), and
says what shall happen to it. Plans are made by `nth`, `at_random`, `during`, or are any function of that shape.

A crash is the end of the process that uses the store: `Crash` comes out, which nobody catches by mistake, and
whatever the process does with the store while that unwinds has no effect. `revive` is its restart.

**Concurrency:** any number of threads; the numbers are given under a lock.
"""

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from enum import Enum, auto
from typing import NoReturn, TypeVar

from dasfs.errors import Corrupt, DeadlineExceeded, StoreUnavailable
from dasfs.stores import CopyPiece, ObjectInfo, Store
from dasfs.stores.base import MAX_WHOLE_OBJECT

Result = TypeVar("Result")

PIECEWISE = ("put_stream", "compose")


class Fault(Enum):
    """What goes wrong with one operation."""

    FAIL = auto()  # nothing is done, and StoreUnavailable is raised
    LOSE_ANSWER = auto()  # it is done, and StoreUnavailable is raised
    CUT = auto()  # a read ends in Corrupt after half of its bytes
    FLIP = auto()  # a read brings one wrong bit
    HANG = auto()  # nothing happens until `release`, or DeadlineExceeded
    CRASH = auto()  # nothing is done, and the process is gone
    CRASH_WITHIN = auto()  # a write of pieces ends after the first of them, and the process is gone
    CRASH_AFTER = auto()  # it is done, and the process is gone


class Crash(BaseException):
    """The process that used the store is gone."""


Plan = Callable[[str, str, int], Fault | None]


def nth(number: int, fault: Fault, *operations: str) -> Plan:
    """Return a plan for the `number`th (from 1) of `operations`, or of all operations where none is named."""
    lock = threading.Lock()
    count = 0

    def plan(operation: str, _key: str, _number: int) -> Fault | None:
        nonlocal count
        if operations and operation not in operations:
            return None
        with lock:
            count += 1
            return fault if count == number else None

    return plan


def at_random(seed: int, share: float, *faults: Fault) -> Plan:
    """Return a plan that hits a `share` of all operations with one of `faults`, the same ones for the same seed."""

    def plan(_operation: str, _key: str, number: int) -> Fault | None:
        generator = random.Random(f"{seed}/{number}")
        return generator.choice(faults) if generator.random() < share else None

    return plan


def during(fault: Fault, *operations: str) -> Plan:
    """Return a plan that hits each of `operations`, or all where none is named, until another plan is set."""
    return lambda operation, _key, _number: fault if not operations or operation in operations else None


def healthy(_operation: str, _key: str, _number: int) -> Fault | None:
    """The plan of a store that works."""
    return None


class FaultyStore(Store):
    """A store with faults. `plan` may be replaced at any time."""

    def __init__(self, inner: Store, plan: Plan = healthy, *, deadline_s: float = 5.0) -> None:
        self.inner = inner
        self.plan = plan
        self.deadline_s = deadline_s
        self.url = inner.url
        self.min_copy_size = inner.min_copy_size
        self.operations: list[str] = []  # all that were begun: "operation key"
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._crashed = False

    def revive(self) -> None:
        """Work again after a crash, by no plan."""
        self._crashed = False
        self.plan = healthy

    def release(self) -> None:
        """Let go of the operations that hang, and of those to come."""
        self._released.set()

    def count(self, operation: str) -> int:
        """Return how many of one operation were begun."""
        return sum(1 for entry in self.operations if entry.split(" ", 1)[0] == operation)

    def check(self) -> None:
        self._run("check", "", self.inner.check)

    def create(self) -> None:
        self._run("create", "", self.inner.create)

    def head(self, key: str) -> ObjectInfo:
        return self._run("head", key, lambda: self.inner.head(key))

    def read_into(self, key: str, offset: int, buffer: memoryview, *, etag: str | None = None) -> None:
        fault = self._begin("read_into", key)
        if fault is Fault.CUT:
            self.inner.read_into(key, offset, buffer[: len(buffer) // 2], etag=etag)
            raise Corrupt(f"{key}: cut by a test")
        self.inner.read_into(key, offset, buffer, etag=etag)
        if fault is Fault.FLIP and buffer.nbytes:
            flat = buffer.cast("B")
            flat[len(flat) // 2] ^= 1
        self._end(fault, key)

    def get(self, key: str, *, max_size: int = MAX_WHOLE_OBJECT) -> bytes:
        fault = self._begin("get", key)
        data = self.inner.get(key, max_size=max_size)
        if fault is Fault.CUT:
            raise Corrupt(f"{key}: cut by a test")
        if fault is Fault.FLIP and data:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        self._end(fault, key)
        return data

    def put(self, key: str, data: bytes) -> ObjectInfo:
        return self._run("put", key, lambda: self.inner.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> ObjectInfo:
        return self._run("put_if_absent", key, lambda: self.inner.put_if_absent(key, data))

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> ObjectInfo:
        fault = self._begin("put_stream", key)
        info = self.inner.put_stream(key, self._broken_off(chunks) if fault is Fault.CRASH_WITHIN else chunks)
        self._end(fault, key)
        return info

    def compose(self, key: str, pieces: Iterable[CopyPiece | bytes]) -> ObjectInfo:
        fault = self._begin("compose", key)
        info = self.inner.compose(key, self._broken_off(pieces) if fault is Fault.CRASH_WITHIN else pieces)
        self._end(fault, key)
        return info

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return self._run("list", prefix, lambda: self.inner.list(prefix, after=after))

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        return self._run("list_prefixes", prefix, lambda: self.inner.list_prefixes(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        self._run("delete", "", lambda: self.inner.delete(keys))

    def abort_uploads(self, prefix: str, *, before: datetime) -> int:
        return self._run("abort_uploads", prefix, lambda: self.inner.abort_uploads(prefix, before=before))

    def close(self) -> None:
        self.inner.close()

    def _run(self, operation: str, key: str, call: Callable[[], Result]) -> Result:
        fault = self._begin(operation, key)
        result = call()
        self._end(fault, key)
        return result

    def _begin(self, operation: str, key: str) -> Fault | None:
        with self._lock:
            if self._crashed:
                raise Crash
            self.operations.append(f"{operation} {key}")
            number = len(self.operations)
        fault = self.plan(operation, key, number)
        if fault is Fault.FAIL:
            raise StoreUnavailable(f"{operation} {key}: failed by a test")
        if fault is Fault.CRASH or (fault is Fault.CRASH_WITHIN and operation not in PIECEWISE):
            self._crash()
        if fault is Fault.HANG and not self._released.wait(timeout=self.deadline_s):
            raise DeadlineExceeded(f"{operation} {key}: hung by a test")
        return fault

    def _end(self, fault: Fault | None, key: str) -> None:
        if fault is Fault.LOSE_ANSWER:
            raise StoreUnavailable(f"{key}: the answer was lost by a test")
        if fault is Fault.CRASH_AFTER:
            self._crash()

    def _crash(self) -> NoReturn:
        self._crashed = True
        raise Crash

    def _broken_off(self, pieces: Iterable[Result]) -> Iterator[Result]:
        """Yield the first piece."""
        yield next(iter(pieces))
        self._crash()
