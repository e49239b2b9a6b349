"""The commit log of one dataset in a store: adding to it, with any number of writers.

A commit is one object, `log/<revision>.json`, that is written only if it does not exist; so the store
decides who is next, and history is serial.

**Concurrency:** a `CommitLog` has no state of its own and may be used from any number of threads, processes
and hosts. A commit happens exactly once, or not at all, or raises `StoreUnavailable` because the store did
not say which within the deadline.
"""

import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from dasfs.dataset.codec import encode_commit
from dasfs.dataset.exclusive import probe_conditional_put, put_new
from dasfs.dataset.history import CHECKPOINT_INTERVAL, History, Reached
from dasfs.dataset.listing import choose_live, list_dataranges
from dasfs.dataset.model import Change, Commit, Configuration, Operation, Snapshot, apply, make_commit
from dasfs.errors import AlreadyExists, Conflict, DasfsError, InvalidInput, NotFound, StoreUnavailable
from dasfs.stores.base import Store

# Longer than a store's own deadline (60 s), so that a lost answer is asked about at least once more.
COMMIT_DEADLINE_S: Final = 120.0
# 100 lost races in a row need far more writers than a dataset has; whoever loses them all should be told.
MAX_TRIES: Final = 100

logger = logging.getLogger(__name__)
_random = random.SystemRandom()


