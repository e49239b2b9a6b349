"""`dasfs doctor` on the real machine, against a real gateway, real mounts and clocks that are wrong."""

import glob
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dasfs.stores import open_store
from tests import datasets
from tests.commands import COMMAND, TIMEOUT_S, dasfs, environment
from tests.mounts import Mounter

LIBRARY = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
# Another user, who may read what root may: Python itself may stand where only root can read it.
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
AS_NOBODY += [f"--{each}-caps=-all,+dac_read_search" for each in ("inh", "ambient")]


def doctor(*arguments: str, **variables: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit code and what is found, by check; the first finding of each."""
    answer = dasfs("doctor", "--json", *arguments, **variables)
    assert answer.err == ""
    report = json.loads(answer.out)
    found: dict[str, dict[str, Any]] = {}
    for each in report["checks"]:
        found.setdefault(each["check"], each)
    assert report["problems"] == sum(each["verdict"] == "problem" for each in report["checks"])
    assert report["warnings"] == sum(each["verdict"] == "warning" for each in report["checks"])
    assert answer.code == (1 if report["problems"] else 0)
    return answer.code, found


def problems_of(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return the checks that found a problem, but for the mounts that others have on this host."""
    return [name for name, each in found.items() if each["verdict"] == "problem" and not name.startswith("mount ")]


def test_a_machine_that_mounts(tmp_path: Path) -> None:
    """Where these tests run, a mount works: so there is no problem, without a store, and nothing is left behind."""
    _, found = doctor("--cache-dir", str(tmp_path / "none" / "yet"))
    assert problems_of(found) == []
    assert found["/dev/fuse"]["verdict"] == found["fusermount3"]["verdict"] == "ok"
    assert found["cache speed"]["measured"]["write_bytes_per_second"] > 0
    assert "store" not in found
    assert list(tmp_path.iterdir()) == []


def test_lines_for_people(tmp_path: Path) -> None:
    """Elsewhere than on a terminal each check is one line of three columns; the sum is told on stderr."""
    answer = dasfs("doctor", "--cache-dir", str(tmp_path))
    lines = [line.split("\t") for line in answer.out.splitlines()]
    assert len(lines) >= 10
    assert {line[0] for line in lines} <= {"ok", "warning", "problem"}
    assert all(len(line) == 3 for line in lines)
    problems = sum(line[0] == "problem" for line in lines)
    assert answer.err.startswith(f"{problems} problem")


def test_without_any_rights() -> None:
    """A user who may only read gets an answer, which says what this user can't do."""
    answer = subprocess.run(
        [*(AS_NOBODY if os.getuid() == 0 else []), *COMMAND, "doctor", "--json", "--cache-dir", "/"],
        env=environment(HOME="/nonexistent"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    found = {each["check"]: each for each in json.loads(answer.stdout)["checks"]}
    is_open = os.stat("/dev/fuse").st_mode & 0o006 == 0o006
    assert found["/dev/fuse"]["verdict"] == ("ok" if is_open else "problem")
    assert found["cache space"]["message"] == "this user may not write to /"
    assert answer.returncode == 1


def test_a_store_that_is_only_read(s3_url: str, tmp_path: Path) -> None:
    """Latency, throughput, clock and what is recorded are told, and no object is written."""
    with open_store(s3_url) as store:
        datasets.add(store, "set", 0, [os.urandom(1 << 20)] * 3)
        before = list(store.list(""))
        _, found = doctor(s3_url, "--cache-dir", str(tmp_path))
        assert list(store.list("")) == before
    assert problems_of(found) == []
    assert 0 < found["store"]["measured"]["latency_s"] < TIMEOUT_S
    assert found["reading"]["measured"]["bytes_per_second"] > 0
    assert abs(found["clock"]["measured"]["skew_s"]) < 5
    assert "honoured when set was made" in found["conditional PUT"]["message"]


def test_a_store_that_is_written(store_url: str, tmp_path: Path) -> None:
    """With --write each ability is probed, of every kind of store, and what was written is gone."""
    _, found = doctor(store_url, "--write", "--cache-dir", str(tmp_path))
    assert problems_of(found) == []
    assert found["conditional PUT"]["verdict"] == found["copying"]["verdict"] == found["listing"]["verdict"] == "ok"
    assert "deleting" not in found
    with open_store(store_url) as store:
        assert list(store.list("")) == []


def test_a_store_by_its_environment(tmp_path: Path, s3_url: str) -> None:
    """The default store counts where none is given."""
    assert doctor("--cache-dir", str(tmp_path), DASFS_STORE=s3_url)[1]["store"]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the secret key is wrong"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "can't connect"),
    ],
)
def test_a_store_that_refuses(s3_url: str, tmp_path: Path, variables: dict[str, str], said: str) -> None:
    """A store that can't be used is one problem with what to do; all else is told as before."""
    code, found = doctor(s3_url, "--write", "--cache-dir", str(tmp_path), **variables)
    assert code == 1
    assert found["store"]["verdict"] == "problem"
    assert said in found["store"]["message"]
    assert found["store"]["hint"]
    assert found["/dev/fuse"]["verdict"] == "ok"


@pytest.mark.parametrize(("offset", "verdict"), [("+2m", "warning"), ("-3h", "problem")])
def test_a_clock_that_is_wrong(s3_url: str, tmp_path: Path, offset: str, verdict: str) -> None:
    """A clock that is minutes off is a warning; one that makes the store refuse is named as the reason."""
    assert LIBRARY, "apt-get install libfaketime"
    fake = {"LD_PRELOAD": LIBRARY[0], "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    _, found = doctor(s3_url, "--cache-dir", str(tmp_path), **fake)
    assert found["clock"]["verdict"] == verdict
    assert found["store"]["verdict"] == ("problem" if verdict == "problem" else "ok")
    assert ("ahead of" if offset[0] == "+" else "behind") in found["clock"]["message"]


def test_mounts(tmp_path: Path, local_url: str, mounted: Mounter) -> None:
    """A mount that works is one line, with its cache's disk; a killed one is a problem with what to do."""
    mount = mounted(local_url)
    check = f"mount {mount.path}"
    code, found = doctor("--mount", str(mount.path))
    assert (code, found[check]["verdict"]) == (0, "ok")
    assert str(mount.cache) in found["cache space"]["message"]
    mount.process.kill()
    mount.wait()
    code, found = doctor("--mount", str(mount.path))
    assert (code, found[check]["verdict"]) == (1, "problem")
    assert "--replace" in found[check]["hint"]
    assert doctor()[1][check]["verdict"] == "problem"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mount", "/"], "there is no mount of dasfs at /"),
        (["--write"], "needs a store"),
        (["nonsense"], "neither the URL nor the name of a store"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str) -> None:
    """What can't be right is one line and exit code 2."""
    answer = dasfs("doctor", *arguments)
    assert answer.code == 2
    assert said in answer.message
