"""What the command line takes from a service manager: its variables, and its journal."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dasfs.cli.service import JournalHandler, is_journal, take_notifier, without_manager
from tests.managers import Manager, listening, parse_entry

VARIABLES = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Manager]:
    """A journal that listens."""
    with listening(tmp_path / "journal") as journal:
        yield journal


@pytest.fixture
def logger(journal: Manager) -> Iterator[logging.Logger]:
    """A logger of this test alone, which logs to `journal`."""
    logger = logging.getLogger("dasfs_test_journal")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    handler = JournalHandler(io.StringIO(), journal.address)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    handler.close()


def entry(journal: Manager) -> dict[str, bytes]:
    datagram = journal.receive(0)
    assert datagram is not None
    return parse_entry(datagram)


def test_the_variables_of_the_manager_are_taken() -> None:
    """The notifier has the address and the interval, and no process that is started later has them."""
    environ = {**VARIABLES, "PATH": "/bin"}
    notifier = take_notifier(environ)
    assert (notifier.address, notifier.watchdog_s) == ("/run/notify", 60.0)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("changes", "address", "watchdog_s"),
    [
        ({"WATCHDOG_PID": "1"}, "/run/notify", None),
        ({"WATCHDOG_PID": ""}, "/run/notify", 60.0),
        ({"WATCHDOG_USEC": "0"}, "/run/notify", None),
        ({"WATCHDOG_USEC": "soon"}, "/run/notify", None),
        ({"NOTIFY_SOCKET": "@abstract"}, "@abstract", 60.0),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, None, None),
        ({"NOTIFY_SOCKET": ""}, None, None),
    ],
)
def test_what_is_not_meant_for_us_is_left(
    changes: dict[str, str], address: str | None, watchdog_s: float | None
) -> None:
    """A watchdog of another process, no interval, or no address that can be spoken to, is none."""
    notifier = take_notifier({**VARIABLES, **changes})
    assert (notifier.address, notifier.watchdog_s) == (address, watchdog_s)


def test_a_background_process_is_none_of_the_managers() -> None:
    """Its environment has no variable of the manager, neither for telling nor for logging."""
    assert without_manager({**VARIABLES, "JOURNAL_STREAM": "8:1", "HOME": "/"}) == {"HOME": "/"}


def test_the_journal_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JOURNAL_STREAM counts for the very file that it names, not for one that stderr was led to since."""
    with (tmp_path / "stream").open("w") as stream, (tmp_path / "other").open("w") as other:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(stream)
        assert not is_journal(other)
        for nonsense in ("", "1", "a:b", f"{status.st_dev}:"):
            monkeypatch.setenv("JOURNAL_STREAM", nonsense)
            assert not is_journal(stream)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    assert not is_journal()


def test_a_record_is_an_entry_with_fields(journal: Manager, logger: logging.Logger) -> None:
    """The words, the priority, the place in the code, and the fields that begin with DASFS_; nothing else of ours."""
    logger.warning("%s: %d files", "photos", 3, extra={"DASFS_DATASET": "photos", "DASFS_FILES": 3, "secret": "x"})
    found = entry(journal)
    line = found.pop("CODE_LINE")
    assert line.isdigit()
    assert found == {
        "MESSAGE": b"photos: 3 files",
        "PRIORITY": b"4",
        "SYSLOG_IDENTIFIER": b"dasfs",
        "LOGGER": b"dasfs_test_journal",
        "CODE_FILE": os.fsencode(__file__),
        "CODE_FUNC": b"test_a_record_is_an_entry_with_fields",
        "DASFS_DATASET": b"photos",
        "DASFS_FILES": b"3",
    }


@pytest.mark.parametrize(
    ("level", "priority"), [(10, b"7"), (20, b"6"), (25, b"6"), (30, b"4"), (40, b"3"), (50, b"2")]
)
def test_levels_are_priorities(journal: Manager, logger: logging.Logger, level: int, priority: bytes) -> None:
    """Each level of Python's is that of syslog; no line of ours is an emergency, which all terminals are told of."""
    logger.log(level, "x")
    assert entry(journal)["PRIORITY"] == priority


def test_a_traceback_is_one_entry(journal: Manager, logger: logging.Logger) -> None:
    """Several lines are one message, the traceback with it."""
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logger.exception("failed")
    message = entry(journal)["MESSAGE"]
    assert message.startswith(b"failed\nTraceback")
    assert message.endswith(b"first\nsecond")


def test_a_name_of_no_encoding_is_logged_as_it_is(journal: Manager, logger: logging.Logger) -> None:
    """A path that is not UTF-8 comes out as the bytes that it is."""
    logger.info("%s", os.fsdecode(b"a\xff"), extra={"DASFS_PATH": os.fsdecode(b"b\xfe")})
    found = entry(journal)
    assert (found["MESSAGE"], found["DASFS_PATH"]) == (b"a\xff", b"b\xfe")


def test_without_a_journal_lines_go_to_stderr(tmp_path: Path) -> None:
    """While nobody listens at the journal's socket, a record is a line; as soon as somebody does, it is an entry."""
    stream = io.StringIO()
    handler = JournalHandler(stream, str(tmp_path / "journal"))
    record = logging.LogRecord("dasfs", logging.INFO, "file", 1, "hello", (), None)
    handler.emit(record)
    assert stream.getvalue() == "hello\n"
    with listening(tmp_path / "journal") as journal:
        handler.emit(record)
        assert entry(journal)["MESSAGE"] == b"hello"
    handler.close()
