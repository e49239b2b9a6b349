"""Commits and checkpoints as JSON."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.codec import decode_checkpoint, decode_commit, encode_checkpoint, encode_commit
from dasfs.dataset.model import Commit, Configuration, Datarange, Operation, Snapshot
from dasfs.errors import Corrupt, Unsupported
from dasfs.formats.compression import Compression
from dasfs.names import MAX_NUMBER, DatapointNumber, DatarangeId, Revision
from tests.datasets import datarange

NUMBERS = st.integers(0, MAX_NUMBER)
RANGES = st.tuples(NUMBERS, NUMBERS).map(sorted)
IDS = st.builds(
    lambda pair, counter: DatarangeId(DatapointNumber(pair[0]), DatapointNumber(pair[1]), counter), RANGES, NUMBERS
)
DATARANGES = st.builds(Datarange, IDS, NUMBERS, NUMBERS, NUMBERS, st.booleans())
CONFIGURATIONS = st.builds(
    Configuration,
    st.sampled_from(["none", "lz4", "zstd:1", "zstd:22"]).map(Compression.parse),
    st.integers(1, MAX_NUMBER),
    st.booleans(),
)
TEXTS = st.text(max_size=30)
TIMES = st.datetimes(timezones=st.just(UTC))
COMMITS = st.builds(
    Commit,
    revision=st.integers(1, MAX_NUMBER).map(Revision),
    commit_id=TEXTS,
    time=TIMES,
    writer=TEXTS,
    operation=st.sampled_from(Operation),
    add=st.lists(DATARANGES, max_size=3).map(tuple),
    remove=st.lists(IDS, max_size=3).map(tuple),
    next_number=st.none() | st.integers(0, MAX_NUMBER + 1),
    last_counter=st.none() | NUMBERS,
    configuration=st.none() | CONFIGURATIONS,
    dataset_id=st.none() | TEXTS,
    deleted=st.booleans(),
    parent=TEXTS,
)
COMMIT = Commit(Revision(7), "an-id", datetime(2024, 1, 2, tzinfo=UTC), "host:1", Operation.UPLOAD, (datarange(0, 9),))
SNAPSHOT = Snapshot(
    "birds", "id", Revision(7), datetime(2024, 1, 2, tzinfo=UTC), (datarange(0, 9), datarange(10, 11)), 12, 1
)


@given(COMMITS)
def test_a_commit_comes_back_as_it_was(commit: Commit) -> None:
    """Every commit survives its way through JSON."""
    assert decode_commit(encode_commit(commit)) == commit


@given(CONFIGURATIONS, st.integers(0, MAX_NUMBER + 1), st.booleans())
def test_a_snapshot_comes_back_as_it_was(configuration: Configuration, next_number: int, deleted: bool) -> None:
    """Every snapshot survives its way through a checkpoint."""
    snapshot = Snapshot(
        "birds", "id", Revision(3), SNAPSHOT.time, SNAPSHOT.dataranges, next_number, 5, configuration, deleted
    )
    assert decode_checkpoint(encode_checkpoint(snapshot)) == snapshot


def test_a_commit_is_readable_by_people() -> None:
    """The file of a commit names what it adds by words, one a line."""
    text = encode_commit(COMMIT).decode()
    assert json.loads(text)["add"] == [
        {
            "first": 0,
            "last": 9,
            "counter": 1,
            "tar_size": 2048,
            "manifest_size": 300,
            "data_size": 512,
            "named": False,
        }
    ]
    assert '\n "operation": "upload",\n' in text


def test_times_come_back_in_utc() -> None:
    """A time with another offset is the same moment."""
    content = json.loads(encode_commit(COMMIT)) | {
        "time": COMMIT.time.astimezone(timezone(timedelta(hours=3))).isoformat()
    }
    commit = decode_commit(json.dumps(content).encode())
    assert (commit.time, commit.time.tzinfo) == (COMMIT.time, UTC)


def test_keys_of_later_versions_are_passed_over() -> None:
    """A key that is not known does no harm within the same format."""
    content = json.loads(encode_commit(COMMIT)) | {"color": "green"}
    assert decode_commit(json.dumps(content).encode()) == COMMIT


def changed(key: str, value: Any) -> bytes:
    """Return the commit with one value replaced; `add.0.first` goes inside, None takes it away."""
    content = json.loads(encode_commit(COMMIT))
    *path, last = key.split(".")
    place = content
    for part in path:
        place = place[int(part) if part.isdigit() else part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize("key", [*json.loads(encode_commit(COMMIT)), "add.0.first", "add.0.named", "add.0.tar_size"])
def test_a_missing_key_is_named(key: str) -> None:
    """A commit without one of its keys is corrupt, and the message names the key."""
    with pytest.raises(Corrupt, match=key.rpartition(".")[2]):
        decode_commit(changed(key, None))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("revision", 0),
        ("revision", "7"),
        ("revision", True),
        ("revision", 7.0),
        ("commit_id", 5),
        ("time", "yesterday"),
        ("time", "2024-01-02T00:00:00"),
        ("operation", "destroy"),
        ("add", {}),
        ("add", [3]),
        ("add.0.first", -1),
        ("add.0.last", MAX_NUMBER + 1),
        ("add.0.first", 10),
        ("add.0.named", 0),
        ("remove", [{"first": 0, "last": 1}]),
        ("next_number", MAX_NUMBER + 2),
        ("configuration", {"compression": "rar", "datarange_size": 1, "conditional_put": True}),
        ("configuration", {"compression": "none", "datarange_size": 0, "conditional_put": True}),
        ("deleted", "yes"),
    ],
)
def test_a_value_that_can_not_be_is_corrupt(key: str, value: Any) -> None:
    """Wrong types, impossible numbers and unknown words are corrupt; booleans are no numbers."""
    with pytest.raises(Corrupt, match="key '"):
        decode_commit(changed(key, value))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}', b"[" * 100_000])
def test_what_is_no_commit_is_corrupt(data: bytes) -> None:
    """Anything but the JSON of a commit is corrupt, never another error."""
    with pytest.raises(Corrupt):
        decode_commit(data)


def test_another_format_asks_for_an_upgrade() -> None:
    """A commit of a newer dasfs is not guessed at, whatever else it holds."""
    with pytest.raises(Unsupported, match=r"written by a newer dasfs; upgrade"):
        decode_commit(b'{"format": 2, "revision": "seven"}')


@given(st.binary(max_size=60))
def test_bytes_that_are_no_checkpoint_are_corrupt(data: bytes) -> None:
    """Whatever stands in the file of a checkpoint, reading it ends in a snapshot or in `Corrupt`."""
    with pytest.raises(Corrupt):
        decode_checkpoint(data)


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_a_cut_checkpoint_is_corrupt(cut: int) -> None:
    """A checkpoint that ends too early is recognised."""
    with pytest.raises(Corrupt):
        decode_checkpoint(encode_checkpoint(SNAPSHOT)[:cut])


def test_a_flipped_bit_in_a_checkpoint_is_noticed() -> None:
    """The zstd frame of a checkpoint has a checksum of its own."""
    data = bytearray(encode_checkpoint(SNAPSHOT))
    data[-10] ^= 1
    with pytest.raises(Corrupt):
        decode_checkpoint(bytes(data))


def test_a_checkpoint_with_overlapping_dataranges_is_corrupt() -> None:
    """Dataranges of a snapshot ascend and don't overlap; one that says otherwise is not believed."""
    content = json.loads(zstandard.ZstdDecompressor().decompress(encode_checkpoint(SNAPSHOT)))
    content["dataranges"].reverse()
    data = zstandard.ZstdCompressor().compress(json.dumps(content).encode())
    with pytest.raises(Corrupt, match="overlap"):
        decode_checkpoint(data)


def test_a_checkpoint_that_claims_too_much_is_not_unpacked() -> None:
    """A small file that would unpack to many gigabytes is refused before it takes memory."""
    frame = bytearray(zstandard.ZstdCompressor(write_content_size=True).compress(bytes(300_000)))
    # The header's content size (4 bytes, behind magic and descriptor) as 4 GiB - 1.
    assert zstandard.frame_content_size(bytes(frame)) == 300_000
    frame[5:9] = b"\xff\xff\xff\xff"
    with pytest.raises(Corrupt):
        decode_checkpoint(bytes(frame))
