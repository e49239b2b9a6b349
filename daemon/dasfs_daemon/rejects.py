"""Files that can never be packed: moved into `.rejected` of their write directory, each with a `.txt` that says why.

**Concurrency:** any thread; two files never get the same name there.
"""

import logging
import os
from datetime import UTC, datetime

from dasfs.errors import DasfsError
from dasfs_daemon.files import REJECTED, show
from dasfs_daemon.log_fields import log_fields

log = logging.getLogger(__name__)


class Rejects:
    """The `.rejected` directory of one write directory."""

    def __init__(self, dataset: str, directory: str) -> None:
        self._dataset = dataset
        self._top = os.fsencode(directory)
        self._rejected = os.path.join(self._top, REJECTED)

    def move(self, path: bytes, reason: str) -> bool:
        """Move one file away and say why beside it; return False where the local system does not let us."""
        fields = log_fields(dataset=self._dataset, path=show(path), problem="rejected")
        try:
            self._move(path, reason)
        except FileNotFoundError:
            return True  # it went away by itself
        except OSError as error:
            line = "%s: %s is rejected, but can't be moved away: %s"
            log.warning(line, self._dataset, show(path), error.strerror, extra=fields)
            return False
        log.warning("%s: %s is rejected: %s", self._dataset, show(path), reason, extra=fields)
        return True

    def count(self) -> int:
        """Return how many files are there, without the reasons beside them."""
        return sum(_count_files(frozenset(names)) for _, _, names in os.walk(self._rejected))

    def problem(self) -> DasfsError | None:
        """Return what to tell of the files that are there, or None where there is none."""
        count = self.count()
        if not count:
            return None
        return DasfsError(
            f"{count:,} rejected {'file is' if count == 1 else 'files are'} in {show(self._rejected)}",
            hint="the .txt beside each says why; move it back under another name, or delete it",
        )

    def _move(self, path: bytes, reason: str) -> None:
        place = self._free_place(path)
        with open(place + b".txt", "x", encoding="utf-8", errors="backslashreplace") as file:
            try:
                file.write(f"{show(path)}\nrejected {datetime.now(UTC):%Y-%m-%d %H:%M:%S UTC}: {reason}\n")
                file.flush()
                os.rename(os.path.join(self._top, path), place)
            except OSError:
                os.unlink(place + b".txt")
                raise

    def _free_place(self, path: bytes) -> bytes:
        """Return a path that is free, with its `.txt`, and whose directory exists."""
        # 255 bytes is NAME_MAX, and '.txt' and a number must fit behind the name.
        directory, name = os.path.split(os.path.join(self._rejected, path))
        os.makedirs(directory, exist_ok=True)
        place = os.path.join(directory, name[:240])
        for again in range(1, 1_000_000):
            if not os.path.lexists(place) and not os.path.lexists(place + b".txt"):
                return place
            place = os.path.join(directory, name[:240] + b".%d" % again)
        raise FileExistsError(f"{show(place)} is there already")


def _count_files(names: frozenset[bytes]) -> int:
    """Return how many of the names in one directory are files: a rejected `x.txt` has an `x.txt.txt` beside it, and a
    `.txt` alone is the reason of a file that somebody took out."""
    return sum(not name.endswith(b".txt") or name + b".txt" in names for name in names)
