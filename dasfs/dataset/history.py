"""Reading the commit log of a dataset: listings, commits, checkpoints, and what they add up to.

A checkpoint is a whole snapshot, every 100 revisions, so that nobody replays more than about 100 commits.
It is a shortcut and no authority: a damaged one is passed over for an older one, or for the commits
themselves.

**Concurrency:** nothing here has a state; any number of threads may read while others write. The log only
grows, but for old commits that `collect` removes behind a checkpoint: whoever stumbles over that starts
again from the checkpoint.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from dasfs.dataset.codec import decode_checkpoint, decode_commit, encode_checkpoint
from dasfs.dataset.model import Commit, Snapshot, apply, nothing
from dasfs.errors import Corrupt, DasfsError, NoLongerKept, NotFound, StoreUnavailable, Unsupported
from dasfs.names import DatasetKeys, Revision, check_dataset_name
from dasfs.stores.base import Store

CHECKPOINT_INTERVAL: Final = 100
# Commits are small; eight at once hide the latency of a store without taking its connections from readers.
FETCH_THREADS: Final = 8

Reached = Callable[[Snapshot], object]

logger = logging.getLogger(__name__)


class History:
    """The past of one dataset, read from its log."""

    def __init__(self, store: Store, dataset: str) -> None:
        self.store = store
        self.dataset = check_dataset_name(dataset)
        self.keys = DatasetKeys(dataset)

    def replay(
        self, known: Snapshot | None = None, *, confirm: bool = False, reached: Reached | None = None
    ) -> Snapshot:
        """Return the newest snapshot, also of a dataset that was deleted; revision 0 where there is no log.

        With `known`, one small request, and `known` itself, when nothing is new. `confirm` reads the commit of
        that revision too: what was known long ago may be of a log that another one has replaced since. `reached`
        is told how far it came where the store fails halfway: with that as `known`, the next call goes on. Raises
        `Corrupt` for a hole, a damaged commit, or a log that ends before `known`, and `Unsupported` for a log
        that a newer dasfs wrote.
        """
        if known is not None and known.revision > 0:
            snapshot = self._catch_up(known, confirm=confirm, reached=reached)
            if snapshot is not None:
                return snapshot
        snapshot = self._from_checkpoint(reached)
        if known is not None and _is_behind(snapshot, known):
            raise Corrupt(
                f"the log of {self.dataset} ends at revision {snapshot.revision}, "
                f"but revision {known.revision} was seen before",
                hint="the store went back to an older state; if that was meant, clear the cache, or restart the daemon",
            )
        return snapshot

    def at(self, revision: int) -> Snapshot:
        """Return the snapshot at `revision`, which may be that of a deletion.

        Raises `NotFound` for a revision that is not there yet, and `NoLongerKept` for one whose commits were collected.
        """
        checkpoints = self.list_checkpoints()
        snapshot = self._load_checkpoint([each for each in checkpoints if each <= revision])
        covered = max(checkpoints, default=0)
        listed = self._list_revisions(snapshot.revision, covered=covered)
        newest = max([covered, *listed[-1:]])
        if not 1 <= revision <= newest:
            raise NotFound(f"{self.dataset} has no revision {revision}; the newest is {newest}")
        wanted = [each for each in listed if each <= revision]
        if len(wanted) != revision - snapshot.revision:
            raise NoLongerKept(
                f"revision {revision} of {self.dataset} is no longer kept",
                hint=f"the oldest commit that is left is {listed[0]}" if listed else None,
            )
        commits = self._fetch_kept(wanted, snapshot.revision)
        return self.at(revision) if commits is None else apply(snapshot, *commits)

    def commits(self, after: int = 0) -> Iterator[Commit]:
        """Yield the commits after revision `after` that are kept, in order. Raises as `replay` does.

        Those that a collector removes meanwhile are left out.
        """
        revisions = self._list_kept(after)
        while revisions:
            try:
                # In steps, so that reading the first commits of a long log does not fetch all of it; each as it comes,
                # so that who is told of a failure has what came before it, and need not begin anew.
                for commit in self._fetch(revisions[:CHECKPOINT_INTERVAL]):
                    yield commit
                    after = commit.revision
                    revisions = revisions[1:]
            except Corrupt:
                listed = self._list_kept(after)
                if listed[:1] == revisions[:1]:
                    raise
                revisions = listed

    def read_checkpoint(self, revision: Revision) -> Snapshot:
        """Return the snapshot that a checkpoint holds. Raises `NotFound`, `Corrupt`, `Unsupported`."""
        key = self.keys.checkpoint(revision)
        data = self.store.get(key)
        try:
            snapshot = decode_checkpoint(data)
        except (Corrupt, Unsupported) as error:
            raise _named(key, error) from error
        if (snapshot.dataset, snapshot.revision) != (self.dataset, revision):
            raise Corrupt(f"{key}: it is the checkpoint of {snapshot.dataset} at revision {snapshot.revision}")
        return snapshot

    def write_checkpoint(self, snapshot: Snapshot) -> None:
        """Write the checkpoint of `snapshot`, replacing one that may be there: they are the same."""
        self.store.put(self.keys.checkpoint(snapshot.revision), encode_checkpoint(snapshot))

    def read_commit(self, revision: Revision) -> Commit:
        """Return one commit. Raises `NotFound`, `Corrupt`, `Unsupported`."""
        key = self.keys.commit(revision)
        data = self.store.get(key)
        try:
            commit = decode_commit(data)
        except (Corrupt, Unsupported) as error:
            raise _named(key, error) from error
        if commit.revision != revision:
            raise Corrupt(f"{key}: it says that it is revision {commit.revision}")
        return commit

    def _catch_up(self, known: Snapshot, *, confirm: bool, reached: Reached | None) -> Snapshot | None:
        """Return the newest snapshot from `known` and the commits after it; None when they don't follow on.

        The listing starts at the known revision itself: if that is gone, the log was collected, emptied or
        replaced.
        """
        try:
            revisions = self._list_revisions(known.revision - 1)
            if not revisions or revisions[0] != known.revision:
                return None
            if confirm and self._read_listed(known.revision).commit_id != known.commit_id:
                return None
            return self._follow(known, revisions[1:], reached)
        except Corrupt:
            return None  # what `known` says may be the wrong part; reading from scratch decides

    def _from_checkpoint(self, reached: Reached | None) -> Snapshot:
        """Return the newest snapshot from the newest usable checkpoint and the commits after it."""
        snapshot = self._load_checkpoint(self.list_checkpoints())
        revisions = self._list_revisions(snapshot.revision)
        if revisions and revisions[0] != snapshot.revision + 1:
            raise self._hole(snapshot.revision + 1)
        return self._follow(snapshot, revisions, reached)

    def _follow(self, snapshot: Snapshot, revisions: Sequence[Revision], reached: Reached | None) -> Snapshot:
        """Return the snapshot that listed commits make of `snapshot`; tell `reached` what the first of them make."""
        commits: list[Commit] = []
        try:
            for commit in self._fetch(revisions):
                commits.append(commit)  # noqa: PERF402 - those before an error count
        except StoreUnavailable:
            if reached is not None and commits:
                reached(apply(snapshot, *commits))
            raise
        return apply(snapshot, *commits)

    def _load_checkpoint(self, revisions: Sequence[Revision]) -> Snapshot:
        """Return the newest of these checkpoints that is usable, or revision 0."""
        for revision in reversed(revisions):
            try:
                return self.read_checkpoint(revision)
            except (Corrupt, NotFound) as error:
                logger.warning("%s; reading the log from an older one", error)
        return nothing(self.dataset)

    def list_checkpoints(self) -> list[Revision]:
        """Return the revisions that have a checkpoint, ascending."""
        infos = self.store.list(f"{self.keys.log}checkpoint-")
        return [each for info in infos if (each := self.keys.parse_checkpoint(info.key)) is not None]

    def _list_revisions(self, after: int, *, covered: int = 0) -> list[Revision]:
        """Return the revisions greater than `after` that have a commit.

        Raises `Corrupt` for a hole between them. Commits up to `covered` may be missing: a collector may
        have been killed halfway. What is before them is dropped.
        """
        revisions: list[Revision] = []
        start = self.keys.commit(Revision(after)) if after > 0 else ""
        for info in self.store.list(self.keys.log, after=start):
            revision = self.keys.parse_commit(info.key)
            if revision is None:
                if self.keys.parse_checkpoint(info.key) is not None:
                    break  # checkpoints sort behind all commits
                continue
            if revisions and revision != revisions[-1] + 1:
                if revision > covered + 1:
                    raise self._hole(revisions[-1] + 1)
                revisions.clear()
            revisions.append(revision)
        return revisions

    def _fetch(self, revisions: Sequence[Revision]) -> Iterator[Commit]:
        """Yield commits that were just listed, in order; several are read at a time."""
        if len(revisions) < 2:
            yield from map(self._read_listed, revisions)
            return
        pool = ThreadPoolExecutor(min(FETCH_THREADS, len(revisions)), thread_name_prefix="dasfs-log")
        try:
            yield from pool.map(self._read_listed, revisions)
        finally:
            pool.shutdown(cancel_futures=True)

    def _list_kept(self, after: int) -> list[Revision]:
        return self._list_revisions(after, covered=max(self.list_checkpoints(), default=0))

    def _fetch_kept(self, revisions: Sequence[Revision], after: int) -> list[Commit] | None:
        """Read commits that `_list_kept(after)` began with; None when some of them were collected since then."""
        try:
            return list(self._fetch(revisions))
        except Corrupt:
            if self._list_kept(after)[:1] == list(revisions[:1]):
                raise
            return None

    def _read_listed(self, revision: Revision) -> Commit:
        try:
            return self.read_commit(revision)
        except NotFound:
            raise self._hole(revision) from None

    def _hole(self, revision: int) -> Corrupt:
        return Corrupt(
            f"the log of {self.dataset} has a hole: revision {revision} is missing",
            hint=f"restore {self.keys.commit(Revision(revision))} from a backup of the store",
        )


def _named(key: str, error: DasfsError) -> DasfsError:
    """Return `error` with the object named."""
    return type(error)(f"{key}: {error.message}", hint=error.hint)


def _is_behind(snapshot: Snapshot, known: Snapshot) -> bool:
    """Return whether the same dataset was seen at a later revision. Another one of its name may be behind."""
    return snapshot.dataset_id == known.dataset_id and snapshot.revision < known.revision
