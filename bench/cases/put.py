"""Packing and uploading many small files, beside `tar` piped into one multipart upload."""

import shlex
import sys
from typing import Final

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
        upload = [sys.executable, str(HERE / "upload_stream.py"), gateway.bucket, f"{gateway.prefix}tar-{number}"]
        pipe = f"set -o pipefail; tar -cf - -C {shlex.quote(str(folder))} . | {shlex.join(upload)}"
        outcome.add_sample(f"{TAR}, MB/s", megabytes / run("bash", "-c", pipe, env=gateway.environment).seconds)

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
