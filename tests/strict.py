"""A local store with S3's rule for the parts of a composed object."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from dasfs.stores import CopyPiece, ObjectInfo, Store
from tests.faulty import FaultyStore


class StrictStore(FaultyStore):
    """A local store that refuses what S3 refuses, with a smaller minimum."""

    def __init__(self, inner: Store, min_copy_size: int) -> None:
        super().__init__(inner)
        self.min_copy_size = min_copy_size

    def compose(self, key: str, pieces: Iterable[CopyPiece | bytes]) -> ObjectInfo:
        return super().compose(key, self._checked(pieces))

    def _checked(self, pieces: Iterable[CopyPiece | bytes]) -> Iterator[CopyPiece | bytes]:
        last = self.min_copy_size
        for piece in pieces:
            assert last >= self.min_copy_size
            last = len(piece) if isinstance(piece, bytes) else piece.length
            yield piece


@contextmanager
def merging_below(size: int) -> Iterator[None]:
    """Let aggregation keep the segments of dataranges that have `size` bytes, instead of 5 MiB."""
    with patch("dasfs.dataset.aggregation_parts.MERGE_BELOW", size):
        yield
