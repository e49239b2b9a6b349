#!/usr/bin/env python3
"""The demo, `make demo`: 20,000 real files are dropped into a directory and appear in a mount, byte for byte.

The sync daemon and a mount run side by side. The files are this machine's own: those of its Python, then what else
is installed. Everything happens in one new folder, which is named at the start and left behind at the end, unless
`make demo STORE=s3://bucket/prefix` says where the store is. Daemon and mount are ended, also after a failure or
Ctrl-C.
"""

import hashlib
import itertools
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

DATASET: Final = "machine"
# Enough to be real and few enough for a minute. A bare Debian has some 15,000 files that are neither large nor secret.
FILES: Final = 20_000
LARGEST: Final = 256_000
PLACES: Final = ("/usr/share", "/usr/include", "/usr/lib")
CONFIGURATION: Final = """\
state_directory = "{folder}/state"

[datasets.{dataset}]
store = "{store}"
directory = "{folder}/incoming"
datarange_size = "16MiB"    # 64MiB by default
datarange_age = "2s"        # 30s
settle = "0.5s"             # 2s
empty_directories = "2s"    # 1m

[limits]
minimum_free_disk = "64MiB"  # 1GiB
"""
# Longer than it ever takes on a slow machine.
DEADLINE_S: Final = 300
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


