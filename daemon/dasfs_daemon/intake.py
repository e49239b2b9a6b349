"""From "something happened here" to rows of the journal: which files are complete, and taking them.

A file is taken when nobody has it open for writing and nothing about it changed for the settle time. What it is told
are hints: a path may be wrong, gone, ignored, or known already.

**Concurrency:** for one worker thread at a time.
"""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from dasfs.dataset.local import local_error
from dasfs.errors import DasfsError, InvalidInput
from dasfs.names import DatapointName
from dasfs_daemon.config import DatasetConfig
from dasfs_daemon.files import Ignore, is_open_for_writing, show, stamp_of, unsettled_s
from dasfs_daemon.log_fields import log_fields
from dasfs_daemon.origin import OriginJournal
from dasfs_daemon.rejects import Rejects
from dasfs_daemon.rows import Known, NewFile
from dasfs_daemon.walk import Found, Walk

log = logging.getLogger(__name__)

# Paths to look at again that are kept from a scan; where there are more, it is repeated.
MAX_LATER: Final = 100_000
# What is told about once: links, sockets and the like. Forgotten, and told again, beyond this many.
MAX_TOLD: Final = 10_000
# Refused files that are looked at; there is one where something is very wrong, or a hundred thousand.
MAX_REFUSED: Final = 1000
# Where the kernel can't say who writes, a file that was created and never closed counts as open for so long after its
# last change: its close may have been lost.
LOST_CLOSE_S: Final = 600.0


@dataclass(slots=True)
class Looked:
    """What came of looking: files and bytes taken, and what to look at again.

    `incomplete`: too many of the latter. `left_empty`: a directory is empty and may be removed later, if it stays so.
    """

    files: int = 0
    size: int = 0
    rejected: int = 0
    later: list[bytes] = field(default_factory=list)
    incomplete: bool = False
    closed_off: DasfsError | None = None
    left_empty: bool = False


