"""How long work is shown: a bar with rate and time left on a terminal, lines elsewhere."""

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from dasfs.cli.output import format_size, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Often enough to look alive; drawing costs 1 ms, and 20,000 files a second must not pay for it.
INTERVAL_S: Final = 0.1


class Meter:
    """Shows how many of `total` bytes are done, on stderr. Use it in a `with`.

    **Concurrency:** `advance` and `line` may be called from any thread.
    """

    def __init__(self, title: str, total: int) -> None:
        self._lock = threading.Lock()
        self._title = title
        self._total = total
        self._done = 0
        self._drawn_at = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def advance(self, size: int) -> None:
        """`size` more bytes are done."""
        with self._lock:
            self._done += size
            if self._bar is None or time.monotonic() - self._drawn_at < INTERVAL_S:
                return
            self._drawn_at = time.monotonic()
        self._draw()

    def restart(self, total: int) -> None:
        """Count from 0 again, up to `total`."""
        with self._lock:
            self._done, self._total = 0, total
        self._draw()

    def rename(self, title: str) -> None:
        """Say something else before the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=title)

    def line(self, message: str) -> None:
        """Say something where there is no bar that says it."""
        if self._bar is None:
            say(message)

    def _draw(self) -> None:
        if self._bar is not None and self._task is not None:
            speed = self._bar.tasks[0].speed
            rate = "" if speed is None else f"{format_size(speed)}/s"
            self._bar.update(self._task, completed=min(self._done, self._total), total=self._total, rate=rate)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._start()
        return self

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            # rich's own column has decimal units only.
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task(self._title, total=self._total, rate="")
        self._bar.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.stop()
