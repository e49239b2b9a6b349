"""Datasets for tests: packed, uploaded and committed by the code of the project itself."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot
from dasfs.dataset.writer import DatarangeWriter, PackedDatarange, upload
from dasfs.formats.compression import Compression
from dasfs.names import DatapointNumber, DatarangeId
from dasfs.stores.base import Store

MTIME = int(datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC).timestamp())


def datarange(first: int, last: int, counter: int = 1, *, size: int = 2048) -> Datarange:
    """A datarange as a commit names it, without any object."""
    return Datarange(datarange_id(first, last, counter), size, 300, size - 1536)


def datarange_id(first: int, last: int, counter: int = 1) -> DatarangeId:
    return DatarangeId(DatapointNumber(first), DatapointNumber(last), counter)


def pack(
    dataset: str,
    first: int,
    contents: Sequence[bytes],
    *,
    extension: str = "bin",
    compression: str = "none",
    names: Mapping[int, str] | None = None,
) -> PackedDatarange:
    """Pack `contents` as datapoints from `first` on."""
    with DatarangeWriter(dataset, Compression.parse(compression)) as writer:
        for number, content in enumerate(contents, first):
            writer.add(number, extension, MTIME, content, original_name=(names or {}).get(number))
        return writer.finish()


def upload_only(store: Store, name: str, first: int, contents: Sequence[bytes], *, counter: int = 1) -> Datarange:
    """Pack and upload, without a commit."""
    with pack(name, first, contents) as packed:
        return upload(store, Dataset(store, name).keys, packed, counter)


def add(store: Store, name: str, first: int, contents: Sequence[bytes], **options: Any) -> Snapshot:
    """Pack, upload and commit to a dataset, which is created if need be."""
    dataset = Dataset(store, name)
    snapshot = dataset.log.replay()
    if snapshot.deleted:
        snapshot = dataset.log.create()
    with pack(name, first, contents, **options) as packed:
        added = upload(store, dataset.keys, packed, snapshot.last_counter + 1)
    return dataset.log.commit(Change(Operation.UPLOAD, add=(added,)), snapshot)


def add_named(store: Store, name: str, first: int, files: Mapping[str, bytes]) -> Snapshot:
    """Pack, upload and commit files under their original paths, numbered from `first` on as they stand."""
    dataset = Dataset(store, name)
    snapshot = dataset.log.replay()
    if snapshot.deleted:
        snapshot = dataset.log.create()
    with DatarangeWriter(name, Compression.parse("none")) as writer:
        for number, (path, content) in enumerate(files.items(), first):
            extension = path.rpartition("/")[2].partition(".")[2]
            writer.add(number, extension, MTIME, content, original_name=path)
        with writer.finish() as packed:
            added = upload(store, dataset.keys, packed, snapshot.last_counter + 1)
    return dataset.log.commit(Change(Operation.UPLOAD, add=(added,)), snapshot)


def damage(store: Store, key: str, offset: int, data: bytes) -> None:
    """Overwrite some bytes of an object."""
    content = bytearray(store.get(key))
    content[offset : offset + len(data)] = data
    store.put(key, bytes(content))
