"""A local file is removed only if the dataset has its very bytes: whatever the checksum and the times say."""

import os
import signal
import sqlite3

from tests.daemons import once, write
from tests.mounts import wait_until

# Two words of one size and one CRC-32.
ONE, OTHER = b"plumless", b"buckeroo"


def test_contents_with_one_checksum(file_url, daemon_of):
    """Another content of the same path, size and CRC-32 is another file; under a number it is rejected."""
    daemon = daemon_of(file_url)
    daemon.expected += ["is rejected", "rejected file is in"]
    daemon.start()
    number = f"{7:020d}.bin"
    for content in (ONE, OTHER, OTHER):
        write(daemon.directory, {"a": content, f"{content[0]}/{number}": content})
        daemon.wait_empty()
    assert daemon.contents() == {"a": [ONE, OTHER], number: [ONE]}
    assert [path.read_bytes() for path in daemon.rejected.rglob("*.bin*") if path.suffix != ".txt"] == [OTHER, OTHER]


def test_a_duplicate_of_what_is_damaged_is_kept(file_url, daemon_of, tmp_path):
    """A file whose datapoint is damaged in the store is the last copy: it is packed again, or rejected."""
    daemon = daemon_of(file_url, datarange_age="0.5s")
    daemon.expected += ["is rejected", "rejected file is in"]
    files = {f"{k}.txt": bytes([k]) * 700 for k in range(20)} | {f"{100:020d}.x": b"2" * 700}
    write(daemon.directory, files)
    daemon.start()
    daemon.wait_empty()
    for path in (tmp_path / "store").rglob("*.tar"):
        content = bytearray(path.read_bytes())
        content[512] ^= 1  # the first content byte
        path.write_bytes(content)
    write(daemon.directory, files)
    daemon.wait_empty()
    assert "the store does not have the objects of 100-100" in (daemon.rejected / f"{100:020d}.x.txt").read_text()
    packed = [line for line in daemon.log.splitlines() if " committed " in line]
    # The one that was damaged is packed again; its neighbours are duplicates.
    assert sum(int(line.split(": ")[4].split(" files")[0]) for line in packed) == len(files) + 1
    assert daemon.log.count("19 files were in the dataset already") == 1


def test_a_change_that_hides_is_not_removed(file_url, daemon_of):
    """A file that was rewritten in place after it was packed, with its old size and time, is packed again."""
    daemon = daemon_of(file_url, keep="1h")
    write(daemon.directory, {"a": ONE, f"{5:020d}.x": b"numbered"})
    daemon.start()
    wait_until(lambda: daemon.states() == {"committed": 2})
    daemon.end(signal.SIGKILL)
    daemon.write_config(keep="0s")
    status = (daemon.directory / "a").stat()
    with (daemon.directory / "a").open("r+b") as file:
        file.write(b"changed!")
    os.utime(daemon.directory / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (daemon.directory / "a").stat().st_ino == status.st_ino
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == {"a": [ONE, b"changed!"], f"{5:020d}.x": [b"numbered"]}


def test_what_only_looks_changed_is_not_packed_twice(file_url, daemon_of):
    """New rights, a new name or a new link of a file that is committed don't make it another one."""
    daemon = daemon_of(file_url, keep="1h", scan_interval="0.2s")
    made = {name: os.urandom(3000) for name in ("rights", "renamed", "linked", f"{5:020d}.x")}
    write(daemon.directory, made)
    daemon.start()
    wait_until(lambda: daemon.states() == {"committed": 4})
    (daemon.directory / "rights").chmod(0o600)
    (daemon.directory / f"{5:020d}.x").chmod(0o600)
    os.rename(daemon.directory / "renamed", daemon.directory / "new name")
    os.link(daemon.directory / "linked", daemon.home / "link")
    daemon.end()
    daemon.write_config(keep="0s")
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == once(made)
    with sqlite3.connect(daemon.home / "state" / "journal.db") as db:
        assert wait_until(lambda: db.execute("SELECT count(*) FROM file").fetchone() == (0,))
    db.close()


def test_hard_links_are_files(file_url, daemon_of):
    """Many links of one file arrive as that many datapoints, and all of them go."""
    daemon = daemon_of(file_url)
    write(daemon.directory, {".one": b"content"})
    for k in range(30):
        os.link(daemon.directory / ".one", daemon.directory / f"{k}.txt")
    (daemon.directory / ".one").unlink()
    daemon.start()
    daemon.wait_empty()
    assert daemon.contents() == once({f"{k}.txt": b"content" for k in range(30)})
