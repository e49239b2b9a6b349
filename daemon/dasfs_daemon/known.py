"""Which files the datasets have already: a local index of what the manifests say, by original path and size.

A file that is dropped again under the same path with the same content (a copy that was cut off and repeated, a
journal that was lost) is recognised by it and not packed twice. Everything here can be read from the manifests again,
so a broken index is built anew.

**Concurrency:** one connection under a lock, for any thread.
"""

import hashlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dasfs.cache.database import Schema, open_database, translated
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.model import Datarange, Snapshot
from dasfs.formats.manifest import Manifest

_SCHEMA: Final = Schema(
    application_id=0x64617370,  # "dasp"
    version=2,
    sql="""
-- A dataset is known by its dataset_id, which is new each time one of its name is created.
CREATE TABLE dataset (id INTEGER PRIMARY KEY, dataset_id TEXT NOT NULL UNIQUE);
-- Dataranges whose paths are in the index, and those without any.
CREATE TABLE seen (dataset INTEGER NOT NULL, datarange TEXT NOT NULL, PRIMARY KEY (dataset, datarange)) WITHOUT ROWID;
-- Eight bytes of the checksum of an original path and a true size, the number of a datapoint that has or had these,
-- and the CRC-32 of its content: where the same path is written every second, that leaves one of a million to look at.
CREATE TABLE path (
  dataset INTEGER NOT NULL, digest INTEGER NOT NULL, number INTEGER NOT NULL, crc32 INTEGER NOT NULL,
  PRIMARY KEY (dataset, digest, number)
) WITHOUT ROWID;
""",
)

# A busy daemon makes a million dataranges a year, and aggregates them: what is gone is forgotten some thousand at once.
MAX_GONE: Final = 4096


@dataclass(frozen=True, slots=True)
class Candidate:
    """A datapoint that may have a path and a size, and its checksum. The manifest knows."""

    number: int
    crc32: int


class KnownPaths:
    """The index of all datasets of one daemon."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db, _ = open_database(path, _SCHEMA)
        self._seen: dict[str, tuple[int, set[str]]] = {}

    def update(self, dataset: Dataset, snapshot: Snapshot) -> None:
        """Read what is new in a snapshot. Raises what loading a manifest raises; what was read until then stays."""
        _, seen = self._dataset(snapshot.dataset_id)
        for datarange in snapshot.dataranges:
            if str(datarange.id) not in seen:
                self.add(snapshot.dataset_id, datarange, dataset.load_manifest(datarange) if datarange.named else None)
        if len(seen) > 2 * len(snapshot.dataranges) + MAX_GONE:
            self._forget(snapshot)

    def _forget(self, snapshot: Snapshot) -> None:
        """Forget which dataranges were read that are not there any more. Their paths stay, with their numbers."""
        key, seen = self._dataset(snapshot.dataset_id)
        gone = seen.difference(str(each.id) for each in snapshot.dataranges)
        with self._lock, translated(self._path), self._db:
            rows = ((key, each) for each in gone)
            self._db.executemany("DELETE FROM seen WHERE (dataset, datarange) = (?, ?)", rows)
        seen -= gone

    def add(self, dataset_id: str, datarange: Datarange, manifest: Manifest | None) -> None:
        """Note the paths of one datarange; None: it has none."""
        key, seen = self._dataset(dataset_id)
        rows: Iterable[tuple[int, int, int, int]] = ()
        if manifest is not None and manifest.names is not None:
            records = zip(map(manifest.names.path, range(datarange.count)), manifest.iter_records(), strict=True)
            rows = (
                (key, _digest(path, record.true_size), number, record.crc32)
                for number, (path, record) in enumerate(records, datarange.first)
                if path
            )
        with self._lock, translated(self._path), self._db:
            self._db.executemany("INSERT OR IGNORE INTO path VALUES (?, ?, ?, ?)", rows)
            self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, str(datarange.id)))
        seen.add(str(datarange.id))

    def joined(self, dataset_id: str, sources: Iterable[Datarange], result: Datarange) -> None:
        """Note that `result` has the paths of its sources, and need not be read where these were."""
        _, seen = self._dataset(dataset_id)
        if all(str(each.id) in seen for each in sources):
            self.add(dataset_id, result, None)

    def candidates(self, dataset_id: str, files: Sequence[tuple[bytes, int]]) -> list[list[Candidate]]:
        """Return for each path and size the datapoints that may have both."""
        key, _ = self._dataset(dataset_id)
        query = "SELECT ?3, number, crc32 FROM path WHERE dataset = ?1 AND digest = ?2"
        wanted = ((key, _digest(path, size), k) for k, (path, size) in enumerate(files))
        found: list[list[Candidate]] = [[] for _ in files]
        with self._lock, translated(self._path):
            for k, number, crc32 in self._db.executemany(query, wanted):
                found[k].append(Candidate(number, crc32))
        return found

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _dataset(self, dataset_id: str) -> tuple[int, set[str]]:
        if dataset_id not in self._seen:
            with self._lock, translated(self._path), self._db:
                self._db.execute("INSERT OR IGNORE INTO dataset (dataset_id) VALUES (?)", (dataset_id,))
                key: Any = self._db.execute("SELECT id FROM dataset WHERE dataset_id = ?", (dataset_id,)).get
                rows = self._db.execute("SELECT datarange FROM seen WHERE dataset = ?", (key,))
                self._seen[dataset_id] = (key, {str(row[0]) for row in rows})
        return self._seen[dataset_id]


def _digest(path: bytes, size: int) -> int:
    digest = hashlib.blake2b(b"%d/%b" % (size, path), digest_size=8)
    return int.from_bytes(digest.digest(), "big", signed=True)
