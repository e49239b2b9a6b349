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
    sloppy = "-s" in flags
    arguments = ["mount", *places]
    for name, value in options:
        if name == "-o":
            arguments += ["-o", ",".join(part for part in value.split(",") if _is_meant(part, sloppy=sloppy))]
    sys.argv[1:] = arguments
    sys.exit(run(arguments))


def _is_meant(option: str, *, sloppy: bool) -> bool:
    """Return whether an option is for us. mount(8) says `rw` where nobody said `ro`; with -s, it wants no refusals."""
    if option == "rw" or not sloppy:
        return option != "rw"
    from dasfs.cli.mount_options import parse_options
    from dasfs.errors import InvalidInput

    try:
        parse_options([option])
    except InvalidInput:
        return False
    return True


def _refuse(problem: str) -> int:
    sys.stderr.write(f"mount.fuse.dasfs: {problem}; {_USAGE}\n")
    return EXIT_USAGE
