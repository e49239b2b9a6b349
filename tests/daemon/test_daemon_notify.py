"""The daemon as a service of systemd: what it tells the manager, and what it logs to the journal."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dasfs_daemon.log_fields import Fields
from tests.commands import dasfs
from tests.daemons import Daemon, write
from tests.managers import Manager, listening, parse_entry
from tests.mounts import wait_until

DaemonOf = Callable[..., Daemon]

# The journal's socket has a fixed path, where the machine's own may listen: a daemon that is told of another one.
WITH_JOURNAL = """
import sys, logging_journald
logging_journald.JournaldTransport.SOCKET_PATH = sys.argv.pop(1)
from dasfs.cli.main import main
main()
"""


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A service manager of all processes that the test starts, with a watchdog that wants a sign of life each 0.4 s."""
    with listening(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        yield manager


def test_it_tells_the_manager_of_its_life(manager: Manager, daemon_of: DaemonOf, file_url: str) -> None:
    """READY once it watches, signs of life with what it is at, RELOADING and READY for SIGHUP, STOPPING for SIGTERM."""
    daemon = daemon_of(file_url)
    daemon.start()
    assert manager.wait_for(lambda message: "READY" in message) == [{"READY": "1"}]
    write(daemon.directory, {"a": b"1"})
    told = manager.wait_for(lambda message: "; 1 files committed" in message.get("STATUS", ""))
    assert all(message.get("WATCHDOG") == "1" for message in told)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    manager.wait_for(lambda message: "RELOADING" in message)
    assert manager.wait_for(lambda message: "WATCHDOG" not in message)[-1] == {"READY": "1"}
    assert daemon.end() == 0
    manager.wait_for(lambda message: message == {"STOPPING": "1"})
    assert manager.message(0) == {}


def test_ready_is_told_when_it_watches(manager: Manager, daemon_of: DaemonOf, file_url: str) -> None:
    """A file that is there when READY comes, or comes just after it, is packed without another event."""
    daemon = daemon_of(file_url, scan_interval="1h")
    write(daemon.directory, {"before": b"1"})
    daemon.start()
    manager.wait_for(lambda message: "READY" in message)
    write(daemon.directory, {"after": b"2"})
    daemon.wait_empty()


def test_a_wrong_configuration_is_never_ready(manager: Manager, tmp_path: Path) -> None:
    """A daemon that can't start says nothing to the manager, and ends with the exit code that forbids a restart."""
    (tmp_path / "daemon.toml").write_text("nonsense = 1\n")
    assert dasfs("daemon", "--config", str(tmp_path / "daemon.toml")).code == 2
    assert manager.drain() == []


def test_the_journal_gets_fields(
    tmp_path: Path, daemon_of: DaemonOf, file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit and a problem are entries by whose fields a journal can be searched; stderr has no line of them."""
    daemon = daemon_of(file_url)
    daemon.expected.append("rejected")
    status = daemon.log_file.stat()
    with listening(tmp_path / "journal") as journal:
        daemon.command = (sys.executable, "-c", WITH_JOURNAL, journal.address)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        daemon.start()
        write(daemon.directory, {"x/a": b"12", "x/b": b"345", f"{2**63:020d}.jpg": b""})
        daemon.wait_empty()
        entries: list[dict[str, bytes]] = []

        def arrived() -> bool:
            entries.extend(parse_entry(each) for each in journal.drain())
            return {b"committed", b"rejected"} <= {kind(each) for each in entries}

        wait_until(arrived)
    ours = {name for each in entries for name in each if name.startswith("DASFS_")}
    assert ours <= {f"DASFS_{name.upper()}" for name in Fields.__annotations__}
    committed = [each for each in entries if kind(each) == b"committed"]
    assert {each["DASFS_DATASET"] for each in committed} == {b"d"}
    assert sum(int(each["DASFS_FILES"]) for each in committed) == 2
    assert sum(int(each["DASFS_BYTES"]) for each in committed) == 5
    assert (committed[0]["DASFS_FIRST"], committed[-1]["DASFS_LAST"]) == (b"0", b"1")
    assert all(int(each["DASFS_REVISION"]) > 1 and each["PRIORITY"] == b"6" for each in committed)
    rejected = next(each for each in entries if b"is rejected" in each["MESSAGE"])
    assert (rejected["DASFS_PROBLEM"], rejected["PRIORITY"]) == (b"rejected", b"4")
    assert rejected["DASFS_PATH"] == os.fsencode(f"{2**63:020d}.jpg")
    assert "committed" not in daemon.log


def kind(entry: dict[str, bytes]) -> bytes:
    """Return which of the lines that the test waits for an entry is."""
    return next((word for word in (b"committed", b"rejected") if word in entry["MESSAGE"]), b"")
