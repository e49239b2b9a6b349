"""What a job has announced that it will read, and how far ahead of it should be fetched. Pure: no I/O.

An announcement is an `Order`: which number is read at which place. Reads say how far the job has come:

- **The position** is the first place from the lower quartile of the last `RECENT` reads on that is not one of them: for
  a reader in order the place after its last. Eight workers that each read every eighth batch are a cloud of places; a
  quarter of it lies behind the position, which was fetched before, and the rest ahead. A stray read moves nothing. A
  job that begins in the middle, or leaps, is followed after at most `RECENT` reads, and one that starts over after a
  quarter of that.
- **The window** is what was planned from the position on. It is filled up to a number of bytes of blocks; what lies
  behind the position stays in the block cache for as long as that has room.
- **A batch** is the next few places of the window. Their blocks are fetched in as few stretches as there are runs of
  neighbours, the one that is needed first first. It is small while the reader is close behind, and large later.

**Concurrency:** used in the mount's trio thread only; nothing here waits.
"""

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Final, Generic, Protocol, TypeVar

from dasfs.dataset.model import Snapshot, join_spans

S = TypeVar("S", bound=Hashable)

MIB: Final = 1 << 20
# Reads that tell the position. A quarter of them may go astray; 32 are read in a few milliseconds.
RECENT: Final = 32
# The position is computed at every so many reads: sorting costs 2 µs.
_MOVE_EVERY: Final = 4
# Workers of one job are not further apart than this, in places; who falls further behind has started over.
MAX_BACK: Final = 8192
# Places whose numbers a list looks up: as many before and behind the position. 100 bytes each.
REACH: Final = 32768
MAX_CHUNKS: Final = 8
# A batch is as large as what is ahead already, within these: the first bytes come after one round trip, and later ones
# in large pieces.
MIN_BATCH: Final = 2 * MIB
MAX_BATCH: Final = 32 * MIB
_SAMPLE: Final = 2048


class Order(Protocol):
    """Which numbers are read, place by place."""

    def __len__(self) -> int: ...

    def number_at(self, place: int) -> int:
        """Return the number at `0 <= place < len(self)`."""

    def place_of(self, number: int) -> int | None:
        """Return where a number stands; of several places the one that is likely meant. None where it does not."""


