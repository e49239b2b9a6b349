"""Memory that is used again once nobody looks at it."""

from dasfs.dataset.spool import Spool
from dasfs.memory import Buffers
from dasfs.stores.base import MIB

SIZE = 8192
SPOOL_SIZE = 20 * MIB


def test_memory_is_used_again() -> None:
    """What a buffer holds is still there for the next who takes one; nothing was cleared in between."""
    buffers = Buffers(SIZE, spare=1)
    first = buffers.take(SIZE)
    first[:5] = b"hello"
    del first
    assert bytes(buffers.take(SIZE)[:5]) == b"hello"


def test_not_while_somebody_looks() -> None:
    """A view of a part keeps the whole of it, also when the view of all is gone."""
    buffers = Buffers(SIZE, spare=1)
    first = buffers.take(SIZE)
    first[100:105] = b"hello"
    part = first[100:105]
    del first
    other = buffers.take(SIZE)
    other[:] = b"x" * SIZE
    assert bytes(part) == b"hello"
    del part
    assert bytes(buffers.take(SIZE)[100:105]) == b"hello"


def test_no_more_is_kept_than_may_be() -> None:
    """What comes back beyond the spare ones goes back to the kernel; other sizes always do."""
    buffers = Buffers(SIZE, spare=2)
    taken = [buffers.take(SIZE) for _ in range(3)]
    for each in taken:
        each[:1] = b"x"
    del taken, each
    assert [bytes(again[:1]) for again in [buffers.take(SIZE) for _ in range(3)]].count(b"x") == 2
    other = buffers.take(SIZE // 2)
    other[:1] = b"x"
    del other
    assert bytes(buffers.take(SIZE // 2)[:1]) == bytes(1)


def test_none_is_kept() -> None:
    """Without spare ones each buffer is fresh."""
    buffers = Buffers(SIZE, spare=0)
    first = buffers.take(SIZE)
    first[:1] = b"x"
    del first
    assert bytes(buffers.take(SIZE)[:1]) == bytes(1)


def test_another_size_makes_room() -> None:
    """Spare buffers of one size are given back when another is needed."""
    buffers = Buffers(SIZE, spare=2)
    first = buffers.take(SIZE)
    first[:1] = b"x"
    del first
    other = buffers.take(2 * SIZE)
    assert bytes(buffers.take(SIZE)[:1]) == bytes(1)
    del other


def test_what_is_spare_can_be_given_back() -> None:
    """After `clear` a buffer is fresh."""
    buffers = Buffers(SIZE, spare=1)
    first = buffers.take(SIZE)
    first[:1] = b"x"
    del first
    buffers.clear()
    assert bytes(buffers.take(SIZE)[:1]) == bytes(1)


def test_spools_use_memory_again_until_the_last_is_closed() -> None:
    """A datarange is packed where another one was; a process that packs nothing has no memory for it."""
    kept, first = Spool(expected_size=SPOOL_SIZE), Spool(expected_size=SPOOL_SIZE)
    first.write(b"hello")
    first.close()
    second = Spool(expected_size=SPOOL_SIZE)
    assert bytes(second.room(5)) == b"hello"
    second.close()
    kept.close()
    third = Spool(expected_size=SPOOL_SIZE)
    assert bytes(third.room(5)) == bytes(5)
    third.close()
