"""A real mount of a real store, behind a proxy that spoils its answers as hypothesis plans it, against a model.

Meanwhile the dataset is written, deleted, aggregated and collected at once. A reader may be told the right bytes, that
a datapoint is gone where it is, or, where something went wrong, that it can't be had now.
"""

import contextlib
import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dasfs.stores import Store, StoreOptions, open_store
from tests.ceph import Ceph
from tests.changing import COUNT, PLACES, ChangingDataset, numbers, shares, writings
from tests.gateway_proxy import GatewayProxy, Trouble, gateway_proxy, nothing
from tests.mounts import Mount, mounting, wait_until

EXAMPLES = max(1, int(os.environ.get("DASFS_MODEL_EXAMPLES", "40")) // 8)
# An example takes half a second, or ten on a busy machine: a smaller one of those that fail is not looked for.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
DEADLINE_S = 1.0
# Beyond the deadline: then it is the mount that gives up, and not its connection.
HANG_S = 1.5
# A program's read is several requests of the kernel's, each with its deadline, on a machine with other work.
BOUND_S = 20.0
PASSING = (errno.EIO, errno.ETIMEDOUT)
# All but a traceback: what goes wrong here is told in many ways.
WARNINGS = [r"^(?!Traceback|  \+ Exception)"]

Writing = tuple[str, float, str | None]
Plan = tuple[Sequence[Trouble | None], Writing | None, int]

places = st.tuples(numbers, shares, shares)
# What happens to the next requests, in turn, and a change of the dataset at the moment of one of them.
plans = st.tuples(
    st.lists(st.none() | st.sampled_from(list(Trouble)), max_size=6), st.none() | writings, st.integers(0, 5)
)
calm = st.just(((), None, 0))
steps = st.one_of(
    st.tuples(st.just("write"), writings, calm),
    st.tuples(st.just("refresh"), st.none(), calm),
    st.tuples(st.just("open"), numbers, calm),
    st.tuples(st.just("read"), st.lists(places, min_size=1, max_size=4), plans),
    st.tuples(st.just("read"), st.lists(places, min_size=1, max_size=4), plans),
    st.tuples(st.just("read_held"), st.tuples(shares, shares), plans),
    st.tuples(st.just("list"), st.none(), plans),
)


@dataclass(frozen=True)
class Held:
    """An open file, what it held then, and how often its number had been deleted."""

    number: int
    file: int
    content: bytes
    deletions: int


@dataclass
class Reader:
    """Who reads one dataset through the mount. `troubled`: something went wrong since all was well."""

    mount: Mount
    proxy: GatewayProxy
    world: ChangingDataset
    held: list[Held] = field(default_factory=list)
    troubled: bool = False

    @property
    def directory(self) -> Path:
        return self.mount.path / self.world.name

    def do(self, step: str, what: object, plan: Plan) -> None:
        with self.planned(*plan):
            getattr(self, step)(what)

    @contextlib.contextmanager
    def planned(self, troubles: Sequence[Trouble | None], writing: Writing | None, at: int) -> Iterator[None]:
        """Let the next requests of the mount go wrong as planned, those of its own refreshing among them."""
        left, places, lock = iter(troubles), itertools.count(), threading.Lock()

        def choose(_method: str, _path: str) -> Trouble | None:
            with lock:
                if writing is not None and next(places) == at:
                    self.world.write(*writing)
                trouble = next(left, None)
                self.troubled = self.troubled or trouble is not None
                return trouble

        self.proxy.choose = choose
        try:
            yield
        finally:
            with lock:
                self.proxy.choose = nothing

    def write(self, writing: Writing) -> None:
        self.world.write(*writing)

    def refresh(self, _what: None) -> None:
        """Wait until the mount knows the newest revision."""
        newest = str(self.world.dataset.snapshot().revision).encode()
        wait_until(lambda: self.attempt(lambda: os.getxattr(self.directory, "user.dasfs.revision")) == newest)
        self.world.refreshed()
        self.troubled = False

    def open(self, number: int) -> None:
        self.refresh(None)
        if number in self.world.live:
            file = os.open(self.directory / f"{number:020d}.bin", os.O_RDONLY)
            self.held.append(Held(number, file, self.world.live[number], self.world.deletions[number]))

    def read(self, wanted: Sequence[tuple[int, float, float]]) -> None:
        """Read several places at once."""
        with ThreadPoolExecutor(len(wanted)) as pool:
            outcomes = list(pool.map(lambda place: self.attempt(lambda: self.read_path(*place)), wanted))
        for (number, start, length), outcome in zip(wanted, outcomes, strict=True):
            self.check(number, start, length, outcome, self.world.since[number])

    def read_path(self, number: int, start: float, length: float) -> bytes:
        file = os.open(self.directory / f"{number:020d}.bin", os.O_RDONLY)
        try:
            return self.read_file(file, start, length)
        finally:
            os.close(file)

    def read_file(self, file: int, start: float, length: float) -> bytes:
        """Read from the mount, not from what the kernel has. `start` and `length` are shares of the file."""
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        offset, count = place_in(os.fstat(file).st_size, start, length)
        return os.pread(file, count, offset)

    def read_held(self, place: tuple[float, float]) -> None:
        """Read what is open: the bytes that it had then; that it is gone only where it was deleted."""
        for each in self.held:
            outcome = self.attempt(lambda each=each: self.read_file(each.file, *place))  # type: ignore[misc]
            is_live = self.world.deletions[each.number] == each.deletions
            self.check(each.number, *place, outcome, {each.content} if is_live else {each.content, None})

    def list(self, _what: None) -> None:
        """List the directory: all that is there, nothing that was not; or an error."""
        names = self.attempt(lambda: os.listdir(self.directory))
        if isinstance(names, int):
            self.check_error("the listing", names)
            return
        found = {int(name.removesuffix(".bin")) for name in names}
        assert len(found) == len(names)
        for number, seen in self.world.since.items():
            assert (number in found) in {content is not None for content in seen}, number

    def check(self, number: int, start: float, length: float, outcome: object, wanted: set[bytes | None]) -> None:
        """Compare what a read gave with all that the datapoint was meanwhile: None where it was missing."""
        if outcome in (errno.ENOENT, errno.ESTALE):
            assert len(wanted) > 1 or wanted == {None}, f"{number} is not gone"
        elif isinstance(outcome, int):
            self.check_error(str(number), outcome)
        else:
            contents = [content for content in wanted if content is not None]
            places = [(content, *place_in(len(content), start, length)) for content in contents]
            assert outcome in [content[offset : offset + count] for content, offset, count in places], number

    def check_error(self, what: str, number: int) -> None:
        # A busy machine may miss a deadline without any trouble.
        assert number in (PASSING if self.troubled else (errno.ETIMEDOUT,)), f"{what}: {os.strerror(number)}"

    def attempt(self, function: Callable[[], object]) -> object:
        """Return what a call returns, or its errno; fail where that takes too long."""
        began = time.monotonic()
        try:
            return function()
        except OSError as error:
            return error.errno
        finally:
            assert time.monotonic() - began < BOUND_S

    def recover(self) -> None:
        """Now all is well again: what is there is read, what is not is not there, and what is open reads on."""
        self.refresh(None)
        for number in range(PLACES * COUNT):
            live = self.world.live.get(number, errno.ENOENT)
            wait_until(lambda number=number, live=live: self.whole(number) == live)  # type: ignore[misc]
        names = [f"{number:020d}.bin" for number in sorted(self.world.live)]
        wait_until(lambda: self.attempt(lambda: os.listdir(self.directory)) == names)
        self.read_held((0.0, 1.0))

    def whole(self, number: int) -> object:
        """Return a datapoint's content or errno; fail on wrong bytes."""
        outcome = self.attempt(lambda: self.read_path(number, 0.0, 1.0))
        self.check(number, 0.0, 1.0, outcome, {self.world.live.get(number)})
        return outcome


def place_in(size: int, start: float, length: float) -> tuple[int, int]:
    """Return offset and count of a read, given as shares of a file and of its rest."""
    offset = int(start * size)
    return offset, int(length * (size - offset)) + 1


@dataclass(frozen=True, repr=False)
class Scene:
    """One mount for all examples; each has a dataset of its own."""

    store: Store
    proxy: GatewayProxy
    mount: Mount
    datasets: Iterator[int]


@pytest.fixture(scope="module")
def scene(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A mount with a cache that is smaller than any dataset, behind the proxy."""
    with pytest.MonkeyPatch.context() as patch, gateway_proxy(ceph.endpoint_url) as proxy:
        for name, value in ceph.environment.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="mount-model")
        proxy.hang_s = HANG_S
        with (
            open_store("s3://mount-model", StoreOptions(deadline_s=60)) as store,
            mounting(tmp_path_factory.mktemp("model")) as mounter,
        ):
            mounter.endpoint_url, mounter.watchdog_s = proxy.url, 3600.0
            mount = mounter(store.url, "--cache-size", "1MiB", options=f"deadline={DEADLINE_S}", warnings=WARNINGS)
            yield Scene(store, proxy, mount, itertools.count())


@pytest.mark.timeout(300)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(script=st.lists(steps, min_size=3, max_size=10))
def test_a_reader_is_told_the_truth(scene: Scene, script: Sequence[tuple[str, object, Plan]]) -> None:
    """Whatever the store answers and becomes: right bytes, or an error that is true; afterwards everything works."""
    reader = Reader(scene.mount, scene.proxy, ChangingDataset(scene.store, f"set-{next(scene.datasets)}"))
    try:
        for step in script:
            reader.do(*step)
        reader.recover()
    finally:
        for each in reader.held:
            os.close(each.file)
