"""An object of a store as a file: seekable, read-only, read ahead in large ranges.

**Concurrency:** one `ObjectFile` is for one thread; the ranges that it reads ahead come in by a thread of
its own.
"""

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Final

from dasfs.stores.base import MIB, Store

# One range-GET of 8 MiB keeps a connection of 1 Gbit/s busy for 70 ms, many times the latency of a request.
WINDOW_SIZE: Final = 8 * MIB


class ObjectFile(io.BufferedIOBase, BinaryIO):
    """One object of a store, as a binary file whose `read` returns as many bytes as there are.

    The object is looked up once; if it changes afterwards, reading raises `ObjectChanged`. While one window
    of 8 MiB is used, the next one is fetched. `observe` is called with the bytes of each window before they
    are used; where the file is read from start to end, without seeking back over a window, that is each
    byte once and in order.

    Raises what the store raises: `NotFound` when there is no such object, `Corrupt` when it ends too early.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        window_size: int = WINDOW_SIZE,
        observe: Callable[[memoryview], None] | None = None,
    ) -> None:
        super().__init__()
        self.info = store.head(key)
        self._store = store
        self._window_size = window_size
        self._observe = observe
        self._position = 0
        self._start = 0
        self._window = memoryview(b"")
        self._ahead: tuple[int, Future[memoryview]] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dasfs-read")

    @property
    def size(self) -> int:
        return self.info.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes; fewer only at the end of the object."""
        end = self.size if size is None or size < 0 else min(self._position + size, self.size)
        # Most reads, such as of a header, lie within the window.
        inside = self._position - self._start
        if self._start <= self._position and end <= self._start + len(self._window):
            self._position = max(end, self._position)
            return bytes(self._window[inside : end - self._start])
        parts = []
        while self._position < end:
            part = self._here(end - self._position)
            parts.append(part)
            self._position += len(part)
        return b"".join(parts)

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Stop reading ahead; a range that is on its way is waited for, within the store's deadline."""
        if not self.closed:
            self._pool.shutdown(cancel_futures=True)
            self._window = memoryview(b"")
        super().close()

    def _here(self, size: int) -> memoryview:
        """Return up to `size` bytes from the position, at least one, fetching a window if need be."""
        inside = self._position - self._start
        if not 0 <= inside < len(self._window):
            self._load(self._position - self._position % self._window_size)
            inside = self._position - self._start
        return self._window[inside : inside + size]

    def _load(self, start: int) -> None:
        """Make the window at `start` the current one, and begin to fetch the one behind it."""
        ahead, self._ahead = self._ahead, None
        window = ahead[1].result() if ahead and ahead[0] == start else self._fetch(start)
        following = start + self._window_size
        if following < self.size:
            self._ahead = (following, self._pool.submit(self._fetch, following))
        if self._observe is not None:
            self._observe(window)
        self._start, self._window = start, window

    def _fetch(self, start: int) -> memoryview:
        window = memoryview(bytearray(min(self._window_size, self.size - start)))
        self._store.read_into(self.info.key, start, window, etag=self.info.etag)
        return window.toreadonly()
