"""One line of what `dasfs doctor` found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended. A warning costs speed or comfort, a problem keeps something from working."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `check` is a stable name; `measured` are its figures, for programs."""

    check: str
    verdict: Verdict
    message: str
    hint: str | None = None
    measured: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """What is found and what to do, in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


def ok(check: str, message: str, **measured: float | None) -> Finding:
    return Finding(check, Verdict.OK, message, measured=measured)


def warning(check: str, message: str, hint: str, **measured: float | None) -> Finding:
    return Finding(check, Verdict.WARNING, message, hint, measured)


def problem(check: str, message: str, hint: str | None = None, **measured: float | None) -> Finding:
    return Finding(check, Verdict.PROBLEM, message, hint, measured)
