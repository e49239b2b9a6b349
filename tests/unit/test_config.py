"""The configuration: which layer wins, and what a mistake in it is answered with."""

import os

import pytest

from dasfs.config import Config, StoreConfig, load, resolve_store
from dasfs.errors import AccessDenied, InvalidInput, NotFound
from dasfs.stores.base import StoreOptions


@pytest.fixture
def home(tmp_path):
    """An environment whose standard configuration file is below `tmp_path`."""
    (tmp_path / "dasfs").mkdir()
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def write(tmp_path, text, name="dasfs/config.toml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_without_any_file_the_defaults_hold(home):
    """No file and no variable: no store is named, and that is no error yet."""
    assert load(environ=home) == Config()


def test_a_store_of_the_file_is_resolved_with_its_options(tmp_path, home):
    """A name stands for URL, endpoint, profile, region and deadline of its table."""
    write(
        tmp_path,
        '[stores.lab]\nurl = "s3://b/p"\nendpoint_url = "http://e"\nprofile = "x"\nregion = "r"\ndeadline = 5\n',
    )
    location = resolve_store(load(environ=home), "lab")
    assert location.url == "s3://b/p"
    assert location.options == StoreOptions(endpoint_url="http://e", profile="x", region="r", deadline_s=5.0)


def test_the_environment_wins_over_the_file_and_a_flag_over_both(tmp_path, home):
    """defaults < file < environment < flags, for the default store."""
    write(tmp_path, 'store = "file:///from/file"\n')
    assert resolve_store(load(environ=home), None).url == "file:///from/file"
    config = load(environ=home | {"DASFS_STORE": "file:///from/environment"})
    assert resolve_store(config, None).url == "file:///from/environment"
    assert resolve_store(config, "file:///from/flag").url == "file:///from/flag"


def test_the_users_file_wins_over_the_systems_store_by_store(tmp_path, home, monkeypatch):
    """Both standard files are read; what only the system's names is still there."""
    system = write(tmp_path, '[stores.a]\nurl = "file:///a"\n[stores.b]\nurl = "file:///b"\n', "system.toml")
    monkeypatch.setattr("dasfs.config.SYSTEM_FILE", system)
    write(tmp_path, '[stores.b]\nurl = "file:///mine"\n')
    assert load(environ=home).stores == {"a": StoreConfig("file:///a"), "b": StoreConfig("file:///mine")}


def test_a_named_file_is_read_instead_of_the_standard_ones(tmp_path, home):
    """`DASFS_CONFIG` replaces the standard files, and `--config` goes before it."""
    write(tmp_path, 'store = "file:///standard"\n')
    named = write(tmp_path, "[mount]\nrefresh = 3\n", "named.toml")
    other = write(tmp_path, "[mount]\nrefresh = 4\n", "other.toml")
    assert load(environ=home | {"DASFS_CONFIG": named}).store is None
    assert load(environ=home | {"DASFS_CONFIG": named}).mount.refresh == 3.0
    assert load(other, home | {"DASFS_CONFIG": named}).mount.refresh == 4.0


def test_a_named_file_must_exist(tmp_path):
    """A typo in `--config` is not silently the defaults."""
    with pytest.raises(NotFound, match="no such configuration file"):
        load(str(tmp_path / "missing.toml"), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('stroe = "x"\n', "unknown key 'stroe'; did you mean 'store'"),
        (
            '[stores.lab]\nurl = "s3://b"\nendpoint = "x"\n',
            "'stores.lab.endpoint'; did you mean 'endpoint_url'",
        ),
        ("[mount]\ncachedir = 3\n", "'mount.cachedir'; did you mean 'cache_dir'"),
        ("[stores.lab]\n", "stores.lab.url is missing"),
        ('[stores.lab]\nurl = "lab"\n', "stores.lab.url is missing or is not a URL"),
        ("store = 3\n", "store must be a text"),
        ('stores = "x"\n', "stores must be a table"),
        ('[stores]\nlab = "s3://b"\n', "stores.lab must be a table"),
        ('[stores.lab]\nurl = "s3://b"\ndeadline = 0\n', "stores.lab.deadline must be a number of seconds"),
        ("[mount]\nrefresh = true\n", "mount.refresh must be a number of seconds"),
        ("store = \n", "not a TOML file"),
    ],
)
def test_a_mistake_is_told_with_the_file_and_the_key(tmp_path, home, text, message):
    """Every wrong key and value is `InvalidInput` that names the file, the key, and the nearest known key."""
    path = write(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        load(environ=home)
    assert message in str(caught.value)
    assert path in str(caught.value)


def test_a_file_that_is_a_directory_is_told(tmp_path):
    """What can't be read is one error of ours, not an OSError."""
    with pytest.raises(AccessDenied, match="can't read"):
        load(str(tmp_path), {})


def test_a_store_that_is_neither_url_nor_name_lists_the_names():
    """The answer to a typo in a store's name is the names that there are."""
    config = Config(stores={"lab": StoreConfig("file:///x"), "attic": StoreConfig("file:///y")})
    with pytest.raises(InvalidInput, match="attic, lab"):
        resolve_store(config, "lap")


def test_a_typo_in_the_kind_of_store_is_left_to_who_knows_the_kinds():
    """`s3:/bucket` is meant as a URL, not as a directory."""
    assert resolve_store(Config(), "s3:/bucket").url == "s3:/bucket"


@pytest.mark.parametrize("directory", ["/tmp", "/scratch"])
def test_the_temporary_directory_is_the_one_that_is_named(tmp_path, home, directory):
    """TMPDIR goes before the file, the file before /var/tmp; /tmp is as good as any when it is named."""
    assert load(environ=home).temporary_dir == "/var/tmp"
    write(tmp_path, 'temporary_dir = "/from/file"\n')
    assert load(environ=home).temporary_dir == "/from/file"
    assert load(environ=home | {"TMPDIR": directory}).temporary_dir == directory


def test_a_path_instead_of_a_url_is_answered_with_the_url():
    """`--store ./data` is answered with what to write."""
    with pytest.raises(InvalidInput) as caught:
        resolve_store(Config(), "./data")
    assert f"file://{os.getcwd()}/data" in str(caught.value)


def test_no_store_at_all_says_how_to_give_one():
    """Without flag, variable and file the message names the flag and the variable."""
    with pytest.raises(InvalidInput, match=r"--store.*DASFS_STORE"):
        resolve_store(Config(), None)
