"""Reading a file that may never answer, such as one of a mount whose process hangs.

A read of a FUSE mount that its process has taken and does not answer can't be interrupted, not even by SIGKILL, and a
process with such a thread does not end. So each file is read by a child that can be left behind, with nothing of ours
in its hands that somebody else waits for.
"""

import contextlib
import errno
import os
import select
import signal
import time
from typing import Final

_HEAD: Final = 4  # bytes in which the child tells an errno; 0: what follows is the content


class PatientRead:
    """One file, which can be read any number of times, one after the other."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._child: int | None = None
        self._pipe = -1
        self._read = b""

    def begin(self) -> None:
        """Start reading. A read that is still under way goes on instead: at most one child is left behind."""
        if self._child is not None:
            return
        self._pipe, told = os.pipe()
        self._read = b""
        self._child = os.fork()
        if self._child == 0:
            _be_child(self.path, told)
        os.close(told)

    def finish(self, deadline: float) -> bytes:
        """Return the content. Raises `TimeoutError` at `deadline` (monotonic), and the `OSError` of the read."""
        while self._wait(deadline):
            data = os.read(self._pipe, 1 << 16)
            if data:
                self._read += data
                continue
            self._end()
            code = int.from_bytes(self._read[:_HEAD], "big") if len(self._read) >= _HEAD else errno.EIO
            if code:
                raise OSError(code, os.strerror(code), self.path)
            return self._read[_HEAD:]
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), self.path)

    def close(self) -> None:
        """Leave a child that is still reading behind; it ends as soon as the kernel lets it."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            os.close(self._pipe)
            self._child = None

    def _wait(self, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def _end(self) -> None:
        assert self._child is not None
        os.close(self._pipe)
        os.waitpid(self._child, 0)
        self._child = None


def _be_child(path: str, told: int) -> None:
    """Read, tell, end. Nothing of the parent's stays open, so that nobody waits for this process to let it go."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for each in (0, 1, 2):
            os.dup2(null, each)
        os.closerange(3, told)
        os.closerange(told + 1, os.sysconf("SC_OPEN_MAX"))
        answer = _read(path)
        while answer:
            answer = answer[os.write(told, answer) :]
    finally:
        os._exit(0)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return bytes(_HEAD) + file.readall()
    except OSError as error:
        return (error.errno or errno.EIO).to_bytes(_HEAD, "big")
