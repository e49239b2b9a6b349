"""A store as work in the background sees it: bounded in bandwidth, patient with a hiccup, and ended at any request.

An aggregation or a collection is hundreds of requests, and one that fails must not cost the others. So what can be
repeated is tried again for some seconds, where the store gave up or never tries by itself.

**Concurrency:** any number of threads. Once `stop` is set, every request raises `Closed`.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final, TypeVar

from dasfs.errors import StoreUnavailable
from dasfs.stores import CopyPiece, ObjectInfo, Store
from dasfs.stores.base import MAX_WHOLE_OBJECT, MIB
from dasfs.stores.retry import RetryPolicy
from dasfs_daemon.throttle import Throttle

Result = TypeVar("Result")

# Longer than a hiccup. A store that took that long to give up is away: the whole step waits for it then.
PATIENCE_S: Final = 10.0
# Uploads and background work take turns on a slow line: nobody is let through with more at once.
_TURN: Final = MIB
# As many as one answer of S3 lists.
_PAGE: Final = 1000


class BackgroundStore(Store):
    """Another store, for background work. It is not closed with this one."""

    def __init__(self, inner: Store, throttle: Throttle, stop: threading.Event) -> None:
        self.url = inner.url
        self.min_copy_size = inner.min_copy_size
        self._inner = inner
        self._throttle = throttle
        self._stop = stop
        self._policy = RetryPolicy(PATIENCE_S)

    def check(self) -> None:
        self._try(self._inner.check)

    def create(self) -> None:
        self._try(self._inner.create)

    def head(self, key: str) -> ObjectInfo:
        return self._try(lambda: self._inner.head(key))

    def read_into(self, key: str, offset: int, buffer: memoryview, *, etag: str | None = None) -> None:
        self._pass(buffer.nbytes)
        self._try(lambda: self._inner.read_into(key, offset, buffer, etag=etag))

    def get(self, key: str, *, max_size: int = MAX_WHOLE_OBJECT) -> bytes:
        data = self._try(lambda: self._inner.get(key, max_size=max_size))
        self._pass(len(data))
        return data

    def put(self, key: str, data: bytes) -> ObjectInfo:
        self._pass(len(data))
        return self._try(lambda: self._inner.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> ObjectInfo:
        self._pass(len(data))
        return self._try(lambda: self._inner.put_if_absent(key, data))

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> ObjectInfo:
        """Write a stream, which can't be repeated, in one try."""
        return self._inner.put_stream(key, (self._passed(chunk, len(chunk)) for chunk in chunks))

    def compose(self, key: str, pieces: Iterable[CopyPiece | bytes]) -> ObjectInfo:
        """Write the concatenation of pieces, which can't be repeated, in one try."""
        return self._inner.compose(
            key, (self._passed(piece, 0 if isinstance(piece, CopyPiece) else len(piece)) for piece in pieces)
        )

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield what is there; where a page fails, the listing goes on behind the page before."""
        listing: Iterator[ObjectInfo] | None = None

        def next_page() -> "list[ObjectInfo]":
            nonlocal listing, after
            listing = listing or self._inner.list(prefix, after=after)
            try:
                page = [*itertools.islice(listing, _PAGE)]
            except StoreUnavailable:
                listing = None
                raise
            after = page[-1].key if page else after
            return page

        while page := self._try(next_page):
            yield from page

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        return iter(self._try(lambda: [*self._inner.list_prefixes(prefix)]))

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        self._try(lambda: self._inner.delete(wanted))

    def abort_uploads(self, prefix: str, *, before: datetime) -> int:
        return self._try(lambda: self._inner.abort_uploads(prefix, before=before))

    def close(self) -> None:
        """Nothing: the store belongs to whoever opened it."""

    def _try(self, call: Callable[[], Result]) -> Result:
        self._pass(0)
        return self._policy.run(call, cancelled=self._stop)

    def _pass(self, size: int) -> None:
        """Wait until `size` bytes may go through this machine. Raises `Closed` once the work shall end."""
        while size > _TURN:
            self._throttle.take(_TURN, self._stop)
            size -= _TURN
        self._throttle.take(size, self._stop)

    def _passed(self, item: Result, size: int) -> Result:
        self._pass(size)
        return item
