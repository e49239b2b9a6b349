"""The cases: each takes a folder of its own and returns what it found."""

import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedIOBase
from os import fsync
from pathlib import Path
from time import monotonic
from typing import IO, Final
from urllib.parse import urlsplit

from rig import (
    DASFS,
    BenchError,
    Mount,
    Outcome,
    Row,
    disk_usage,
    forget_inodes,
    make_files,
    mount_dasfs,
    mount_memory,
    read_rate,
    run,
)

MIB: Final = 1 << 20
MEMORY: Final = "C, from memory"
ROUNDS: Final = 5  # an odd number, so that a median is one of the samples
MILLION_TARS: Final = 10


def warm(work: Path, *, files: int = 2000, size: int = 64 * 1024) -> Outcome:
    """Read 64 KiB files that the block cache has and the kernel has forgotten, by turns with the C program.

    Both mounts are up all the time. The kernel forgets every file before each reading.
    """
    outcome = Outcome("warm")
    store = f"file://{work}/store"
    make_files(work / "files", files, size)
    run(DASFS, "dataset", "create", "warm", "--store", store)
    run(DASFS, "put", "warm", str(work / "files"), "--store", store)
    with ExitStack() as stack:
        memory = stack.enter_context(mount_memory(work / "memory", files, size))
        ours = stack.enter_context(mount_dasfs(work / "dasfs", store, work / "cache"))
        read_rate(ours.path / "warm", 1)  # fills the block cache
        for readers in (1, 4):
            dasfs, peer = f"dasfs, {readers} readers", f"C, {readers} readers"
            for _ in range(ROUNDS):
                outcome.add_sample(peer, read_rate(memory.path, readers))
                outcome.add_sample(dasfs, read_rate(ours.path / "warm", readers))
            what = f"64 KiB files, warm, {readers} reader{'s' if readers > 1 else ''}"
            row = Row(what, "files/s", outcome.median(dasfs), MEMORY, outcome.median(peer), aim=0.9)
            outcome.rows.append(row)
    return outcome


def write_tar(path: Path, first: int, count: int) -> None:
    """Write a tar of so many datapoints, each of which holds its own number as text."""
    head = tarfile.TarInfo()
    with path.open("wb", buffering=MIB) as file:
        for number in range(first, first + count):
            head.name, content = f"{number:020d}.txt", b"%d\n" % number
            head.size = len(content)
            file.write(head.tobuf(tarfile.USTAR_FORMAT))
            file.write(content.ljust(512, b"\0"))
        file.write(bytes(1024))


def list_directory(outcome: Outcome, name: str, mount: Mount, directory: Path, option: str) -> None:
    forget_inodes(mount)
    outcome.add_sample(name, run("ls", option, str(directory)))


def million(work: Path, *, datapoints: int = 1_000_000) -> Outcome:
    """Mount a million tiny datapoints: memory, cache on disk, and the time of `ls` against the C program."""
    outcome = Outcome("million")
    store = f"file://{work}/store"
    share = datapoints // MILLION_TARS
    run(DASFS, "dataset", "create", "million", "--store", store)
    for number in range(MILLION_TARS):
        tar = work / f"{number}.tar"
        write_tar(tar, number * share, share)
        run(DASFS, "put", "million", str(tar), "--store", store)
        tar.unlink()
    cache = work / "cache"
    with mount_dasfs(work / "dasfs", store, cache) as ours:
        outcome.add_sample("ready, nothing cached, s", ours.ready_s)
        outcome.add_sample("first ls -f, nothing cached, s", run("ls", "-f", str(ours.path / "million")))
    with ExitStack() as stack:
        ours = stack.enter_context(mount_dasfs(work / "dasfs", store, cache))
        outcome.add_sample("ready, index cached, s", ours.ready_s)
        memory = stack.enter_context(mount_memory(work / "memory", share * MILLION_TARS, 8))
        asked = stack.enter_context(mount_memory(work / "asked", share * MILLION_TARS, 8, "-x"))
        for _ in range(3):
            for option in ("-f", "-l"):
                list_directory(outcome, f"C, ls {option}, s", memory, memory.path, option)
                list_directory(outcome, f"dasfs, ls {option}, s", ours, ours.path / "million", option)
            list_directory(outcome, "C with attributes, ls -l, s", asked, asked.path, "-l")
        outcome.add_sample("resident, MiB", ours.resident() / MIB)
    outcome.add_sample("cache, MiB", disk_usage(cache) / MIB)
    outcome.rows = million_rows(outcome)
    return outcome


