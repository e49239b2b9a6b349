"""The benchmark itself works: every case runs, tiny, against the gateway of the tests, and nothing is left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench.cases import CASES
from bench.settings import SMOKE
from tests.ceph import Ceph
from tests.mounts import wait_until

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 110.0
# What runs together; each group has a time limit of its own.
GROUPS = (("cold-shuffled", "one", "put"), ("warm", "listing", "growth"), ("large", "aggregate"))
COMPARED = "cold-order"


@contextlib.contextmanager
def bench(work: Path, store: str, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """Start the benchmark with its files in `work`, and end it with the block."""
    command = [sys.executable, "-m", "bench.run", "--smoke", "--store", store, "--latency", "2"]
    command += ["--work", str(work), "--out", str(work / "out"), *arguments]
    path = os.pathsep.join([str(ROOT), str(ROOT / "daemon")])
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()


def left_behind(work: Path) -> list[str]:
    """Return folders, mounts and processes of a run in `work`."""
    found = [str(path) for path in work.iterdir() if path.name != "out"]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(work) in line]
    for process in psutil.process_iter(["cmdline"]):
        found += [word for word in process.info["cmdline"] or () if word.startswith(f"{work}/")]
    return found


@pytest.mark.parametrize("cases", GROUPS, ids="+".join)
def test_the_cases_run(
    cases: tuple[str, ...], make_bucket: Callable[[], str], s3_environment: Ceph, tmp_path: Path
) -> None:
    """Each case gives rows, those with an aim have a figure of dasfs, and there are a table and the JSON."""
    with bench(tmp_path, f"s3://{make_bucket()}/some/prefix", *cases) as process:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    for case in cases:
        document = json.loads((tmp_path / "out" / f"{case}.json").read_text())
        assert document["rows"]
        assert [row["what"] for row in document["rows"] if row["aim"] and row["dasfs"] is None] == []
        assert document["machine"]["cpus"] == os.cpu_count()
        assert "dasfs" not in document["problems"]
    assert (tmp_path / "out/table.md").read_text().strip() in output
    assert left_behind(tmp_path) == []


def test_no_case_is_forgotten() -> None:
    """The tests here run every case that the benchmark runs without being told which."""
    assert sorted([COMPARED, *(case for group in GROUPS for case in group)]) == sorted(CASES)


def test_peers_are_in_the_table_also_when_missing(
    make_bucket: Callable[[], str], s3_environment: Ceph, tmp_path: Path
) -> None:
    """What dasfs and the link did is counted and compared by checksum; a peer that is not there says why."""
    with bench(tmp_path, f"s3://{make_bucket()}", COMPARED) as process:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    peers = {each["peer"]: each for each in json.loads((tmp_path / f"out/{COMPARED}.json").read_text())["peers"]}
    assert peers["rclone mount"]["problem"] == "left out of the smoke"
    for name in ("dasfs", "raw ranged GETs"):
        assert peers[name]["verified"] == SMOKE.files
        assert peers[name]["fetched"] > 1
        assert peers[name]["requests"] > 0


def test_nothing_is_left_after_ctrl_c(make_bucket: Callable[[], str], s3_environment: Ceph, tmp_path: Path) -> None:
    """A run that is interrupted while file systems are mounted takes them and its processes and files away."""
    with bench(tmp_path, f"s3://{make_bucket()}", "warm") as process:
        wait_until(lambda: str(tmp_path) in Path("/proc/self/mountinfo").read_text())
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, output
    assert left_behind(tmp_path) == []
