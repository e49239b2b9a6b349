"""Pages of manifest records: the same bytes come back, few are kept, and damage is noticed."""

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.cache.pages import PAGE_RECORDS, pack_page, unpack_page
from dasfs.errors import Corrupt
from dasfs.formats.manifest import RECORD, RECORD_SIZE


def typical_records(count: int) -> bytes:
    """Return records as a dataset of pictures has them."""
    chosen = random.Random(1)
    records, offset = b"", 512
    for _ in range(count):
        size = chosen.randrange(50_000, 150_000)
        records += RECORD.pack(offset, size, size, 1_700_000_000, chosen.getrandbits(32), 0, 0)
        offset += -(-size // 512) * 512 + 512
    return records


@given(st.lists(st.binary(min_size=RECORD_SIZE, max_size=RECORD_SIZE), max_size=60).map(b"".join))
def test_a_page_comes_back(records: bytes) -> None:
    """Whatever the records hold, unpacking gives the bytes that were packed."""
    assert unpack_page(pack_page(records)) == records


def test_a_full_page_comes_back_small() -> None:
    """A full page comes back, and takes less than half of its size: a datapoint costs some 12 bytes on the disk."""
    records = typical_records(PAGE_RECORDS)
    packed = pack_page(records)
    assert unpack_page(packed) == records
    assert len(packed) < 16 * PAGE_RECORDS


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_damage_is_noticed(place: int, mask: int) -> None:
    """A page with a changed byte is `Corrupt`, or is what it was: never other records."""
    records = typical_records(30)
    packed = bytearray(pack_page(records))
    packed[place % len(packed)] ^= mask
    with contextlib.suppress(Corrupt):
        assert unpack_page(bytes(packed)) == records


@pytest.mark.parametrize("page", [b"", b"x", bytes(1000), pack_page(typical_records(9))[:-1], pack_page(b"12345")])
def test_what_is_no_page_is_refused(page: bytes) -> None:
    """Nothing, garbage, a cut page, and one that holds no whole number of records, are `Corrupt`."""
    with pytest.raises(Corrupt):
        unpack_page(page)


def test_a_page_that_would_fill_the_memory_is_refused() -> None:
    """What unpacks to more than a page can hold is `Corrupt`, before the memory is taken."""
    with pytest.raises(Corrupt):
        unpack_page(pack_page(bytes(RECORD_SIZE * PAGE_RECORDS * 1000)))
