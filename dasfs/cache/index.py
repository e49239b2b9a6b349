"""The index cache: what is known of datasets and their dataranges, in one local SQLite file.

It answers "what is datapoint k of this datarange" from memory or with one point lookup, and holds tens of
millions of datapoints in a bounded amount of memory. It never asks a store; what is not here is `None`.

**Concurrency:** reading is done by one thread (the mount's trio thread) on its own connection, inline: a
lookup costs 3 µs, a page that is not in memory 0.1 ms. `save_*` and `drop_*` run in any thread, one at a
time, on a second connection. A crash loses at most what was being saved.
"""

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apsw
import zstandard

from dasfs.cache import index_schema as sql
from dasfs.cache.database import connect, open_database, remove_database, translated
from dasfs.cache.pages import PAGE_RECORDS, pack_page, unpack_page
from dasfs.dataset.codec import decode_checkpoint, encode_checkpoint
from dasfs.dataset.model import Snapshot
from dasfs.errors import Corrupt, NotFound
from dasfs.formats.compression import Codec
from dasfs.formats.manifest import RECORD, RECORD_SIZE, Manifest, Record, Segment
from dasfs.names import DatarangeId

_CODECS = tuple(Codec)
_PAGE_BYTES = PAGE_RECORDS * RECORD_SIZE
# 800 pages hold 800,000 datapoints: enough for a training job's neighbourhood, little beside its own memory.
DEFAULT_MEMORY = 800 * _PAGE_BYTES


@dataclass(frozen=True, slots=True)
class ManifestView:
    """A manifest in the index cache, but for its records, which are looked up one by one."""

    generation: int  # of the index cache: after a rebuild, numbers of manifests mean something else
    manifest_id: int
    id: DatarangeId
    tar_size: int
    named: bool
    extensions: tuple[str, ...]
    segments: tuple[Segment, ...]

    @property
    def count(self) -> int:
        return self.id.last - self.id.first + 1


