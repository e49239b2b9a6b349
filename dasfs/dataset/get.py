"""Getting datapoints out of a dataset: as files of a directory, or as one TAR file.

Files appear under their names only when they are whole and checked (written beside and renamed). What is there already
and is the same is left as it is, so that a `get` that was cut off is simply repeated; what differs is an error unless
`force` says to replace it. No original path leads out of the directory.

**Concurrency:** one thread, the caller's, writes; others read ahead (see `fetch`).
"""

import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO, Final

from dasfs.dataset.dataset import Dataset
from dasfs.dataset.fetch import DEFAULT_JOBS, Datapoint, fetch, find_gaps, list_datapoints
from dasfs.dataset.local import READ_SIZE, local_error
from dasfs.dataset.model import Snapshot
from dasfs.dataset.reader import ObjectFile
from dasfs.errors import AlreadyExists, Corrupt, NotFound
from dasfs.formats.segments import BlockChecksums
from dasfs.formats.tar import END_OF_ARCHIVE, MAX_MEMBER_NAME, encode_header, padding
from dasfs.names import DatapointName, DatapointNumber

_MAX_GAPS_TOLD: Final = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class GetOptions:
    """How to get. `original_names` brings back the paths that datapoints were put under, where they have one."""

    original_names: bool = False
    allow_gaps: bool = False
    force: bool = False
    jobs: int = DEFAULT_JOBS


@dataclass(frozen=True, slots=True)
class GetResult:
    """How many datapoints were written, with how many bytes, and how many were there already."""

    count: int
    size: int
    skipped: int = 0


def check_range(dataset: Dataset, snapshot: Snapshot, first: int, last: int, *, allow_gaps: bool) -> None:
    """Raise `NotFound` unless all of `first..last` are there; with `allow_gaps`, unless any of them is."""
    gaps = find_gaps(snapshot, first, last)
    if gaps == [(first, last)]:
        what = f"datapoint {first} is" if first == last else f"datapoints {first}-{last} are"
        raise NotFound(f"{what} not in dataset {dataset.name}", hint=f"'dasfs dataset show {dataset.name}' shows what is")
    if gaps and not allow_gaps:
        told = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in gaps[:_MAX_GAPS_TOLD])
        more = f" and {len(gaps) - _MAX_GAPS_TOLD} more gaps" if len(gaps) > _MAX_GAPS_TOLD else ""
        raise NotFound(f"{told}{more}: not in dataset {dataset.name}", hint="add --allow-gaps to get the others")


def get_files(
    dataset: Dataset, snapshot: Snapshot, first: int, last: int, directory: str, options: GetOptions, progress: Progress
) -> GetResult:
    """Write datapoints as files of `directory`, which is made where it does not exist.

    `progress` is told datapoints and bytes. Raises `NotFound` for a gap, `AlreadyExists` for another file in the way,
    `Corrupt`, `NoSpace`, `AccessDenied`.
    """
    check_range(dataset, snapshot, first, last, allow_gaps=options.allow_gaps)
    files = _Files(directory, options, progress)
    wanted = list_datapoints(dataset, snapshot, first, last, names=options.original_names)
    try:
        for piece in fetch(dataset, (each for each in wanted if not files.holds(each)), jobs=options.jobs):
            files.write(piece.datapoint, piece.start, piece.data, last=piece.last)
    finally:
        files.close()
    return GetResult(files.count, files.size, files.skipped)


def get_tar(
    dataset: Dataset, snapshot: Snapshot, first: int, last: int, path: str, options: GetOptions, progress: Progress
) -> GetResult:
    """Write datapoints, decompressed, as one TAR file. Raises as `get_files` does."""
    check_range(dataset, snapshot, first, last, allow_gaps=options.allow_gaps)
    wanted = list_datapoints(dataset, snapshot, first, last, names=options.original_names)
    name_of = _PathChooser(options.original_names).choose
    with whole_file(path, force=options.force) as file:
        return _write_tar(dataset, wanted, file, name_of, progress, stored=False, jobs=options.jobs)


