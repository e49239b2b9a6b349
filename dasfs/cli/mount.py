"""`dasfs mount` and `dasfs umount`."""

import dataclasses
import json
import logging
import os
import select
import sys
from collections.abc import Callable
from typing import Final

import click

from dasfs import config as configuration
from dasfs.cli.background import leave_parent, open_log, spawn
from dasfs.cli.common import STORE, Settings
from dasfs.cli.mount_options import build_options, parse_options
from dasfs.cli.service import take_notifier
from dasfs.errors import DasfsError
from dasfs.fuse.mount import run_mount
from dasfs.fuse.mountpoint import check_outside, is_dead, unmount

# How long `umount` waits for the mount's process, which closes its caches then.
END_TIMEOUT_S: Final = 15.0


@click.command()
@click.argument("store", type=STORE, metavar="STORE")
@click.argument("mountpoint", type=click.Path(), metavar="MOUNTPOINT")
@click.option("-o", "options", multiple=True, metavar="OPTION,...", help="Mount options, as in fstab (see the docs).")
@click.option("--foreground", "-f", is_flag=True, help="Stay in the foreground; log to stderr.")
@click.option("--cache-dir", metavar="DIR", help="Keep the caches here; one directory serves one mount at a time.")
@click.option("--cache-size", metavar="SIZE", help="Keep at most this much of the data. Default: 20GiB.")
@click.option("--refresh", metavar="SECONDS", help="Show what is new in the store after at most so long. Default: 10.")
@click.option("--dataset", metavar="NAME", help="Show this dataset's datapoints at the root.")
@click.option("--replace", is_flag=True, help="Take away a dead mount that stands at MOUNTPOINT.")
@click.option(
    "--log-file",
    metavar="FILE",
    help="Log here when in the background. Default: mount.log beside the caches.",
)
@click.option("--ready-fd", type=int, hidden=True)
@click.pass_obj
def mount(
    settings: Settings,
    store: str,
    mountpoint: str,
    options: tuple[str, ...],
    foreground: bool,
    cache_dir: str | None,
    cache_size: str | None,
    refresh: str | None,
    dataset: str | None,
    replace: bool,
    log_file: str | None,
    ready_fd: int | None,
) -> None:
    """Show the datasets of a store as plain directories.

    Returns when the mount answers. The mount is read-only and goes on in the background until `dasfs umount`.
    """
    flags = {"cache-dir": cache_dir, "cache-size": cache_size, "refresh": refresh, "dataset": dataset}
    given = parse_options(options) | {name: value for name, value in flags.items() if value is not None}
    chosen = build_options(mountpoint, given, settings.config.mount, replace=replace)
    location = configuration.resolve_store(settings.config, store)
    log_path = os.path.abspath(log_file or os.path.join(chosen.cache_directory, "mount.log"))
    check_outside(chosen.cache_directory, chosen.mountpoint, "the cache directory")
    if not foreground:
        check_outside(log_path, chosen.mountpoint, "the log file")
        spawn(sys.argv[1:])
        return
    notifier = take_notifier()
    report = _reporter(ready_fd, log_path, f"{location.url} is mounted at {mountpoint}")
    from dasfs.stores import open_store

    store_options = dataclasses.replace(
        location.options,
        # The block cache has up to 48 GETs in flight, the catalog 16 calls.
        connections=64,
        # Nobody waits for an answer that comes after the operation's deadline.
        deadline_s=min(location.options.deadline_s, chosen.deadline_s),
    )
    with open_store(location.url, store_options) as opened:
        run_mount(opened, chosen, ready=report, notifier=notifier)


@click.command()
@click.argument("mountpoint", type=click.Path(), metavar="MOUNTPOINT")
@click.option("--lazy", "-z", is_flag=True, help="Also while it is in use: it is gone once nobody uses it.")
def umount(mountpoint: str, lazy: bool) -> None:
    """Take a mount away.

    Returns when the mount's process has ended, so that its cache directory is free for the next.
    """
    path = os.path.realpath(mountpoint)
    process = None if is_dead(path) else _open_process(path)
    unmount(path, lazy=lazy or process is None)
    if process is not None:
        readable, _, _ = select.select([process], [], [], 0 if lazy else END_TIMEOUT_S)
        os.close(process)
        if not readable and not lazy:
            raise DasfsError(f"{mountpoint} is unmounted, but its process did not end within {END_TIMEOUT_S:g} s")


def _open_process(path: str) -> int | None:
    """Return a descriptor that is readable once the process of the mount at `path` ends.

    None where that can't be told.
    """
    try:
        with open(os.path.join(path, ".dasfs", "status.json"), "rb") as file:
            pid = json.load(file)["pid"]
        return os.pidfd_open(pid)
    except (OSError, ValueError, KeyError):
        return None


def _reporter(ready_fd: int | None, log_path: str, message: str) -> Callable[[], None]:
    """Return what tells the waiting parent, or whoever looks at the terminal, that the mount answers.

    From then on more is logged; before, a failure is one line.
    """
    log = None if ready_fd is None else open_log(log_path)

    def report() -> None:
        logging.getLogger("dasfs").setLevel(min(logging.INFO, logging.getLogger("dasfs").getEffectiveLevel()))
        if ready_fd is None or log is None:
            click.echo(f"{message}; end it with Ctrl-C or dasfs umount", err=True)
        else:
            leave_parent(ready_fd, log)

    if ready_fd is not None:
        os.chdir("/")  # a mount must not keep the disk busy that its user happened to be on
    return report
