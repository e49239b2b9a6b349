"""The contract that every store keeps, and the values that cross it.

A store maps keys to immutable byte strings. Keys are relative to the store's prefix, `/`-separated, ASCII, and
listed in byte order. A write is all or nothing: no reader ever sees half an object, also when the writer is killed.

**Concurrency:** a store may be used from any number of threads at once, and by any number of processes and hosts.
Every call blocks, and returns or raises within the deadline that the store was opened with (uploads: within that
deadline of the last progress). Only `DasfsError`s leave a store.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from dasfs.metrics import RequestCounts

MIB: Final = 1 << 20
# An object that is read whole (a commit, an index, a manifest) is refused above this size unless the caller says more.
MAX_WHOLE_OBJECT: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows about one object. `etag` is opaque and differs whenever the content differs."""

    key: str
    size: int
    etag: str
    modified: datetime  # UTC


@dataclass(frozen=True, slots=True)
class CopyPiece:
    """A stretch `[offset, offset + length)` of an object of the same store, to be copied inside the store."""

    key: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store is reached. None means: what the environment says (boto3's own chain)."""

    endpoint_url: str | None = None
    profile: str | None = None
    region: str | None = None
    # Longer than any healthy answer, shorter than a user's patience: the kernel waits for the mount meanwhile.
    deadline_s: float = 60.0
    connections: int = 32


class Store(ABC):
    """Immutable objects under keys. See the module's page for what every store promises."""

    url: str
    # The smallest stretch that `compose` can copy, but for the last piece (S3: 5 MiB; others: 0).
    min_copy_size: int = 0
    # None where there is no server to send requests to.
    requests: RequestCounts | None = None

    @abstractmethod
    def check(self) -> None:
        """Do one cheap request, so that a wrong name, missing rights or an absent store are told at once.

        Raises `NotFound` (no such bucket, directory or file), `AccessDenied`, `StoreUnavailable`.
        """

    def clock_skew_s(self) -> float | None:
        """Return how far this machine's clock is ahead of the store's, in seconds, by the newest answer.

        As exact as a second and the time of a request. None where nobody else's clock counts, and before there was an
        answer.
        """
        return None

    @abstractmethod
    def create(self) -> None:
        """Make the place itself where that is ours to make: the directory, the SQLite file. Done twice is fine.

        A bucket is never made: `create` is `check` there.
        """

    @abstractmethod
    def head(self, key: str) -> ObjectInfo:
        """Return what is known of one object. Raises `NotFound`."""

    @abstractmethod
    def read_into(self, key: str, offset: int, buffer: memoryview, *, etag: str | None = None) -> None:
        """Fill the whole `buffer` from `offset` of one object.

        Raises `NotFound`, `Corrupt` when the object ends before the buffer is full, `ObjectChanged` when `etag` is
        given and is not the object's. On any error the content of the buffer is undefined.
        """

    def read_arriving(self, key: str, offset: int, buffer: memoryview, arrived: Callable[[int], None]) -> None:
        """Do what `read_into` does, and tell `arrived` now and then how much of `buffer` is filled from its start."""
        self.read_into(key, offset, buffer)
        arrived(buffer.nbytes)

    @abstractmethod
    def get(self, key: str, *, max_size: int = MAX_WHOLE_OBJECT) -> bytes:
        """Return one whole object. Raises `NotFound`, and `Corrupt` when it is larger than `max_size`."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write one object, replacing what was there."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> ObjectInfo:
        """Write one object only if the key is free: of any number of writers at once, one wins.

        Raises `AlreadyExists`. After a lost answer that may also be this call's own success, and after
        `StoreUnavailable` the outcome is unknown: callers who must know read the object back.
        """

    @abstractmethod
    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> ObjectInfo:
        """Write one object of any size from consecutive chunks, in memory bounded by a few parts.

        An exception raised by `chunks` aborts the upload, leaves nothing under `key`, and is passed on unchanged.
        """

    @abstractmethod
    def compose(self, key: str, pieces: Iterable[CopyPiece | bytes]) -> ObjectInfo:
        """Write one object that is the concatenation of `pieces`; copied bytes do not leave the store.

        They are taken one after another, in memory bounded by a few of them. An exception raised by `pieces`
        aborts the write, leaves nothing under `key`, and is passed on unchanged. Every piece but the last has at
        least `min_copy_size` bytes, else `InvalidInput`.
        Raises `NotFound` for a missing source, `Unsupported` where the store can't copy ranges.
        """

    @abstractmethod
    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix` and is greater than `after`, in key order."""

    @abstractmethod
    def list_prefixes(self, prefix: str) -> Iterator[str]:
        """Yield the distinct next path segments below `prefix` (which ends in `/`), in key order, without it.

        Only segments that are followed by a `/` count: 'directories', not objects.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are no error. What is deleted when an error is raised is unknown."""

    @abstractmethod
    def abort_uploads(self, prefix: str, *, before: datetime) -> int:
        """Throw away unfinished uploads below `prefix` that began before `before`; return how many there were."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections and files. The store is not used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
