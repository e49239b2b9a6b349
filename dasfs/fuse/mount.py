"""One mount from its first request to its last: opens the caches, serves the kernel, ends cleanly.

**Concurrency:** `_serve` is the process's one `trio.run`. Its nursery holds the session, the catalog's refreshing,
reading ahead, the listener for signals, and the one that says when the mount answers. SIGTERM and SIGINT first let
running requests end, then cancel them; SIGUSR1 writes the stack of every thread and task to stderr.
"""

import faulthandler
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Final

import trio

from dasfs.cache.blocks import BlockCacheOptions, open_block_cache
from dasfs.cache.directory import CacheDirectory
from dasfs.cache.index import IndexCache
from dasfs.cache.remote import Remote
from dasfs.errors import DasfsError, NotFound
from dasfs.fuse.device import Device
from dasfs.fuse.invalidation import Invalidator
from dasfs.fuse.mount_options import MountOptions
from dasfs.fuse.mount_parts import assemble
from dasfs.fuse.mountpoint import check, check_outside, prepare
from dasfs.fuse.protocol import Capacity
from dasfs.fuse.session import Session
from dasfs.fuse.status import Status
from dasfs.fuse.tuning import raise_read_ahead
from dasfs.notify import Notifier
from dasfs.stores.base import Store

log = logging.getLogger(__name__)

# Reads that the kernel sends without waiting for the one before: most reads are. Its default is 12, and when the store
# hangs, a thirteenth would wait, also for what is cached. The kernel allows an ordinary user fewer by default.
CAPACITY: Final = Capacity(max_readahead=1 << 20, background=512)
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# How long requests may go on after SIGTERM before they are cancelled.
GRACE_S: Final = 2.0


def run_mount(
    store: Store, options: MountOptions, *, ready: Callable[[], None], notifier: Notifier | None = None
) -> None:
    """Mount `store` and serve it until it is unmounted or the process is told to end.

    `ready` is called, and `notifier` told, once the mount answers. Raises what `prepare`, the cache directory and the
    store's check raise before anything is mounted, and `DasfsError` where the kernel refuses.
    """
    notifier = notifier or Notifier()
    mountpoint = check(options.mountpoint, replace=options.replace)
    check_outside(options.cache_directory, mountpoint, "the cache directory")
    if options.access_log is not None:
        check_outside(options.access_log, mountpoint, "the access log")
    if options.control is not None:
        check_outside(options.control, mountpoint, "the socket")
    notifier.status(f"asking {store.url}")
    # In a thread: a local disk that hangs gives no answer at all.
    trio.run(Remote(deadline_s=options.deadline_s).call, store.check)
    with CacheDirectory.open(options.cache_directory, mount_point=mountpoint) as directory:
        try:
            trio.run(_serve, store, directory, mountpoint, options, ready, notifier)
        except BaseExceptionGroup as group:
            raise find_cause(group) from None


def find_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one exception of those in `group` that its user should hear of: Ctrl-C, then an error of ours."""
    for kind in (KeyboardInterrupt, DasfsError, BaseException):
        found: BaseException | None = group.subgroup(kind)
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        if found is not None:
            return found
    return group


async def _serve(
    store: Store,
    directory: CacheDirectory,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
    notifier: Notifier,
) -> None:
    index = IndexCache(directory.path("index.sqlite"), memory=options.memory // 8)
    cache = BlockCacheOptions(
        options.cache_size,
        memory=options.memory // 2,
        get_timeout_s=options.deadline_s,
        check_always=options.verify_always,
    )
    try:
        async with (
            open_block_cache(directory, store, cache) as blocks,
            trio.open_nursery() as nursery,
        ):
            parts = assemble(nursery, store, directory, mountpoint, options, index, blocks)
            catalog, status = parts.catalog, parts.status
            if options.dataset is not None and await catalog.dataset(options.dataset) is None:
                raise NotFound(f"{store.url} has no dataset {options.dataset}")
            # Before there is a mount, so that no signal can leave a dead one behind.
            with trio.open_signal_receiver(*SIGNALS) as signals, parts.opened(options):
                device = _mount(store.url, mountpoint, options)
                try:
                    catalog.subscribe(Invalidator(parts.tree, parts.content, catalog, index, device).prepare)
                    nursery.start_soon(catalog.run)
                    nursery.start_soon(status.rates.run)
                    nursery.start_soon(_announce, mountpoint, ready, notifier, status)
                    session = Session(device, parts.operations, deadline_s=options.deadline_s)
                    nursery.start_soon(_obey, signals, session)
                    await session.run(grace_s=GRACE_S)
                finally:
                    notifier.stopping()
                    device.close()
                    nursery.cancel_scope.cancel()
    finally:
        index.close()


def _mount(source: str, mountpoint: str, options: MountOptions) -> Device:
    # Not before all else is there: what stays dead meanwhile nobody takes for an empty directory.
    prepare(mountpoint, replace=options.replace)
    fuse_options = [f"fsname={source.replace(',', '%2C')}", "subtype=dasfs", "ro", "noatime", "nosuid", "nodev"]
    fuse_options += ["default_permissions", *(["allow_other"] if options.allow_other else [])]
    return Device.mount(mountpoint, fuse_options, CAPACITY)


async def _obey(signals: AsyncIterator[int], session: Session) -> None:
    # Beside trio's own handler: it shows the threads also when the trio thread is stuck.
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
    async for number in signals:
        if number == signal.SIGUSR1:
            _dump_tasks()
            continue
        log.info("%s: unmounting", signal.Signals(number).name)
        session.stop()


async def _announce(mountpoint: str, ready: Callable[[], None], notifier: Notifier, status: Status) -> None:
    """Say that the mount is ready once it answers a stat, which must come from another thread; and that it still is."""
    await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
    await trio.to_thread.run_sync(raise_read_ahead, mountpoint, abandon_on_cancel=True)
    # What is there now stays: looking for garbage in it held all readers up for 50 ms, now and then.
    gc.freeze()
    ready()
    notifier.ready()
    # A thread of its own: others may all be waiting for the store.
    threads = trio.CapacityLimiter(1)

    async def prove() -> None:
        # Asks the mount each time, as a reader does, so that it is the serving of requests that is proven.
        await trio.to_thread.run_sync(os.statvfs, mountpoint, abandon_on_cancel=True, limiter=threads)

    await notifier.run(status.describe, prove)


def _dump_tasks() -> None:
    """Write where each trio task waits."""
    waiting = [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        if task is None:
            continue
        frames = traceback.StackSummary.extract(task.iter_await_frames())
        sys.stderr.write(f"task {task.name}:\n{''.join(frames.format())}\n")
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
