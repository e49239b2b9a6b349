"""`dasfs top` and `dasfs access-log` on real mounts, with real readers, also ones that wait for a store."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dasfs.stores import Store, open_store
from tests import datasets
from tests.commands import dasfs, environment, finish, start
from tests.gateway_proxy import Trouble, gateway_proxy
from tests.mounts import Mount, Mounter, errno_of, wait_until

CONTENT = b"x" * 100_000
# Reads files again and again, past the kernel's memory, until its stdin is closed.
READ_ON = """
import os, select, sys
while not select.select([0], [], [], 0)[0]:
    for path in sys.argv[1:]:
        fd = os.open(path, os.O_RDONLY)
        while os.read(fd, 1 << 20):
            pass
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
"""


def name(number: int) -> str:
    return f"{number:020d}.bin"


@contextmanager
def reading(*paths: Path) -> Iterator[int]:
    """Read files in another process until the block ends; its pid."""
    with subprocess.Popen([sys.executable, "-c", READ_ON, *map(str, paths)], stdin=subprocess.PIPE) as process:
        yield process.pid


def sample(mount: Mount, *arguments: str) -> dict[str, Any]:
    answer = dasfs("top", str(mount.path), "--json", *arguments)
    assert answer.code == 0, answer
    (found,) = json.loads(answer.out)["mounts"]
    return dict(found)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_who_reads_what(local_store: Store, mounted: Mounter) -> None:
    """Each process is there with what it reads at which rate; the total is theirs; an idle mount shows none."""
    datasets.add(local_store, "cats", 0, [CONTENT] * 2)
    datasets.add(local_store, "dogs", 0, [CONTENT])
    mount = mounted(local_store.url)
    assert sample(mount)["readers"] == []
    cats, dogs = mount.path / "cats", mount.path / "dogs"
    # No file has two readers: what one has in the kernel's pages, the mount would not see the other read.
    with reading(cats / name(0)) as one, reading(cats / name(1), dogs / name(0)) as other:

        def found() -> Any:
            told = sample(mount)
            keys = {(each["pid"], each["dataset"]) for each in told["readers"]}
            return told if keys == {(one, "cats"), (other, "cats"), (other, "dogs")} else None

        told = wait_until(found)
        for each in told["readers"]:
            assert each["command"].startswith("python")
            assert each["uid"] == os.getuid()
            assert each["files_per_s"] > 0
            # The kernel reads a file of 100 kB in one piece.
            assert each["bytes_per_s"] == pytest.approx(each["files_per_s"] * len(CONTENT), rel=0.1)
            assert 0 < each["mean_read_ms"] < 1000
        assert [each["dataset"] for each in told["datasets"]] == ["cats", "dogs"]
        assert told["total"]["bytes_per_s"] == pytest.approx(
            sum(each["bytes_per_s"] for each in told["readers"]), rel=0.1
        )
        assert told["total"]["hit_share"] > 0.9
        text = dasfs("top", str(mount.path), "--once").out
        assert re.search(rf"^ *{one} .* cats +[0-9,]+ ", text, re.MULTILINE)


def test_a_read_that_waits(s3_url: str, mounted: Mounter, s3_environment: Any) -> None:
    """When a store hangs, top tells who waits for it and for how long, though nobody looked before."""
    with open_store(s3_url) as store:
        datasets.add(store, "set", 0, [CONTENT])
    with gateway_proxy(s3_environment.endpoint_url) as proxy:
        proxy.hang_s = 60
        mounted.endpoint_url = proxy.url
        mount = mounted(s3_url, options="deadline=80", warnings=["read: ", "can.t be re"])
        path = mount.path / "set" / name(0)
        assert path.stat().st_size == len(CONTENT)
        proxy.choose = lambda method, key: Trouble.HANG if key.endswith(".tar") else None
        with subprocess.Popen(["cat", str(path)], stdout=subprocess.DEVNULL) as process:
            told = wait_until(lambda: (found := sample(mount, "--interval", "0.1"))["total"]["waiting"] and found)
            (wait, *_) = told["waiting"]
            assert (wait["pid"], wait["command"], wait["dataset"], wait["number"]) == (process.pid, "cat", "set", 0)
            assert 0 < wait["seconds"] < 80
            assert told["readers"][0]["waiting"] >= 1
            assert mount.status()["waiting_reads"] >= 1
            proxy.choose = lambda method, key: None
            proxy.ended.set()
            assert process.wait() == 0
        wait_until(lambda: mount.status()["waiting_reads"] == 0)
        assert mount.status()["read_errors"] == 0


def test_the_live_screen_ends_with_q(local_store: Store, mounted: Mounter) -> None:
    """On a terminal the readers are shown until q is pressed, and the terminal is as it was."""
    datasets.add(local_store, "set", 0, [CONTENT])
    mount = mounted(local_store.url)
    with reading(mount.path / "set" / name(0)) as pid:
        child, terminal = pty.fork()
        if child == 0:
            os.environ.update(environment(TERM="xterm", COLUMNS="120", LINES="30"))
            os.execv(sys.executable, [sys.executable, "-m", "dasfs", "top", str(mount.path), "-i", "0.2"])
        shown = b""
        deadline = time.monotonic() + 30
        while str(pid).encode() not in shown:
            assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], shown
            shown += os.read(terminal, 65536)
        os.write(terminal, b"q")

        def ended() -> bool:
            while select.select([terminal], [], [], 0)[0]:
                try:
                    os.read(terminal, 65536)
                except OSError:  # the other side is closed
                    break
            return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

        wait_until(ended)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(terminal)


def test_ctrl_c_is_the_usual_end(local_url: str, mounted: Mounter) -> None:
    """Elsewhere samples stand one below the other until Ctrl-C, which is exit code 0."""
    mount = mounted(local_url)
    process = start("top", str(mount.path), "--interval", "0.1")
    assert process.stdout is not None
    assert str(mount.path) in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert (answer.code, answer.err) == (0, "")


def test_mounts_that_can_t_be_looked_at(local_url: str, mounted: Mounter, tmp_path: Path) -> None:
    """A dead mount, none, and nonsense are one line each."""
    assert dasfs("top", str(tmp_path)).message.endswith("'dasfs status' lists them")
    assert dasfs("top", "--interval", "0").code == 2
    mount = mounted(local_url)
    mount.process.kill()
    mount.wait()
    answer = dasfs("top", str(mount.path), "--once")
    assert answer.code == 1
    assert "its process" in answer.message or "is gone" in answer.message
    assert "--replace" in answer.message


def test_an_access_log_from_the_start(local_store: Store, mounted: Mounter, tmp_path: Path) -> None:
    """With `-o access-log` each read is a line; a failed one has its errno; all of it is there after the end."""
    datasets.add(local_store, "set", 0, [CONTENT, b"", b"short"])
    log = tmp_path / "access.log"
    mount = mounted(local_store.url, options=f"access-log={log}", warnings=["read: "])
    for number in (0, 1, 2):
        subprocess.run(["cat", str(mount.path / "set" / name(number))], check=True, capture_output=True)
    assert mount.status()["access_log"]["file"] == str(log)
    mount.stop()
    found = lines(log)
    assert all(each["command"] == "cat" and each["dataset"] == "set" and each["error"] is None for each in found)
    assert {each["number"] for each in found} == {0, 2}
    assert sum(each["size"] for each in found) == len(CONTENT) + len(b"short")
    assert not found[0]["hit"]
    assert os.stat(log).st_mode & 0o777 == 0o600


def test_a_damaged_file_in_the_access_log(local_store: Store, mounted: Mounter, tmp_path: Path) -> None:
    """A read that fails has its errno in the log."""
    snapshot = datasets.add(local_store, "set", 0, [CONTENT])
    keys = [info.key for info in local_store.list("") if info.key.endswith(".tar")]
    datasets.damage(local_store, keys[0], 600, b"damage")
    assert snapshot.revision == 2
    log = tmp_path / "access.log"
    mount = mounted(local_store.url, options=f"access-log={log}", warnings=["read: ", "wrong"])
    assert errno_of((mount.path / "set" / name(0)).read_bytes) is not None
    wait_until(lambda: any(each["error"] == "EIO" and not each["hit"] for each in lines(log)))
    metrics = (mount.path / ".dasfs" / "metrics").read_text()
    assert re.search(r"^dasfs_mount_read_errors_total\{.*\} [1-9]", metrics, re.MULTILINE)
    assert re.search(r"^dasfs_mount_access_log_lines_total\{.*\} [1-9]", metrics, re.MULTILINE)


def test_an_access_log_switched_on_and_off(local_store: Store, mounted: Mounter, tmp_path: Path) -> None:
    """`dasfs access-log` begins, tells and ends it on a running mount; only reads between are written."""
    datasets.add(local_store, "set", 0, [CONTENT] * 3)
    mount = mounted(local_store.url)
    log, where = tmp_path / "access.log", str(mount.path)
    files = [mount.path / "set" / name(number) for number in range(3)]
    assert files[0].read_bytes() == CONTENT
    assert dasfs("access-log", where).err == "reads are not written down\n"
    assert dasfs("access-log", where, str(log)).code == 0
    assert files[1].read_bytes() == CONTENT
    wait_until(lambda: sum(each["size"] for each in lines(log)) == len(CONTENT))
    state = json.loads(dasfs("access-log", where, "--json").out)
    assert (state["file"], state["dropped"], state["problem"]) == (str(log), 0, None)
    assert dasfs("status").out.count(str(log)) == 1
    assert dasfs("access-log", where, "--off").err.startswith(f"{log} is ended: ")
    assert files[2].read_bytes() == CONTENT
    assert {each["number"] for each in lines(log)} == {1}
    assert mount.status()["access_log"] is None
    assert "had no access log" in dasfs("access-log", where, "--off").err


def test_an_access_log_that_can_t_be(local_url: str, mounted: Mounter, tmp_path: Path) -> None:
    """A file below the mount, in no directory, or nonsense is refused in one line; the mount is as it was."""
    mount = mounted(local_url)
    where = str(mount.path)
    for arguments, said in (
        ([where, f"{where}/log"], "lies below the mount point"),
        ([where, "/nonexistent/log"], "No such file or directory"),
        ([where, str(tmp_path / "log"), "--off"], "--off takes no FILE"),
        ([str(tmp_path), str(tmp_path / "log")], "there is no mount of dasfs"),
    ):
        answer = dasfs("access-log", *arguments)
        assert answer.code == 2
        assert said in answer.message
    assert mount.status()["access_log"] is None
    other = tmp_path / "other"
    other.mkdir()
    for option, said in (
        (f"access-log={other}/log", "lies below the mount point"),
        ("access-log=/nonexistent/log", "can't be written"),
        ("access-log=", "names no file"),
    ):
        answer = dasfs("mount", local_url, str(other), "-o", option, "--cache-dir", str(tmp_path / "second"))
        assert answer.code == 2
        assert said in answer.message
        assert not os.path.ismount(other)
