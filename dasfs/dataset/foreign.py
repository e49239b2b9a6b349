"""Importing what datas3t wrote into a log.

**Concurrency:** of two imports of one dataset at once, one wins.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dasfs.dataset.exclusive import put_new
from dasfs.dataset.listing import Listing, choose_live, list_dataranges
from dasfs.dataset.log import CommitLog
from dasfs.dataset.model import Change, Datarange, Operation, Snapshot
from dasfs.dataset.rebuild import build_manifest
from dasfs.dataset.verify import verify_datarange
from dasfs.errors import AlreadyExists, Corrupt, NotFound, ObjectChanged, Unsupported
from dasfs.formats.manifest import Manifest
from dasfs.names import DatarangeId, DatasetKeys
from dasfs.stores.base import Store

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A datarange that was not imported, and why."""

    id: DatarangeId
    reason: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import found. `left_out` stays in the store as it is."""

    snapshot: Snapshot
    left_out: tuple[LeftOut, ...]


def import_dataset(store: Store, dataset: str, progress: Progress | None = None) -> ImportReport:
    """Check every datarange of a dataset without a log, give each a manifest, and write the first commit.

    Done again after it was cut off, it goes on. A datarange that is damaged is left out, and another one
    that covers some of its datapoints takes its place. Raises `NotFound` when nothing can be imported, and
    `AlreadyExists` for a dataset that has a log.
    """
    log = CommitLog(store, dataset)
    if log.replay().revision > 0:
        raise AlreadyExists(f"dataset {dataset} has a log already", hint="'dasfs dataset log' shows it")
    listing = list_dataranges(store, log.keys)
    if not listing.objects:
        raise NotFound(f"there is no dataset {dataset} in {store.url}")
    good, left_out = _check_candidates(store, log.keys, listing, progress)
    if not good:
        reasons = "; ".join(f"{each.id}: {each.reason}" for each in left_out[:3])
        raise NotFound(f"dataset {dataset} has no datarange that can be imported ({reasons})")
    change = Change(Operation.IMPORT, add=good, last_counter=listing.last_counter)
    return ImportReport(log.begin(change), left_out)


def _check_candidates(
    store: Store, keys: DatasetKeys, listing: Listing, progress: Progress | None
) -> tuple[tuple[Datarange, ...], tuple[LeftOut, ...]]:
    """Return the dataranges to import and those that are left out.

    The rule chooses again without each one that turned out to be damaged, until all that it chooses are
    good.
    """
    candidates = listing.candidates
    reasons: dict[DatarangeId, str] = {
        each: f"its {' and '.join(sorted({'tar', 'index'} - set(listing.objects[each])))} object is missing"
        for each in set(listing.objects) - set(candidates)
    }
    good: dict[DatarangeId, Datarange] = {}
    while True:
        chosen = choose_live(each for each in candidates if each not in reasons)
        unchecked = [each for each in chosen if each not in good]
        if not unchecked:
            break
        for each in unchecked:
            try:
                good[each] = _check_candidate(store, keys, listing, each, progress)
            except (Corrupt, NotFound, ObjectChanged, Unsupported) as error:
                reasons[each] = error.message
    for each in set(candidates) - set(reasons) - set(chosen):
        reasons[each] = "another datarange holds its datapoints"
    return tuple(good[each] for each in chosen), tuple(LeftOut(each, reasons[each]) for each in sorted(reasons))


def _check_candidate(
    store: Store, keys: DatasetKeys, listing: Listing, datarange: DatarangeId, progress: Progress | None
) -> Datarange:
    """Return a datarange as it is to be committed, with a manifest in the store."""
    found = listing.datarange(datarange)
    if found.manifest_size:
        # Left by an import that was cut off, or by dasfs whose log was lost: only the manifest knows what
        # is compressed.
        manifest = Manifest.decode(store.get(keys.manifest(datarange)), dataset=keys.dataset, id=datarange)
        known = _with_manifest(found, manifest)
        for problem in verify_datarange(store, keys, known, progress):
            raise Corrupt(str(problem))
        return known
    manifest = build_manifest(store, keys, datarange, progress)
    encoded = manifest.encode()
    try:
        put_new(store, keys.manifest(datarange), encoded)
    except AlreadyExists:
        # Another import is at work; of one TAR, all make the same manifest.
        if store.get(keys.manifest(datarange)) != encoded:
            raise
    return replace(_with_manifest(found, manifest), manifest_size=len(encoded))


def _with_manifest(found: Datarange, manifest: Manifest) -> Datarange:
    if manifest.tar_size != found.tar_size:
        raise Corrupt(f"its TAR has {found.tar_size} bytes, its manifest says {manifest.tar_size}")
    return replace(found, data_size=manifest.data_size, named=manifest.names is not None)
