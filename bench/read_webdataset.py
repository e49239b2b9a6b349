#!/usr/bin/env python3
"""Stream a TAR through curl with webdataset, and print how fast that went as one line of JSON, as read_files.py does.

Runs with the Python of the peers' environment. `--list FILE` is a JSON list of [name, size, sha256] in the order of
the TAR: the size of each datapoint is checked, with `--verify` its checksum too.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import webdataset
from read_files import Part, result


def samples(url: str) -> Any:
    command = f"pipe:curl --silent --show-error --fail --location {shlex.quote(url)}"
    return webdataset.WebDataset(command, shardshuffle=False)


def read_all(url: str, files: list[tuple[str, int, str]], verify: bool) -> Part:
    total = 0
    ends: list[float] = []
    started = time.monotonic()
    for sample in samples(url):
        name, size, checksum = files[len(ends)]
        stem, _, extension = name.partition(".")
        data = sample[extension]
        ends.append(time.monotonic())
        if sample["__key__"] != stem or len(data) != size:
            raise ValueError(f"{sample['__key__']} has {len(data)} bytes where {name} with {size} stands in the list")
        if verify and hashlib.sha256(data).hexdigest() != checksum:
            raise ValueError(f"{name} has another checksum")
        total += len(data)
    if len(ends) != len(files):
        raise ValueError(f"{len(ends)} datapoints of {len(files)} came")
    return Part(total, started, ends)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--list", required=True, metavar="FILE")
    parser.add_argument("--verify", action="store_true")
    arguments = parser.parse_args()
    files = [tuple(each) for each in json.loads(Path(arguments.list).read_text())]
    # The program is read from disk before the clock starts, as those of the mounts were.
    subprocess.run(["curl", "--version"], check=True, stdout=subprocess.DEVNULL)
    try:
        part = read_all(arguments.url, files, arguments.verify)
    except (OSError, ValueError) as error:
        print(f"read_webdataset: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result([part])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
