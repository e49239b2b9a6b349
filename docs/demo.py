#!/usr/bin/env python3
"""The demo, `make demo`: a few thousand real files go into a store, are mounted, read back and compared.

The files are those of this machine's own Python library. Everything happens in one new folder, which is named
at the start and left behind at the end; the mount is taken away, also after a failure or Ctrl-C.
"""

import hashlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

DATASET: Final = "python-library"
# Enough to be real and few enough for a minute: a big Python has 8,000 files, Debian's about 1,400.
MOST_FILES: Final = 6000
ENOUGH_FILES: Final = 2000
BATCH: Final = 64
EPOCHS: Final = 2
BIN: Final = Path(sys.executable).parent
ORIGINAL_NAME: Final = "user.dasfs.original_name"


class DemoError(Exception):
    """The demo did not go as it should; the message says what happened, in one line."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How much was read in how long."""

    files: int
    size: int
    seconds: float

    def __str__(self) -> str:
        per_second, megabytes = self.files / self.seconds, self.size / 1e6 / self.seconds
        return f"{self.files:,} files in {self.seconds:.1f} s: {per_second:,.0f} files/s, {megabytes:,.0f} MB/s"


@dataclass(frozen=True, slots=True)
class Demo:
    """The folder that everything happens in, and the commands that work on it."""

    folder: Path

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def mountpoint(self) -> Path:
        return self.folder / "mnt"

    @property
    def mounted(self) -> Path:
        return self.mountpoint / DATASET

    @property
    def store(self) -> str:
        return f"sqlite://{self.folder}/store.db"

    def environment(self) -> dict[str, str]:
        """Return an environment in which nobody's own configuration counts and nothing is left elsewhere."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DASFS_")}
        kept |= {f"XDG_{kind}_HOME": str(self.folder / "home") for kind in ("CACHE", "CONFIG", "DATA", "STATE")}
        return kept | {"PATH": f"{BIN}{os.pathsep}{kept.get('PATH', os.defpath)}"}

    def run(self, command: str) -> None:
        """Show a shell command as a reader would type it, and run it."""
        print(f"\n$ {command}", flush=True)
        done = subprocess.run(["bash", "-c", command], env=self.environment(), cwd=self.folder, check=False)
        if done.returncode:
            raise DemoError(f"that command failed with exit code {done.returncode}")

    def unmount_after_failure(self) -> None:
        """Take the mount away if it is still there, whatever state it is in."""
        if str(self.mountpoint) not in Path("/proc/self/mountinfo").read_text():
            return
        commands = ((str(BIN / "dasfs"), "umount"), ("fusermount3", "-u", "-z"))
        for command in commands:
            done = subprocess.run(
                [*command, str(self.mountpoint)], env=self.environment(), capture_output=True, check=False
            )
            if done.returncode == 0:
                return


def say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def find_files(root: Path, left_out: tuple[str, ...]) -> Iterator[Path]:
    """Yield the readable regular files below `root`, in the order of their names."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in left_out)
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                yield path


def choose_files() -> dict[str, Path]:
    """Return the files to put: their path below the dataset's folder, and where they come from."""
    library = Path(sysconfig.get_path("stdlib"))
    # What was installed beside it may be gigabytes, and a cache may be rewritten while it is copied.
    chosen = {
        f"{library.name}/{path.relative_to(library)}": path
        for path in find_files(library, ("site-packages", "dist-packages", "__pycache__"))
    }
    if len(chosen) < ENOUGH_FILES:
        # A small installation: what dasfs itself was installed with belongs to it too.
        packages = Path(sysconfig.get_path("purelib"))
        for path in find_files(packages, ("__pycache__",)):
            chosen[f"{packages.name}/{path.relative_to(packages)}"] = path
    return dict(sorted(chosen.items())[:MOST_FILES])


