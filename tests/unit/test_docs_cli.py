"""docs/cli.md: no command, option or exit code without its words, and no example that does not parse."""

import re
import shlex
from pathlib import Path

import click
import pytest

from dasfs.cli.app import COMMANDS, cli
from dasfs.cli.common import Settings
from dasfs.cli.main import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from dasfs.config import Config, MountConfig, StoreConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()


def leaves(command, path):
    """Yield every command that is not a group, with the words that call it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        yield from leaves(command.get_command(context, name), (*path, name))


LEAVES = dict(leaves(cli, ("dasfs",)))
SECTIONS = {
    title.strip(): text for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
EXAMPLES = [line.removeprefix("$ ") for line in re.findall(r"^\$ dasfs.*$", PAGE, re.MULTILINE)]


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_a_section_with_an_example_and_all_options(path):
    """A command without a section, an example, or a word about one of its options fails here."""
    name = " ".join(path)
    assert name in SECTIONS, f"docs/cli.md has no section {name!r}"
    text = SECTIONS[name]
    assert f"$ {name} " in text
    for parameter in LEAVES[path].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for spelling in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"`{re.escape(spelling)}[ `]", text), f"{name}: {spelling} is not documented"


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_long_option_has_an_example(path):
    """Each option is used in at least one of the examples of its command."""
    text = "\n".join(line for line in EXAMPLES if line.startswith(" ".join(path) + " "))
    for parameter in LEAVES[path].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert any(spelling in shlex.split(text) for spelling in parameter.opts), f"no example of {parameter.opts}"


def test_no_section_is_about_a_command_that_is_gone():
    """A section `dasfs ...` stands for a command that exists."""
    assert {title for title in SECTIONS if title.startswith("dasfs ")} == {" ".join(path) for path in LEAVES}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_parses(example):
    """Each `$ dasfs ...` line of the page is a command line that dasfs takes."""
    words = shlex.split(example.partition(" > ")[0])[1:]
    if {"--help", "--version"} & set(words):
        return
    command, context = cli, cli.make_context("dasfs", words, obj=Settings())
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    assert context.args == []


def test_the_roots_options_and_all_exit_codes_are_told():
    """`--config`, `--debug`, `--version` and each exit code have their row."""
    for parameter in cli.params:
        assert all(f"`{spelling}" in PAGE for spelling in parameter.opts)
    for code in (0, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED):
        assert f"| {code} |" in SECTIONS["Exit codes"]


def test_every_key_of_the_configuration_is_shown():
    """The example of the configuration file has each key that dasfs knows."""
    text = SECTIONS["Configuration"]
    for kind in (StoreConfig, MountConfig):
        for name in kind.__dataclass_fields__:
            assert re.search(rf"^{name} = ", text, re.MULTILINE), f"{name} is not shown"
    assert all(re.search(rf"^\[?{name}\b", text, re.MULTILINE) for name in Config.__dataclass_fields__)


def test_the_root_helps_without_importing_its_commands():
    """The line that `dasfs --help` shows of a command is the first of the command's own help."""
    for name, entry in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert (command.help or "").splitlines()[0] == entry.help, name
