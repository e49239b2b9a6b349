"""The access log: each read a line of JSON, whole, in order, through rotation, full disks and floods."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dasfs.endpoint import Peer, Posted
from dasfs.errors import AccessDenied, InvalidInput
from dasfs.fuse import access_log as module
from dasfs.fuse.access_log import Access, AccessLog, format_access
from dasfs.fuse.access_log_switch import AccessLogSwitch, parse_switch
from dasfs.fuse.inodes import InodeTable
from dasfs.fuse.processes import Process, Processes
from dasfs.fuse.recorder import Recorder
from dasfs.names import DatapointNumber
from tests.mounts import wait_until

TABLE = InodeTable()
INODE = TABLE.datapoint("set", DatapointNumber(42))
PROCESS = Process(7, 'od"d\n\udcffname')


def open_log(path: Path) -> AccessLog:
    return AccessLog(str(path), TABLE.find_datapoint, Processes())


def add(log: AccessLog, offset: int = 0, number: int = 0) -> None:
    log.add(PROCESS, 1000, INODE, offset, 0 if number else 10, 0.00125, number == 0, number)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line() -> None:
    """A line has all that is known of a read, whatever its process is called."""
    access = Access(1_772_366_400.123456, PROCESS, 1000, INODE, 5, 10, 0.00125, True, 0)
    assert json.loads(format_access(access, TABLE.find_datapoint(INODE))) == {
        "time": "2026-03-01T12:00:00.123456Z",
        "pid": 7,
        "uid": 1000,
        "command": PROCESS.command,
        "dataset": "set",
        "number": 42,
        "offset": 5,
        "size": 10,
        "hit": True,
        "duration_ms": 1.25,
        "error": None,
    }
    failed = json.loads(format_access(access._replace(number=errno.EIO, hit=False), None))
    assert (failed["error"], failed["hit"], failed["dataset"], failed["number"]) == ("EIO", False, None, None)


def test_reads_are_written_in_order(tmp_path: Path) -> None:
    """All that was added stands in the file when the log is closed, behind what was there before."""
    path = tmp_path / "log"
    path.write_text("{}\n")
    log = open_log(path)
    for offset in range(2000):
        add(log, offset)
    log.close()
    assert [each.get("offset") for each in lines(path)] == [None, *range(2000)]
    assert (log.state().lines, log.state().dropped) == (2000, 0)


def test_rotation(tmp_path: Path) -> None:
    """A file that is moved away gets no more lines; a new one is made, and nothing is lost."""
    path, old = tmp_path / "log", tmp_path / "log.1"
    log = open_log(path)
    add(log, 1)
    wait_until(lambda: log.state().lines == 1)
    path.rename(old)
    add(log, 2)
    wait_until(lambda: log.state().lines == 2)
    path.unlink()
    add(log, 3)
    log.close()
    assert [each["offset"] for each in lines(old)] == [1]
    assert [each["offset"] for each in lines(path)] == [3]


def test_a_flood_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than the queue holds is dropped, and the file says how much."""
    monkeypatch.setattr(module, "INTERVAL_S", 3600.0)
    monkeypatch.setattr(module, "MAX_QUEUED", 1024)
    path = tmp_path / "log"
    log = open_log(path)
    for offset in range(1500):
        add(log, offset)
    log.close()
    written = lines(path)
    assert len(written) == 1025
    assert sum(each.get("dropped", 0) for each in written) == log.state().dropped == 476


def test_a_full_disk(caplog: pytest.LogCaptureFixture) -> None:
    """What the disk does not take is dropped and counted, with one warning; the mount goes on."""
    log = open_log(Path("/dev/full"))
    add(log)
    wait_until(lambda: log.state().dropped == 1)
    add(log)
    wait_until(lambda: log.state().dropped == 2)
    assert log.state().problem == os.strerror(errno.ENOSPC)
    log.close()
    assert [each.levelname for each in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("path", ["/nonexistent/log", "/tmp", "/proc/version/log"])
def test_a_file_that_can_t_be(path: str) -> None:
    """A wrong file is told at once, in one line with what to do."""
    with pytest.raises(InvalidInput, match=r"can't be written.*; give another file"):
        open_log(Path(path))


def peer(uid: int) -> Peer:
    return Peer(1, uid, frozenset())


def test_who_may_switch_it(tmp_path: Path) -> None:
    """Root and who mounted may, nobody else; a file below the mount point is refused."""
    recorder = Recorder(TABLE.find_datapoint)
    switch = AccessLogSwitch(recorder, str(tmp_path / "mnt"), uid=1000)
    on = json.dumps({"file": str(tmp_path / "log")}).encode()
    for who in (peer(1001), None):
        with pytest.raises(AccessDenied):
            switch.receive(Posted(on, peer=who))
    assert json.loads(switch.receive(Posted(on, peer=peer(1000))).body) == {"ended": None}
    assert recorder.on
    below = json.dumps({"file": str(tmp_path / "mnt" / "log")}).encode()
    with pytest.raises(InvalidInput, match="below the mount point"):
        switch.receive(Posted(below, peer=peer(0)))
    assert recorder.access_log is not None
    ended = json.loads(switch.receive(Posted(b'{"file": null}', peer=peer(0))).body)["ended"]
    assert ended["file"] == str(tmp_path / "log")
    assert not recorder.on


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"null", b'{"file": 7}', b'{"file": "a/b"}', b'{"file": "/a\\u0000"}']
)
def test_what_is_no_switch(body: bytes) -> None:
    """Anything but an absolute path or null is refused."""
    with pytest.raises(InvalidInput):
        parse_switch(body)
