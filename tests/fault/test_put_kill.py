"""`dasfs put` that ends in the middle: killed, interrupted, or with a source that goes away.

Whatever happened, repeating the command puts every file exactly once, and `collect` leaves nothing that the
log does not name.
"""

import contextlib
import os
import random
import re
import signal
import time
from datetime import timedelta

import pytest

from dasfs.dataset.collect import Grace, collect
from dasfs.dataset.dataset import Dataset
from dasfs.dataset.verify import verify
from dasfs.stores import open_store
from tests.commands import finish, start, succeed

MOMENTS = 20
FILES = 60


@pytest.fixture(params=["file", "sqlite"])
def url(request, tmp_path):
    """The URL of an empty local store, once for each kind."""
    made = f"file://{tmp_path}/store" if request.param == "file" else f"sqlite://{tmp_path}/store.db"
    with open_store(made) as store:
        store.create()
    return made


@pytest.fixture
def files(tmp_path):
    """Numbered and unnumbered files, which make about 12 dataranges of 64 KiB: content by original path."""
    content = random.Random(7)
    top = tmp_path / "in"
    top.mkdir()
    made = {}
    for number in range(FILES):
        name = f"{number:020d}.bin" if number % 3 == 0 and number < 30 else f"f{number:02d}.bin"
        made[name] = content.randbytes(content.randrange(25_000))
        (top / name).write_bytes(made[name])
    return top, made


def put(url, dataset, top):
    return ["put", dataset, f"{top}/", "--store", url, "--datarange-size", "64KiB"]


def check_exactly_once(url, dataset, made):
    """Check every content, and that each is there once; then that `collect` leaves only what the log names."""
    with open_store(url) as store:
        target = Dataset(store, dataset)
        snapshot = target.snapshot()
        names = []
        for datarange in snapshot.dataranges:
            manifest = target.load_manifest(datarange)
            names += [manifest.original_name(k) or f"{datarange.first + k:020d}.bin" for k in range(manifest.count)]
        assert sorted(names) == sorted(made)
        assert list(verify(store, dataset, snapshot)) == []
        collect(store, dataset, grace=Grace(timedelta(0), timedelta(0), timedelta(0)))
        named = {
            key(datarange.id)
            for datarange in snapshot.dataranges
            for key in (target.keys.tar, target.keys.index, target.keys.manifest)
        }
        assert {info.key for info in store.list(target.keys.dataranges)} == named
        assert target.snapshot().dataranges == snapshot.dataranges


def test_a_put_killed_at_any_moment_is_repeated(url, files, tmp_path):
    """kill -9 at twenty random moments, each time followed by the same command: every file is there exactly once."""
    top, made = files
    moments = random.Random(20)
    succeed("dataset", "create", "rehearsal", "--store", url)
    started = time.monotonic()
    succeed(*put(url, "rehearsal", top))
    duration = time.monotonic() - started
    killed = 0
    for moment in range(MOMENTS):
        dataset = f"d{moment}"
        with open_store(url) as store:
            Dataset(store, dataset).log.create()
        process = start(*put(url, dataset, top))
        # The first third is Python that starts.
        with contextlib.suppress(Exception):
            process.wait(duration * moments.uniform(0.3, 1.0))
        process.kill()
        if finish(process).code == -signal.SIGKILL:
            killed += 1
        else:
            duration *= 0.9  # the rehearsal met a busier machine
        succeed(*put(url, dataset, top))
        check_exactly_once(url, dataset, made)
    assert killed >= MOMENTS // 2
    succeed("get", "d0", "0-1000", "--allow-gaps", "--original-names", "--store", url, "-o", f"{tmp_path}/back")
    assert {name: (tmp_path / "back" / name).read_bytes() for name in os.listdir(tmp_path / "back")} == made


def test_a_put_that_is_interrupted_says_what_to_do(url, files):
    """Ctrl-C ends a put with one line and 130; what was committed stays, and repeating it puts the rest."""
    top, made = files
    succeed("dataset", "create", "d", "--store", url)
    process = start(*put(url, "d", top), "--jobs", "1")
    assert process.stderr.readline().startswith("put ")
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    if answer.code == 0:
        pytest.fail("the put was over before it was interrupted: it needs more files")
    assert answer.code == 130
    done = re.fullmatch(
        r"dasfs: interrupted; ([0-9]+) files are committed; repeat the same command to put the rest", answer.message
    )
    assert done is not None, answer.message
    with open_store(url) as store:
        assert int(done[1]) <= Dataset(store, "d").snapshot().count < FILES
    succeed(*put(url, "d", top))
    check_exactly_once(url, "d", made)


def test_a_source_that_goes_away_leaves_what_was_packed_before(url, files):
    """A file that can't be read is named; the dataranges before it are committed, and the rest is put later."""
    top, made = files
    succeed("dataset", "create", "d", "--store", url)
    gone = top / f"f{FILES - 1:02d}.bin"
    process = start(*put(url, "d", top), "--jobs", "1")
    assert process.stderr.readline().startswith("put ")
    gone.unlink()
    answer = finish(process)
    assert answer.code == 1
    assert f"{gone}: no such file" in answer.message
    gone.write_bytes(made[gone.name])
    succeed(*put(url, "d", top))
    check_exactly_once(url, "d", made)
