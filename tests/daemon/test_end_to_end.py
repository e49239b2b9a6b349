"""Files that are dropped into a write directory are in the store, byte for byte, and gone from the directory."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.daemons import make_store, once, write
from tests.mounts import wait_until

# Real files, of all sizes and with all kinds of names: the standard library.
SOURCE = Path(os.__file__).parent
COUNT = 500


@pytest.fixture(scope="module")
def real_files(tmp_path_factory):
    """500 real files in a few directories, and their contents by the path below that."""
    top = tmp_path_factory.mktemp("real") / "lib"
    made = {}
    for path in sorted(SOURCE.rglob("*.py")):
        if len(made) == COUNT:
            break
        relative = Path("lib") / path.relative_to(SOURCE)
        if any(part.startswith(".") for part in relative.parts):
            continue
        target = top.parent / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        made[str(relative)] = target.read_bytes()
    assert len(made) == COUNT
    return top, made


def test_a_copied_directory_appears_in_the_store(store_url, real_files, daemon_of):
    """500 real files of a `cp -r` are in the dataset byte for byte, on each kind of store; the directory ends empty."""
    top, made = real_files
    daemon = daemon_of(make_store(store_url), datarange_size="1MiB")
    daemon.start()
    subprocess.run(["cp", "-r", top, daemon.directory], check=True)
    wait_until(lambda: not os.listdir(daemon.directory))
    assert daemon.end() == 0
    assert daemon.contents() == once(made)


def test_files_that_were_there_before_the_start(file_url, daemon_of):
    """What lies in the write directory when the daemon starts is taken, in the order in which it came."""
    daemon = daemon_of(file_url)
    made = {f"sub/{name}.bin": os.urandom(1000) for name in "zyxwv"}
    write(daemon.directory, made)
    daemon.start()
    daemon.wait_empty()
    assert list(daemon.contents()) == list(made)


def test_numbers_are_kept(file_url, daemon_of):
    """A file named like a datapoint has its number in the dataset; the others get numbers beside these."""
    daemon = daemon_of(file_url)
    numbered = {f"{number:020d}.bin": os.urandom(500) for number in (3, 4, 5, 70, 2**63 - 1)}
    others = {f"f{k}.txt": os.urandom(500) for k in range(20)}
    write(daemon.directory, {f"a/{name}": content for name, content in numbered.items()} | others)
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == once(numbered | others)


def test_a_file_dropped_again(file_url, daemon_of):
    """The same path with the same content is removed and not packed again; with another content it is a new file."""
    daemon = daemon_of(file_url)
    daemon.start()
    first, second = os.urandom(3000), os.urandom(3000)
    for content in (first, first, second, second):
        write(daemon.directory, {"sub/name.bin": content})
        daemon.wait_empty()
    assert daemon.contents() == {"sub/name.bin": [first, second]}
    assert "1 files were in the dataset already" in daemon.log


def test_odd_names_and_sizes(file_url, daemon_of):
    """Spaces, newlines, bytes of no encoding, 255 bytes, no bytes at all, sparse and hard-linked files arrive whole."""
    daemon = daemon_of(file_url)
    names = [b"a b", b"new\nline", b"\xff\xfe.bin", b"x" * 255, "ünï.tar.gz".encode(), b"-rf", b"quote'\"$"]
    made = {os.fsdecode(name): os.urandom(700) for name in names}
    for name, content in made.items():
        (daemon.directory / name).write_bytes(content)
    (daemon.directory / "empty").touch()
    with (daemon.directory / "sparse").open("wb") as file:
        file.truncate(3_000_000)
    os.link(daemon.directory / "a b", daemon.directory / "linked")
    made |= {"empty": b"", "sparse": bytes(3_000_000), "linked": made["a b"]}
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == once(made)


def test_what_is_no_file_of_ours_stays(file_url, daemon_of):
    """Links, FIFOs and ignored names stay where they are; the former are told of once."""
    daemon = daemon_of(file_url, scan_interval="0.3s")
    daemon.expected += ["is left where it is"]
    os.symlink("/etc/passwd", daemon.directory / "link")
    os.mkfifo(daemon.directory / "fifo")
    for name in (".hidden", "x.tmp", "x.part", "x~"):
        (daemon.directory / name).write_bytes(b"1")
    write(daemon.directory, {"good": b"2"})
    daemon.start()
    wait_until(lambda: not (daemon.directory / "good").exists())
    write(daemon.directory, {"more": b"3"})
    wait_until(lambda: not (daemon.directory / "more").exists())
    assert daemon.contents() == once({"good": b"2", "more": b"3"})
    assert sorted(os.listdir(daemon.directory)) == [".hidden", "fifo", "link", "x.part", "x.tmp", "x~"]
    assert daemon.log.count("link is left where it is: it is a symbolic link") == 1
    assert daemon.log.count("fifo is left where it is: it is no regular file") == 1


def test_a_directory_that_is_moved(file_url, daemon_of):
    """A directory that is renamed while its files wait is packed once, under the new name."""
    daemon = daemon_of(file_url, datarange_age="1s")
    daemon.start()
    content = random.Random(1).randbytes(2000)
    write(daemon.directory, {f"old/{k}": content + bytes([k]) for k in range(5)})
    daemon_takes = daemon.directory / "old"
    os.rename(daemon_takes, daemon.directory / "new")
    daemon.wait_empty()
    assert daemon.contents() == once({f"new/{k}": content + bytes([k]) for k in range(5)})


def test_copies_are_kept_for_their_time(file_url, daemon_of):
    """With `keep`, files stay after the commit for that long, are not packed twice, and go then."""
    daemon = daemon_of(file_url, keep="1h", scan_interval="0.2s")
    write(daemon.directory, {"a/b": b"kept"})
    daemon.start()
    daemon.wait_log("committed 0-0")
    assert daemon.end() == 0
    daemon.start()
    write(daemon.directory, {"c": b"new"})
    daemon.wait_log("committed 1-1")
    assert len(daemon.files()) == 2
    daemon.end()
    daemon.write_config(keep="0s")
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == once({"a/b": b"kept", "c": b"new"})
