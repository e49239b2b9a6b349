"""One announcement of one mount: how far it is, how it is doing, and what its readers found.

**Concurrency:** used in the mount's trio thread only; nothing here waits.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import trio

from dasfs.fuse.announced import Limits, ListOrder, Order, Window

# A job reads its next batch within seconds. One that doesn't may be dead: then nothing more is begun for it.
IDLE_S: Final = 30.0
# Reads in a row of numbers that the list does not have nearby, until the whole of it is searched for the last of them.
_LOST: Final = 32
# And until it is searched again, where that found nothing.
_LOST_AGAIN: Final = 10_000


class State(StrEnum):
    """What an announcement is at."""

    FETCHING = "fetching"
    WAITING = "waiting"  # as much as fits is there, and the rest comes as it is read
    IDLE = "idle"  # its readers stopped reading
    AWAY = "away"  # the store can't be read
    DONE = "done"  # all of it was fetched, as far as the store gave it


@dataclass(slots=True, eq=False)
class Flight:
    """The places from `start` on of one batch, while `parts` of it are under way: its planning, and its stretches."""

    start: int
    parts: int = 1


@dataclass(slots=True)
class Counts:
    """What came of announcements. `places` were announced, and `gaps` of their numbers do not exist.

    `reads` were of announced numbers, and `hits` of those found all of it fetched. `fetched` are bytes of blocks, and
    `failed` counts what could not be fetched: stretches, and places whose manifest can't be read.
    """

    places: int = 0
    gaps: int = 0
    reads: int = 0
    hits: int = 0
    fetched: int = 0
    failed: int = 0

    def add(self, other: "Counts") -> None:
        self.places += other.places
        self.gaps += other.gaps
        self.reads += other.reads
        self.hits += other.hits
        self.fetched += other.fetched
        self.failed += other.failed


@dataclass(slots=True, eq=False)
class Announcement:
    """What a job said that it will read. Times are trio's clock, sizes bytes.

    `whole`: it is fetched in the order of the store, and of what is read next only a little out of that order.
    `expected` is about how much all of it is. `follows`: nobody announced it in so many words, so it has to be earned.
    """

    id: int
    dataset: str
    dataset_id: str
    name: str
    order: Order
    whole: bool
    expected: int
    used: float
    follows: bool = False
    counts: Counts = field(default_factory=Counts)
    limits: Limits = field(default_factory=lambda: Limits(0, 0))
    state: State = State.FETCHING
    read_at: float | None = None
    asked_at: float = float("-inf")
    # How many bytes of `whole` were gone through in the order of the store; None: all.
    filled: int | None = 0
    # The window was full, and is filled again only once there is room for more than a few places.
    full: bool = False
    window: Window = field(init=False)
    flights: deque[Flight] = field(default_factory=deque)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    changed: trio.Event = field(default_factory=trio.Event)
    lost: int = 0
    lost_number: int = 0

    def __post_init__(self) -> None:
        self.window = Window(len(self.order))
        self.counts.places = len(self.order)

    @property
    def key(self) -> tuple[str, str]:
        return self.dataset, self.name

    @property
    def ready(self) -> int:
        """Return the place up to which everything that was planned is there."""
        if self.whole and self.filled is None:
            return self.window.count
        return self.flights[0].start if self.flights else self.window.planned

    def is_ready(self, place: int) -> bool:
        """Return whether all blocks of a place were fetched, as far as is known."""
        return (self.whole and self.filled is None) or self.window.start <= place < self.ready

    @property
    def is_lost(self) -> bool:
        """Whether its readers are where the list does not look any more."""
        return self.lost >= _LOST and isinstance(self.order, ListOrder)

    def give_up(self) -> None:
        """Search no more for a while: what is read stands nowhere in the list."""
        self.lost = -_LOST_AGAIN

    @property
    def allowed(self) -> Limits:
        """Return how far ahead of its readers it may be now: what has to be earned is four places for each read."""
        if not self.follows:
            return self.limits
        return Limits(self.limits.size, min(self.limits.places, 4 * self.counts.reads))

    def wake(self) -> None:
        """Let the tasks that fetch look again whether there is something to do."""
        self.changed.set()
        self.changed = trio.Event()

    def note(self, number: int, now: float) -> None:
        """Take note of a read."""
        place = self.order.place_of(number)
        if place is None:
            self._miss(number)
            return
        window = self.window
        self.lost = 0
        self.used = self.read_at = now
        self.counts.reads += 1
        self.counts.hits += self.is_ready(place)
        self._moved(window.start, window.note(place))
        if self.state is State.IDLE or (self.full and self.allowed.resume(window)):
            self.wake()

    def has_room(self) -> bool:
        """Return whether more should be planned now."""
        if self.full:
            self.full = not self.allowed.resume(self.window)
        else:
            self.full = not self.allowed.allow(self.window)
        return not self.full

    def leap(self, place: int) -> None:
        """Go on at `place`, where a reader was found again."""
        self.lost = 0
        start = self.window.start
        self.window.leap(place)
        self._moved(start, moved=True)

    def idle(self, now: float) -> bool:
        """Return whether its readers have begun, and have not gone on for a while, and nobody else waits for it."""
        return self.read_at is not None and now - max(self.read_at, self.asked_at) > IDLE_S

    @contextmanager
    def flight(self) -> Iterator[Flight]:
        """Plan a batch: what is planned in the `with` is not ready before all its parts have landed."""
        flight = Flight(self.window.planned)
        self.flights.append(flight)
        try:
            yield flight
        finally:
            self.land(flight)

    def land(self, flight: Flight) -> None:
        """One part of a batch is done."""
        flight.parts -= 1
        while self.flights and not self.flights[0].parts:
            self.flights.popleft()
        if not self.flights:
            self.wake()

    def describe(self) -> dict[str, Any]:
        """Return what the status shows of it."""
        return {
            "id": self.id,
            "dataset": self.dataset,
            "name": self.name,
            "state": str(self.state),
            "places": self.counts.places,
            "position": self.window.position,
            "ready": self.ready,
            "expected_bytes": self.expected,
            "fetched_bytes": self.counts.fetched,
            "filled_bytes": (self.expected if self.filled is None else self.filled) if self.whole else None,
            "window_bytes": self.limits.size,
            "reads": self.counts.reads,
            "hits": self.counts.hits,
            "gaps": self.counts.gaps,
            "failed": self.counts.failed,
        }

    def _moved(self, start: int, moved: bool) -> None:
        if moved and isinstance(self.order, ListOrder):
            self.order.move(self.window.position)
        if self.window.start != start:
            self.flights.clear()  # what is under way elsewhere says nothing about the places from here on

    def _miss(self, number: int) -> None:
        self.lost += 1
        self.lost_number = number
        if self.lost == _LOST:
            self.wake()
