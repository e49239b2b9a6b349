"""One dataset in a store, whoever wrote it: what it has now, its manifests, and the simple changes.

**Concurrency:** a `Dataset` has no state of its own and may be used from any number of threads.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from dasfs.dataset.history import Reached
from dasfs.dataset.listing import foreign_snapshot
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot
from dasfs.dataset.rebuild import build_manifest
from dasfs.errors import Corrupt, InvalidInput, NotFound, Unsupported
from dasfs.formats.compression import Compression
from dasfs.formats.manifest import Manifest
from dasfs.names import ROOT_PREFIX, check_dataset_name
from dasfs.stores.base import Store


def dataset_names(store: Store) -> Iterator[str]:
    """Yield the names under which the store has objects, ascending, also of deleted datasets: one request."""
    for name in store.list_prefixes(ROOT_PREFIX):
        try:
            yield check_dataset_name(name)
        except InvalidInput:
            continue  # whoever made it, no dataset can have this name


def list_datasets(store: Store) -> list[str]:
    """Return the names of the datasets that are there, ascending. Reads the log of each, eight at a time."""
    names = list(dataset_names(store))
    with ThreadPoolExecutor(8, thread_name_prefix="dasfs-list") as pool:
        there = pool.map(lambda name: _exists(store, name), names)
        return [name for name, exists in zip(names, there, strict=True) if exists]


def _exists(store: Store, name: str) -> bool:
    try:
        Dataset(store, name).snapshot()
    except NotFound:
        return False
    except (Corrupt, Unsupported):
        return True  # it is there; whoever opens it is told what is wrong with it
    return True


class Dataset:
    """A dataset by its name. Nothing is read before a method asks for it."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.log = CommitLog(store, name)
        self.name = name
        self.keys = self.log.keys

    def snapshot(
        self, known: Snapshot | None = None, *, confirm: bool = False, reached: Reached | None = None
    ) -> Snapshot:
        """Return the newest snapshot: by the log, or by rule (revision 0) where datas3t wrote it.

        `known`, `confirm` and `reached` are those of `History.replay`. Raises `NotFound` when there is no such dataset,
        and what `CommitLog.head` raises.
        """
        snapshot = self.log.replay(known, confirm=confirm, reached=reached)
        if snapshot.revision == 0:
            snapshot = foreign_snapshot(self.store, self.name) or snapshot
        return self.log.check_live(snapshot)

    def writable(self, known: Snapshot | None = None, *, reached: Reached | None = None) -> Snapshot:
        """Return the newest snapshot, to which a commit can be added; the arguments are those of `History.replay`.

        Raises `InvalidInput` for a dataset that has no log, and else as `snapshot` does.
        """
        snapshot = self.snapshot(known, reached=reached)
        if snapshot.revision == 0:
            raise InvalidInput(
                f"dataset {self.name} has no log: datas3t wrote it",
                hint=f"run 'dasfs dataset import {self.name}'",
            )
        return snapshot

    def load_manifest(self, datarange: Datarange) -> Manifest:
        """Return the manifest of one of this dataset's dataranges; where it has none, the TAR is read once.

        Raises `Corrupt` when the manifest is missing, damaged, or not the one that was committed.
        """
        if not datarange.manifest_size:
            return build_manifest(self.store, self.keys, datarange.id)
        key = self.keys.manifest(datarange.id)
        try:
            data = self.store.get(key)
        except NotFound:
            # Not "not found": the datapoints exist, they can't be read.
            raise Corrupt(f"{key} is missing", hint="run 'dasfs dataset verify'") from None
        if len(data) != datarange.manifest_size:
            raise Corrupt(f"{key}: it has {len(data)} bytes, the log says {datarange.manifest_size}")
        manifest = Manifest.decode(data, dataset=self.name, id=datarange.id)
        if manifest.tar_size != datarange.tar_size:
            raise Corrupt(f"{key}: its TAR has {manifest.tar_size} bytes, the log says {datarange.tar_size}")
        return manifest

    def delete_datarange(self, first: int, last: int) -> Snapshot:
        """Remove the dataranges that make up exactly `first..last`, in one commit; see `whole_dataranges`."""
        snapshot = self.writable()
        inside = self.whole_dataranges(first, last, snapshot)
        return self.log.commit(Change(Operation.DELETE, remove=tuple(each.id for each in inside)), snapshot)

    def whole_dataranges(self, first: int, last: int, snapshot: Snapshot) -> tuple[Datarange, ...]:
        """Return the dataranges that make up exactly `first..last`, but for gaps between them.

        Raises `InvalidInput`, naming what is there, when these are not boundaries of dataranges.
        """
        if not 0 <= first <= last:
            raise InvalidInput(f"{first}-{last} is no range of datapoints")
        inside = snapshot.overlapping(first, last)
        if not inside:
            raise InvalidInput(f"dataset {self.name} has no datapoints {first}-{last}", hint=_nearest(snapshot, first))
        if (inside[0].first, inside[-1].last) != (first, last):
            there = f"{inside[0].first}-{inside[0].last}"
            if len(inside) > 1:
                there += f" to {inside[-1].first}-{inside[-1].last}"
            raise InvalidInput(
                f"only whole dataranges can be deleted or aggregated, {first}-{last} is none", hint=f"there is {there}"
            )
        return inside

    def clear(self) -> Snapshot:
        """Remove all datapoints. What was reserved stays reserved."""
        return self.log.commit(Change(Operation.CLEAR), self.writable())

    def delete(self) -> Snapshot:
        """Remove the dataset. Its log stays, so that no key is ever used twice; `collect` frees the rest."""
        return self.log.commit(Change(Operation.DELETE, delete_dataset=True), self.writable())

    def configure(self, *, compression: Compression | None = None, datarange_size: int | None = None) -> Snapshot:
        """Change what is given of the configuration, for what is written from now on."""
        snapshot = self.writable()
        if datarange_size is not None and datarange_size < 1:
            raise InvalidInput(f"a datarange can't have a size of {datarange_size} bytes")
        old = snapshot.configuration
        configuration = replace(
            old,
            compression=compression or old.compression,
            datarange_size=datarange_size or old.datarange_size,
        )
        return self.log.commit(Change(Operation.CONFIGURE, configuration=configuration), snapshot)


def _nearest(snapshot: Snapshot, number: int) -> str:
    """Say which dataranges lie before and behind `number`."""
    before = [each for each in snapshot.dataranges if each.last < number][-1:]
    behind = [each for each in snapshot.dataranges if each.first > number][:1]
    if not before and not behind:
        return "it is empty"
    return "nearest: " + " and ".join(f"{each.first}-{each.last}" for each in (*before, *behind))
