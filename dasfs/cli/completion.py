"""`dasfs completion`: the code that a shell needs to complete dasfs commands."""

from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_SHELLS: Final[dict[str, type[ShellComplete]]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the code that completes dasfs commands in a shell.

    For bash, put this line into ~/.bashrc: eval "$(dasfs completion bash)"
    """
    root = ctx.find_root().command
    click.echo(_SHELLS[shell](root, {}, "dasfs", "_DASFS_COMPLETE").source())
