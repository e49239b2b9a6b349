"""The command as a process: what it imports, how it ends, and how it looks on a terminal."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest

from tests.commands import COMMAND, TIMEOUT_S, dasfs, environment, finish, start, succeed

WIDTH = 80
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def store(tmp_path):
    """Arguments of a store with a dataset `d` of 30 files."""
    arguments = ["--store", f"sqlite://{tmp_path}/store.db"]
    top = tmp_path / "in"
    top.mkdir()
    for number in range(30):
        (top / f"f{number}.txt").write_bytes(b"x" * 100_000)
    succeed("dataset", "create", "d", *arguments)
    succeed("put", "d", str(top), *arguments, "--datarange-size", "500KB")
    return arguments


def on_terminal(*arguments):
    """Run a command whose stdin, stdout and stderr are a terminal of 80 columns; return what it shows."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    env = {name: value for name, value in environment(TERM="xterm").items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen([*COMMAND, *arguments], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:
        pass  # EIO: the last of those who had the terminal has closed it
    finally:
        os.close(master)
    assert process.wait(TIMEOUT_S) == 0, shown
    return ESCAPES.sub("", shown.decode()).replace("\r\n", "\n")


IMPORTS = """
import sys
from dasfs.cli.main import run
code = run(sys.argv[1:])
print(sorted(name for name in ("boto3", "apsw", "trio", "rich", "zstandard") if name in sys.modules))
sys.exit(code)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["completion", "bash"]])
def test_help_imports_nothing_heavy(arguments):
    """What answers at once must not pay for libraries that it does not use."""
    process = subprocess.run(
        [sys.executable, "-c", IMPORTS, *arguments], capture_output=True, text=True, env=environment(), check=True
    )
    assert process.stdout.splitlines()[-1] == "[]"


def test_no_help_of_a_command_imports_boto3():
    """The help of a command on datasets does without the S3 client."""
    for arguments in (["put", "--help"], ["dataset", "list", "--help"], ["collect", "--help"]):
        process = subprocess.run(
            [sys.executable, "-c", IMPORTS, *arguments], capture_output=True, text=True, env=environment(), check=True
        )
        assert "boto3" not in process.stdout.splitlines()[-1]


def test_version_and_help_are_data():
    """They go to stdout, and the code is 0."""
    assert re.fullmatch(r"dasfs \d+\.\d+\.\d+\n", succeed("--version"))
    assert "collect" in succeed("--help")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell):
    """The code names the command and the variable through which click answers."""
    assert "_DASFS_COMPLETE" in succeed("completion", shell)


def test_completion_completes_commands_options_and_stores(tmp_path):
    """What a shell asks for is answered: commands, options, and the stores of the configuration."""
    config = tmp_path / "config.toml"
    config.write_text('[stores.laboratory]\nurl = "file:///x"\n')

    def complete(words):
        variables = {"_DASFS_COMPLETE": "bash_complete", "COMP_WORDS": words, "DASFS_CONFIG": str(config)}
        return succeed(**variables, COMP_CWORD=str(len(words.split()) - 1))

    assert "plain,dataset\nplain,datarange" in complete("dasfs data")
    assert "plain,--original-names" in complete("dasfs get --or")
    assert complete("dasfs get --store lab") == "plain,laboratory\n"


def test_whoever_stops_reading_is_no_error(store):
    """`dasfs ... | head` is quiet."""
    process = start("cat", "d", "0", *store)
    process.stdout.close()
    process.stdout = None
    assert finish(process).err == ""


@pytest.mark.parametrize("command", [["cat", "d", "0"], ["datarange", "list", "d"]])
def test_a_full_disk_behind_stdout_is_told(store, command):
    """`dasfs ... > FILE` on a full disk is one line."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *command, *store], stdout=full, stderr=subprocess.PIPE, env=environment(), text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "dasfs: can't write the output: No space left on device\n"


def test_closed_streams_are_no_error(store):
    """Some services start their commands without stdin, stdout and stderr."""
    command = [*COMMAND, "datarange", "list", "d", *store]
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command], env=environment(), check=False)
    assert done.returncode == 0


def test_ctrl_c_is_one_line_and_130(tmp_path):
    """Ctrl-C while a command waits ends it with one line."""
    fifo = tmp_path / "config.toml"
    os.mkfifo(fifo)
    process = start("--config", str(fifo), "dataset", "list")
    with open(fifo, "w"):  # opens when the command has opened it to read: it is in the middle of its work now
        process.send_signal(signal.SIGINT)
        answer = finish(process)
    assert answer.code == 130
    assert answer.message == "dasfs: interrupted; repeat the same command to go on"


def test_a_terminal_shows_tables_of_its_width(store):
    """Listings have a heading and fit 80 columns, with sizes in units."""
    for arguments in (
        ["dataset", "list"],
        ["dataset", "log", "d"],
        ["datarange", "list", "d"],
    ):
        shown = on_terminal(*arguments, *store)
        assert all(len(line) <= WIDTH for line in shown.splitlines()), shown
    assert "datapoints" in on_terminal("dataset", "list", *store)
    assert "2.9 MiB" in on_terminal("dataset", "list", *store)


def test_elsewhere_listings_are_lines_of_fields(store):
    """Without a terminal: no heading, tabs, plain numbers."""
    assert succeed("dataset", "list", *store) == "d\t30\t3000000\t8\t10\n"
    first = succeed("datarange", "list", "d", *store).splitlines()[0].split("\t")
    assert first[:3] == ["0..3", "4", "400000"]


def test_a_put_shows_a_bar_on_a_terminal_and_lines_elsewhere(store, tmp_path):
    """On a terminal a bar, and at the end only the result; elsewhere a line for each datarange."""
    top = tmp_path / "more"
    top.mkdir()
    for number in range(10):
        (top / f"m{number}.txt").write_bytes(bytes([number]) * 100_000)
    shown = on_terminal("put", "d", str(top), *store, "--datarange-size", "500KB")
    assert shown.splitlines()[-1].strip().startswith("put 10 files as 30..39 (")
    assert "put 30..33" not in shown
    (top / "another.txt").write_bytes(b"x")
    answer = dasfs("put", "d", str(top), *store)
    assert answer.err.splitlines() == ["10 files of 11 are there already", "put 40: 1 file, 1 B (1 of 1)"]
    assert answer.out.startswith("put 1 file as 40 (1 B in 1 datarange")
