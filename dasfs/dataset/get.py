"""Getting datapoints out of a dataset: as files of a directory, as one TAR file, or as a stream of bytes.

A `get` that was cut off is simply repeated: files appear only when they are whole, and those that are there
are skipped.

**Concurrency:** one thread, the caller's, writes; others read ahead (see `fetch`).
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from dasfs.dataset.fetch import DEFAULT_JOBS, Datapoint, Selection, fetch
from dasfs.dataset.files import Files, PathChooser, Progress, whole_file
from dasfs.dataset.local import READ_SIZE
from dasfs.dataset.model import Datarange
from dasfs.dataset.reader import ObjectFile
from dasfs.errors import Corrupt, NotFound
from dasfs.formats.segments import BlockChecksums
from dasfs.formats.tar import END_OF_ARCHIVE, MAX_MEMBER_NAME, encode_header, padding
from dasfs.names import DatapointName, DatapointNumber

_MAX_GAPS_TOLD: Final = 3


@dataclass(frozen=True, slots=True)
class GetOptions:
    """How to get. `original_names`: under the paths that datapoints were put from, where they have one."""

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


def check_there(selection: Selection, *, allow_gaps: bool = False) -> None:
    """Raise `NotFound` unless all of a selection is there; with `allow_gaps`, unless any of it is."""
    name, first, last, gaps = selection.dataset.name, selection.first, selection.last, selection.gaps
    if gaps == [(first, last)]:
        what = f"datapoint {first} is" if first == last else f"datapoints {first}-{last} are"
        raise NotFound(f"{what} not in dataset {name}", hint=f"'dasfs dataset show {name}' tells what is")
    if gaps and not allow_gaps:
        told = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in gaps[:_MAX_GAPS_TOLD])
        more = f" and {len(gaps) - _MAX_GAPS_TOLD} more gaps" if len(gaps) > _MAX_GAPS_TOLD else ""
        raise NotFound(f"{told}{more}: not in dataset {name}", hint="add --allow-gaps to get the others")


def get_files(selection: Selection, directory: str, options: GetOptions, progress: Progress) -> GetResult:
    """Write datapoints as files of `directory`, which is made where it does not exist.

    `progress` is told bytes. Raises `NotFound` for a gap, `AlreadyExists` for another file in the way,
    `Corrupt`, `NoSpace`, `AccessDenied`.
    """
    check_there(selection, allow_gaps=options.allow_gaps)
    files = Files(directory, PathChooser(options.original_names), progress, force=options.force)
    wanted = selection.datapoints(names=options.original_names)
    try:
        missing = (each for each in wanted if not files.holds(each))
        for piece in fetch(selection.dataset, missing, jobs=options.jobs):
            files.write(piece)
    finally:
        files.close()
    return GetResult(files.count, files.size, files.skipped)


def get_tar(selection: Selection, path: str, options: GetOptions, progress: Progress) -> GetResult:
    """Write datapoints, decompressed, as one TAR file. Raises as `get_files` does."""
    check_there(selection, allow_gaps=options.allow_gaps)
    name_of = PathChooser(options.original_names).choose
    with whole_file(path, force=options.force) as file:
        return _write_tar(selection, file, options, name_of, progress)


def download_tar(selection: Selection, path: str, progress: Progress, *, force: bool = False) -> GetResult:
    """Write datapoints as one TAR file, as they are stored: what was compressed stays compressed.

    It is the very bytes of the TAR object where the selection is one whole datarange, and else what dasfs
    would have written for this range. Raises as `get_files` does.
    """
    check_there(selection)
    datarange = selection.snapshot.find(selection.first)
    with whole_file(path, force=force) as file:
        if datarange is not None and (datarange.first, datarange.last) == (selection.first, selection.last):
            return _copy_object(selection, datarange, file, progress)
        return _write_tar(selection, file, GetOptions(), _member_name, progress, stored=True)


def read_datapoint(selection: Selection) -> Iterator[bytes | memoryview]:
    """Yield the true bytes of the selected datapoints; of a large one the last piece only after its check."""
    check_there(selection)
    for piece in fetch(selection.dataset, selection.datapoints()):
        yield piece.data


def _member_name(datapoint: Datapoint) -> str:
    """Return the name of a datapoint in its TAR object, with the suffix of its codec."""
    extension = datapoint.record.extension + datapoint.record.codec.suffix
    return str(DatapointName(DatapointNumber(datapoint.number), extension))


def _write_tar(
    selection: Selection,
    file: BinaryIO,
    options: GetOptions,
    name_of: Callable[[Datapoint], str],
    progress: Progress,
    *,
    stored: bool = False,
) -> GetResult:
    count = size = 0
    datapoints = selection.datapoints(names=options.original_names)
    for piece in fetch(selection.dataset, datapoints, stored=stored, jobs=options.jobs):
        record = piece.datapoint.record
        length = record.stored_size if stored else record.true_size
        if not piece.start:
            file.write(_header(name_of(piece.datapoint), length, record.mtime))
        file.write(piece.data)
        if piece.last:
            file.write(bytes(padding(length)))
            count += 1
        size += len(piece.data)
        progress(len(piece.data))
    file.write(END_OF_ARCHIVE)
    return GetResult(count, size)


def _header(name: str, size: int, mtime: int) -> bytes:
    """Return the header of a member: ours where the name fits, PAX where an original path is longer."""
    if len(os.fsencode(name)) <= MAX_MEMBER_NAME:
        return encode_header(name, size, mtime)
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, mtime
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _copy_object(selection: Selection, datarange: Datarange, file: BinaryIO, progress: Progress) -> GetResult:
    """Copy the TAR object of one datarange, with its blocks checked."""
    dataset = selection.dataset
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
                progress(len(chunk))
            if checksums.finish() != segment.block_crcs:
                raise Corrupt(f"{key} is damaged", hint=f"run 'dasfs dataset verify {dataset.name}'")
        file.write(source.read())
    return GetResult(datarange.count, datarange.tar_size)
