"""A dataset that is written, deleted, written anew, aggregated and collected at random, with what its readers may see.

There is no grace here: what was replaced is gone the moment after, also in the middle of a read.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from hypothesis import strategies as st

from dasfs.dataset.aggregate import aggregate
from dasfs.dataset.aggregation_plan import split_at_gaps
from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.stores import Store
from tests import datasets

NO_GRACE = Grace(timedelta(0), timedelta(0), timedelta(0))
PLACES = 5
COUNT = 3  # datapoints of a datarange
SIZES = (0, 100, 3000, 200_000, 400_000)

numbers = st.integers(0, PLACES * COUNT - 1)
shares = st.floats(0, 1, exclude_max=True, width=16)
writings = st.one_of(
    st.tuples(st.just("put"), st.integers(0, PLACES - 1), st.sampled_from(["none", "zstd"])),
    st.tuples(st.just("delete"), shares, st.none()),
    st.tuples(st.just("rewrite"), shares, st.sampled_from(["none", "lz4"])),
    st.tuples(st.just("aggregate"), shares, st.none()),
    st.tuples(st.just("aggregate"), shares, st.none()),
)


@dataclass
class ChangingDataset:
    """The dataset as it is, and each datapoint as it was since its readers surely knew: None where it was missing.

    `deletions` tells how often a number was deleted: who has it open since another count has lost it.
    """

    store: Store
    name: str = "set"
    live: dict[int, bytes] = field(default_factory=dict)
    since: dict[int, set[bytes | None]] = field(default_factory=dict)
    deletions: Counter[int] = field(default_factory=Counter)
    writes: int = 0

    def __post_init__(self) -> None:
        self.dataset = Dataset(self.store, self.name)
        self.dataset.log.create()
        for place in range(PLACES - 1):
            self.put(place, "none")
        self.refreshed()

    def refreshed(self) -> None:
        """Take note that readers know the newest revision."""
        self.since = {number: {self.live.get(number)} for number in range(PLACES * COUNT)}

    def write(self, what: str, where: float, how: str | None) -> None:
        """Change the dataset, and delete what is no longer needed."""
        getattr(self, what)(where, how)
        collect(self.store, self.name, grace=NO_GRACE)

    def put(self, place: float, compression: str) -> None:
        first = int(place) * COUNT
        if self.dataset.snapshot().overlapping(first, first + COUNT - 1):
            return
        self.writes += 1
        random = Random(self.writes)
        contents = [random.randbytes(size // 50) * 50 for size in random.choices(SIZES, k=COUNT)]
        datasets.add(self.store, self.name, first, contents, compression=compression)
        for number, content in enumerate(contents, first):
            self.live[number] = content
            self.since.setdefault(number, set()).add(content)

    def delete(self, share: float, _how: None) -> int | None:
        dataranges = self.dataset.snapshot().dataranges
        if not dataranges:
            return None
        gone = dataranges[int(share * len(dataranges))]
        self.dataset.delete_datarange(gone.first, gone.last)
        for number in range(gone.first, gone.last + 1):
            del self.live[number]
            self.since[number].add(None)
            self.deletions[number] += 1
        return gone.first // COUNT

    def rewrite(self, share: float, compression: str) -> None:
        place = self.delete(share, None)
        if place is not None:
            self.put(place, compression)

    def aggregate(self, share: float, _how: None) -> None:
        runs = [run for run in split_at_gaps(self.dataset.snapshot().dataranges) if len(run) > 1]
        if runs:
            run = runs[int(share * len(runs))]
            first = int(share * (len(run) - 1))
            aggregate(self.dataset, run[first : first + 3])