class IndexCache:
    """One index cache file. `memory` bounds the bytes of unpacked pages that are kept."""

    def __init__(self, path: str, *, memory: int = DEFAULT_MEMORY) -> None:
        self._path = path
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._max_pages = max(1, memory // _PAGE_BYTES)
        self._generation = 0
        self._write_lock = threading.Lock()
        self._reader, _ = open_database(path, sql.SCHEMA)
        self._writer = connect(path)

    def close(self) -> None:
        with self._write_lock:
            self._writer.close()
            self._reader.close()

    def rebuild(self) -> None:
        """Throw everything away and start over: what to do when `Corrupt` was raised."""
        self.close()
        with self._write_lock:
            remove_database(self._path)
            self._pages.clear()
            self._generation += 1
            self._reader, _ = open_database(self._path, sql.SCHEMA)
            self._writer = connect(self._path)

    def load_snapshot(self, store: str, dataset: str) -> Snapshot | None:
        row = self._row(sql.LOAD_SNAPSHOT, (store, dataset))
        return None if row is None else decode_checkpoint(row[0])

    def list_snapshots(self, store: str) -> list[str]:
        with translated(self._path):
            return [name for (name,) in self._reader.execute(sql.LIST_SNAPSHOTS, (store,))]

    def save_snapshot(self, store: str, snapshot: Snapshot) -> None:
        body = encode_checkpoint(snapshot)
        with self._writing() as connection:
            connection.execute(sql.SAVE_SNAPSHOT, (store, snapshot.dataset, body))

    def drop_snapshot(self, store: str, dataset: str) -> None:
        with self._writing() as connection:
            connection.execute(sql.DROP_SNAPSHOT, (store, dataset))

    def find_manifest(self, dataset_id: str, datarange: DatarangeId) -> ManifestView | None:
        """Return the view of a manifest that was saved. Raises `Corrupt`."""
        row = self._row(sql.FIND_MANIFEST, (dataset_id, str(datarange)))
        if row is None:
            return None
        manifest_id, tar_size, named, extensions = row
        with translated(self._path):
            segments = tuple(_segment(*found) for found in self._reader.execute(sql.FIND_SEGMENTS, (manifest_id,)))
        try:
            names = tuple(json.loads(extensions))
        except (TypeError, ValueError) as error:
            raise self._damaged() from error
        return ManifestView(self._generation, manifest_id, datarange, tar_size, bool(named), names, segments)

    def save_manifest(self, dataset_id: str, manifest: Manifest) -> None:
        """Keep a manifest; whole or not at all. Keeping one that is there changes nothing."""
        with self._writing() as connection:
            if any(connection.execute(sql.FIND_MANIFEST, (dataset_id, str(manifest.id)))):
                return
            extensions = json.dumps(manifest.extensions)
            named = manifest.names is not None
            connection.execute(
                sql.SAVE_MANIFEST, (dataset_id, str(manifest.id), manifest.tar_size, int(named), extensions)
            )
            manifest_id = connection.last_insert_rowid()
            connection.executemany(
                sql.SAVE_SEGMENT,
                (
                    (
                        manifest_id,
                        each.offset,
                        each.length,
                        str(each.origin),
                        each.origin_offset,
                        each.block_crcs,
                    )
                    for each in manifest.segments
                ),
            )
            connection.executemany(sql.SAVE_RECORDS, _record_pages(manifest_id, manifest.records))
            if named:
                connection.executemany(sql.SAVE_NAMES, _name_pages(manifest_id, manifest))

    def drop_manifests(self, dataset_id: str, *, keep: Iterable[DatarangeId]) -> None:
        """Forget the manifests of a dataset's dataranges that are not in `keep`."""
        kept = {str(datarange) for datarange in keep}
        with self._writing() as connection:
            there = [name for (name,) in connection.execute(sql.LIST_MANIFESTS, (dataset_id,))]
            for name in there:
                if name in kept:
                    continue
                manifest_id: Any = connection.execute(sql.FIND_MANIFEST, (dataset_id, name)).get[0]
                for statement in sql.DROP_MANIFEST:
                    connection.execute(statement, (manifest_id,))
                for statement in sql.DROP_PAGES:
                    connection.execute(statement, (manifest_id << 32, (manifest_id + 1 << 32) - 1))

    def record(self, view: ManifestView, place: int) -> Record:
        """Return record number `place` (0 is the datarange's first). Raises what `page` raises."""
        page = self.page(view, place // PAGE_RECORDS)
        offset, stored_size, true_size, mtime, crc32, extension, codec = RECORD.unpack_from(
            page, place % PAGE_RECORDS * RECORD_SIZE
        )
        try:
            return Record(offset, stored_size, true_size, mtime, crc32, view.extensions[extension], _CODECS[codec])
        except IndexError as error:
            raise self._damaged() from error

    def page(self, view: ManifestView, number: int) -> bytes:
        """Return one page of raw records (1,024 of them, fewer at the end).

        Raises `Corrupt`, and `NotFound` when the manifest was dropped since the view was made.
        """
        if view.generation != self._generation:
            raise NotFound("the index cache was built anew")
        page_id = (view.manifest_id << 32) + number
        page = self._pages.get(page_id)
        if page is not None:
            self._pages.move_to_end(page_id)
            return page
        row = self._row(sql.LOAD_RECORDS, (page_id,))
        if row is None:
            raise NotFound("the manifest was dropped from the index cache")
        page = unpack_page(row[0])
        if len(page) != min(PAGE_RECORDS, view.count - number * PAGE_RECORDS) * RECORD_SIZE:
            raise self._damaged()
        self._pages[page_id] = page
        if len(self._pages) > self._max_pages:
            self._pages.popitem(last=False)
        return page

    def original_name(self, view: ManifestView, place: int) -> str | None:
        """Return the path that a datapoint was put from, or None where it was numbered already."""
        if not view.named or view.generation != self._generation:
            return None
        row = self._row(sql.LOAD_NAMES, ((view.manifest_id << 32) + place // PAGE_RECORDS,))
        if row is None:
            return None
        try:
            names: list[str | None] = json.loads(zstandard.decompress(row[0]))
            return names[place % PAGE_RECORDS]
        except (LookupError, TypeError, ValueError, zstandard.ZstdError) as error:
            raise self._damaged() from error

    def iter_names(self, view: ManifestView) -> Iterator[tuple[list[str | None], list[str]]]:
        """Yield original names and extensions of a manifest's datapoints, as `original_name` gives them, page by page.

        In any thread, on a connection of its own. Raises what `page` raises.
        """
        with translated(self._path), contextlib.closing(connect(self._path)) as connection:
            for number in range(-(-view.count // PAGE_RECORDS)):
                page_id = (view.manifest_id << 32) + number
                if view.generation != self._generation:
                    raise NotFound("the index cache was built anew")
                records = connection.execute(sql.LOAD_RECORDS, (page_id,)).fetchone()
                if records is None:
                    raise NotFound("the manifest was dropped from the index cache")
                try:
                    fields = RECORD.iter_unpack(unpack_page(records[0]))
                    extensions = [view.extensions[extension] for _, _, _, _, _, extension, _ in fields]
                    names: list[str | None] = [None] * len(extensions)
                    row = connection.execute(sql.LOAD_NAMES, (page_id,)).fetchone() if view.named else None
                    if row is not None:
                        names = json.loads(zstandard.decompress(row[0]))
                except (LookupError, TypeError, ValueError, zstandard.ZstdError) as error:
                    raise self._damaged() from error
                if len(names) != len(extensions):
                    raise self._damaged()
                yield names, extensions

    def _damaged(self) -> Corrupt:
        return Corrupt(f"the cache database {self._path} is damaged")

    def _row(self, statement: str, values: tuple[str | int, ...]) -> tuple[Any, ...] | None:
        with translated(self._path):
            return self._reader.execute(statement, values).fetchone()

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        with self._write_lock, translated(self._path), self._writer:
            yield self._writer


def _segment(origin: str, origin_offset: int, offset: int, length: int, block_crcs: bytes) -> Segment:
    parsed = DatarangeId.parse(origin)
    if parsed is None:
        raise Corrupt(f"the index cache names an impossible segment {origin!r}")
    return Segment(parsed, origin_offset, offset, length, block_crcs)


def _record_pages(manifest_id: int, records: bytes) -> Iterator[tuple[int, bytes]]:
    for number, start in enumerate(range(0, len(records), _PAGE_BYTES)):
        yield (manifest_id << 32) + number, pack_page(records[start : start + _PAGE_BYTES])


def _name_pages(manifest_id: int, manifest: Manifest) -> Iterator[tuple[int, bytes]]:
    for number, start in enumerate(range(0, manifest.count, PAGE_RECORDS)):
        names = [manifest.original_name(k) for k in range(start, min(start + PAGE_RECORDS, manifest.count))]
        yield (manifest_id << 32) + number, zstandard.compress(json.dumps(names).encode())
