"""Sources: the local files that a `put` takes, and what each is called.

- A file is put under its basename; a directory `D` under `D/...`, as `cp -r` does; `D/`, `.` and `..` without
  that first part, as rsync does; a TAR file (`*.tar` on the command line) as its regular members, under their
  own paths.
- A basename that is a datapoint's name keeps its number; everything else is *unnumbered* and known by its
  original path.
- Symbolic links to files are followed. Links to directories inside a directory, sockets, FIFOs and devices
  are left out, and `notice` is told. A link to nothing is an error, as is what can't be read: nothing is lost
  silently.
"""

import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dasfs.dataset.local import Source, local_error
from dasfs.errors import DasfsError, InvalidInput
from dasfs.formats.tar import REGULAR_TYPES, TarMember, read_datarange, read_members
from dasfs.names import MAX_EXTENSION, DatapointName

_COMPRESSED_TARS: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a `put` was given: `numbered` by number, `unnumbered` by original path. All are distinct."""

    numbered: Sequence[Source]
    unnumbered: Sequence[Source]

    @property
    def count(self) -> int:
        return len(self.numbered) + len(self.unnumbered)

    @property
    def size(self) -> int:
        return sum(each.size for each in itertools.chain(self.numbered, self.unnumbered))


def find_sources(paths: Iterable[str], notice: Notice, *, unpack: bool = True) -> Sources:
    """Return everything that `paths` stand for. With `unpack`, TAR files stand for their members.

    Raises `NotFound`, `AccessDenied`, `InvalidInput` (a number above 2^63-1; two sources of one number or one
    original path), and `Corrupt` for a TAR file that is damaged.
    """
    return arrange(itertools.chain.from_iterable(_find(path, notice, unpack=unpack) for path in paths))


def find_datarange(path: str) -> Sources:
    """Return the datapoints of one TAR file that can be a datarange: numbers ascending by one.

    Raises `InvalidInput`, `Corrupt`, `Unsupported`, naming the member (see `read_datarange`), `NotFound`,
    `AccessDenied`.
    """
    with _tar_errors(path), open(path, "rb") as file:
        status = os.fstat(file.fileno())
        members = (each.member for each in read_datarange(file))
        return arrange([_make_source(path, _member_path(each.name), status, each) for each in members])


def arrange(found: Iterable[Source]) -> Sources:
    """Return the sources in the order in which they are put; raise `InvalidInput` where two are the same."""
    numbered: list[Source] = []
    unnumbered: list[Source] = []
    for each in found:
        (unnumbered if each.number is None else numbered).append(each)
    numbered.sort(key=_number)
    unnumbered.sort(key=_original)
    for left, right in itertools.pairwise(numbered):
        if left.number == right.number:
            raise InvalidInput(f"{left} and {right} are both datapoint {left.number}")
    for left, right in itertools.pairwise(unnumbered):
        if left.original == right.original:
            raise InvalidInput(
                f"{left} and {right} would both be {left.original!r}", hint="put a directory that holds both"
            )
    return Sources(numbered, unnumbered)


def extension_of(basename: str) -> str:
    """Return the extension that a file keeps: what stands behind the first dot, as webdataset has it.

    `x.tar.gz` has `tar.gz`. Dots at the start do not count: `.bashrc` has none. Where it holds a space or is
    too long for a TAR header, what stands behind the last dot is taken, and where that does, too, there is
    none.
    """
    stem = basename.lstrip(".")
    for candidate in (stem.partition(".")[2].lstrip("."), stem.rpartition(".")[2] if "." in stem else ""):
        if len(os.fsencode(candidate)) <= MAX_EXTENSION and not any(map(str.isspace, candidate)):
            return candidate
    return ""


def _number(source: Source) -> int:
    return -1 if source.number is None else source.number


def _original(source: Source) -> str:
    return source.original


def _find(path: str, notice: Notice, *, unpack: bool) -> Iterator[Source]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise local_error(error, path) from error
    name = os.path.basename(path)
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(path, "" if name in ("", ".", "..") else f"{name}/", notice)
    elif not stat.S_ISREG(status.st_mode):
        raise InvalidInput(f"{path}: neither a file nor a directory")
    elif unpack and name.endswith(".tar") and DatapointName.parse(name) is None:
        yield from _unpack(path, status, notice)
    else:
        if unpack and name.endswith(_COMPRESSED_TARS):
            notice(f"{path} is put as one file: unpack it first to put what it holds")
        yield _make_source(path, name, status)


def _walk(top: str, prefix: str, notice: Notice) -> Iterator[Source]:
    """Yield the files below one directory, in no particular order."""
    pending = [(top, prefix)]
    while pending:
        directory, prefix = pending.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((entry.path, f"{prefix}{entry.name}/"))
                        continue
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield _make_source(entry.path, prefix + entry.name, status)
                    else:
                        notice(f"{entry.path} is left out: it is {_describe(status.st_mode)}")
        except OSError as error:
            raise local_error(error, error.filename or directory) from error


def _describe(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a link to a directory"
    return "a socket" if stat.S_ISSOCK(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "a device"


def _unpack(path: str, status: os.stat_result, notice: Notice) -> Iterator[Source]:
    """Yield the regular members of one TAR file."""
    with _tar_errors(path), open(path, "rb") as file:
        for member in read_members(file):
            if member.type in REGULAR_TYPES:
                yield _make_source(path, _member_path(member.name), status, member)
            elif member.type == b"1":
                raise InvalidInput(f"{member.name} is a hard link", hint="pack with tar --hard-dereference")
            elif member.type != b"5":
                notice(f"{path}: {member.name} is left out: it is no regular file")


@contextmanager
def _tar_errors(path: str) -> Iterator[None]:
    """Name the TAR file in what reading it raises."""
    try:
        yield
    except DasfsError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise local_error(error, path) from error


def _member_path(name: str) -> str:
    """Return the original path of a TAR member: as it stands there, without `/` and `./` at the start."""
    path = name.lstrip("/")
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    if not os.path.basename(path):
        raise InvalidInput(f"{name!r} can't name a file")
    return path


def _make_source(path: str, original: str, status: os.stat_result, member: TarMember | None = None) -> Source:
    name = original.rpartition("/")[2]
    try:
        parsed = DatapointName.parse(name)
    except InvalidInput as error:
        raise InvalidInput(f"{path if member is None else original}: {error.message}", hint=error.hint) from error
    number, extension = (None, extension_of(name)) if parsed is None else (parsed.number, parsed.extension)
    mtime_ns = status.st_mtime_ns
    size, mtime, offset = (
        (status.st_size, mtime_ns // 1_000_000_000, 0)
        if member is None
        else (member.size, member.mtime, member.content_offset)
    )
    # By position, which takes half the time.
    return Source(path, original, number, extension, size, mtime, offset, status.st_size, mtime_ns)