def download_tar(
    dataset: Dataset, snapshot: Snapshot, first: int, last: int, path: str, progress: Progress, *, force: bool = False
) -> GetResult:
    """Write `first..last` as one TAR file, as they are stored: what `upload-tar` takes.

    It is the very bytes of the TAR object where `first..last` is one datarange, and else what dasfs would have written for
    this range. Raises as `get_files` does.
    """
    check_range(dataset, snapshot, first, last, allow_gaps=False)
    whole = snapshot.find(first)
    with whole_file(path, force=force) as file:
        if whole is not None and (whole.first, whole.last) == (first, last):
            return _copy_object(dataset, snapshot, first, file, progress)
        wanted = list_datapoints(dataset, snapshot, first, last)
        return _write_tar(dataset, wanted, file, _member_name, progress, stored=True, jobs=DEFAULT_JOBS)


def read_datapoint(dataset: Dataset, snapshot: Snapshot, number: int) -> Iterator[bytes | memoryview]:
    """Yield the true bytes of one datapoint, checked; of one above 8 MiB the last piece only after the check."""
    check_range(dataset, snapshot, number, number, allow_gaps=False)
    for piece in fetch(dataset, list_datapoints(dataset, snapshot, number, number)):
        yield piece.data


def _member_name(datapoint: Datapoint) -> str:
    """Return the name of a datapoint in its TAR object, with the suffix of its codec."""
    extension = datapoint.record.extension + datapoint.record.codec.suffix
    return str(DatapointName(DatapointNumber(datapoint.number), extension))


def _write_tar(
    dataset: Dataset,
    datapoints: Iterator[Datapoint],
    file: BinaryIO,
    name_of: Callable[[Datapoint], str],
    progress: Progress,
    *,
    stored: bool,
    jobs: int,
) -> GetResult:
    count = size = 0
    for piece in fetch(dataset, datapoints, stored=stored, jobs=jobs):
        record = piece.datapoint.record
        length = record.stored_size if stored else record.true_size
        if not piece.start:
            file.write(_header(name_of(piece.datapoint), length, record.mtime))
        file.write(piece.data)
        if piece.last:
            file.write(bytes(padding(length)))
            count += 1
        size += len(piece.data)
        progress(int(piece.last), len(piece.data))
    file.write(END_OF_ARCHIVE)
    return GetResult(count, size)


def _header(name: str, size: int, mtime: int) -> bytes:
    """Return the header of a member: ours where the name fits, a PAX header where an original path is longer."""
    if len(os.fsencode(name)) <= MAX_MEMBER_NAME:
        return encode_header(name, size, mtime)
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, mtime
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _copy_object(dataset: Dataset, snapshot: Snapshot, first: int, file: BinaryIO, progress: Progress) -> GetResult:
    """Copy the TAR object of the datarange that begins at `first`, with its blocks checked."""
    datarange = snapshot.find(first)
    assert datarange is not None
    manifest = dataset.load_manifest(datarange)
    key = dataset.keys.tar(datarange.id)
    try:
        source = ObjectFile(dataset.store, key)
    except NotFound:
        raise Corrupt(f"{key} is missing", hint=f"run 'dasfs dataset verify {dataset.name}'") from None
    with source:
        if source.size != manifest.tar_size:
            raise Corrupt(f"{key}: it has {source.size} bytes instead of {manifest.tar_size}")
        for segment in manifest.segments:
            checksums = BlockChecksums()
            left = segment.length
            while left:
                chunk = source.read(min(left, READ_SIZE))
                checksums.update(chunk)
                file.write(chunk)
                left -= len(chunk)
                progress(0, len(chunk))
            if checksums.finish() != segment.block_crcs:
                raise Corrupt(f"{key} is damaged", hint=f"run 'dasfs dataset verify {dataset.name}'")
        file.write(source.read())
    progress(datarange.count, 0)
    return GetResult(datarange.count, datarange.tar_size)


