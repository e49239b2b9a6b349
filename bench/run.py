"""Measure dasfs and its peers in the same run. Prints tables; keeps every sample below bench/out.

    make bench                                         all cases, a Ceph gateway of its own behind 20 ms
    make bench CASE='cold-order one'                   these
    make bench BENCH='--quick'                         smaller and fewer
    make bench BENCH='--store s3://bucket/prefix'      a real S3 store, as boto3 finds it

Needs root: the kernel must forget files between two readings. Machines differ and are noisy: what counts is the ratio
within one run.
"""

import argparse
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench import environment, report
from bench.cases import CASES, MORE_CASES, find_case
from bench.outcome import Outcome
from bench.processes import BenchError
from bench.rig import open_rig
from bench.settings import FULL, QUICK, SMOKE


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    more = ", ".join(MORE_CASES)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}, which are all without; {more} when named"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="settings", const=QUICK, help="smaller and fewer")
    size.add_argument("--smoke", action="store_const", dest="settings", const=SMOKE, help="tiny, installs nothing")
    parser.set_defaults(settings=FULL)
    parser.add_argument("--store", metavar="URL", help="s3://BUCKET[/PREFIX] instead of a Ceph of its own")
    parser.add_argument(
        "--latency", type=float, metavar="MS", help="to add to each request: 20 for its own Ceph, else 0"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="where data goes, 15 GB (default: TMPDIR)")
    parser.add_argument("--out", type=Path, metavar="DIR", default=report.OUT, help="where results go (bench/out)")
    arguments = parser.parse_args()
    arguments.cases = arguments.cases or list(CASES)
    unknown = [case for case in arguments.cases if case not in CASES and case not in MORE_CASES]
    if unknown:
        parser.error(f"no case {unknown[0]!r}; there are {', '.join(CASES)}, {more}")
    return arguments


def measure(case: str, arguments: argparse.Namespace, installed: environment.Environment) -> Outcome:
    """Run one case in a rig of its own."""
    print(f"{case}:", file=sys.stderr, flush=True)
    started = time.monotonic()
    settings = arguments.settings
    with open_rig(settings, installed, store=arguments.store, latency_ms=arguments.latency, work=arguments.work) as rig:
        outcome = find_case(case)(rig)
        outcome.machine |= report.machine(rig)
    outcome.seconds = time.monotonic() - started
    return outcome


def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """End the run as Ctrl-C does: once. What is under way is cleaned up then, and must not be cut off."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    arguments = parse()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    smoke = arguments.settings.smoke
    if os.geteuid() != 0 and not smoke:
        print("bench: needs root: the kernel must forget files between readings", file=sys.stderr)
        return 1
    failed = []
    try:
        installed = environment.empty() if smoke else environment.install()
        for case in arguments.cases:
            try:
                measure(case, arguments, installed).save(arguments.out)
            except BenchError as error:
                print(f"bench: {case}: {error}", file=sys.stderr)
                failed.append(case)
        # Only what was measured in full, on the rig that the documentation describes, goes into it.
        publish = arguments.settings is FULL and arguments.store is None and arguments.out == report.OUT
        report.write(arguments.out, installed, publish=publish)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    with suppress(BrokenPipeError):
        print(report.tables(report.load_all(arguments.out)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