@dataclass(frozen=True, slots=True)
class SpanOrder:
    """Numbers in ascending order. `spans` are inclusive; `starts[i]` counts the numbers that precede span i."""

    spans: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, snapshot: Snapshot, first: int, last: int) -> "SpanOrder":
        """Return the order of the datapoints of `first..last` that there are."""
        there = [(max(each.first, first), min(each.last, last)) for each in snapshot.overlapping(first, last)]
        spans = tuple(join_spans(there))
        return cls(spans, (0, *accumulate(last - first + 1 for first, last in spans)))

    def __len__(self) -> int:
        return self.starts[-1]

    def number_at(self, place: int) -> int:
        which = bisect_right(self.starts, place) - 1
        return self.spans[which][0] + place - self.starts[which]

    def place_of(self, number: int) -> int | None:
        which = bisect_right(self.spans, number, key=_first) - 1
        if which < 0 or number > self.spans[which][1]:
            return None
        return self.starts[which] + number - self.spans[which][0]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The places `start..end` of a list, in which no number stands twice, and where each stands."""

    start: int
    end: int
    places: dict[int, int]


class ListOrder:
    """Numbers in any order, also several times. Places are looked up around the place that `move` was last told."""

    def __init__(self, numbers: "array[int]") -> None:
        self.numbers = numbers
        self._near = 0
        self._chunks: deque[_Chunk] = deque()
        self.move(0)

    def __len__(self) -> int:
        return len(self.numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ListOrder) and self.numbers == other.numbers

    __hash__ = None  # type: ignore[assignment]

    def number_at(self, place: int) -> int:
        return self.numbers[place]

    def place_of(self, number: int) -> int | None:
        """Return the place of `number` that is nearest to the last `move`, within `REACH` of it."""
        near, best = self._near, None
        for chunk in self._chunks:
            place = chunk.places.get(number)
            if place is not None and (best is None or abs(place - near) < abs(best - near)):
                best = place
        return best

    def move(self, place: int) -> None:
        """Look numbers up around `place` from now on. Costs some milliseconds for each `REACH` places."""
        self._near = place
        chunks = self._chunks
        if chunks and not chunks[0].start <= place <= chunks[-1].end:
            chunks.clear()
        while True:
            end = chunks[-1].end if chunks else place
            too_many = len(chunks) >= MAX_CHUNKS
            if chunks and chunks[0].end <= (place if too_many else place - REACH):
                chunks.popleft()
            elif too_many or end >= min(place + REACH, len(self.numbers)):
                return
            else:
                chunks.append(self._chunk(end))

    def find(self, number: int, start: int, end: int) -> int | None:
        """Return the first place of `number` in `start..end`, or None. Costs 15 ns a place."""
        try:
            return self.numbers.index(number, start, end)
        except ValueError:
            return None

    def _chunk(self, start: int) -> _Chunk:
        places: dict[int, int] = {}
        for place, number in enumerate(islice(self.numbers, start, start + REACH), start):
            if number in places:
                break
            places[number] = place
        return _Chunk(start, start + len(places), places)


def count_gaps(snapshot: Snapshot, numbers: "array[int]") -> int:
    """Return how many of `numbers` do not exist in a snapshot. Costs up to a microsecond each: call it in a thread."""
    spans = join_spans((each.first, each.last) for each in snapshot.dataranges)
    if len(spans) == 1 and spans[0][0] <= min(numbers) and max(numbers) <= spans[0][1]:
        return 0
    starts, ends = [first for first, _ in spans], [-1, *(last for _, last in spans)]
    return sum(number > ends[bisect_right(starts, number)] for number in numbers)


def covers(order: Order, count: int) -> bool:
    """Return whether an order that jumps about reads most of a dataset of `count` datapoints, as far as samples tell.

    A list that repeats a part of the dataset shows the same number twice among a few samples, unless that part is
    nearly all of it.
    """
    if isinstance(order, SpanOrder) or 2 * len(order) < count:
        return False
    places = min(len(order), count)
    step = max(1, places // _SAMPLE)
    samples = [order.number_at(place) for place in range(0, places, step)]
    return len(set(samples)) == len(samples)


class Window:
    """How far the readers of an order have come, and how much of what comes next was planned.

    What was planned are the places `start..planned`; `size` bytes of blocks for those from `position` on.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.start = 0
        self.position = 0
        self.planned = 0
        self.size = 0
        self.leaps = 0
        self._sizes: deque[int] = deque()
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._noted = 0
        self._back = min(MAX_BACK, max(count // 2, 64))

    def note(self, place: int) -> bool:
        """Take note of a read. Return whether the position moved."""
        self._recent.append(place)
        self._noted += 1
        if self._noted % _MOVE_EVERY and self._noted > RECENT:
            return False
        return self._move(_first_unread(sorted(self._recent)))

    def add(self, size: int) -> None:
        """Plan the next place, whose blocks that nobody else needed take `size` bytes."""
        self._sizes.append(size)
        self.size += size
        self.planned += 1

    def leap(self, place: int) -> None:
        """Go on at `place`, and plan from there on."""
        self._recent.clear()
        self._sizes.clear()
        self.start = self.position = self.planned = place
        self.size = 0
        self.leaps += 1

    def _move(self, place: int) -> bool:
        if self.position - self._back <= place <= self.position:
            return False
        if not self.position < place <= self.planned:
            recent = list(self._recent)
            self.leap(place)
            self._recent.extend(recent)
            return True
        for _ in range(place - self.position):
            self.size -= self._sizes.popleft()
        self.position = place
        return True


@dataclass(frozen=True, slots=True)
class Limits:
    """How far ahead of its readers an announcement may be: bytes of blocks, and places."""

    size: int
    places: int

    def allow(self, window: Window) -> bool:
        """Return whether more should be planned now."""
        ahead = window.planned - window.position
        return window.planned < window.count and window.size < self.size and ahead < self.places

    def resume(self, window: Window) -> bool:
        """Return whether it is time to plan again, after `allow` said no: in batches, not for each read."""
        ahead = window.planned - window.position
        return self.allow(window) and window.size <= self.size * 3 // 4 and ahead <= self.places * 3 // 4

    def batch(self, window: Window) -> int:
        """Return how many bytes the next batch should have."""
        return max(min(window.size, MAX_BATCH, self.size - window.size), min(MIN_BATCH, self.size))


class Batch(Generic[S]):
    """Which blocks of which segments the places of one batch need. Blocks come in aligned groups of `grain`."""

    def __init__(self, grain: int) -> None:
        self._grain = grain
        self._blocks: dict[S, dict[int, int]] = {}
        self._needs = 0

    def add(self, segment: S, blocks: range, limit: int) -> int:
        """Take in the `blocks` of a segment of `limit` blocks; return how many of those to fetch are new."""
        grain = self._grain
        known = self._blocks.setdefault(segment, {})
        before = len(known)
        self._needs += 1
        for block in range(blocks.start // grain * grain, min(-(-blocks.stop // grain) * grain, limit)):
            known.setdefault(block, self._needs)
        return len(known) - before

    def stretches(self) -> list[tuple[S, range]]:
        """Return the runs of neighbouring blocks, the one that is needed first first. Each block is in one of them."""
        found: list[tuple[int, S, range]] = []
        for segment, known in self._blocks.items():
            ordered = sorted(known)
            start = 0
            for place in range(1, len(ordered) + 1):
                if place == len(ordered) or ordered[place] != ordered[place - 1] + 1:
                    run = ordered[start:place]
                    found.append((min(known[block] for block in run), segment, range(run[0], run[-1] + 1)))
                    start = place
        return [(segment, blocks) for _, segment, blocks in sorted(found, key=_need)]


def _first_unread(recent: list[int]) -> int:
    """Return the first place from the lower quartile of `recent`, which ascend, on that is none of them."""
    position = recent[len(recent) // 4]
    for place in recent[len(recent) // 4 :]:
        if place > position:
            break
        position = place + 1
    return position


def _need(stretch: tuple[int, object, range]) -> int:
    return stretch[0]


def _first(span: tuple[int, int]) -> int:
    return span[0]