class CommitLog(History):
    """The log of one dataset. `deadline_s` bounds how long a commit asks for an answer that was lost."""

    def __init__(self, store: Store, dataset: str, *, deadline_s: float = COMMIT_DEADLINE_S) -> None:
        super().__init__(store, dataset)
        self._deadline_s = deadline_s

    def head(self, known: Snapshot | None = None, *, reached: Reached | None = None) -> Snapshot:
        """Return the newest snapshot. With `known`, one small request when nothing is new.

        Raises `NotFound` when there is no such dataset, or no longer; else as `replay` does, of which is `reached`.
        """
        return self.check_live(self.replay(known, reached=reached))

    def check_live(self, snapshot: Snapshot) -> Snapshot:
        """Return `snapshot`; raise `NotFound` for one of a dataset that was deleted or never there."""
        if snapshot.deleted:
            raise NotFound(_why_not_found(self.store, snapshot), hint="'dasfs dataset list' shows what is there")
        return snapshot

    def create(self, configuration: Configuration | None = None) -> Snapshot:
        """Begin the dataset and return its first snapshot.

        Finds out whether the store honours conditional puts, and records it in the configuration. Raises
        `AlreadyExists`, also for a dataset that datas3t wrote.
        """
        snapshot = self.replay()
        if not snapshot.deleted:
            raise AlreadyExists(f"dataset {self.dataset} exists already")
        listing = list_dataranges(self.store, self.keys)
        if snapshot.revision == 0 and choose_live(listing.candidates):
            raise AlreadyExists(
                f"dataset {self.dataset} exists already, without a log: datas3t wrote it",
                hint=f"run 'dasfs dataset import {self.dataset}'",
            )
        change = Change(Operation.CREATE, configuration=configuration, last_counter=listing.last_counter)
        return self.begin(change)

    def begin(self, change: Change) -> Snapshot:
        """Commit a change that begins the dataset: `CREATE` or `IMPORT`. Raises `AlreadyExists`."""
        conditional = probe_conditional_put(self.store, self.keys)
        if not conditional:
            logger.warning(
                "%s does not honour conditional writes: only one writer at a time is safe for dataset %s",
                self.store.url,
                self.dataset,
            )
        configuration = replace(change.configuration or Configuration(), conditional_put=conditional)
        change = replace(change, configuration=configuration, dataset_id=uuid.uuid4().hex)
        return self._append(self.replay(), change, conditional=conditional)

    def commit(
        self, change: Change, base: Snapshot | None = None, *, check: Callable[[Snapshot], None] | None = None
    ) -> Snapshot:
        """Commit `change` and return the snapshot right after it.

        `base` is what the caller last knew; it saves reading the log anew. Raises `Conflict` when the
        change does not fit the newest snapshot, also when the dataset of `base` was replaced by another one
        of its name. `check` is called with each snapshot that the commit is about to follow, and may raise
        `Conflict` for what it knows: nothing can come between that snapshot and the commit.
        """
        snapshot = self.head(base)
        if base is not None:
            self._check_same(base, snapshot)
        return self._append(snapshot, change, conditional=snapshot.configuration.conditional_put, check=check)

    def reserve(self, count: int, base: Snapshot | None = None) -> range:
        """Reserve the next `count` (1 or more) numbers for the caller alone, and return them."""
        if count < 1:
            raise InvalidInput(f"{count} numbers can't be reserved")
        after = self.commit(Change(Operation.RESERVE, reserve=count), base)
        return range(after.next_number - count, after.next_number)

    def _append(
        self,
        snapshot: Snapshot,
        change: Change,
        *,
        conditional: bool,
        check: Callable[[Snapshot], None] | None = None,
    ) -> Snapshot:
        """Put the commit of `change` behind the newest revision. `snapshot` was read just now."""
        commit_id = uuid.uuid4().hex
        for attempt in range(MAX_TRIES):
            if check is not None:
                check(snapshot)
            now = datetime.now(UTC)
            commit = make_commit(snapshot, change, commit_id=commit_id, time=now, writer=_writer())
            if self._publish(commit, conditional=conditional):
                after = apply(snapshot, commit)
                self._checkpoint_if_due(after)
                return after
            _pause(attempt)
            known, snapshot = snapshot, self.replay(snapshot)
            if not change.begins:
                self._check_same(known, snapshot)
        raise Conflict(
            f"{MAX_TRIES} commits in a row were overtaken by other writers of {self.dataset}",
            hint="try again with fewer writers at once",
        )

    def _check_same(self, known: Snapshot, snapshot: Snapshot) -> None:
        if known.dataset_id != snapshot.dataset_id:
            raise Conflict(f"dataset {self.dataset} was deleted and created anew meanwhile")

    def _publish(self, commit: Commit, *, conditional: bool) -> bool:
        """Write one commit; return whether the revision is ours, False when another writer took it.

        After a lost answer the same bytes are put under the same key again, which can't do harm: what is
        there then is ours or another's, and the commit's id tells which.
        """
        data = encode_commit(commit)
        deadline = time.monotonic() + self._deadline_s
        attempt = 0
        while True:
            try:
                put_new(self.store, self.keys.commit(commit.revision), data, conditional=conditional)
                if conditional:
                    return True
            except (AlreadyExists, StoreUnavailable) as error:
                logger.debug("revision %d of %s: %s", commit.revision, self.dataset, error)
            try:
                return self.read_commit(commit.revision).commit_id == commit.commit_id
            except (NotFound, StoreUnavailable) as error:
                if time.monotonic() > deadline:
                    raise self._unknown_outcome(commit, error) from error
            _pause(attempt)
            attempt += 1

    def _unknown_outcome(self, commit: Commit, error: DasfsError) -> StoreUnavailable:
        return StoreUnavailable(
            f"revision {commit.revision} of {self.dataset} may be committed or not: {error.message}",
            hint=f"'dasfs dataset log {self.dataset}' shows it when the store is back",
        )

    def _checkpoint_if_due(self, snapshot: Snapshot) -> None:
        if snapshot.revision % CHECKPOINT_INTERVAL:
            return
        try:
            self.write_checkpoint(snapshot)
        except DasfsError as error:
            # The commit stands. Readers replay more commits until the next checkpoint.
            logger.info("no checkpoint of %s at revision %d: %s", self.dataset, snapshot.revision, error)


def _why_not_found(store: Store, snapshot: Snapshot) -> str:
    if snapshot.revision == 0:
        return f"there is no dataset {snapshot.dataset} in {store.url}"
    return f"dataset {snapshot.dataset} was deleted on {snapshot.time:%Y-%m-%d %H:%M} UTC"


def _writer() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _pause(attempt: int) -> None:
    """Wait a random moment, longer each time up to a second, so that writers don't collide in step."""
    time.sleep(_random.uniform(0, min(1.0, 0.01 * 2 ** min(attempt, 10))))
