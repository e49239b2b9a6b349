"""Thousands of real files by `cp -r` into a write directory, with a mount at work: all are there, byte for byte.

`DASFS_FILES` says how many; CI makes do with 1,500, `DASFS_FILES=20000` takes two minutes a store.
"""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from dasfs_daemon.walk import BATCH
from tests.daemons import make_store
from tests.mounts import mounting, wait_until

COUNT = int(os.environ.get("DASFS_FILES", "1500"))
TIMEOUT_S = 60 + COUNT / 20
MAX_SIZE = 300_000


def real_files() -> Iterator[Path]:
    """Yield files of this machine: Python's library first, then headers, documentation and programs."""
    for top in (Path(os.__file__).parent, Path("/usr/include"), Path(sys.prefix), Path("/usr/share"), Path("/usr/lib")):
        for place, directories, names in os.walk(top):
            directories[:] = sorted(name for name in directories if not name.startswith("."))
            for name in sorted(names):
                path = Path(place, name)
                ignored = name.startswith(".") or name.endswith(("~", ".tmp", ".part", ".swp", "+found"))
                if not ignored and path.is_file() and not path.is_symlink() and path.stat().st_size < MAX_SIZE:
                    yield path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A directory with that many real files, in as many directories as they come from."""
    top = tmp_path_factory.mktemp("real") / "files"
    for path in itertools.islice(real_files(), COUNT):
        target = top / str(path.relative_to("/")).replace("/.", "/dot-")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return top


def tell_truth(daemon, dataset):
    """Check what the daemon says of itself against the directory and the log; return how many files are committed.

    What it calls waiting is there; what the log has it does not call waiting. Both change while we look: the log is
    read before and after.
    """
    before = dataset.snapshot().count
    states = daemon.states()
    here = len(daemon.files())
    after = dataset.snapshot().count
    assert states["taken"] + states["packed"] <= here + (after - before) + states["committed"]
    assert states["committed"] <= after
    return after


@pytest.mark.timeout(120 + COUNT / 10)
@pytest.mark.parametrize("kind", ["sqlite", "s3"])
def test_a_copied_tree_appears_in_a_mount(kind, tmp_path, source, daemon_of, request):
    """Every file is in the mount with its bytes within seconds, and nothing is left behind, not even a directory."""
    url = make_store(request.getfixturevalue("s3_url") if kind == "s3" else f"sqlite://{tmp_path}/store.db")
    daemon = daemon_of(url, datarange_size="8MiB", settle="0.5s", datarange_age="1s")
    daemon.start()
    with mounting(tmp_path) as mounter, open_store(url) as store:
        mount = mounter(url)
        dataset = Dataset(store, "d")
        started = time.monotonic()
        subprocess.run(["cp", "-r", source, daemon.directory], check=True)
        copied = time.monotonic()
        count = len([path for path in source.rglob("*") if path.is_file()])
        wait_until(lambda: tell_truth(daemon, dataset) == count, TIMEOUT_S)
        committed = time.monotonic()
        wait_until(lambda: len(mount.names("d")) == count, 30)
        seen = time.monotonic()
        wait_until(lambda: not os.listdir(daemon.directory), TIMEOUT_S)
        emptied = time.monotonic()
        assert not daemon.states()
        snapshot = dataset.snapshot()
        size = 0
        found = set()
        for datarange in snapshot.dataranges:
            manifest = dataset.load_manifest(datarange)
            for k, record in enumerate(manifest.iter_records()):
                content = (mount.path / "d" / f"{datarange.first + k:020d}.{record.extension}").read_bytes()
                original = manifest.original_name(k)
                assert content == (source.parent / original).read_bytes(), original
                found.add(original)
                size += len(content)
        assert len(found) == count
    assert daemon.end() == 0
    print(
        f"{kind}: {count} files, {size} bytes: copied in {copied - started:.1f} s, committed {committed - copied:.1f} s"
        f" and in the mount {seen - copied:.1f} s later, the directory empty {emptied - copied:.1f} s later;"
        f" {len(snapshot.dataranges)} dataranges"
    )


def test_numbered_files_of_one_scan_become_few_dataranges(tmp_path, daemon_of):
    """Files that keep their numbers, found by a scan in no order and due at once, wait until all of them are known."""
    daemon = daemon_of(make_store(f"sqlite://{tmp_path}/store.db"), datarange_size="8MiB", datarange_age="0s")
    count = BATCH + BATCH // 2  # more than a scan takes at once
    for number in range(count):
        (daemon.directory / f"{number:020d}.bin").write_bytes(b"%d" % number)
    daemon.start()
    wait_until(lambda: not os.listdir(daemon.directory), TIMEOUT_S)
    with open_store(daemon.url) as store:
        snapshot = Dataset(store, "d").snapshot()
    assert snapshot.count == count
    assert len(snapshot.dataranges) <= count * 1024 // (8 << 20) + 2
