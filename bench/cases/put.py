"""Packing and uploading many small files, beside `tar` piped into one multipart upload."""

import shlex
import sys
from pathlib import Path
from typing import Final

from bench.gateway import Gateway
from bench.material import make_files
from bench.outcome import DASFS, Aim, Outcome, Row
from bench.processes import run
from bench.rig import HERE, Rig, take_turns

TAR: Final = "tar, one multipart upload"
MB: Final = 1_000_000


def put(rig: Rig) -> Outcome:
    """Put the same files by turns with `dasfs put` and with `tar` piped into boto3, commands from start to end."""
    settings = rig.settings
    outcome = Outcome("put", "Packing and uploading")
    gateway, folder = rig.gateway, rig.work / "files"
    make_files(folder, settings.put_size, settings.put_files, settings.seed)
    megabytes = settings.put_files * settings.put_size / MB

    def tar() -> None:
        number = len(outcome.samples.get(f"{TAR}, MB/s", ()))
        outcome.add_sample(f"{TAR}, MB/s", megabytes / upload_tar(gateway, folder, f"tar-{number}"))

    def ours() -> None:
        name = f"put-{len(outcome.samples.get(f'{DASFS}, MB/s', ()))}"
        rig.dasfs("dataset", "create", name, "--store", gateway.store, direct=True)
        done = rig.dasfs("put", name, str(folder), "--store", gateway.store)
        outcome.add_sample(f"{DASFS}, MB/s", megabytes / done.seconds)

    take_turns(outcome, settings.slow_rounds, [(TAR, tar), (DASFS, ours)])
    what = f"`put` of {settings.put_files:,} files of {settings.put_size / 1000:g} kB"
    mine, peer = (outcome.median(f"{name}, MB/s") for name in (DASFS, TAR))
    outcome.rows.append(Row(what, "MB/s", mine, TAR, peer, Aim(0.9), outcome.problems.get(TAR, "")))
    return outcome


def upload_tar(gateway: Gateway, folder: Path, name: str) -> float:
    """Pipe a tar of a folder into one multipart upload, and return the seconds that it took."""
    upload = [sys.executable, str(HERE / "upload_stream.py"), gateway.bucket, f"{gateway.prefix}{name}"]
    pipe = f"set -o pipefail; tar -cf - -C {shlex.quote(str(folder))} . | {shlex.join(upload)}"
    return run("bash", "-c", pipe, env=gateway.environment).seconds
