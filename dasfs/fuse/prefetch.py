"""Reading ahead: who reads a dataset in order, and what should be fetched before it is asked for.

The decision is pure and counts in bytes of a dataset's dataranges laid end to end, in number order, so that a
reader that goes from file to file, over headers and from one TAR object to the next is simply one that goes
on. A window opens when two reads in a row follow a first, doubles with each advance, and stays ahead of the
reader; a jump starts a new stream, and what was fetched for the old one stays in the block cache.

**Concurrency:** used in the mount's trio thread only; deciding never waits.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20
# The first window is what one round trip of 20 ms carries on a quick link; the largest keeps eight GETs of 8
# MiB busy.
FIRST_WINDOW: Final = 1 * MIB
MAX_WINDOW: Final = 64 * MIB
# How far from where it should be a read may start and still be the same reader: several processes that share
# the files of one list between them overtake each other by some files. Twice this, times the streams, should
# be small beside a dataset.
SLACK: Final = 1 * MIB
# A read in random order meets a stream by chance now and then, but not twice in a row.
CONFIRMATIONS: Final = 2
# Readers in order that are told apart in one dataset.
MAX_STREAMS: Final = 8


@dataclass(slots=True)
class Stream:
    """One reader that goes through a dataset in order. Positions are bytes from the dataset's start."""

    position: int
    ahead: int
    follows: int = 0
    window: int = 0


def follows(stream: Stream, start: int) -> bool:
    """Return whether a read at `start` goes on where `stream` was."""
    return -SLACK <= start - stream.position <= SLACK


def next_window(window: int) -> int:
    """Return the window after `window` was used up by half."""
    return min(max(window * 2, FIRST_WINDOW), MAX_WINDOW)


class ReadAhead:
    """Follows the readers of one dataset."""

    def __init__(self) -> None:
        self._streams: OrderedDict[int, Stream] = OrderedDict()
        self._next_key = 0
        self._latest: Stream | None = None

    def note(self, start: int, end: int) -> tuple[int, int] | None:
        """Take note of a read of `[start, end)`; return the stretch that should be fetched now, or None."""
        stream = self._latest
        if stream is None or not follows(stream, start):
            stream = self._find(start)
        if stream is None:
            self._begin(end)
            return None
        stream.position = max(stream.position, end)
        stream.follows += 1
        if stream.follows < CONFIRMATIONS:
            return None
        if stream.window and stream.ahead - stream.position > stream.window // 2:
            return None
        stream.window = next_window(stream.window)
        first = max(stream.ahead, end)
        stream.ahead = max(stream.ahead, stream.position + stream.window)
        return first, stream.ahead

    def _find(self, start: int) -> Stream | None:
        for key, stream in self._streams.items():
            if follows(stream, start):
                self._streams.move_to_end(key)
                self._latest = stream
                return stream
        return None

    def _begin(self, position: int) -> None:
        self._latest = self._streams[self._next_key] = Stream(position, position)
        self._next_key += 1
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)
