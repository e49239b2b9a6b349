"""What a `put` decides: which sources are there, which are refused, and which dataranges hold the rest.

Pure: no I/O. What is there comes in as `Existing`; checksums are compared elsewhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dasfs.dataset.local import Source
from dasfs.errors import AlreadyExists
from dasfs.formats.tar import BLOCK_SIZE, END_OF_ARCHIVE, padding
from dasfs.names import DatapointName, DatapointNumber

# A manifest takes 40 bytes a datapoint and is read whole.
MAX_DATAPOINTS: Final = 1_000_000
# A manifest numbers its extensions with 16 bits.
MAX_EXTENSIONS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Existing:
    """A datapoint that the dataset has already. `size` and `crc32` are of its true bytes."""

    number: int
    extension: str
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The sources of one datarange, to begin at `first`; source k becomes `first + k`."""

    first: int
    sources: Sequence[Source]

    @property
    def last(self) -> int:
        return self.first + len(self.sources) - 1

    @property
    def size(self) -> int:
        """The sum of the true sizes."""
        return sum(source.size for source in self.sources)

    @property
    def tar_size(self) -> int:
        """The size of the TAR object, or more where something is compressed."""
        return sum(_member_size(source) for source in self.sources) + len(END_OF_ARCHIVE)


def find_match(source: Source, numbers: Mapping[int, Existing], paths: Mapping[str, Existing]) -> Existing | None:
    """Return what is there under the number of a source, or without a number under its original path."""
    return paths.get(source.original) if source.number is None else numbers.get(source.number)


def is_candidate(source: Source, existing: Existing) -> bool:
    """Return whether a source can be what is there: only then is it worth to compare checksums."""
    same_name = source.number is None or source.extension == existing.extension
    return same_name and source.size == existing.size


def refusal(source: Source, existing: Existing) -> AlreadyExists:
    """Return the error for a source that differs from what is there in its place."""
    name = DatapointName(DatapointNumber(existing.number), existing.extension)
    if source.number is None:
        return AlreadyExists(
            f"{source}: {source.original!r} was put before with another content, as {name}",
            hint="a datapoint never changes: put the new content under another path",
        )
    what = "another content" if source.extension == existing.extension else "another extension"
    return AlreadyExists(
        f"{source}: datapoint {existing.number} is there already with {what}, as {name}",
        hint="a datapoint never changes: use a free number, or delete its datarange first",
    )


def plan_batches(numbered: Iterable[tuple[int, Source]], target_size: int) -> Iterator[Batch]:
    """Yield the dataranges that hold `numbered`, which ascends by number, each of about `target_size` bytes.

    A datarange ends before a gap, before the source that would make its TAR larger than `target_size`, and at
    the limits of a manifest. A source larger than the target has a datarange of its own.
    """
    first, end, size = 0, -1, 0
    sources: list[Source] = []
    extensions: set[str] = set()
    for number, source in numbered:
        added = _member_size(source)
        full = len(sources) == MAX_DATAPOINTS or len(extensions) == MAX_EXTENSIONS
        if sources and (number != end or full or size + added > target_size):
            yield Batch(first, sources)
            sources, size = [], 0
            extensions = set()
        if not sources:
            first, size = number, len(END_OF_ARCHIVE)
        sources.append(source)
        extensions.add(source.extension)
        size += added
        end = number + 1
    if sources:
        yield Batch(first, sources)


def _member_size(source: Source) -> int:
    """Return what a source adds to a TAR that does not compress."""
    return BLOCK_SIZE + source.size + padding(source.size)
