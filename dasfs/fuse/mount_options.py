"""What a mount is told when it is made."""

from dataclasses import dataclass

from dasfs.endpoint import Address
from dasfs.fuse.attributes import Ownership


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How a store is mounted. Sizes are bytes, times seconds. `dataset`, where given, stands at the root."""

    mountpoint: str
    cache_directory: str
    cache_size: int
    refresh_s: float
    deadline_s: float
    ownership: Ownership
    allow_other: bool = False
    dataset: str | None = None
    replace: bool = False
    # Where metrics are served, beside `.dasfs/metrics`.
    metrics: Address | None = None
    # The file where each read is written down.
    access_log: str | None = None
    # The path of the mount's socket; None: a place of its own.
    control: str | None = None
    # Check each block of the cache at each read, not only when it came and at its first use after a restart.
    verify_always: bool = False
    # What is in memory and in flight together: half for blocks, a quarter for compressed datapoints, an eighth for the
    # index; the rest is the slack of all of them.
    memory: int = 256 << 20

    def shown(self) -> dict[str, object]:
        """Return the options as the status file shows them."""
        return {
            "cache_directory": self.cache_directory,
            "cache_size": self.cache_size,
            "refresh_s": self.refresh_s,
            "deadline_s": self.deadline_s,
            "memory": self.memory,
            "allow_other": self.allow_other,
            "dataset": self.dataset,
            "metrics": None,  # until there is a port
            "verify": "always" if self.verify_always else "once",
        }
