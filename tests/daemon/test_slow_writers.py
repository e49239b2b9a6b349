"""Files that grow for a long time, and files of which somebody changes something at each step of the way."""

import os
import random
import threading
import time

from tests.daemons import once, write
from tests.mounts import wait_until


def test_files_that_grow_with_pauses(file_url, daemon_of):
    """Files that stay open, with pauses far longer than the settle time, are packed once each, when they are closed.

    Neither a scan nor a new name or a copy of the daemon's own makes one of them complete before.
    """
    daemon = daemon_of(file_url, settle="0.05s", scan_interval="0.1s")
    daemon.start()
    made = {}
    opened = []
    for k in range(10):
        file = (daemon.directory / f"slow{k}").open("wb", buffering=0)
        opened.append(file)
        content = made[f"slow{k}"] = os.urandom(40)
        file.write(content[:10])
    for part in range(1, 4):
        write(daemon.directory, {f"tick{part}": b"%d" % part})
        made[f"tick{part}"] = b"%d" % part
        wait_until(lambda part=part: not (daemon.directory / f"tick{part}").exists())
        for k, file in enumerate(opened):
            file.write(made[f"slow{k}"][10 * part : 10 * part + 10])
    os.rename(daemon.directory / "slow9", daemon.directory / "renamed")
    made["renamed"] = made.pop("slow9")
    daemon.end()
    daemon.start()
    write(daemon.directory, {"tick": b"x"})
    made["tick"] = b"x"
    wait_until(lambda: not (daemon.directory / "tick").exists())
    assert len(daemon.files()) == 10
    for file in opened:
        file.close()
    daemon.wait_empty()
    assert daemon.contents() == once(made)


def test_files_that_change_all_the_time(file_url, daemon_of):
    """Whatever is rewritten, replaced or touched while it is packed: its last content is there, and no half of one."""
    daemon = daemon_of(file_url, settle="0.05s", datarange_age="0.1s", scan_interval="0.2s")
    daemon.start()
    stop = threading.Event()
    generator = random.Random(4)
    written: dict[str, list[bytes]] = {f"{k}": [] for k in range(15)}
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        name = generator.choice(list(written))
        path = daemon.directory / name
        content = bytes([generator.randrange(256)]) * 3000
        written[name].append(content)
        if generator.random() < 0.5:
            write(daemon.directory, {name: content})
        else:
            with path.open("wb", buffering=0) as file:
                file.write(content[:1500])
                stop.wait(0.002)
                file.write(content[1500:])
        if generator.random() < 0.3:
            stamp = generator.randrange(10**18)
            try:
                os.utime(path, ns=(stamp, stamp))
            except FileNotFoundError:
                continue
    daemon.wait_empty()
    found = daemon.contents()
    assert found.keys() == {name for name, contents in written.items() if contents}
    for name, contents in found.items():
        assert set(contents) <= set(written[name]), name
        assert written[name][-1] in contents, name
