"""docs/daemon.md and docs/monitoring.md quote the daemon: what they say that it says, it says."""

import re
from pathlib import Path

import pytest

from dasfs_daemon.worker import HOLDING

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "daemon.md").read_text()
MONITORING = (ROOT / "docs" / "monitoring.md").read_text()
SOURCES = [*(ROOT / "daemon").rglob("*.py"), *(ROOT / "dasfs").rglob("*.py")]
# What a quotation has for a field of an f-string: `...`, a number, or a word in capitals with what stands around it.
PLACEHOLDER = re.compile(r"\.\.\.|\d+|[(/]?\b(?:process )?[A-Z]+\b\)?")
KERNEL = {"permission denied"}
KEYS = re.compile(r'(?:report|set|clear|until_done)\(\s*"(\w+)"|^PROBLEM: Final = "(\w+)"', re.MULTILINE)


def say(text: str) -> str:
    """Return source with its strings joined as Python joins them, and without its fields."""
    joined = re.sub(r'"\s*\n\s*f?"', "", text)
    return re.sub(r"\{[^{}]*\}", "\0", joined)


CODE = "\n".join(say(path.read_text()) for path in SOURCES)


def quotations() -> list[str]:
    """Return what the first column of the table of problems quotes."""
    section = PAGE[PAGE.index("## What goes wrong") : PAGE.index("What a user may wonder about")]
    rows = [row.split(" | ")[0] for row in section.splitlines() if row.startswith("| `")]
    return [each for row in rows for each in re.findall(r"`([^`]*)`", row)]


@pytest.mark.parametrize("quotation", quotations())
def test_what_is_quoted_is_said(quotation: str) -> None:
    """Each stretch of words of a quotation stands in the source like this."""
    words = [part.strip(" :/") for part in PLACEHOLDER.split(quotation)]
    assert [part for part in words if part and part not in CODE and part not in KERNEL] == []


def test_the_table_is_one() -> None:
    """No row of a table stands alone: a blank line above it would make text of it."""
    lines = PAGE.splitlines()
    alone = [
        line
        for above, line, below in zip(lines, lines[1:], [*lines[2:], ""], strict=False)
        if line.startswith("|") and not above.startswith("|") and not below.startswith("|---")
    ]
    assert alone == []


def test_every_kind_of_problem_is_documented() -> None:
    """docs/monitoring.md names each key that a problem can have, those that hold files up apart."""
    keys = {
        first or second for path in (ROOT / "daemon").rglob("*.py") for first, second in KEYS.findall(path.read_text())
    }
    section = MONITORING[MONITORING.index("`key` of a problem") : MONITORING.index("### Of each dataset")]
    documented = set(re.findall(r"`(\w+)`", section)) - {"key", "waiting"}
    assert documented == keys
    assert set(re.findall(r"`(\w+)`", section[: section.index("a dataset is")])) - {"key"} == HOLDING
