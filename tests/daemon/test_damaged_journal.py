"""A journal with random damage: the daemon tells it in one line or works; whatever happens no file is lost or twice."""

import os
import random
import signal

from tests.daemons import once, write
from tests.mounts import wait_until

ROUNDS = int(os.environ.get("DASFS_DAMAGES", "4"))


def damage(path, generator):
    """Change some bytes of a file, cut it, or put zeroes into it."""
    content = bytearray(path.read_bytes())
    kind = generator.randrange(3)
    if kind == 0:
        for _ in range(generator.choice((1, 4, 200))):
            content[generator.randrange(len(content))] = generator.randrange(256)
    elif kind == 1:
        del content[generator.randrange(len(content)) :]
    else:
        start = generator.randrange(len(content))
        content[start : start + 4096] = bytes(min(4096, len(content) - start))
    path.write_bytes(content)


def test_random_damage(file_url, daemon_of):
    """After each damage, and after the journal is moved away as the line says, every file is there exactly once."""
    generator = random.Random(os.environ.get("DASFS_SEED", "5"))
    daemon = daemon_of(file_url)
    daemon.expected += ["journal", "is damaged", "disk image is malformed", "the cache database"]
    state = daemon.home / "state"
    made = {}
    for k in range(ROUNDS):
        new = {f"{k}/{n}": generator.randbytes(700) for n in range(40)}
        made |= new
        daemon.write_config(datarange_age=generator.choice(("0.2s", "1h")), keep=generator.choice(("0s", "1h")))
        daemon.start()
        write(daemon.directory, new)
        wait_until(lambda k=k: daemon.states() or not daemon.files())
        daemon.end(generator.choice((signal.SIGKILL, signal.SIGTERM)))
        names = [name for name in ("journal.db", "journal.db-wal") if (state / name).exists()]
        damage(state / generator.choice(names), generator)
        daemon.write_config(keep="0s")
        daemon.start(wait=False)
        wait_until(lambda: daemon.process.poll() is not None or "journal" in daemon.log or not daemon.files())
        if daemon.files():
            if daemon.process.poll() is None:
                daemon.end(signal.SIGKILL)
            assert "Traceback" not in daemon.log
            for name in os.listdir(state):
                if name.startswith("journal"):
                    (state / name).unlink()
            daemon.start()
        daemon.wait_empty()
        daemon.end()
        assert daemon.contents() == once(made)
