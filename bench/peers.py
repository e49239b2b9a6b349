"""The clients that take turns: dasfs and its peers, each with the settings that its own documentation advises.

A peer is prepared once a case, outside of what is measured, as an index is: `prepare`. Then `cold` starts it, for
one reading or several, with nothing of the data cached.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import dasfs
from bench.material import DATASET, Material, index_only_cache
from bench.outcome import DASFS
from bench.processes import BenchError, Mount, mounted, run
from bench.rig import HERE, Rig, fresh_copy

LINK: Final = "raw ranged GETs"
S3FS: Final = "s3fs-fuse"
RCLONE: Final = "rclone mount"
TUNED_RCLONE: Final = "rclone mount, tuned"
RATARMOUNT: Final = "ratarmount"
WEBDATASET: Final = "webdataset"
UNLIMITED_S: Final = 600.0
# Fewer requests for each file, by rclone's manual of `mount`; nothing makes it read the next file ahead.
TUNING: Final = [
    *("--no-modtime", "--no-checksum", "--vfs-fast-fingerprint", "--s3-no-head-object"),
    *("--vfs-read-ahead", "128M", "--transfers", "16", "--dir-cache-time", "24h", "--attr-timeout", "24h"),
]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to read: with so many processes, shuffled with a seed or in order, for so many seconds at most."""

    readers: int = 1
    seed: int | None = None
    seconds: float = UNLIMITED_S
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reading did. `marks` are (n, seconds until n files were read)."""

    files: int
    size: int
    seconds: float
    marks: list[tuple[float, float]]

    @property
    def files_per_s(self) -> float:
        return self.files / self.seconds


class Client(Protocol):
    """A peer that runs and is cold."""

    def read(self, plan: Plan) -> Reading:
        """Read the material. Raises `BenchError` when a byte or a file is missing."""


class Peer(Protocol):
    """What takes part in the cases that read. One that is `slow` is not waited for: its rate so far counts."""

    name: str
    slow: bool

    def prepare(self, rig: Rig, material: Material) -> str:
        """Do what is not measured, and return the version. Raises `BenchError` when this peer can't take part."""

    def cold(self) -> AbstractContextManager[Client]:
        """Start it with nothing of the data cached; end it with the block."""


@dataclass(frozen=True, slots=True)
class MountClient:
    """Reads the files of a mounted directory."""

    material: Material
    mount: Mount
    directory: Path

    def read(self, plan: Plan) -> Reading:
        return read_directory(self.directory, self.material.listing, plan)


def read_directory(directory: Path, listing: Path, plan: Plan) -> Reading:
    """Read the listed files of a directory, by whatever file system it has."""
    command = [sys.executable, str(HERE / "read_files.py"), str(directory), "--list", str(listing)]
    command += ["--readers", str(plan.readers), "--seconds", str(plan.seconds)]
    command += [] if plan.seed is None else ["--seed", str(plan.seed)]
    command += ["--verify"] if plan.verify else []
    return _measured(command)


def learn_names(mount: Mount) -> None:
    """Let a mount that has no index learn names and sizes of its files, before it is measured."""
    with os.scandir(mount.path) as entries:
        for entry in entries:
            entry.stat()


def _measured(command: list[str]) -> Reading:
    document: dict[str, Any] = json.loads(run(*command).stdout)
    marks = [(n, seconds) for n, seconds in document.get("marks", ())]
    return Reading(document.get("files", 0), document["size"], document["seconds"], marks)


class Dasfs:
    """dasfs itself, with the index cached and none of the data."""

    name = DASFS
    slow = False

    def prepare(self, rig: Rig, material: Material) -> str:
        self._rig, self._material = rig, material
        self._template = index_only_cache(rig)
        return dasfs.__version__

    @contextlib.contextmanager
    def cold(self) -> Iterator[MountClient]:
        cache = fresh_copy(self._template, self._rig.work / "dasfs-cache")
        with self._rig.mount_dasfs("dasfs", cache) as mount:
            yield MountClient(self._material, mount, mount.path / DATASET)


class S3fs:
    """s3fs-fuse, an object a file. Its cache on disk is off, which only costs a cold reader."""

    name = S3FS
    slow = True

    def prepare(self, rig: Rig, material: Material) -> str:
        self._rig, self._material = rig, material
        program = rig.environment.program("s3fs")
        gateway, mountpoint = rig.gateway, rig.work / "s3fs"
        options = (
            f"url={gateway.endpoint},endpoint={gateway.keys['AWS_DEFAULT_REGION']},use_path_request_style,ro,"
            "max_stat_cache_size=1000000,stat_cache_expire=86400,enable_noobj_cache,parallel_count=16,multireq_max=32"
        )
        bucket = f"{gateway.bucket}:/{gateway.prefix}files"
        self._command = [program, bucket, str(mountpoint), "-f", "-o", options]
        return run(program, "--version").stdout.split()[6].lstrip("V")

    @contextlib.contextmanager
    def cold(self) -> Iterator[MountClient]:
        rig = self._rig
        # s3fs takes the keys that boto3 takes, under names of its own.
        env = {**rig.gateway.environment}
        for ours, theirs in (
            ("AWS_ACCESS_KEY_ID", "AWSACCESSKEYID"),
            ("AWS_SECRET_ACCESS_KEY", "AWSSECRETACCESSKEY"),
            ("AWS_SESSION_TOKEN", "AWSSESSIONTOKEN"),
        ):
            if ours in env:
                env[theirs] = env.pop(ours)
        with mounted(rig.work / "s3fs", self._command, env) as mount:
            learn_names(mount)
            yield MountClient(self._material, mount, mount.path)


