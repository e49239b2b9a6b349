"""What is wrong with what `dasfs prefetch` is given, and with the mount that it is given to: one line, and its code."""

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from dasfs.endpoint import short_path
from dasfs.stores import Store
from tests import datasets
from tests.mounts import Mounter, dasfs, environment


def prefetch(mounted: Mounter, *arguments: str | Path) -> tuple[int, str]:
    done = dasfs("prefetch", *arguments, home=mounted.directory, cwd=mounted.directory)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    return done.returncode, done.stderr.removeprefix("dasfs: ").strip()


def test_what_can_not_be_announced(local_store: Store, local_url: str, mounted: Mounter) -> None:
    """A file that is not there or is no list, a range that is none, numbers and datasets that are not there."""
    datasets.add(local_store, "set", 0, [b"x"] * 10)
    mount = mounted(local_url)
    directory = mounted.directory
    (directory / "bad").write_text("1\n2\n\nthree\n")
    (directory / "empty").write_text("\n")
    (directory / "far").write_text("10\n11\n")
    (directory / "secret").write_text("1\n")
    (directory / "secret").chmod(0)
    at = ("--mount", mount.path)
    assert prefetch(mounted, "set", "bad", *at) == (2, "bad: line 4: 'three' is not a datapoint's number")
    assert prefetch(mounted, "set", "empty", *at) == (2, "empty: the list has no numbers")
    assert prefetch(mounted, "set", "-", *at) == (2, "standard input: the list has no numbers")
    code, said = prefetch(mounted, "set", "none", *at)
    assert (code, said) == (1, "there is no file none; give a file of numbers, or a range such as 0-9999")
    assert prefetch(mounted, "set", ".", *at) == (2, "'.' can't be read: Is a directory")
    assert prefetch(mounted, "set", "9-3", *at) == (2, "9-3: the last number is below the first")
    assert prefetch(mounted, "set", str(2**63), *at)[0] == 2
    nothing = f"{mount.path}: set has none of the datapoints that were announced"
    assert prefetch(mounted, "set", "10-20", *at) == (1, nothing)
    assert prefetch(mounted, "set", "far", *at) == (1, nothing)
    assert prefetch(mounted, "other", *at) == (1, f"{mount.path}: this mount shows no dataset other")
    assert prefetch(mounted, "a.b", *at)[0] == 2
    assert prefetch(mounted, "set", "0-3", "--cancel", *at)[0] == 2
    assert prefetch(mounted, "set", "--name", "x" * 65, *at)[0] == 2
    assert mount.status()["announced"] == []
    assert prefetch(mounted, "set", "5-10", *at)[1].endswith("; 1 number skipped that no datapoint has")


def test_which_mount(local_store: Store, local_url: str, mounted: Mounter) -> None:
    """No mount, no mount of the dataset, several of them, a place where none is, and one whose process is gone."""
    name = f"set-{uuid.uuid4().hex}"
    code, said = prefetch(mounted, name)
    assert (code, said.partition("; ")[0]) == (1, f"no mount of this host shows the dataset {name}")
    datasets.add(local_store, name, 0, [b"x"] * 10)
    first = mounted(local_url, name="first", cache=mounted.directory / "one")
    code, said = prefetch(mounted, name, "--mount", first.path / name)
    assert (code, said) == (
        2,
        f"there is no mount of dasfs at {first.path / name}; 'dasfs status' lists them",
    )
    (mounted.directory / "link").symlink_to("first")
    assert prefetch(mounted, name, "--mount", "link")[0] == 0
    second = mounted(local_url, name="second", cache=mounted.directory / "two")
    said = prefetch(mounted, name)[1]
    assert said == f"{name} is shown by several mounts: {first.path}, {second.path}; choose one with --mount"
    first.signal(signal.SIGKILL)
    first.wait()
    assert prefetch(mounted, name)[0] == 0  # there is one left
    code, said = prefetch(mounted, name, "--mount", first.path)
    assert code == 1
    assert said.startswith(f"the process of the mount at {first.path} is gone; mount it again: dasfs mount ")
    second.stop()
    code, said = prefetch(mounted, name)
    assert code == 1
    assert f"the process of the mount at {first.path} is gone" in said


def test_a_mount_of_somebody_else(local_store: Store, local_url: str, mounted: Mounter) -> None:
    """Who may not read a mount may not announce anything to it."""
    datasets.add(local_store, "set", 0, [b"x"] * 10)
    mount = mounted(local_url, options="allow_other,umask=077,uid=12345")
    path = mount.status()["control"]
    os.setegid(999)
    os.seteuid(999)
    try:
        with closing(HTTPConnection("localhost", timeout=30)) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            with short_path(path) as place:
                connection.sock.connect(place)
            connection.request("POST", "/prefetch?dataset=set")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (403, b"this user may not ask here\n")
        with pytest.raises(PermissionError):
            os.getxattr(mount.path / "set", "user.dasfs.prefetch.all")
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert mount.status()["announced"] == []


def test_a_mount_that_ends_while_it_is_waited_for(local_store: Store, local_url: str, mounted: Mounter) -> None:
    """The command says in one line that the mount has ended."""
    datasets.add(local_store, "set", 0, [b"x" * 100_000] * 10)
    mount = mounted(local_url)
    command = [sys.executable, "-m", "dasfs", "prefetch", "set", "--mount", str(mount.path)]

    process = subprocess.Popen(command, env=environment(mounted.directory), stderr=subprocess.PIPE, text=True)
    mount.signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode in (0, 1, 2)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("", 400, "no dataset is given"),
        ("dataset=set&frist=1", 400, "unknown key 'frist'"),
        ("dataset=a/b", 400, "'a/b' can't name a dataset"),
        ("dataset=none", 404, "this mount shows no dataset none"),
        ("dataset=set&first=9&last=1", 400, "9-1: the last number is below the first"),
        ("dataset=set&check=1&id=99", 404, "announcement 99 of set was replaced or cancelled, or has expired"),
        ("dataset=set&cancel=1&id=x", 400, "'x' is not"),
    ],
)
def test_what_can_not_be_posted(
    local_store: Store, local_url: str, mounted: Mounter, query: str, status: int, said: str
) -> None:
    """The socket answers each mistake with a code and one line, and goes on."""
    datasets.add(local_store, "set", 0, [b"x"] * 10)
    mount = mounted(local_url)
    path = mount.status()["control"]

    def ask(method: str, target: str) -> tuple[int, str]:
        with closing(HTTPConnection("localhost", timeout=30)) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            with short_path(path) as place:
                connection.sock.connect(place)
            connection.request(method, target)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    code, body = ask("POST", f"/prefetch?{query}")
    assert (code, len(body.splitlines())) == (status, 1)
    assert body.startswith(said)
    assert json.loads(ask("GET", "/prefetch")[1]) == {"announcements": []}
