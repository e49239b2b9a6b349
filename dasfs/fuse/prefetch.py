"""Reading ahead: what should be fetched before it is asked for, as far as the reads so far tell.

- **A file** that is read from its start is fetched to its end.
- **In order**: a reader that goes from file to file has a window before it that grows with each advance; a jump
  starts a new stream, and what was fetched for the old one stays in the block cache.
- **In random order**, of a dataset that fits the cache: an epoch needs all of it sooner or later, so it is filled
  up from its start, at first `SAMPLE_FACTOR` bytes for each that was asked for, and `EPOCH_FACTOR` once so much was
  read that it is no sample. A few reads cost little, and an epoch fetches each byte once, in large pieces. A dataset
  that doesn't fit is left alone: what it pushed out would be fetched again.

The decision is pure and counts in bytes of a dataset's dataranges laid end to end, in number order, so that a
reader that goes over headers and from one TAR object to the next is simply one that goes on.

**Concurrency:** used in the mount's trio thread only; deciding never waits.
"""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20
# The first window is what one round trip of 20 ms carries on a quick link; the largest keeps eight GETs of 8
# MiB busy.
FIRST_WINDOW: Final = 2 * MIB
MAX_WINDOW: Final = 64 * MIB
# What is fetched next comes while the rest of the window is read. Were it much more than that, the reader would wait
# for all of it: 0.3 s for the largest window of one that grew by 8.
GROWTH: Final = 2
# The largest window moves on by multiples of this, so that its GETs all have the largest size.
STEP: Final = 8 * MIB
# How far from where it should be a read may start and still be the same reader: several processes that share
# the files of one list between them overtake each other by some files. Twice this, times the streams, should
# be small beside a dataset.
SLACK: Final = 1 * MIB
# The next file of a TAR object begins behind padding and a header; few have as much as PAX records.
HEADERS: Final = 4096
# Going to a file nearby happens in random order now and then, but not twice in a row; to the very next hardly ever.
TRUST: Final = 2
# Readers in order that are told apart in one dataset.
MAX_STREAMS: Final = 8
# Who wants a sample pays for four more. Who reads more than `SAMPLE` of a dataset wants all of it, and has it after a
# twentieth.
SAMPLE: Final = 1 / 64
SAMPLE_FACTOR: Final = 4
EPOCH_FACTOR: Final = 32
# Filled up is in pieces of at least 8 MiB: so many bytes were read since the last.
FILL_AFTER: Final = 2 * MIB


@dataclass(slots=True, eq=False)
class Stream:
    """One reader that goes through a dataset in order. Positions are bytes from the dataset's start."""

    position: int
    ahead: int
    trust: int = 0
    window: int = 0
    refill: int = 0  # no more than this is left of the window when it is filled again


def next_window(window: int) -> int:
    """Return the window that follows `window`."""
    return min(max(window * GROWTH, FIRST_WINDOW), MAX_WINDOW)


class ReadAhead:
    """Follows the readers of one dataset."""

    def __init__(self) -> None:
        self._streams: list[Stream] = []  # the one that was followed last stands last
        self._latest: Stream | None = None
        self._asked = 0  # bytes that were read in no order
        self._answered = 0  # how many of those `fill` has taken into account
        self._filled = 0

    def note(self, start: int, end: int, first: int, last: int) -> tuple[int, int] | None:
        """Take note of a read of `[start, end)` in the file `[first, last)`.

        Return the stretch that should be fetched now because of the reads around it, or None.
        """
        stream = self._latest
        if stream is None or not -SLACK <= start - stream.position <= SLACK:
            stream = self._find(start)
        if stream is None:
            stream = self._begin(start)
        elif start == first and stream.trust < TRUST:
            stream.trust += TRUST if 0 <= start - stream.position <= HEADERS else 1
        if stream.trust < TRUST:
            self._asked += end - start
        return self._advance(stream, end, last)

    @property
    def fill_due(self) -> bool:
        """Whether so much was read at random since the last `fill` that it may have something to say."""
        return self._asked - self._answered >= FILL_AFTER

    def fill(self, total: int, capacity: int) -> tuple[int, int] | None:
        """Return the stretch that should be fetched because all of a dataset is read at random, or None.

        `total` is how long the dataset is, `capacity` the size of the cache that it has to fit.
        """
        if not self.fill_due:
            return None
        fresh, self._answered = self._asked - self._answered, self._asked
        if self._filled >= total or total > capacity:
            return None
        factor = SAMPLE_FACTOR if self._asked < total * SAMPLE else EPOCH_FACTOR
        start, self._filled = self._filled, min(self._filled + min(fresh * factor, MAX_WINDOW), total)
        return start, self._filled

    def _advance(self, stream: Stream, end: int, last: int) -> tuple[int, int] | None:
        """Move a stream on to `end`; return what its window should have then, up to `last` while it is not trusted."""
        stream.position = max(stream.position, end)
        if stream.ahead - stream.position > stream.refill:
            return None
        limit = stream.position + MAX_WINDOW if stream.trust >= TRUST else last
        first = max(stream.ahead, end)
        if first >= limit:
            return None
        stream.window = next_window(stream.window)
        if stream.window < MAX_WINDOW:
            stream.refill = stream.window * 3 // 4
            ahead = min(stream.position + stream.window, limit)
        else:
            stream.refill = MAX_WINDOW // 2
            ahead = min((stream.position + MAX_WINDOW) // STEP * STEP, limit)
        stream.ahead = max(stream.ahead, ahead)
        return (first, stream.ahead) if first < stream.ahead else None

    def _find(self, start: int) -> Stream | None:
        for stream in self._streams:
            if -SLACK <= start - stream.position <= SLACK:
                self._streams.remove(stream)
                self._streams.append(stream)
                self._latest = stream
                return stream
        return None

    def _begin(self, position: int) -> Stream:
        stream = self._latest = Stream(position, position)
        self._streams.append(stream)
        if len(self._streams) > MAX_STREAMS:
            del self._streams[0]
        return stream