def million_rows(outcome: Outcome) -> list[Row]:
    def seconds(what: str, name: str, peer_name: str = "", peer: str = "", aim: float | None = None) -> Row:
        other = outcome.median(peer) if peer else None
        return Row(what, "s", outcome.median(name), peer_name, other, more_is_better=False, aim=aim)

    with_attributes = f"{MEMORY}, asked for attributes"
    return [
        seconds("`ls -f`", "dasfs, ls -f, s", MEMORY, "C, ls -f, s", 0.8),
        seconds("`ls -l`", "dasfs, ls -l, s", MEMORY, "C, ls -l, s", 0.8),
        seconds("`ls -l`", "dasfs, ls -l, s", with_attributes, "C with attributes, ls -l, s"),
        seconds("first `ls -f`, nothing cached", "first ls -f, nothing cached, s"),
        seconds("mounted, nothing cached", "ready, nothing cached, s"),
        seconds("mounted, index cached", "ready, index cached, s"),
        Row("resident memory after all that", "MiB", outcome.median("resident, MiB")),
        Row("caches on disk", "MiB", outcome.median("cache, MiB")),
    ]


class Upload:
    """The other way to store many files: one `tar` into one object, by what a careful script would use."""

    def __init__(self, store: str) -> None:
        self.url = urlsplit(store)

    def __call__(self, files: Path, name: str) -> float:
        """Return the seconds that it took until the tar was safely stored under `name`."""
        started = monotonic()
        with subprocess.Popen(["tar", "-cf", "-", "-C", str(files), "."], stdout=subprocess.PIPE) as tar:
            assert isinstance(tar.stdout, BufferedIOBase)
            if self.url.scheme == "s3":
                self._to_s3(tar.stdout, name)
            else:
                self._to_file(tar.stdout, Path(f"{self.url.path}.{name}.tar"))
        if tar.returncode:
            raise BenchError(f"tar failed ({tar.returncode})")
        return monotonic() - started

    def _to_s3(self, stream: IO[bytes] | BufferedIOBase, name: str) -> None:
        import boto3

        prefix = self.url.path.strip("/")
        boto3.client("s3").upload_fileobj(stream, self.url.netloc, f"{prefix}/{name}.tar")

    def _to_file(self, stream: BufferedIOBase, path: Path) -> None:
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, MIB)
            file.flush()
            fsync(file.fileno())
        path.unlink()


@contextmanager
def place(work: Path, store: str | None) -> Iterator[str]:
    """Yield a store for one case: a folder in `work`, or a new prefix in a bucket, emptied at the end."""
    if store is None:
        yield f"file://{work}/store"
        return
    url = urlsplit(store)
    if url.scheme != "s3":
        raise BenchError(f"{store}: the store of a benchmark is s3://BUCKET, or none for a folder")
    prefix = f"{url.path.strip('/')}/dasfs-bench-{uuid.uuid4().hex[:12]}".strip("/")
    try:
        yield f"s3://{url.netloc}/{prefix}"
    finally:
        import boto3

        boto3.resource("s3").Bucket(url.netloc).objects.filter(Prefix=f"{prefix}/").delete()


def put(work: Path, *, store: str | None = None, files: int = 20_000, size: int = 10_000) -> Outcome:
    """Pack and upload many small files, by turns with `tar` piped into one upload to the same store."""
    outcome = Outcome("put")
    make_files(work / "files", files, size)
    with place(work, store) as target:
        upload = Upload(target)
        for number in range(ROUNDS):
            outcome.add_sample("tar, s", upload(work / "files", f"tar-{number}"))
            run(DASFS, "dataset", "create", f"put-{number}", "--store", target)
            command = (DASFS, "put", f"put-{number}", str(work / "files"), "--store", target)
            outcome.add_sample("dasfs put, s", run(*command))
        kind = urlsplit(target).scheme
    rate = files * size / 1e6
    ours, peer = rate / outcome.median("dasfs put, s"), rate / outcome.median("tar, s")
    what = f"`put` of {files:,} files of {size / 1000:g} kB into {kind}://"
    outcome.rows.append(Row(what, "MB/s", ours, "tar into one upload", peer, aim=0.9))
    return outcome
