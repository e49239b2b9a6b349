"""`dasfs status` with real daemons and mounts, well, hanging, dead and absent: the truth, in time, and what to do."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dasfs.cli.patient_read import PatientRead
from dasfs.cli.status_report import DEADLINE_S, Asker, DaemonReport, MountReport, Report, Trouble, ask_daemon
from dasfs.cli.status_screen import Line, format_seconds, lay_out
from dasfs.stores import open_store
from tests import datasets
from tests.commands import COMMAND, Answer, dasfs, environment, start
from tests.daemon.test_monitoring import TIME, socket_of, whole_state
from tests.daemons import Daemon, write
from tests.mounts import Mounter, mounting, wait_until

# What the command may take beyond its deadline on a busy machine.
SLACK_S = 25.0


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounter]:
    """A function that mounts a store and returns the mount; all are taken away at the end."""
    with mounting(tmp_path) as mounter:
        yield mounter


def status(daemon: Daemon, *arguments: str) -> Answer:
    return dasfs("status", "--config", str(daemon.config), *arguments)


def document(daemon: Daemon) -> dict[str, Any]:
    """Return what `--json` says."""
    found: dict[str, Any] = json.loads(status(daemon, "--json").out)
    return found


def mount_in(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what is said of the mount at `path`: other tests may have mounts of their own just now."""
    mount: dict[str, Any] = next(each for each in found["mounts"] if each["mountpoint"] == str(path))
    return mount


def section(out: str, title: str) -> str:
    """Return the lines of a screen that stand below a title."""
    return next(part for part in out.split("\n\n") if part.startswith(title))


def test_all_is_well(daemon_of: Callable[..., Daemon], file_url: str, mounted: Mounter) -> None:
    """One screen has the daemon, its datasets and the mounts as they are; JSON has the same; the exit code is 0."""
    daemon = daemon_of(file_url)
    daemon.start()
    write(daemon.directory, {"a": b"x" * 500, "b": b"y"})
    daemon.wait_empty()
    mount = mounted(file_url)
    for name in mount.names("d"):
        (mount.path / "d" / name).read_bytes()
    answer = status(daemon)
    assert answer.err == ""
    assert re.search(rf"up +for \d+ .*, process {daemon.process.pid}, version", section(answer.out, "daemon: running"))
    dataset = section(answer.out, f"d: running  {daemon.directory} -> {file_url}")
    assert "backlog     nothing waits\n" in dataset
    assert "rate        2 files, 501 B in the last minute\n" in dataset
    assert re.search(r"last commit \d+ s ago: 0\.\.1 \(2 files, 501 B\), revision 3\n", dataset)
    shown = section(answer.out, f"{mount.path}  {file_url}")
    assert f"process {mount.process.pid}" in shown
    assert "datasets    d at revision 3 (2 datapoints)\n" in shown
    found = document(daemon)
    assert found["daemon"]["state"]["datasets"][0]["counters"]["committed_bytes"] == 501
    assert found["daemon"]["problems"] == mount_in(found, mount.path)["problems"] == []
    assert mount_in(found, mount.path)["status"]["pid"] == mount.process.pid
    # Mounts that other tests left dead would be told, too.
    assert answer.code == (0 if found["healthy"] else 1)
    assert found["healthy"] or any(each["problems"] for each in found["mounts"])


