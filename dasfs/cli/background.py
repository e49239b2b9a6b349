"""Run this program once more, in the background, and wait until it says that it is ready.

FUSE and threads do not survive a fork, so the background process is a new one that was told to stay in the
foreground. It says "ready" on a pipe; until then what it writes to stderr is ours to show.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Sequence

from dasfs.cli.service import without_manager
from dasfs.errors import AccessDenied, DasfsError, InvalidInput, NoSpace


def spawn(arguments: Sequence[str]) -> None:
    """Start `dasfs ARGUMENTS --foreground`, and return once it is ready.

    Raises `SystemExit` with the child's exit code where it ended before: its stderr was shown.
    """
    ready, told = os.pipe()
    try:
        child = subprocess.Popen(
            # -P: nothing is imported from the directory where the user happens to be.
            [sys.executable, "-P", "-m", "dasfs", *arguments, "--foreground", "--ready-fd", str(told)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=without_manager(os.environ),
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


def open_log(path: str) -> int:
    """Return a descriptor that appends to the log file at `path`; its directory is made."""
    message = f"the log file {path} can't be written"
    hint = "give another --cache-dir or --log-file"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InvalidInput(f"{message}: {error.strerror}", hint=hint) from error
    except OSError as error:
        kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else AccessDenied
        raise kind(f"{message}: {error.strerror}", hint=hint) from error


def leave_parent(ready_fd: int, log: int) -> None:
    """Say "ready" to the parent; what is said from now on goes to `log`, since nobody reads the parent's stderr."""
    os.write(ready_fd, b"ready")
    os.close(ready_fd)
    os.dup2(log, sys.stderr.fileno())
    os.dup2(log, sys.stdout.fileno())
    os.close(log)
