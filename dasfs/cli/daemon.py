"""`dasfs daemon`."""

import logging
import os
import sys

import click

from dasfs.cli.output import count_of, say
from dasfs.cli.service import take_notifier
from dasfs_daemon.config import DEFAULT_FILE
from dasfs_daemon.service import check as check_file
from dasfs_daemon.service import run_service


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(),
    default=DEFAULT_FILE,
    show_default=True,
    metavar="FILE",
    help="The daemon's own configuration file.",
)
@click.option("--check", is_flag=True, help="Only tell what is wrong with the configuration.")
@click.pass_context
def daemon(context: click.Context, file: str, check: bool) -> None:
    """Move what arrives in write directories into a store, for ever.

    Stays in the foreground and logs to stderr. SIGTERM ends it within seconds, SIGHUP reads the configuration
    again. Killed at any moment, it goes on where it was.
    """
    if check:
        mistakes = check_file(file)
        for mistake in mistakes:
            click.echo(str(mistake))
        say(f"{file}: {count_of(len(mistakes), 'mistake')}" if mistakes else f"{file}: everything is right")
        context.exit(1 if mistakes else 0)
    for name in ("dasfs", "dasfs_daemon"):
        logging.getLogger(name).setLevel(min(logging.INFO, logging.getLogger(name).getEffectiveLevel()))
    run_service(file, ready=lambda: say(f"the daemon runs with {file}"), notifier=take_notifier())
    # Threads that wait for a silent store would keep the process until the store's deadline, minutes perhaps. The
    # journal is closed, and says where to go on.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
