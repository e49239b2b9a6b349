"""The watcher of a write directory, with the kernel's own events."""

import os
from pathlib import Path

import trio

from dasfs_daemon.watcher import Hints, Watcher


def test_a_watch_whose_thread_died_is_made_anew(tmp_path: Path) -> None:
    """An exception in one of watchdog's threads ends it without a word; events must not stay away for ever."""

    async def watch() -> list[bytes]:
        hints = Hints(str(tmp_path))
        watcher = Watcher(str(tmp_path), hints)
        try:
            watcher.ensure()
            assert watcher._observer is not None
            for emitter in watcher._observer.emitters:
                emitter.stop()
                emitter.join()
            watcher.ensure()
            (tmp_path / "new").touch()
            with trio.fail_after(10):
                await hints.wait()
            return hints.take()[0]
        finally:
            watcher.close()

    assert os.fsencode("new") in trio.run(watch)
