"""Random datasets under random aggregations, on a store with S3's rule for parts: every datapoint stays as it is."""

import tempfile
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dasfs.dataset.aggregate import aggregate
from dasfs.dataset.aggregation_plan import AggregationPolicy, plan_aggregation
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Change, Operation
from dasfs.dataset.verify import verify
from dasfs.dataset.writer import DatarangeWriter, upload
from dasfs.formats.compression import Compression
from dasfs.formats.manifest import CHECKSUM_BLOCK_SIZE
from dasfs.stores import open_store
from tests.strict import StrictStore, merging_below

SMALLEST_PART = 2 * CHECKSUM_BLOCK_SIZE + 7000


@dataclass(frozen=True)
class Datapoint:
    """What one datapoint was put as."""

    content: bytes
    extension: str
    mtime: int
    name: str | None


CONTENTS = st.one_of(
    st.just(b""),
    st.binary(max_size=600),
    st.integers(0, 40).map(lambda k: b"compressible" * 100 * k),
    st.tuples(st.integers(0, 255), st.integers(100_000, 900_000)).map(lambda made: bytes((made[0],)) * made[1]),
)
DATAPOINTS = st.builds(
    Datapoint,
    CONTENTS,
    st.sampled_from(["bin", "jpg", "", "json.gz"]),
    st.integers(0, 2**33),
    st.one_of(st.none(), st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)),
)
DATARANGES = st.lists(
    st.tuples(st.lists(DATAPOINTS, min_size=1, max_size=4), st.sampled_from(["none", "zstd", "lz4"])),
    min_size=2,
    max_size=8,
)


def fill(dataset: Dataset, dataranges: list[tuple[list[Datapoint], str]]) -> None:
    snapshot = dataset.log.create()
    first = 0
    for datapoints, compression in dataranges:
        with DatarangeWriter(dataset.name, Compression.parse(compression)) as writer:
            for number, each in enumerate(datapoints, first):
                writer.add(number, each.extension, each.mtime, each.content, original_name=each.name)
            with writer.finish() as packed:
                added = upload(dataset.store, dataset.keys, packed, snapshot.last_counter + 1)
        snapshot = dataset.log.commit(Change(Operation.UPLOAD, add=(added,)), snapshot)
        first += len(datapoints)


def describe(dataset: Dataset) -> list[object]:
    """Return all that is known of each datapoint but for its place, and what the store holds of it."""
    found: list[object] = []
    for datarange in dataset.snapshot().dataranges:
        manifest = dataset.load_manifest(datarange)
        data = dataset.store.get(dataset.keys.tar(datarange.id))
        for k, record in enumerate(manifest.iter_records()):
            stored = data[record.content_offset :][: record.stored_size]
            rest = (record.true_size, record.mtime, record.crc32, record.extension, record.codec)
            found.append((datarange.first + k, stored, rest, manifest.original_name(k)))
    return found


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(DATARANGES, st.data())
def test_every_datapoint_stays_as_it_is(dataranges: list[tuple[list[Datapoint], str]], data: st.DataObject) -> None:
    """Compressed, named, empty and large datapoints are the same after random aggregations, and `verify` agrees."""
    with tempfile.TemporaryDirectory() as directory, open_store(f"file://{directory}") as inner:
        dataset = Dataset(StrictStore(inner, SMALLEST_PART), "set")
        fill(dataset, dataranges)
        before = describe(dataset)
        with merging_below(SMALLEST_PART):
            while len(live := dataset.snapshot().dataranges) > 1:
                first = data.draw(st.integers(0, len(live) - 2))
                last = data.draw(st.integers(first + 1, len(live) - 1))
                aggregate(dataset, live[first : last + 1])
                assert describe(dataset) == before
                assert list(verify(inner, "set", dataset.snapshot())) == []


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(DATARANGES)
def test_what_is_planned_can_be_done(dataranges: list[tuple[list[Datapoint], str]]) -> None:
    """Every plan of the policy is carried out as it was planned: range and size of TAR."""
    policy = AggregationPolicy(target_size=3_000_000, growth=4)
    with tempfile.TemporaryDirectory() as directory, open_store(f"file://{directory}") as inner:
        dataset = Dataset(StrictStore(inner, SMALLEST_PART), "set")
        fill(dataset, dataranges)
        before = describe(dataset)
        while plans := plan_aggregation(dataset.snapshot().dataranges, policy):
            for plan in plans:
                report = aggregate(dataset, plan.dataranges)
                made = (report.datarange.first, report.datarange.last, report.datarange.tar_size)
                assert made == (plan.first, plan.last, plan.tar_size)
        assert describe(dataset) == before