class Intake:
    """Takes complete files of one write directory. `taken` is called, from its thread, for each batch of them."""

    def __init__(
        self, name: str, config: DatasetConfig, journal: OriginJournal, rejects: Rejects, taken: Callable[[], None]
    ) -> None:
        self._name = name
        self._top = os.fsencode(config.directory)
        self._config = config
        self._journal = journal
        self._rejects = rejects
        self._taken = taken
        self._ignore = Ignore(config.ignore)
        self._told: set[bytes] = set()
        # Files from the future, by the clock: the stamp with which they were first seen, and when (monotonic).
        self._future: dict[bytes, tuple[os.stat_result, float]] = {}

    def look(self, paths: Iterable[bytes], being_written: frozenset[bytes] = frozenset()) -> Looked:
        """Take what is complete of `paths`; `being_written` are those whose last event says that they are open."""
        looked, found = Looked(), []
        for path in paths:
            if self._ignore.path(path):
                continue
            try:
                status = os.lstat(os.path.join(self._top, path))
            except OSError:
                continue  # gone, or not to be reached: a scan tells of the latter
            if stat.S_ISDIR(status.st_mode):
                self._scan_below(path, looked)
            elif stat.S_ISREG(status.st_mode):
                found.append(Found(path, status))
            else:
                self._tell_odd(path, status)
        self._take(found, looked, being_written)
        return looked

    def scan(self) -> Looked:
        """Take what is complete in the whole write directory. Raises what `Walk.files` raises."""
        looked = Looked()
        self._scan_below(b"", looked)
        return looked

    def refused(self) -> DasfsError | None:
        """Return what to tell of files that can neither be packed nor be moved away or removed; None where none is."""
        rows = self._journal.refused(MAX_REFUSED)
        gone = {key for key, path, _ in rows if not os.path.lexists(os.path.join(self._top, path))}
        self._journal.forget(gone)
        left = [(path, reason) for key, path, reason in rows if key not in gone]
        if not left:
            return None
        path, reason = left[0]
        more = f"{len(left):,}{' or more' if len(rows) == MAX_REFUSED else ''}"
        return DasfsError(
            f"files that the daemon can neither pack nor move away: {more}, as {show(path)}: {reason}",
            hint="make room and let it write to their directories, then restart it; or take them away",
        )

    def _scan_below(self, directory: bytes, looked: Looked) -> None:
        def closed_off(path: bytes, error: OSError) -> None:
            looked.closed_off = local_error(error, show(os.path.join(self._top, path)))

        # A directory is not removed while a file of it was taken away a moment ago: `cp -r` may be filling it.
        empty_before = time.time() - self._config.empty_directories
        walk = Walk(self._top, self._ignore, self._tell_odd, closed_off, empty_before)
        for batch in walk.files(directory):
            self._take(batch, looked, frozenset())
        looked.left_empty = looked.left_empty or walk.left_empty

    def _take(self, found: Sequence[Found], looked: Looked, being_written: frozenset[bytes]) -> None:
        """Take those of `found` that are complete, in the order in which they became so."""
        now_ns = time.time_ns()
        settled = []
        for each in found:
            if self._is_settled(each, now_ns):
                settled.append(each)
            else:
                self._look_again(each.path, looked)
        settled.sort(key=lambda each: (each.status.st_ctime_ns, each.path))
        candidates = [(each, NewFile(each.path, stamp_of(each.status), None)) for each in settled]
        known = self._journal.look_up([file for _, file in candidates])
        new = [
            file
            for (each, file), there in zip(candidates, known, strict=True)
            if there.stamp != file.stamp
            and not self._is_renamed(file, there)
            and self._is_closed(each, being_written, looked)
        ]
        accepted = [file for each in new if (file := self._name_file(each, looked)) is not None]
        if accepted:
            self._journal.take(accepted, time.time())
            self._taken()
            looked.files += len(accepted)
            looked.size += sum(each.stamp.size for each in accepted)

    def _is_settled(self, found: Found, now_ns: int) -> bool:
        left = unsettled_s(found.status, now_ns, self._config.settle)
        if left <= self._config.settle:
            self._future.pop(found.path, None)
            return left <= 0
        # The clock was set back, or is another host's: what counts is how long it stays the same from now on.
        status, since = self._future.get(found.path, (found.status, time.monotonic()))
        if status.st_ctime_ns != found.status.st_ctime_ns:
            status, since = found.status, time.monotonic()
        if len(self._future) < MAX_LATER:
            self._future[found.path] = (status, since)
        return time.monotonic() - since >= self._config.settle

    def _is_renamed(self, file: NewFile, known: Known) -> bool:
        """Return whether this is a file of the journal under another path, and note that path."""
        for twin in known.twins:
            if not os.path.lexists(os.path.join(self._top, twin)) and self._journal.rename(twin, file.path):
                return True
        return False

    def _is_closed(self, found: Found, being_written: frozenset[bytes], looked: Looked) -> bool:
        """Return whether nobody writes to a file; look at it again otherwise. One that can't be read is rejected."""
        try:
            is_open = is_open_for_writing(os.path.join(self._top, found.path))
        except FileNotFoundError:
            return False
        except PermissionError:
            self._reject(NewFile(found.path, stamp_of(found.status), None), "no permission to read it", looked)
            return False
        except OSError as error:
            looked.closed_off = local_error(error, show(found.path))
            is_open = True
        if is_open is None:
            since_change_s = time.time() - found.status.st_ctime
            is_open = found.path in being_written and since_change_s < LOST_CLOSE_S
        if is_open:
            self._look_again(found.path, looked)
        return not is_open

    def _name_file(self, file: NewFile, looked: Looked) -> NewFile | None:
        """Return the file with the number that its name gives it; None for an impossible one, which is rejected."""
        try:
            name = DatapointName.parse(os.fsdecode(os.path.basename(file.path)))
        except InvalidInput as error:
            self._reject(file, str(error), looked)
            return None
        return file if name is None else NewFile(file.path, file.stamp, name.number)

    def _reject(self, file: NewFile, reason: str, looked: Looked) -> None:
        looked.rejected += 1
        if not self._rejects.move(file.path, reason):
            self._journal.take([file], time.time())
            self._journal.refuse(file.path, reason)

    def _look_again(self, path: bytes, looked: Looked) -> None:
        if len(looked.later) < MAX_LATER:
            looked.later.append(path)
        else:
            looked.incomplete = True

    def _tell_odd(self, path: bytes, status: os.stat_result) -> None:
        """Say once that something is left where it is."""
        if path in self._told:
            return
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told.add(path)
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no regular file"
        fields = log_fields(dataset=self._name, path=show(path))
        log.warning("%s: %s is left where it is: it is %s", self._name, show(path), kind, extra=fields)
