"""`collect` on each kind of store."""

from datetime import timedelta

from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.stores import Store
from tests.datasets import upload_only


def test_what_was_written_just_now_goes_where_there_is_no_grace(store: Store) -> None:
    """The clock that an object's age is measured by is that of its own time, to the last digit."""
    dataset = Dataset(store, "birds")
    dataset.log.create()
    upload_only(store, "birds", 0, [b"never committed"])
    report = collect(store, "birds", grace=Grace(timedelta(0), timedelta(0), timedelta(0)))
    assert len(report.garbage) == 3
    assert list(store.list(dataset.keys.dataranges)) == []
