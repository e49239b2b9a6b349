"""Run this program once more, in the background, and wait until it says that it is ready.

FUSE and threads do not survive a fork, so the background process is a new one that was told to stay in the
foreground. It says "ready" on a pipe; until then what it writes to stderr is ours to show.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from dasfs.errors import AccessDenied, DasfsError


def spawn(arguments: Sequence[str], log_path: str) -> None:
    """Start `dasfs ARGUMENTS --foreground`, and return once it is ready; `log_path` is where it logs then.

    Raises `SystemExit` with the child's exit code where it ended before: its stderr was shown.
    """
    try:
        os.makedirs(os.path.dirname(log_path), mode=0o700, exist_ok=True)
    except OSError as error:
        raise AccessDenied(f"{os.path.dirname(log_path)} can't be made: {error.strerror}") from error
    ready, told = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "dasfs", *arguments, "--foreground", "--ready-fd", str(told)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[told],
            start_new_session=True,
        )
    finally:
        os.close(told)
    try:
        with open(ready, "rb") as pipe:
            if pipe.read() == b"ready":
                return
        code = child.wait()
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    if code < 0:
        raise DasfsError(f"the mount's process was ended by signal {-code}")
    raise SystemExit(code)