class _PathChooser:
    """Chooses the path of each datapoint: its name, or its original path where that is wanted and there."""

    def __init__(self, original_names: bool) -> None:
        self._original_names = original_names
        self._taken: dict[str, int] = {}

    def choose(self, datapoint: Datapoint) -> str:
        """Return a relative path that stays below where it is put; raise `Corrupt` for one that would not."""
        path = datapoint.original if self._original_names else None
        if path is None:
            return datapoint.name
        if path.startswith("/") or "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise Corrupt(
                f"datapoint {datapoint.number}: its original path {path!r} leads astray",
                hint="get it without --original-names",
            )
        earlier = self._taken.setdefault(path, datapoint.number)
        if earlier != datapoint.number:
            raise AlreadyExists(
                f"datapoints {earlier} and {datapoint.number} were both put as {path!r}",
                hint="get them without --original-names",
            )
        return path


class _Files:
    """The files of one directory that a `get` writes, one after another."""

    def __init__(self, directory: str, options: GetOptions, progress: Progress) -> None:
        self.count = 0
        self.size = 0
        self.skipped = 0
        self._directory = directory
        self._force = options.force
        self._progress = progress
        self._chooser = _PathChooser(options.original_names)
        self._paths: dict[int, str] = {}  # of those that were asked for but not written yet
        self._made: set[str] = set()
        self._temporary = ""
        self._file: BinaryIO | None = None
        self._make_directory(directory)

    def holds(self, datapoint: Datapoint) -> bool:
        """Return whether the file is there already; raise `AlreadyExists` for another file in its place."""
        path = os.path.join(self._directory, self._chooser.choose(datapoint))
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            self._paths[datapoint.number] = path
            return False
        except OSError as error:
            raise local_error(error, path) from error
        record = datapoint.record
        if status.st_size == record.true_size and not os.path.islink(path) and _checksum(path) == record.crc32:
            self.skipped += 1
            self._progress(1, record.true_size)
            return True
        if not self._force:
            raise AlreadyExists(f"{path} is there already with another content", hint="add --force to replace it")
        self._paths[datapoint.number] = path
        return False

    def write(self, datapoint: Datapoint, start: int, data: bytes | memoryview, *, last: bool) -> None:
        """Write one piece; with the last one the file takes its name."""
        path = self._paths[datapoint.number]
        try:
            if not start:
                self._begin(path)
            assert self._file is not None
            self._file.write(data)
            if last:
                os.utime(self._file.fileno(), (datapoint.record.mtime, datapoint.record.mtime))
                self._file.close()
                os.rename(self._temporary, path)
                self._temporary = ""
        except OSError as error:
            raise local_error(error, path) from error
        if last:
            del self._paths[datapoint.number]
            self.count += 1
            self.size += datapoint.record.true_size
        self._progress(int(last), len(data))

    def close(self) -> None:
        """Drop the file that was begun but not finished."""
        if self._file is not None:
            self._file.close()
        if self._temporary:
            with suppress(OSError):
                os.unlink(self._temporary)

    def _begin(self, path: str) -> None:
        directory = os.path.dirname(path)
        self._make_directory(directory)
        temporary = os.path.join(directory, f".dasfs-{os.getpid()}.part")
        self._file = open(temporary, "wb", buffering=0)  # noqa: SIM115
        self._temporary = temporary

    def _make_directory(self, directory: str) -> None:
        if directory in self._made:
            return
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as error:
            raise local_error(error, directory) from error
        self._made.add(directory)


def _checksum(path: str) -> int:
    try:
        with open(path, "rb", buffering=0) as file:
            crc = 0
            while chunk := file.read(READ_SIZE):
                crc = zlib.crc32(chunk, crc)
            return crc
    except OSError as error:
        raise local_error(error, path) from error


@contextmanager
def whole_file(path: str, *, force: bool) -> Iterator[BinaryIO]:
    """Open a file for a `with` block that takes its name `path` only when the block ends without an error."""
    directory, name = os.path.split(path)
    try:
        if not force and os.path.lexists(path):
            raise AlreadyExists(f"{path} is there already", hint="add --force to replace it")
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name[:100]}-", suffix=".part", dir=directory or ".")
    except OSError as error:
        if isinstance(error, AlreadyExists):
            raise
        raise local_error(error, directory or path) from error
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.rename(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if type(error) is OSError or (isinstance(error, OSError) and type(error).__module__ == "builtins"):
            raise local_error(error, path) from error
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
