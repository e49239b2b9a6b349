"""The command `dasfs`: the tree of commands, each loaded only when it is called.

`dasfs --help` and shell completion must feel instant, and boto3 alone takes half a second to import.
"""

import importlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from dasfs import __version__
from dasfs.cli.common import Settings
from dasfs.cli.service import JournalHandler, is_journal


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is, and its line in the help (the first line of its own help; a test compares them)."""

    module: str
    help: str
    # The name of the command's function in its module, where it is not the command's own name.
    attribute: str | None = None


COMMANDS: Final[Mapping[str, LazyCommand]] = {
    "dataset": LazyCommand("dasfs.cli.dataset", "Create, list, check and delete datasets."),
    "put": LazyCommand("dasfs.cli.put", "Pack files into a dataset and upload them now."),
    "get": LazyCommand("dasfs.cli.get", "Copy datapoints to a directory or into a TAR file."),
    "cat": LazyCommand("dasfs.cli.get", "Write one datapoint to standard output."),
    "mount": LazyCommand("dasfs.cli.mount", "Show the datasets of a store as plain directories."),
    "prefetch": LazyCommand(
        "dasfs.cli.prefetch", "Fetch what will be read into the cache of a mount, ahead of readers."
    ),
    "umount": LazyCommand("dasfs.cli.mount", "Take a mount away."),
    "datarange": LazyCommand("dasfs.cli.datarange", "List, upload, download and delete dataranges."),
    "aggregate": LazyCommand("dasfs.cli.aggregate", "Join neighbouring small dataranges into large ones."),
    "collect": LazyCommand("dasfs.cli.collect", "Delete objects that no live revision needs."),
    "daemon": LazyCommand("dasfs.cli.daemon", "Move what arrives in write directories into a store, for ever."),
    "status": LazyCommand("dasfs.cli.status", "Show how the daemon and the mounts of this host are doing."),
    "top": LazyCommand("dasfs.cli.top", "Show live who reads what at which rate."),
    "access-log": LazyCommand(
        "dasfs.cli.access_log", "Let a mount write down who reads what, or no longer.", "access_log"
    ),
    "doctor": LazyCommand(
        "dasfs.cli.doctor.command", "Check this machine, its mounts and a store; say what to change."
    ),
    "completion": LazyCommand("dasfs.cli.completion", "Print the code that completes dasfs commands in a shell."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute or cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="dasfs %(version)s")
@click.option("--config", metavar="FILE", help="Read this configuration file and no other.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and more log lines.")
@click.pass_obj
def cli(settings: Settings, config: str | None, debug: bool) -> None:
    """Datasets of millions of small files, kept as a few large TAR objects, shown as plain directories.

    STORE is s3://bucket/prefix, file:///directory, sqlite:///file.db, or a name from the configuration file.
    """
    settings.config_file = config
    if is_journal():
        # It shows by itself who says something and how bad it is.
        logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[JournalHandler(sys.stderr)])
    else:
        logging.basicConfig(format="dasfs: %(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    if debug:
        logging.getLogger("dasfs").setLevel(logging.DEBUG)


def invoke(arguments: list[str]) -> int:
    """Run one command line. Returns the exit code; raises whatever ended the command otherwise."""
    # A name that is not UTF-8 must come out as the bytes that it is.
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="surrogateescape")
    try:
        result = cli.main(arguments, prog_name="dasfs", standalone_mode=False, obj=Settings())
    except click.Abort as error:
        # click turns Ctrl-C into Abort; the message that the command gave it must survive.
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        raise
    return result if isinstance(result, int) else 0
