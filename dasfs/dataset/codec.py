"""Commits and checkpoints as JSON: the files below `log/`.

    commit         {"format": 1, "revision", "commit_id", "parent", "time", "writer", "operation",
                   "add": [datarange], "remove": [{"first", "last", "counter"}]}
                   and, only where they changed, "next_number", "last_counter", "configuration",
                   "dataset_id" (a dataset begins), "deleted": true (it ends)
    checkpoint     zstd of {"format": 1, "dataset", "dataset_id", "revision", "commit_id", "time",
                   "next_number", "last_counter", "configuration", "deleted", "dataranges": [datarange]}
    datarange      {"first", "last", "counter", "tar_size", "manifest_size", "data_size", "named"}
    configuration  {"compression": "zstd:3", "datarange_size", "conditional_put"}

`parent` is the `commit_id` of the revision before, empty for revision 1: a log that was begun anew in the
place of another one is noticed where their histories part.

Times are ISO 8601 with their offset from UTC. Keys that a reader does not know are passed over: what must
not be passed over gets another `format`.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import zstandard

from dasfs.dataset.model import Commit, Configuration, Datarange, Operation, Snapshot, find_overlap
from dasfs.errors import Corrupt, InvalidInput, Unsupported
from dasfs.formats.compression import Compression
from dasfs.names import MAX_NUMBER, DatapointNumber, DatarangeId, Revision

FORMAT: Final = 1
# A checkpoint of a million dataranges has some 150 MB; a frame that claims more than this is damaged.
MAX_CHECKPOINT_SIZE: Final = 1 << 30


def encode_commit(commit: Commit) -> bytes:
    """Return the file of one commit, indented for people."""
    optional = {
        "next_number": commit.next_number,
        "last_counter": commit.last_counter,
        "configuration": _configuration_json(commit.configuration) if commit.configuration else None,
        "dataset_id": commit.dataset_id,
        "deleted": commit.deleted or None,
    }
    content = {
        "format": FORMAT,
        "revision": commit.revision,
        "commit_id": commit.commit_id,
        "parent": commit.parent,
        "time": commit.time.isoformat(),
        "writer": commit.writer,
        "operation": commit.operation.value,
        "add": [_datarange_json(datarange) for datarange in commit.add],
        "remove": [_id_json(gone) for gone in commit.remove],
        **{key: value for key, value in optional.items() if value is not None},
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def decode_commit(data: bytes) -> Commit:
    """Return the commit in `data`.

    Raises `Unsupported` for a format that this dasfs does not know, and `Corrupt`, naming the key, for
    anything that `encode_commit` does not write.
    """
    fields = _Fields.parse(data)
    has_configuration = "configuration" in fields
    return Commit(
        revision=Revision(fields.number("revision", low=1)),
        commit_id=fields.text("commit_id"),
        parent=fields.text("parent"),
        time=fields.time("time"),
        writer=fields.text("writer"),
        operation=_operation(fields),
        add=tuple(_datarange(each) for each in fields.objects("add")),
        remove=tuple(_id(each) for each in fields.objects("remove")),
        next_number=fields.number("next_number", high=MAX_NUMBER + 1) if "next_number" in fields else None,
        last_counter=fields.number("last_counter") if "last_counter" in fields else None,
        configuration=_configuration(fields.object("configuration")) if has_configuration else None,
        dataset_id=fields.text("dataset_id") if "dataset_id" in fields else None,
        deleted=fields.flag("deleted") if "deleted" in fields else False,
    )


def encode_checkpoint(snapshot: Snapshot) -> bytes:
    """Return the file of one checkpoint. The same snapshot gives the same bytes."""
    content = {
        "format": FORMAT,
        "dataset": snapshot.dataset,
        "dataset_id": snapshot.dataset_id,
        "revision": snapshot.revision,
        "commit_id": snapshot.commit_id,
        "time": snapshot.time.isoformat(),
        "next_number": snapshot.next_number,
        "last_counter": snapshot.last_counter,
        "configuration": _configuration_json(snapshot.configuration),
        "deleted": snapshot.deleted,
        "dataranges": [_datarange_json(datarange) for datarange in snapshot.dataranges],
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    return zstandard.ZstdCompressor(write_content_size=True, write_checksum=True).compress(text)


def decode_checkpoint(data: bytes) -> Snapshot:
    """Return the snapshot in `data`. Raises as `decode_commit` does, also for dataranges that overlap."""
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_CHECKPOINT_SIZE:
            raise Corrupt(f"its zstd frame claims {size} bytes")
        text = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Corrupt(f"it can't be decompressed: {error}") from error
    fields = _Fields.parse(text)
    dataranges = tuple(_datarange(each) for each in fields.objects("dataranges"))
    if overlap := find_overlap(dataranges):
        left, right = overlap
        raise Corrupt(f"'dataranges': {left.first}-{left.last} and {right.first}-{right.last} overlap")
    return Snapshot(
        dataset=fields.text("dataset"),
        dataset_id=fields.text("dataset_id"),
        revision=Revision(fields.number("revision", low=1)),
        commit_id=fields.text("commit_id"),
        time=fields.time("time"),
        dataranges=dataranges,
        next_number=fields.number("next_number", high=MAX_NUMBER + 1),
        last_counter=fields.number("last_counter"),
        configuration=_configuration(fields.object("configuration")),
        deleted=fields.flag("deleted"),
    )


class _Fields:
    """One JSON object; what is missing or not of the type that is asked for is `Corrupt`."""

    def __init__(self, values: dict[str, Any], where: str = "") -> None:
        self._values = values
        self._where = where

    @classmethod
    def parse(cls, data: bytes) -> "_Fields":
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Corrupt(f"it is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise Corrupt("it is no JSON object")
        fields = cls(values)
        version = fields.number("format")
        if version != FORMAT:
            raise Unsupported(f"it has format {version}: written by a newer dasfs", hint="upgrade dasfs")
        return fields

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def wrong(self, key: str, problem: str) -> Corrupt:
        return Corrupt(f"its key '{self._where}{key}' {problem}")

    def _take(self, key: str, kind: type, expected: str) -> Any:
        if key not in self._values:
            raise self.wrong(key, "is missing")
        value = self._values[key]
        # Not isinstance: True is an int.
        if type(value) is not kind:
            raise self.wrong(key, f"is not {expected}")
        return value

    def text(self, key: str) -> str:
        value: str = self._take(key, str, "a text")
        return value

    def flag(self, key: str) -> bool:
        value: bool = self._take(key, bool, "true or false")
        return value

    def number(self, key: str, *, low: int = 0, high: int = MAX_NUMBER) -> int:
        value: int = self._take(key, int, "a whole number")
        if not low <= value <= high:
            raise self.wrong(key, f"is {value}, outside of {low}..{high}")
        return value

    def time(self, key: str) -> datetime:
        try:
            value = datetime.fromisoformat(self.text(key))
        except ValueError:
            raise self.wrong(key, "is no time") from None
        if value.tzinfo is None:
            raise self.wrong(key, "has no offset from UTC")
        return value.astimezone(UTC)

    def object(self, key: str) -> "_Fields":
        return _Fields(self._take(key, dict, "an object"), f"{self._where}{key}.")

    def objects(self, key: str) -> Iterable["_Fields"]:
        for place, each in enumerate(self._take(key, list, "a list")):
            if type(each) is not dict:
                raise self.wrong(f"{key}[{place}]", "is not an object")
            yield _Fields(each, f"{self._where}{key}[{place}].")


def _operation(fields: _Fields) -> Operation:
    text = fields.text("operation")
    try:
        return Operation(text)
    except ValueError:
        raise fields.wrong("operation", f"is {text!r}, which is no operation") from None


def _id_json(datarange: DatarangeId) -> dict[str, Any]:
    return {"first": datarange.first, "last": datarange.last, "counter": datarange.counter}


def _id(fields: _Fields) -> DatarangeId:
    first = fields.number("first")
    last = fields.number("last", low=first)
    return DatarangeId(DatapointNumber(first), DatapointNumber(last), fields.number("counter"))


def _datarange_json(datarange: Datarange) -> dict[str, Any]:
    return {
        **_id_json(datarange.id),
        "tar_size": datarange.tar_size,
        "manifest_size": datarange.manifest_size,
        "data_size": datarange.data_size,
        "named": datarange.named,
    }


def _datarange(fields: _Fields) -> Datarange:
    return Datarange(
        id=_id(fields),
        tar_size=fields.number("tar_size"),
        manifest_size=fields.number("manifest_size"),
        data_size=fields.number("data_size"),
        named=fields.flag("named"),
    )


def _configuration_json(configuration: Configuration) -> dict[str, Any]:
    return {
        "compression": str(configuration.compression),
        "datarange_size": configuration.datarange_size,
        "conditional_put": configuration.conditional_put,
    }


def _configuration(fields: _Fields) -> Configuration:
    try:
        compression = Compression.parse(fields.text("compression"))
    except InvalidInput as error:
        raise fields.wrong("compression", f"is wrong: {error.message}") from None
    return Configuration(
        compression=compression,
        datarange_size=fields.number("datarange_size", low=1),
        conditional_put=fields.flag("conditional_put"),
    )