def test_a_daemon_that_is_stopped(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """A daemon that does not answer is told with its process within the deadline, and exit code 1."""
    daemon = daemon_of(file_url)
    daemon.start()
    daemon.process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    answer = status(daemon)
    assert time.monotonic() - begun < DEADLINE_S + SLACK_S
    daemon.process.send_signal(signal.SIGCONT)
    assert answer.code == 1
    shown = section(answer.out, "daemon: not reached")
    assert f"the daemon (process {daemon.process.pid}) does not answer within 5 s\n" in shown
    assert "what to do  see its log, and restart it" in shown


def test_no_daemon(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """A daemon that was never started and one that was killed are told in one line, with how to start it."""
    daemon = daemon_of(file_url)
    answer = status(daemon)
    assert answer.code == 1
    hint = f"start it: systemctl start dasfs-daemon, or dasfs daemon --config {daemon.config}"
    assert f"  what to do  {hint}\n" in answer.out
    daemon.start()
    daemon.end(signal.SIGKILL)
    (trouble,) = ask_daemon(str(daemon.config)).troubles
    assert trouble == Trouble(f"the daemon does not run: nobody answers at {socket_of(daemon)}", hint)


def test_a_wrong_configuration(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """A mistake is told with its line while the daemon, which runs with what was there before, is shown."""
    daemon = daemon_of(file_url)
    daemon.start()
    daemon.write_config(sttle="1s")
    answer = status(daemon)
    assert answer.code == 1
    assert re.search(r"problem +\S+daemon.toml:\d+: datasets.d.sttle: unknown key", answer.out)
    assert "d: running" in answer.out
    daemon.config.write_text("[")
    assert "not a TOML file" in ask_daemon(str(daemon.config)).troubles[0].message
    daemon.config.unlink()
    answer = status(daemon)
    assert (answer.code, answer.out) == (1, "")
    assert "no such configuration file" in answer.message


@pytest.mark.parametrize("seconds", ["0", "1e9", "nan"])
def test_a_wrong_interval(seconds: str) -> None:
    """Looking every 0 s, or once in a life, is wrong usage."""
    answer = dasfs("status", f"--watch={seconds}")
    assert answer.code == 2
    assert "0.1 to 86400" in answer.message


def test_mounts_that_are_ill(tmp_path: Path, daemon_of: Callable[..., Daemon], file_url: str, mounted: Mounter) -> None:
    """A mount that is dead and one that hangs are told as such, each with what to do, and do not hide a healthy one."""
    daemon = daemon_of(file_url)
    daemon.start()
    with open_store(file_url) as store:
        datasets.add(store, "d", 0, [b"x"])
    well = mounted(file_url, name="well", cache=tmp_path / "c1")
    dead = mounted(file_url, name="dead", cache=tmp_path / "c2")
    stuck = mounted(file_url, name="stuck", cache=tmp_path / "c3")
    dead.process.kill()
    dead.process.wait()
    stuck.signal(signal.SIGSTOP)
    begun = time.monotonic()
    answer = status(daemon, "--json")
    assert time.monotonic() - begun < DEADLINE_S + SLACK_S
    stuck.signal(signal.SIGCONT)
    assert answer.code == 1
    found = json.loads(answer.out)
    assert not found["healthy"]
    again = f"mount it again: dasfs mount {file_url} {dead.path} --replace"
    assert mount_in(found, dead.path)["problems"] == [{"message": "its process is gone", "hint": again}]
    (problem,) = mount_in(found, stuck.path)["problems"]
    assert problem["message"] == "it does not answer within 5 s"
    assert problem["hint"].endswith(f"fusermount3 -uz {stuck.path}")
    assert [mount_in(found, each.path)["readable"] for each in (well, dead, stuck)] == [True, False, False]
    wait_until(lambda: mount_in(document(daemon), stuck.path)["readable"])


def test_a_mount_of_another_user(tmp_path: Path, file_url: str, mounted: Mounter) -> None:
    """A mount that lets us not in is told as such and is no problem."""
    mount = mounted(file_url)
    asker = Asker(None)
    os.seteuid(65534)
    try:
        report = asker.ask()
    finally:
        os.seteuid(0)
        asker.close()
    found = next(each for each in report.mounts if each.path == str(mount.path))
    assert found.secret
    assert list(found.troubles()) == []
    lines = [line.text for line in lay_out(report, None)]
    assert "it belongs to another user" in lines
    assert "ask as that user, or mount it with -o allow_other" in lines


def test_watch_copes_with_a_restart(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """Without a terminal, `--watch --json` writes a line each time, through a restart, and Ctrl-C ends it with 0."""
    daemon = daemon_of(file_url)
    daemon.start()
    process = start("status", "--config", str(daemon.config), "--watch", "0.1", "--json")
    try:

        def wait_for(running: bool) -> None:
            while (json.loads(process.stdout.readline())["daemon"]["state"] is not None) is not running:
                pass

        wait_for(running=True)
        daemon.end()
        wait_for(running=False)
        daemon.start()
        wait_for(running=True)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(SLACK_S) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def test_watch_on_a_terminal(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """On a terminal the screen is drawn again in its place, and Ctrl-C ends it with 0 and without a word."""
    daemon = daemon_of(file_url)
    daemon.start()
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, "status", "--config", str(daemon.config), "--watch", "0.1"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(TERM="xterm"),
        start_new_session=True,
    )
    os.close(slave)
    shown = b""
    try:
        while shown.count(b"d: running") < 3:
            readable, _, _ = select.select([master], [], [], SLACK_S)
            assert readable, shown
            shown += os.read(master, 65536)
        process.send_signal(signal.SIGINT)
        while chunk := _read(master):
            shown += chunk
        assert process.wait(SLACK_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert b"\x1b[1A" in shown  # the cursor goes up before it is drawn again
    assert b"Traceback" not in shown
    assert b"nterrupt" not in shown
    assert max(len(line) for line in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).split(b"\r\n")) <= 200


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:
        return b""  # EIO: the process has closed the terminal


def test_a_file_that_does_not_answer(tmp_path: Path) -> None:
    """A read that hangs ends at the deadline, goes on when it is asked again, and costs one process in all."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read = PatientRead(str(fifo))
    for _ in range(3):
        read.begin()
        with pytest.raises(TimeoutError):
            read.finish(time.monotonic() + 0.05)
    child = read._child
    content = b"answer" * 100_000
    with fifo.open("wb") as file:
        file.write(content[:10])
        file.flush()
        with pytest.raises(TimeoutError):
            read.finish(time.monotonic() + 0.05)
        os.set_blocking(file.fileno(), True)
        file.write(content[10:100])
    assert read.finish(time.monotonic() + SLACK_S) == content[:100]
    read.begin()
    assert read._child != child
    read.close()
    with pytest.raises(FileNotFoundError):
        (missing := PatientRead(str(tmp_path / "missing"))).begin() or missing.finish(time.monotonic() + SLACK_S)


def whole_report() -> Report:
    """A report in which nothing is missing."""
    state = whole_state()
    cache = {
        **dict.fromkeys(("hits", "misses", "fetch_errors", "verification_failures", "in_flight"), 3),
        **dict.fromkeys(("bytes_served", "bytes_fetched", "bytes_used", "capacity"), 5 << 40),
        "recovering": True,
    }
    data = {
        f"dataset-{n}": {"revision": n, "datapoints": n, "problem": "away" * 30 if n == 1 else None} for n in range(9)
    }
    said = {
        "pid": 7,
        "started": TIME.isoformat(),
        "dasfs": "1",
        "problem": None,
        "datasets": data,
        "block_cache": cache,
        "waiting_reads": 2,
        "last_minute": {
            **dict.fromkeys(("reads", "hits", "misses", "errors"), 90),
            **dict.fromkeys(("bytes_read", "bytes_fetched"), 60 << 20),
            "seconds": 60,
        },
        "access_log": {"file": "/var/log/" + "long/" * 20, "lines": 10, "dropped": 7, "problem": "No space left"},
    }
    odd = MountReport("/mnt/\x1b[2Jodd\n" + "long/" * 40, "s3://bucket", trouble=Trouble("it is gone", "mount it"))
    daemon = DaemonReport("/etc/daemon.toml", {}, state, (Trouble("a mistake", "correct it"),))
    return Report("host", TIME, daemon, (MountReport("/mnt/data", "s3://bucket", said), odd))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_screen_fits(width: int) -> None:
    """No line is wider than the terminal, nothing moves the cursor, and every problem stands there with its hint."""
    lines = [line.name + line.text for line in lay_out(whole_report(), width)]
    assert max(len(line) for line in lines) <= width
    assert all(line.isprintable() for line in lines)
    text = " ".join(" ".join(lines).split())
    assert text.startswith("host: 6 problems")
    for wanted in (
        "a mistake what to do correct it",
        "it is gone what to do mount it",
        "it is away",
        "5 more",
        "2 reads/s, 1.0 MiB/s; 50.0 % from the cache; 1.0 MiB/s fetched; ",
        "3 requests in flight, 2 reads waiting; 90 reads failed",
        "10 lines, 7 dropped; it can't be written: No space left",
    ):
        assert wanted in text


def test_without_a_width_a_row_is_a_line() -> None:
    """What goes into a file or a pipe is not broken."""
    names = [line.name for line in lay_out(whole_report(), None)]
    assert Line("", "") in lay_out(whole_report(), None)
    assert all(name.strip() or name == "" for name in names)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (7265, "2 h 1 min"),
        (86_400, "1 d"),
        (1e8, "1,157 d 9 h"),
    ],
)
def test_a_stretch_of_time(seconds: float, text: str) -> None:
    """Time is told in at most two units, of which none is 0."""
    assert format_seconds(seconds) == text