def copy_files(chosen: dict[str, Path], target: Path) -> int:
    """Copy the files below `target`; return their bytes."""
    size = 0
    for name, source in chosen.items():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy)
        size += copy.stat().st_size
    return size


def sha256(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def compare(mounted: Path, chosen: dict[str, Path]) -> Rate:
    """Read every file of the mount and compare it with the file that it came from."""
    started, size, met = time.monotonic(), 0, set()
    for entry in os.scandir(mounted):
        name = os.fsdecode(os.getxattr(entry.path, ORIGINAL_NAME))
        if name not in chosen or name in met:
            raise DemoError(f"{entry.name} says that it is {name}, which was not put, or is there twice")
        if sha256(entry.path) != sha256(chosen[name]):
            raise DemoError(f"{entry.name} differs from {chosen[name]}")
        met.add(name)
        size += entry.stat().st_size
    if len(met) != len(chosen):
        raise DemoError(f"{len(chosen) - len(met)} of {len(chosen)} files are missing in the mount")
    return Rate(len(met), size, time.monotonic() - started)


def show_attributes(mounted: Path) -> None:
    """Show what the extended attributes of one datapoint say."""
    path = min(mounted.iterdir())
    print(f"\n$ getfattr -d -m user.dasfs {path.relative_to(mounted.parents[1])}")
    for attribute in sorted(os.listxattr(path)):
        print(f'{attribute}="{os.fsdecode(os.getxattr(path, attribute))}"')


def train(paths: list[str], seed: int) -> Rate:
    """Read all files in a new random order, a batch at a time, as a training job does."""
    random.Random(seed).shuffle(paths)
    started, size = time.monotonic(), 0
    for start in range(0, len(paths), BATCH):
        batch = [Path(path).read_bytes() for path in paths[start : start + BATCH]]
        size += sum(map(len, batch))  # here a model would learn something
    return Rate(len(paths), size, time.monotonic() - started)


def show(demo: Demo) -> None:
    chosen = choose_files()
    say(f"{len(chosen):,} files of Python's own library are copied into a new folder, {demo.folder}")
    size = copy_files(chosen, demo.files)
    print(f"{len(chosen):,} files, {size / 1e6:.0f} MB")

    say("They become one dataset in a store, which here is one SQLite file; s3://bucket works the same way.")
    store = shlex.quote(demo.store)
    demo.run(f"dasfs dataset create {DATASET} --store {store}")
    demo.run(f"dasfs put {DATASET} files/ --store {store}")
    demo.run(f"dasfs dataset show {DATASET} --store {store}")

    say("The store is mounted. Each dataset is a directory, each file is called by its number.")
    demo.mountpoint.mkdir()
    demo.run(f"dasfs mount {store} mnt --cache-dir cache")
    demo.run(f"ls -l mnt/{DATASET} | head -n 6")
    demo.run(f"ls -f mnt/{DATASET} | wc -l")
    show_attributes(demo.mounted)

    say("Every file is read through the mount, and its SHA-256 compared with that of the file it came from.")
    print(f"{compare(demo.mounted, chosen)}, and all are the same")

    say("A training job reads them in a new order in each epoch.")
    paths = [entry.path for entry in os.scandir(demo.mounted)]
    for epoch in range(EPOCHS):
        print(f"epoch {epoch + 1}: {train(paths, epoch)}", flush=True)

    say("Done with it.")
    demo.run("dasfs umount mnt")


def stop(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, stop)
    started = time.monotonic()
    demo = Demo(Path(tempfile.mkdtemp(prefix="dasfs-demo-")))
    failure = None
    try:
        show(demo)
    except KeyboardInterrupt:
        failure = "stopped"
    except (DemoError, OSError) as error:
        failure = str(error)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is impatient now would leave the mount behind
        demo.unmount_after_failure()
    if failure is not None:
        print(f"\ndemo: {failure}. What there is so far is in {demo.folder}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - started
    say(f"That took {seconds:.0f} s. All that is left is {demo.folder}; remove it when you like.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
