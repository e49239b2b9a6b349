"""The helper that mount(8) runs for `mount -t fuse.dasfs STORE MOUNTPOINT -o ...` and for fstab.

mount(8) calls `/sbin/mount.fuse.dasfs STORE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`; `make
install` puts this there. It does what `dasfs mount` does.
"""

import getopt
import sys
from typing import NoReturn

from dasfs.cli.main import EXIT_USAGE, run

_USAGE = "usage: mount.fuse.dasfs STORE MOUNTPOINT [-o option,...]"


def main() -> NoReturn:
    """Translate mount(8)'s arguments to those of `dasfs mount`, run it, and exit with its code."""
    try:
        options, places = getopt.gnu_getopt(sys.argv[1:], "sfnvo:t:N:")
    except getopt.GetoptError as error:
        sys.exit(_refuse(str(error)))
    if len(places) != 2:
        sys.exit(_refuse("a store and a mount point are needed"))
    flags = [name for name, _ in options]
    if "-f" in flags:  # "fake": everything but the mount itself
        sys.exit(0)
    arguments = ["mount", *places]
    for name, value in options:
        if name == "-o":
            arguments += ["-o", value]
    sys.argv[1:] = arguments
    sys.exit(run(arguments))


def _refuse(problem: str) -> int:
    sys.stderr.write(f"mount.fuse.dasfs: {problem}; {_USAGE}\n")
    return EXIT_USAGE