@dataclass(slots=True)
class Demo:
    """The folder that everything happens in, the store, and the commands that work on them."""

    folder: Path
    store: str
    daemon: "subprocess.Popen[bytes] | None" = None

    @property
    def incoming(self) -> Path:
        return self.folder / "incoming"

    @property
    def mountpoint(self) -> Path:
        return self.folder / "mnt"

    @property
    def mounted(self) -> Path:
        return self.mountpoint / DATASET

    def environment(self) -> dict[str, str]:
        """Return an environment in which nobody's own configuration counts and nothing is left elsewhere."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DASFS_")}
        kept |= {f"XDG_{kind}_HOME": str(self.folder / "home") for kind in ("CACHE", "CONFIG", "DATA", "STATE")}
        return kept | {"PATH": f"{BIN}{os.pathsep}{kept.get('PATH', os.defpath)}"}

    def run(self, command: str, *, may_fail: bool = False) -> None:
        """Show a shell command as a reader would type it, and run it."""
        print(f"\n$ {command}", flush=True)
        done = subprocess.run(["bash", "-c", command], env=self.environment(), cwd=self.folder, check=False)
        if done.returncode and not may_fail:
            raise DemoError(f"that command failed with exit code {done.returncode}")

    def start_daemon(self) -> None:
        """Show and start the daemon; its log goes to a file."""
        print("\n$ dasfs daemon --config daemon.toml 2> daemon.log &", flush=True)
        with open(self.folder / "daemon.log", "wb") as log:
            self.daemon = subprocess.Popen(
                ["dasfs", "daemon", "--config", "daemon.toml"], env=self.environment(), cwd=self.folder, stderr=log
            )

    def end_daemon(self) -> None:
        """End the daemon if it runs; raise for one that did not end well."""
        daemon, self.daemon = self.daemon, None
        if daemon is None:
            return
        daemon.terminate()
        code = daemon.wait(60)
        if code:
            raise DemoError(f"the daemon ended with exit code {code}; see {self.folder}/daemon.log")

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
    """Return the files to copy: their path below the write directory, and where they come from."""
    library = Path(sysconfig.get_path("stdlib"))
    packages = Path(sysconfig.get_path("purelib"))
    # What was installed beside the library may be gigabytes, and a cache may be rewritten while it is copied.
    roots = {library.name: library, packages.name: packages} | {Path(place).name: Path(place) for place in PLACES}
    found = (
        (f"{name}/{path.relative_to(root)}", path)
        for name, root in roots.items()
        for path in find_files(root, ("site-packages", "dist-packages", "__pycache__"))
        if path.stat().st_size <= LARGEST and not is_ignored(path.relative_to(root))
    )
    return dict(itertools.islice(found, FILES))


def is_ignored(path: Path) -> bool:
    """Return whether the daemon leaves a file alone because of its name: dot files, and what is half-written."""
    ends = ("~", ".tmp", ".part", ".partial", ".crdownload", ".swp")
    return any(part.startswith(".") or part.endswith(ends) for part in path.parts)


class Copy(threading.Thread):
    """Copies files below `target`, as `cp -r` does. `copied` says how far it is, `failure` why it ended early."""

    def __init__(self, chosen: dict[str, Path], target: Path) -> None:
        super().__init__(daemon=True)
        self.copied = self.size = 0
        self.failure: OSError | None = None
        self._chosen = chosen
        self._target = target

    def run(self) -> None:
        try:
            for name, source in self._chosen.items():
                copy = self._target / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
                self.size += source.stat().st_size
                self.copied += 1
        except OSError as error:
            self.failure = error


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


def count_left(incoming: Path) -> int:
    """Return how many files are in the write directory."""
    return sum(len(names) for _, _, names in os.walk(incoming))


def watch(demo: Demo, copy: Copy, count: int) -> None:
    """Print, from time to time, how files go from the write directory into the mount; return when all have."""
    print(f"\n{'seconds':>8}  {'copied':>8}  {'in the write directory':>22}  {'in the mount':>12}")
    started = time.monotonic()
    while (seconds := time.monotonic() - started) < DEADLINE_S:
        if copy.failure is not None:
            raise copy.failure
        if demo.daemon is None or demo.daemon.poll() is not None:
            raise DemoError(f"the daemon ended; see {demo.folder}/daemon.log")
        copied, left, shown = copy.copied, count_left(demo.incoming), len(os.listdir(demo.mounted))
        print(f"{seconds:8.0f}  {copied:8,}  {left:22,}  {shown:12,}", flush=True)
        if shown >= count and not any(demo.incoming.iterdir()):
            return
        time.sleep(1)
    raise DemoError(f"not all files were moved within {DEADLINE_S} s")


def begin(demo: Demo) -> None:
    """Make the dataset, start the daemon, mount the store."""
    store = shlex.quote(demo.store)
    say("A dataset is made in a store, and a daemon shall move into it what arrives in the directory 'incoming'.")
    demo.incoming.mkdir()
    demo.mountpoint.mkdir()
    text = CONFIGURATION.format(folder=demo.folder, dataset=DATASET, store=demo.store)
    (demo.folder / "daemon.toml").write_text(text)
    demo.run(f"dasfs dataset create {DATASET} --store {store}")
    demo.run("cat daemon.toml")
    demo.run("dasfs daemon --config daemon.toml --check")
    demo.start_daemon()
    say("The store is mounted, here beside the daemon; on any other machine it would be the same.")
    demo.run(f"dasfs mount {store} mnt --cache-dir cache --refresh 1")


def show(demo: Demo) -> None:
    begin(demo)
    chosen = choose_files()
    say(f"{len(chosen):,} files of this machine are copied into the write directory.")
    copy = Copy(chosen, demo.incoming)
    copy.start()
    demo.run("dasfs status --config daemon.toml", may_fail=True)  # also tells what is wrong with others' mounts
    watch(demo, copy, len(chosen))
    print(f"{copy.copied:,} files, {copy.size / 1e6:.0f} MB")
    demo.run("dasfs status --config daemon.toml", may_fail=True)  # also tells what is wrong with others' mounts
    demo.run("tail -n 3 daemon.log")

    say("Each dataset is a directory of the mount, each file is called by its number and knows where it came from.")
    demo.run(f"ls -l mnt/{DATASET} | head -n 6")
    show_attributes(demo.mounted)

    say("Every file is read through the mount, and its SHA-256 compared with that of the file it came from.")
    print(f"{compare(demo.mounted, chosen)}, and all are the same")

    say("A training job reads them in a new order in each epoch.")
    paths = [entry.path for entry in os.scandir(demo.mounted)]
    for epoch in range(EPOCHS):
        print(f"epoch {epoch + 1}: {train(paths, epoch)}", flush=True)

    say("Done with it.")
    demo.run("dasfs umount mnt")
    print("\n$ kill %1    # the daemon", flush=True)
    demo.end_daemon()


def stop(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, stop)
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="dasfs-demo-"))
    demo = Demo(folder, sys.argv[1] if len(sys.argv) > 1 else f"sqlite://{folder}/store.db")
    say(f"Everything happens in a new folder, {folder}, and in the store {demo.store}.")
    failure = None
    try:
        show(demo)
    except KeyboardInterrupt:
        failure = "stopped"
    except (DemoError, OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is impatient now would leave the mount behind
        demo.unmount_after_failure()
        if demo.daemon is not None:
            demo.daemon.kill()
            demo.daemon.wait()
    if failure is not None:
        print(f"\ndemo: {failure}. What there is so far is in {folder}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - started
    say(f"That took {seconds:.0f} s. All that is left is {folder}; remove it when you like.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
