"""The benchmark's own programs in C, compiled when they are missing or older than their source.

python -m bench.programs fuse_memory
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Final

from bench.processes import BenchError, run

HERE: Final = Path(__file__).resolve().parent
LIBRARIES: Final = {"fuse_memory": "fuse3", "delay_proxy": None}


def build(name: str) -> Path:
    """Return the path of one program. Raises `BenchError` with the compiler's last line where it can't be built."""
    source, program = HERE / f"{name}.c", HERE / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    library = LIBRARIES[name]
    flags = shlex.split(run("pkg-config", "--cflags", "--libs", library).stdout) if library else []
    compiler = shlex.split(os.environ.get("CC", "cc"))
    run(*compiler, "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", str(source), *flags, "-o", str(program))
    return program


def main() -> int:
    try:
        for name in sys.argv[1:] or LIBRARIES:
            print(build(name))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
