"""The local files that a `get` writes: under which paths, and never half.

A file appears under its name only when it is whole and checked: it is written beside that, and renamed. What
is there already and is the same is left as it is; what differs is an error unless it may be replaced. No
original path leads out of the directory.

**Concurrency:** everything here is for one thread, and a directory for one `get` of a process at a time.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from isal import isal_zlib

from dasfs.dataset.fetch import Datapoint, Piece
from dasfs.dataset.local import READ_SIZE, local_error
from dasfs.errors import AlreadyExists, Corrupt, DasfsError, InvalidInput

Progress = Callable[[int], None]


class PathChooser:
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


class Files:
    """The files of one directory that a `get` writes, one after another."""

    def __init__(self, directory: str, chooser: PathChooser, progress: Progress, *, force: bool) -> None:
        self.count = 0
        self.size = 0
        self.skipped = 0
        self._directory = directory
        self._force = force
        self._progress = progress
        self._chooser = chooser
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
        regular = stat.S_ISREG(status.st_mode)  # opening a FIFO would wait for its writer
        if regular and status.st_size == record.true_size and _checksum(path) == record.crc32:
            self.skipped += 1
            self._progress(record.true_size)
            return True
        if not regular and not stat.S_ISLNK(status.st_mode):
            raise InvalidInput(f"{path} is there already and is no file", hint="move it away")
        if not self._force:
            raise AlreadyExists(f"{path} is there already with another content", hint="add --force to replace it")
        self._paths[datapoint.number] = path
        return False

    def write(self, piece: Piece) -> None:
        """Write one piece; with the last one the file takes its name."""
        datapoint = piece.datapoint
        path = self._paths[datapoint.number]
        try:
            if not piece.start:
                self._begin(path)
            assert self._file is not None
            self._file.write(piece.data)
            if piece.last:
                self._file.flush()
                os.utime(self._file.fileno(), (datapoint.record.mtime, datapoint.record.mtime))
                self._file.close()
                os.rename(self._temporary, path)
                self._temporary = ""
        except OSError as error:
            raise local_error(error, path) from error
        if piece.last:
            del self._paths[datapoint.number]
            self.count += 1
            self.size += datapoint.record.true_size
        self._progress(len(piece.data))

    def close(self) -> None:
        """Drop the file that was begun but not finished."""
        if self._file is not None:
            with suppress(OSError):  # on a full disk, what stands in its buffer
                self._file.close()
        if self._temporary:
            with suppress(OSError):
                os.unlink(self._temporary)

    def _begin(self, path: str) -> None:
        directory = os.path.dirname(path)
        self._make_directory(directory)
        temporary = os.path.join(directory, f".dasfs-{os.getpid()}.part")
        self._file = open(temporary, "wb")  # noqa: SIM115
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
                crc = isal_zlib.crc32(chunk, crc)
            return crc
    except OSError as error:
        raise local_error(error, path) from error


@contextmanager
def whole_file(path: str, *, force: bool) -> Iterator[BinaryIO]:
    """Open a file for a `with` block that takes its name `path` only when the block ends without an error."""
    if os.path.lexists(path):
        if not os.path.isfile(path) and not os.path.islink(path):
            raise InvalidInput(f"{path} is there already and is no file", hint="write to a file of another name")
        if not force:
            raise AlreadyExists(f"{path} is there already", hint="add --force to replace it")
    temporary = os.path.join(os.path.dirname(path), f".dasfs-{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.rename(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and not isinstance(error, DasfsError):
            raise local_error(error, path) from error
        raise
