#!/usr/bin/env python3
"""Measure dasfs against what it is held to. Prints a table; keeps every sample below bench/out.

    make bench                              all cases, stores in a folder
    make bench BENCH=warm                   one case
    make bench BENCH='put --store s3://bucket'    a real S3 store, as boto3 finds it

Machines differ and are noisy: what counts is the ratio within one run. `warm` and `million` need root, since
the kernel must forget files between two readings.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import cases
from plot import draw
from rig import FUSE_MEMORY, OUT, BenchError, Outcome, table

MOUNTING = ("warm", "million")
CASES = (*MOUNTING, "put")


def measure(case: str, work: Path, arguments: argparse.Namespace) -> Outcome:
    if case == "warm":
        return cases.warm(work)
    if case == "million":
        return cases.million(work, datapoints=arguments.datapoints)
    return cases.put(work, store=arguments.store)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one or more of {', '.join(CASES)}; all without")
    parser.add_argument("--store", help="for put: s3://BUCKET[/PREFIX]; without it a folder")
    parser.add_argument("--datapoints", type=int, default=1_000_000, help="for million: how many (default 1000000)")
    parser.add_argument("--work", type=Path, help="where the data goes, 3 GB for million (default: TMPDIR)")
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
