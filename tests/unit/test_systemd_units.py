"""The units of systemd and what `make install` does with them; `make check` has systemd's own opinion of them."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from dasfs.cli.app import cli
from dasfs.cli.common import Settings
from dasfs.cli.main import EXIT_USAGE
from dasfs.cli.mount import mount
from dasfs.cli.mount_options import DEFAULT_DEADLINE_S
from dasfs.stores import StoreOptions
from dasfs_daemon.config import DEFAULT_FILE, DaemonConfig
from dasfs_daemon.log_fields import Fields
from dasfs_daemon.service import load

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "systemd/setup"
DAEMON, MOUNT = "dasfs-daemon.service", "dasfs-mount@.service"
PAGE = (ROOT / "docs/systemd.md").read_text()
# Each was tried: the mount works, and nobody but itself sees it.
HIDES_THE_MOUNT = {
    *("PrivateMounts", "PrivateTmp", "PrivateDevices", "PrivateUsers", "PrivateIPC", "MountFlags", "DynamicUser"),
    *("ProtectSystem", "ProtectHome", "ProtectProc", "ProcSubset", "ProtectControlGroups", "ProtectKernelLogs"),
    *("ProtectKernelModules", "ProtectKernelTunables", "RootDirectory", "RootImage", "TemporaryFileSystem"),
    *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "BindPaths", "BindReadOnlyPaths", "NoExecPaths"),
}


def unit(name: str) -> dict[str, list[str]]:
    """Return what stands in a unit: all values of each key, of all sections."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "systemd" / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def setup(verb: str, destination: Path, **variables: str) -> None:
    """Run what `make install` and `make uninstall` run, below a folder."""
    environ = {"PATH": os.environ["PATH"], "DESTDIR": str(destination), **variables}
    subprocess.run([SETUP, verb], env=environ, check=True, timeout=60)


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_the_daemon_is_started_as_documented() -> None:
    """The unit starts `dasfs daemon` with the file that is read by default, and owns the default state directory."""
    found = unit(DAEMON)
    assert found["ExecStart"] == [f"/usr/local/bin/dasfs daemon --config {DEFAULT_FILE}"]
    assert found["StateDirectory"] == [DaemonConfig().state_directory.removeprefix("/var/lib/")]


def test_the_mount_is_started_as_documented() -> None:
    """The unit's command line parses: in the foreground, over a dead mount, with caches of its own, for all users."""
    (line,) = unit(MOUNT)["ExecStart"]
    words = shlex.split(line.replace("$OPTIONS", "--refresh 5"))[1:]
    context = cli.make_context("dasfs", words, obj=Settings())
    _, command, rest = cli.resolve_command(context, words)
    given = command.make_context("mount", rest, parent=context).params
    assert given["foreground"]
    assert given["replace"]
    assert given["options"] == ("allow_other,control=%t/dasfs-mounts/%i/control.sock",)
    assert (given["cache_dir"], given["refresh"]) == ("%C/dasfs/%i", "5")
    assert (given["store"], given["mountpoint"]) == ("${STORE}", "${MOUNTPOINT}")


@pytest.mark.parametrize("name", [DAEMON, MOUNT])
def test_both_are_watched_and_started_again(name: str) -> None:
    """A hang and a crash are answered by a new start, forever; a wrong configuration and an end on purpose are not."""
    found = unit(name)
    assert found["Type"] == ["notify"]
    assert found["Restart"] == ["on-failure"]
    assert found["RestartPreventExitStatus"] == [str(EXIT_USAGE)]
    assert found["StartLimitIntervalSec"] == ["0"]
    # Signs of life of the mount wait for an operation at most, and stopping may wait for what waits for the store.
    assert float(found["WatchdogSec"][0]) / 2 > DEFAULT_DEADLINE_S - 1
    assert float(found["TimeoutStopSec"][0]) >= (StoreOptions().deadline_s if name == DAEMON else DEFAULT_DEADLINE_S)
    assert found["User"] == ["dasfs"]
    assert "u dasfs " in (ROOT / "systemd/dasfs.sysusers.conf").read_text()


def test_nothing_hides_the_mount() -> None:
    """The unit of the mount has no setting that gives it a mount namespace of its own."""
    assert unit(MOUNT).keys() & HIDES_THE_MOUNT == set()


def test_the_example_of_the_daemon_is_right() -> None:
    """The example is a configuration that the daemon starts with."""
    config = load(str(ROOT / "systemd/daemon.toml.example"))
    assert config.location("photos").url == "s3://datasets/vision"


def test_the_example_of_a_mount_is_right() -> None:
    """The example sets what the unit uses, and its options are options of `dasfs mount`."""
    lines = [line for line in (ROOT / "systemd/example.env").read_text().splitlines() if not line.startswith("#")]
    values = dict(line.split("=", 1) for line in lines if line)
    assert set(values) == {"STORE", "MOUNTPOINT", "OPTIONS"} == set(re.findall(r"\b[A-Z]+\b", unit_line()))
    assert len(shlex.split(values["OPTIONS"])) == 1  # quoted as systemd wants it
    known = {spelling for each in mount.params for spelling in each.opts}
    assert set(shlex.split(shlex.split(values["OPTIONS"])[0])[::2]) <= known


def unit_line() -> str:
    """Return the variables that the mount's command line has."""
    return " ".join(re.findall(r"\$\{?[A-Z]+", unit(MOUNT)["ExecStart"][0]))


def test_installing_puts_all_in_place(tmp_path: Path) -> None:
    """Units with the paths that were asked for, the user, the examples for root alone, and the documentation."""
    setup("install", tmp_path, BINDIR="/opt/bin", UNITDIR="/lib/units", DOCDIR="/doc")
    found = files(tmp_path)
    assert {"lib/units/" + DAEMON, "lib/units/" + MOUNT, "usr/local/lib/sysusers.d/dasfs.conf"} <= found
    assert "doc/systemd.md" in found
    for name in (DAEMON, MOUNT):
        text = (tmp_path / "lib/units" / name).read_text()
        assert "ExecStart=/opt/bin/dasfs " in text
        assert "Documentation=file:///doc/systemd.md" in text
        assert "/usr/local" not in text
    for name in ("daemon.toml.example", "mounts/example.env"):
        assert (tmp_path / "etc/dasfs" / name).stat().st_mode & 0o777 == 0o600


def test_uninstalling_takes_all_away(tmp_path: Path) -> None:
    """What was installed and is unchanged is gone, without an empty folder of configuration."""
    setup("install", tmp_path)
    setup("uninstall", tmp_path)
    assert files(tmp_path) == set()
    assert not (tmp_path / "etc/dasfs").exists()


def test_what_a_user_changed_stays(tmp_path: Path) -> None:
    """Neither installing again nor uninstalling touches a configuration, or an example that was made one."""
    setup("install", tmp_path)
    own = {"daemon.toml": "a", "mounts/mine.env": "b", "mounts/example.env": "c"}
    for name, text in own.items():
        (tmp_path / "etc/dasfs" / name).write_text(text)
    setup("install", tmp_path)
    setup("uninstall", tmp_path)
    assert {name: (tmp_path / "etc/dasfs" / name).read_text() for name in own} == own
    assert files(tmp_path) == {f"etc/dasfs/{name}" for name in own}


def test_every_field_of_the_journal_is_documented() -> None:
    """docs/systemd.md has each field that a line of the daemon may carry, and no other."""
    assert set(re.findall(r"^\| `(DASFS_[A-Z]+)`", PAGE, re.MULTILINE)) == {
        f"DASFS_{name.upper()}" for name in Fields.__annotations__
    }
