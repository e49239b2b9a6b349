"""Running the real `dasfs` command in tests, and what every one of its answers must keep."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

COMMAND = [sys.executable, "-m", "dasfs"]
# Above anything that a command of a test takes on a busy machine; a command that hangs fails the test.
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The line that says what was wrong; fails unless there is exactly one, and no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("dasfs: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err, self.err
        assert self.err.splitlines()[-1] == lines[0], self.err
        return lines[0]


def environment(**variables: str) -> Mapping[str, str]:
    """Return this process's environment for a command: nobody's configuration, no colours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DASFS_")}
    return kept | {"DASFS_CONFIG": os.devnull, "NO_COLOR": "1"} | variables


def start(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """Start a command, with `variables` in its environment."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
        text=True,
        errors="surrogateescape",
    )


def finish(process: "subprocess.Popen[str]") -> Answer:
    """Wait for a command that was started."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Answer(process.returncode, out, err)


def dasfs(*arguments: str, **variables: str) -> Answer:
    """Run a command to its end."""
    return finish(start(*arguments, **variables))


def succeed(*arguments: str, **variables: str) -> str:
    """Run a command that has to work; return what it wrote to stdout."""
    answer = dasfs(*arguments, **variables)
    assert answer.code == 0, answer
    return answer.out