class Rclone:
    """rclone mount, an object a file, with the cache that its manual advises for programs.

    Tuned, it also makes no request for a time or for what it knows from listing, reads ahead, and remembers names.
    """

    slow = True

    def __init__(self, *, tuned: bool = False) -> None:
        self.name = TUNED_RCLONE if tuned else RCLONE
        self._tuned = tuned

    def prepare(self, rig: Rig, material: Material) -> str:
        self._rig, self._material = rig, material
        self._program = rig.environment.program("rclone")
        return run(self._program, "version").stdout.split()[1].lstrip("v")

    @contextlib.contextmanager
    def cold(self) -> Iterator[MountClient]:
        rig, cache = self._rig, self._rig.work / "rclone-cache"
        fresh_copy(_empty(rig), cache)
        with mounted(rig.work / "rclone", self._command(cache), rig.gateway.environment) as mount:
            # Untuned it would ask for the time of each file, one after another.
            if self._tuned:
                learn_names(mount)
            yield MountClient(self._material, mount, mount.path)

    def _command(self, cache: Path) -> list[str]:
        gateway = self._rig.gateway
        remote = f":s3,provider=Ceph,env_auth=true,endpoint='{gateway.endpoint}':{gateway.bucket}/{gateway.prefix}files"
        command = [self._program, "mount", remote, str(self._rig.work / "rclone"), "--config", "/dev/null"]
        command += ["--read-only", "--cache-dir", str(cache), "--vfs-cache-mode", "full"]
        return command + (TUNING if self._tuned else [])


class Ratarmount:
    """ratarmount on one TAR in the store, with its index prepared beforehand.

    It reads 50 MiB at once, as its S3 library does: quick in order, and very slow where each file lies somewhere else.
    """

    name = RATARMOUNT
    slow = True

    def prepare(self, rig: Rig, material: Material) -> str:
        self._rig, self._material = rig, material
        program = rig.environment.program("ratarmount")
        url = f"s3://{rig.gateway.bucket}/{rig.gateway.prefix}data.tar"
        index = rig.work / "ratarmount.index.sqlite"
        self._command = [program, "-f", "--index-file", str(index), url, str(rig.work / "ratarmount")]
        with self.cold():
            pass
        if not index.exists():
            raise BenchError("it made no index")
        return rig.environment.version("ratarmount")

    @contextlib.contextmanager
    def cold(self) -> Iterator[MountClient]:
        rig = self._rig
        with mounted(rig.work / "ratarmount", self._command, rig.gateway.environment) as mount:
            yield MountClient(self._material, mount, mount.path)


class Webdataset:
    """webdataset, which streams the TAR through curl: no file system, one reader, only in order."""

    name = WEBDATASET
    slow = False

    def prepare(self, rig: Rig, material: Material) -> str:
        self._rig, self._material = rig, material
        rig.environment.program("curl")
        if not rig.environment.has("webdataset"):
            raise BenchError(rig.environment.problems.get("webdataset", "not installed"))
        return rig.environment.version("webdataset")

    @contextlib.contextmanager
    def cold(self) -> Iterator["Webdataset"]:
        yield self

    def read(self, plan: Plan) -> Reading:
        command = [str(self._rig.environment.python), str(HERE / "read_webdataset.py")]
        command += [self._rig.gateway.link("data.tar"), "--list", str(self._material.listing)]
        return _measured([*command, *(["--verify"] if plan.verify else [])])


class RangedGets:
    """The link: the TAR by ranged GETs of 8 MiB, 8 at once, thrown away. Its files are bytes by their mean size."""

    name = LINK
    slow = False

    def prepare(self, rig: Rig, material: Material) -> str:
        self._rig, self._material = rig, material
        return ""

    @contextlib.contextmanager
    def cold(self) -> Iterator["RangedGets"]:
        yield self

    def read(self, plan: Plan) -> Reading:
        tar_size = self._material.tar.stat().st_size
        command = [sys.executable, str(HERE / "read_ranges.py")]
        command += [self._rig.gateway.link("data.tar"), str(tar_size)]
        reading = _measured([*command, *(["--verify", self._material.tar_sha256] if plan.verify else [])])
        return Reading(len(self._material.files), self._material.size, reading.seconds, [])


def _empty(rig: Rig) -> Path:
    path = rig.work / "empty"
    path.mkdir(exist_ok=True)
    return path
