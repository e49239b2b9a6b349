"""`dasfs put` that ends in the middle: killed, interrupted, or with a source that goes away.

Whatever happened, repeating the command puts every file exactly once, and `collect` leaves nothing that the
log does not name.
"""

import random
import re
import signal
import time

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from tests.commands import TIMEOUT_S, finish, start, succeed
from tests.puts import FILES, check_exactly_once, fork, make_files, put_command

MOMENTS = 20


@pytest.fixture
def files(tmp_path):
    return make_files(tmp_path / "in")


def run_to_end(command):
    """Run a command that has to work; return the seconds that it took."""
    started = time.monotonic()
    process = fork(command)
    process.join(TIMEOUT_S)
    assert process.exitcode == 0
    return time.monotonic() - started


def test_a_put_killed_at_any_moment_is_repeated(store_url, files, tmp_path):
    """kill -9 at twenty random moments, each time followed by the same command: every file is there exactly once."""
    moments = random.Random(20)
    durations = []
    for rehearsal in ("r1", "r2"):  # the first one starts the process that the others are forked from
        succeed("dataset", "create", rehearsal, "--store", store_url)
        durations.append(run_to_end(put_command(store_url, rehearsal, files)))
    duration = durations[-1]
    killed = 0
    for attempt in range(3 * MOMENTS):
        dataset = f"d{attempt}"
        with open_store(store_url) as store:
            Dataset(store, dataset).log.create()
        process = fork(put_command(store_url, dataset, files))
        process.join(duration * moments.random())
        process.kill()
        process.join(TIMEOUT_S)
        if process.exitcode != -signal.SIGKILL:
            duration *= 0.9  # the rehearsal met a busier machine
            continue
        run_to_end(put_command(store_url, dataset, files))
        check_exactly_once(store_url, dataset, files)
        killed += 1
        if killed == MOMENTS:
            break
    assert killed == MOMENTS
    back = tmp_path / "back"
    succeed("get", dataset, "0-1000", "--allow-gaps", "--original-names", "--store", store_url, "-o", str(back))
    assert {path.name: path.read_bytes() for path in back.iterdir()} == files.content


def test_a_put_that_is_interrupted_says_what_to_do(store_url, files):
    """Ctrl-C ends a put with one line and 130; what was committed stays, and repeating it puts the rest."""
    succeed("dataset", "create", "d", "--store", store_url)
    process = start(*put_command(store_url, "d", files), "--jobs", "1")
    assert process.stderr.readline().startswith("put ")
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    if answer.code == 0:
        pytest.fail("the put was over before it was interrupted: it needs more files")
    assert answer.code == 130
    done = re.fullmatch(
        r"dasfs: interrupted; ([0-9]+) files? (?:is|are) committed; repeat the same command to put the rest",
        answer.message,
    )
    assert done is not None, answer.message
    with open_store(store_url) as store:
        assert int(done[1]) <= Dataset(store, "d").snapshot().count < FILES
    succeed(*put_command(store_url, "d", files))
    check_exactly_once(store_url, "d", files)


def test_a_source_that_goes_away_leaves_what_was_packed_before(store_url, files):
    """A file that can't be read is named; the dataranges before it are committed, and the rest is put later."""
    succeed("dataset", "create", "d", "--store", store_url)
    gone = files.top / f"f{FILES - 1:02d}.bin"
    process = start(*put_command(store_url, "d", files), "--jobs", "1")
    assert process.stderr.readline().startswith("put ")
    gone.unlink()
    answer = finish(process)
    assert answer.code == 1
    assert f"{gone}: no such file" in answer.message
    gone.write_bytes(files.content[gone.name])
    succeed(*put_command(store_url, "d", files))
    check_exactly_once(store_url, "d", files)
