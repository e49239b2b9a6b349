#!/usr/bin/env python3
"""Measure dasfs against what it is held to. Prints a table; keeps every sample below bench/out.

    make bench                              all cases, stores in a folder
    make bench BENCH=warm                   one case
    make bench BENCH='put --store s3://bucket'    a real S3 store, as boto3 finds it

Machines differ and are noisy: what counts is the ratio within one run. `warm` and `million` need root, since
the kernel must forget files between two readings; `latency` mounts as any user.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import cases
import daemon_cases
from plot import draw
from rig import FUSE_MEMORY, OUT, BenchError, Outcome, table

MOUNTING = ("warm", "million")
CASES = (*MOUNTING, "put", "daemon", "backlog", "latency")


def measure(case: str, work: Path, arguments: argparse.Namespace) -> Outcome:
    if case == "warm":
        return cases.warm(work)
    if case == "million":
        return cases.million(work, datapoints=arguments.datapoints)
    if case == "put":
        return cases.put(work, store=arguments.store)
    if case == "daemon":
        return daemon_cases.daemon(work, store=arguments.store, scale=arguments.scale)
    if case == "backlog":
        return daemon_cases.backlog(work, files=arguments.files)
    return daemon_cases.latency(work)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one or more of {', '.join(CASES)}; all without")
    parser.add_argument("--store", help="for put and daemon: s3://BUCKET[/PREFIX]; without it a folder")
    parser.add_argument("--datapoints", type=int, default=1_000_000, help="for million: how many (default 1000000)")
    parser.add_argument("--scale", type=float, default=1.0, help="for daemon: which part of its files (default 1)")
    parser.add_argument("--files", type=int, default=1_000_000, help="for backlog: how many (default 1000000)")
    parser.add_argument("--work", type=Path, help="where the data goes, up to 40 GB for daemon (default: TMPDIR)")
    arguments = parser.parse_args()
    arguments.cases = arguments.cases or list(CASES)
    unknown = [case for case in arguments.cases if case not in CASES]
    if unknown:
        parser.error(f"no case {unknown[0]}; there are {', '.join(CASES)}")
    return arguments


def main() -> int:
    arguments = parse()
    for case in arguments.cases:
        if case in MOUNTING and os.geteuid() != 0:
            print(f"bench: {case} needs root: the kernel must forget files between readings", file=sys.stderr)
            return 1
        if case in MOUNTING and not os.access(FUSE_MEMORY, os.X_OK):
            print("bench: bench/fuse_memory is not built; use make bench", file=sys.stderr)
            return 1
    rows = []
    try:
        for case in arguments.cases:
            print(f"{case}:", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix=f"dasfs-bench-{case}-", dir=arguments.work) as work:
                outcome = measure(case, Path(work), arguments)
            outcome.save()
            rows += outcome.rows
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    (OUT / "ratios.svg").write_text(draw(rows))
    print(table(rows))
    print(f"\nsamples and plot: {OUT}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
