"""The directory store: objects are files below one directory of a local or network file system.

An object is written under a temporary name in `.dasfs-tmp`, synced, and then renamed, or linked where the key
must be free; the directory is synced after that. So a reader sees all of it or nothing, also after a power
cut.

A key and a longer key below it (`a` and `a/b`) can't both exist here. No call is bounded in time: a network
file system that hangs, hangs.

**Concurrency:** any number of threads, processes and hosts, as far as the file system keeps rename and link
atomic.
"""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from dasfs.errors import AlreadyExists, Conflict, Corrupt, InvalidInput, NotFound, ObjectChanged, Unsupported
from dasfs.stores import files
from dasfs.stores.base import MAX_WHOLE_OBJECT, CopyPiece, ObjectInfo, Store
from dasfs.stores.files import map_errors
from dasfs.stores.keys import check_directory_prefix, check_key, check_prefix, is_name
from dasfs.stores.urls import StoreUrl

TEMPORARY: Final = ".dasfs-tmp"
# A file name has 255 bytes; a dot and 32 digits follow.
_MAX_QUOTED_KEY: Final = 200
# A parent directory can be pruned between making it and renaming into it; that this happens again and again
# is absurd.
_MAX_PUBLISH_ATTEMPTS: Final = 20


class DirectoryStore(Store):
    """Objects as files below one directory."""

    def __init__(self, place: StoreUrl) -> None:
        self.url = str(place)
        self._root = place.place
        self._temporary = os.path.join(place.place, TEMPORARY)

    def check(self) -> None:
        with map_errors(self.url), os.scandir(self._root) as entries:
            next(entries, None)

    def create(self) -> None:
        with map_errors(self.url):
            os.makedirs(self._root, exist_ok=True)

    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with map_errors(self._what(key)):
            return files.describe(key, os.stat(path))

    def read_into(self, key: str, offset: int, buffer: memoryview, *, etag: str | None = None) -> None:
        path, what = self._path(key), self._what(key)
        if not buffer.nbytes:
            return
        with map_errors(what), files.opened(path, os.O_RDONLY) as fd:
            if etag is not None and files.describe(key, os.fstat(fd)).etag != etag:
                raise ObjectChanged(f"{what}: is not the object that it was: another ETag")
            files.read_all(fd, offset, buffer.cast("B"), what)

    def get(self, key: str, *, max_size: int = MAX_WHOLE_OBJECT) -> bytes:
        path, what = self._path(key), self._what(key)
        with map_errors(what), files.opened(path, os.O_RDONLY) as fd:
            size = files.describe(key, os.fstat(fd)).size
            if size > max_size:
                raise Corrupt(f"{what}: has {size} bytes; at most {max_size} were expected")
            data = bytearray(size)
            files.read_all(fd, 0, memoryview(data), what)
            return bytes(data)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        return self._write(key, [data])

    def put_if_absent(self, key: str, data: bytes) -> ObjectInfo:
        if os.path.lexists(self._path(key)):  # the usual loser does not write first
            raise AlreadyExists(f"{self._what(key)}: exists already")
        return self._write(key, [data], only_if_absent=True)

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> ObjectInfo:
        return self._write(key, chunks)

    def compose(self, key: str, pieces: Iterable[CopyPiece | bytes]) -> ObjectInfo:
        what = self._what(key)
        with self._temporary_file(key) as (fd, temporary):
            for piece in pieces:
                if isinstance(piece, bytes):
                    with map_errors(what):
                        files.write_all(fd, memoryview(piece))
                else:
                    source = self._what(piece.key)
                    with map_errors(source), files.opened(self._path(piece.key), os.O_RDONLY) as source_fd:
                        files.copy_range(source_fd, piece.offset, fd, piece.length, source)
            return self._publish(fd, temporary, key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        for key in self._walk(prefix.rpartition("/")[0], prefix, after):
            with contextlib.suppress(NotFound):  # deleted meanwhile
                yield self.head(key)

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        directory = check_directory_prefix(prefix).rstrip("/")
        for name in self._names(directory):
            if name.endswith("/") and next(self._walk(prefix + name[:-1], prefix + name, ""), None):
                yield name[:-1]

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            no_object = contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError)
            with map_errors(self._what(key)), no_object:
                os.unlink(path)
                self._prune(os.path.dirname(path))

    def abort_uploads(self, prefix: str, *, before: datetime) -> int:
        beginning = _quote(check_prefix(prefix))
        count = 0
        with (
            map_errors(self.url),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self._temporary) as entries,
        ):
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # it was finished meanwhile
                    if entry.name.startswith(beginning) and _is_older(entry, before):
                        os.unlink(entry.path)
                        count += 1
        return count

    def close(self) -> None:
        """Nothing is kept open."""

    def _path(self, key: str) -> str:
        if check_key(key).split("/", 1)[0] == TEMPORARY:
            raise InvalidInput(f"{self._what(key)}: {TEMPORARY} is the store's own")
        return os.path.join(self._root, key)

    def _what(self, key: str) -> str:
        return f"{self.url}/{key}"

    def _write(self, key: str, chunks: Iterable[bytes | memoryview], *, only_if_absent: bool = False) -> ObjectInfo:
        what = self._what(key)
        with self._temporary_file(key) as (fd, temporary):
            for chunk in chunks:
                with map_errors(what):
                    files.write_all(fd, memoryview(chunk).cast("B"))
            return self._publish(fd, temporary, key, only_if_absent=only_if_absent)

    @contextlib.contextmanager
    def _temporary_file(self, key: str) -> Iterator[tuple[int, str]]:
        """Hand out a new file's descriptor and path; afterwards there is no file under that path."""
        self._path(key)
        path = os.path.join(self._temporary, f"{_quote(key)}.{uuid.uuid4().hex}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with map_errors(self._what(key)):
            try:
                fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                self._make_directory(self._temporary)
                fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            yield fd, path
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):  # it was renamed; or it stays for `abort_uploads`
                os.unlink(path)

    def _publish(self, fd: int, temporary: str, key: str, *, only_if_absent: bool = False) -> ObjectInfo:
        path, what = self._path(key), self._what(key)
        with map_errors(what):
            files.set_unique_time(fd)
            os.fsync(fd)
            for _ in range(_MAX_PUBLISH_ATTEMPTS):
                self._make_directory(os.path.dirname(path))
                try:
                    _link(temporary, path) if only_if_absent else os.rename(temporary, path)
                    break
                except NotADirectoryError as error:
                    raise InvalidInput(f"{what}: an object stands where its directory would be") from error
                except FileNotFoundError:
                    if not os.path.exists(temporary):
                        raise Conflict(f"{what}: the upload was aborted by someone else") from None
            else:
                raise Conflict(f"{what}: its directory is removed again and again")
            files.sync_directory(os.path.dirname(path))
            return files.describe(key, os.fstat(fd))

    def _make_directory(self, path: str) -> None:
        """Make a directory and those above it, but not the root: nothing goes below an unmounted disk."""
        try:
            os.mkdir(path)
        except FileExistsError:
            return
        except FileNotFoundError:
            if path == self._root or os.path.dirname(path) == self._root:
                raise
            self._make_directory(os.path.dirname(path))
            self._make_directory(path)
            return
        files.sync_directory(os.path.dirname(path))

    def _prune(self, directory: str) -> None:
        """Remove directories that became empty: other stores have none."""
        with contextlib.suppress(OSError):  # not empty, or gone
            while directory != self._root:
                os.rmdir(directory)
                directory = os.path.dirname(directory)

    def _walk(self, directory: str, prefix: str, after: str) -> Iterator[str]:
        """Yield the keys below `directory` in key order. What can't matter is not looked into."""
        base = f"{directory}/" if directory else ""
        for name in self._names(directory):
            key = base + name
            if name.endswith("/"):
                may_match = key.startswith(prefix) or prefix.startswith(key)
                if may_match and (key > after or after.startswith(key)):
                    yield from self._walk(key[:-1], prefix, after)
            elif key.startswith(prefix) and key > after:
                yield key

    def _names(self, directory: str) -> Sequence[str]:
        """Return the names in a directory in key order; directories end in a slash and sort with it.

        What others put there under a name that no key has is left out, like all that is not a file.
        """
        if directory.split("/", 1)[0] == TEMPORARY:
            return []
        with map_errors(self._what(directory)):
            try:
                with os.scandir(os.path.join(self._root, directory)) as entries:
                    names = [_key_name(entry) for entry in entries if is_name(entry.name)]
            except (FileNotFoundError, NotADirectoryError):
                if not directory:
                    raise
                self.check()  # a store that is gone must not look like an empty one
                return []
        return sorted(name for name in names if directory or name != f"{TEMPORARY}/")


def _quote(key: str) -> str:
    return quote(key, safe="")[:_MAX_QUOTED_KEY]


def _key_name(entry: os.DirEntry[str]) -> str:
    try:
        return f"{entry.name}/" if entry.is_dir() else entry.name
    except OSError:  # a symbolic link that leads to itself
        return entry.name


def _is_older(entry: os.DirEntry[str], before: datetime) -> bool:
    """Return whether nothing was written since `before`: an upload that still goes on is never touched."""
    return datetime.fromtimestamp(entry.stat().st_mtime, UTC) < before


def _link(source: str, target: str) -> None:
    """Give `source` a second name that must be free. The file system decides who is first."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise Unsupported(
                f"{target}: the file system has no hard links, so that writers can't exclude each other",
                hint="use a sqlite:// store there",
            ) from error
        raise
