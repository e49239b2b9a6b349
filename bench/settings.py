"""How much a run measures: everything, quickly, or just enough to see that it works."""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes in bytes. The defaults are those of the figures in docs/performance.md."""

    name: str = "full"
    seed: int = 20261101
    rounds: int = 5  # odd, so that a median is one of the samples
    slow_rounds: int = 3  # of what takes long, where samples differ little
    seconds: float = 6.0  # a reader that has not read everything by then stops; its rate so far counts
    files: int = 2000
    smallest: int = 60_000
    largest: int = 160_000
    shuffled_readers: int = 8
    reader_counts: tuple[int, ...] = (1, 2, 4, 8, 16)
    random_reads: int = 60
    warm_files: int = 2000
    warm_size: int = 64 * 1024
    listed: int = 1_000_000
    growth: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    large: int = 1 << 30
    put_files: int = 100_000
    put_size: int = 10_000
    aggregated: int = 40  # dataranges
    aggregated_size: int = 8 * MIB
    daemon_files: tuple[tuple[int, int], ...] = ((100_000, 10_000), (1_000, 10_000_000))  # files, size
    daemon_uploads: tuple[tuple[int, int], ...] = ((100_000, 10_000), (300, 10_000_000))  # the gateway holds 8 GiB
    backlog: int = 1_000_000

    @property
    def smoke(self) -> bool:
        """Whether the figures mean nothing: the smoke has no peers and touches none of the machine's caches."""
        return self.name == "smoke"


FULL: Final = Settings()
QUICK: Final = Settings(
    name="quick",
    rounds=3,
    slow_rounds=1,
    seconds=3.0,
    reader_counts=(1, 4, 16),
    random_reads=30,
    listed=200_000,
    growth=(1_000, 100_000, 1_000_000),
    large=1 << 28,
    put_files=20_000,
    aggregated=20,
    daemon_files=((10_000, 10_000), (100, 10_000_000)),
    daemon_uploads=((10_000, 10_000), (100, 10_000_000)),
    backlog=100_000,
)
SMOKE: Final = Settings(
    name="smoke",
    rounds=1,
    slow_rounds=1,
    files=60,
    smallest=1_000,
    largest=20_000,
    shuffled_readers=2,
    reader_counts=(),
    random_reads=3,
    warm_files=50,
    warm_size=4096,
    listed=2_000,
    growth=(1_000,),
    large=4 * MIB,
    put_files=200,
    aggregated=2,
    aggregated_size=6 * MIB,
    daemon_files=((50, 1_000),),
    daemon_uploads=((50, 1_000),),
    backlog=200,
)
