"""Names and keys: datasets, datapoints, dataranges, commits, and nothing else.

Source of the key layout: datas3t v2 (`datas3t/<dataset>/dataranges/<first>-<last>-<counter>.tar`), so that its
server can import what dasfs wrote. Everything here is pure.
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple, NewType

from dasfs.errors import InvalidInput

DatapointNumber = NewType("DatapointNumber", int)
Revision = NewType("Revision", int)

MAX_NUMBER: Final = 2**63 - 1  # datas3t keeps numbers as signed 64-bit integers
MAX_DATASET_NAME: Final = 128
# 255 is NAME_MAX of Linux, and a ustar name field holds 100 bytes: 20 digits, a dot, and what is left.
MAX_EXTENSION: Final = 79
ROOT_PREFIX: Final = "datas3t/"

_DATASET = re.compile(r"[a-zA-Z0-9_-]+", re.ASCII)
_DATAPOINT = re.compile(r"([0-9]{20})\.([^/\0]*)", re.ASCII | re.DOTALL)
_DATARANGE = re.compile(r"([0-9]{20})-([0-9]{20})-([0-9]{12,})", re.ASCII)
_COMMIT = re.compile(r"([0-9]{20})\.json", re.ASCII)
_CHECKPOINT = re.compile(r"checkpoint-([0-9]{20})\.json\.zst", re.ASCII)


def check_dataset_name(name: str) -> str:
    """Return `name`; raise `InvalidInput` if it can't name a dataset."""
    if not _DATASET.fullmatch(name) or len(name) > MAX_DATASET_NAME:
        raise InvalidInput(
            f"{name[: MAX_DATASET_NAME + 1]!r} can't name a dataset",
            hint=f"use letters, digits, '_' and '-', at most {MAX_DATASET_NAME}",
        )
    return name


@dataclass(frozen=True, slots=True)
class DatapointName:
    """A datapoint's file name: `%020d.<extension>`."""

    number: DatapointNumber
    extension: str

    def __str__(self) -> str:
        return f"{self.number:020d}.{self.extension}"

    @classmethod
    def parse(cls, name: str) -> "DatapointName | None":
        """Return the parts of a datapoint's file name, or None where `name` is not one.

        Raises `InvalidInput` for a name of the right shape whose number is above 2^63-1 or whose extension does
        not fit a TAR header.
        """
        match = _DATAPOINT.fullmatch(name)
        if match is None:
            return None
        number, extension = int(match[1]), match[2]
        if number > MAX_NUMBER:
            raise InvalidInput(
                f"{name[:100]}: the number is above {MAX_NUMBER} (2^63-1), the highest a datapoint can have"
            )
        check_extension(extension)
        return cls(DatapointNumber(number), extension)


def check_extension(extension: str) -> str:
    """Return `extension` (what stands behind the first dot, without it); raise `InvalidInput` if it can't be one.

    It may be empty and hold dots (`json.zst`); it has at most 79 bytes of UTF-8, no slash and no NUL. Undecodable
    bytes of a file name arrive as surrogates (PEP 383) and leave the same way.
    """
    if "/" in extension or "\0" in extension or len(extension.encode("utf-8", "surrogateescape")) > MAX_EXTENSION:
        raise InvalidInput(
            f"{extension[: MAX_EXTENSION + 1]!r} can't be an extension", hint=f"at most {MAX_EXTENSION} bytes, no slash"
        )
    return extension


class DatarangeId(NamedTuple):
    """What names a datarange in a dataset for ever: its inclusive range and its counter. Never used twice.

    A tuple, because it is the key of what each lookup of a file asks for: it hashes five times as fast.
    """

    first: DatapointNumber
    last: DatapointNumber
    counter: int

    def __str__(self) -> str:
        return f"{self.first:020d}-{self.last:020d}-{self.counter:012d}"

    @classmethod
    def parse(cls, text: str) -> "DatarangeId | None":
        """Return the id that `text` spells, or None where it is not one or its range is impossible."""
        match = _DATARANGE.fullmatch(text)
        if match is None or int(match[1]) > int(match[2]) or int(match[2]) > MAX_NUMBER:
            return None
        return cls(DatapointNumber(int(match[1])), DatapointNumber(int(match[2])), int(match[3]))


@dataclass(frozen=True, slots=True)
class DatasetKeys:
    """Where the objects of one dataset stand in its store (below the store's own prefix)."""

    dataset: str

    @property
    def root(self) -> str:
        return f"{ROOT_PREFIX}{self.dataset}/"

    @property
    def dataranges(self) -> str:
        return f"{self.root}dataranges/"

    @property
    def log(self) -> str:
        return f"{self.root}log/"

    def tar(self, datarange: DatarangeId) -> str:
        return f"{self.dataranges}{datarange}.tar"

    def index(self, datarange: DatarangeId) -> str:
        return f"{self.dataranges}{datarange}.index"

    def manifest(self, datarange: DatarangeId) -> str:
        return f"{self.dataranges}{datarange}.manifest"

    def commit(self, revision: Revision) -> str:
        return f"{self.log}{revision:020d}.json"

    def checkpoint(self, revision: Revision) -> str:
        return f"{self.log}checkpoint-{revision:020d}.json.zst"

    def parse_datarange(self, key: str) -> tuple[DatarangeId, str] | None:
        """Return the id and the kind (`tar`, `index`, `manifest`) of an object below `dataranges/`, or None."""
        stem, _, kind = key.removeprefix(self.dataranges).rpartition(".")
        datarange = DatarangeId.parse(stem)
        if datarange is None or kind not in ("tar", "index", "manifest"):
            return None
        return datarange, kind

    def parse_commit(self, key: str) -> Revision | None:
        match = _COMMIT.fullmatch(key.removeprefix(self.log))
        return Revision(int(match[1])) if match else None

    def parse_checkpoint(self, key: str) -> Revision | None:
        match = _CHECKPOINT.fullmatch(key.removeprefix(self.log))
        return Revision(int(match[1])) if match else None
