"""The options of a mount: what is taken, what is refused, and which of several sources wins."""

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.cli.mount_options import build_options, parse_options
from dasfs.config import MountConfig
from dasfs.endpoint import Address
from dasfs.errors import InvalidInput
from dasfs.fuse.mount_options import MountOptions


def build(*texts: str, config: MountConfig | None = None, mountpoint: str = "/mnt/data") -> MountOptions:
    return build_options(mountpoint, parse_options(texts), config or MountConfig(), replace=False)


def test_options_of_several_flags_add_up() -> None:
    """`-o a,b -o c` is the same as `-o a,b,c`; of two values the last counts."""
    assert parse_options(["uid=1,allow_other", "gid=2,uid=3"]) == {"uid": "3", "allow_other": "", "gid": "2"}


def test_both_spellings_are_taken() -> None:
    """`cache_size` is `cache-size`, as people write options of mount(8)."""
    assert parse_options(["cache_size=1G,cache_dir=/c"]) == {"cache-size": "1G", "cache-dir": "/c"}


def test_what_is_for_others_is_passed_over() -> None:
    """Options of mount(8), fstab and systemd, and empty ones, mean nothing to dasfs."""
    text = "defaults,noauto,nofail,_netdev,x-systemd.automount,x-initrd.mount,user,noatime,nosuid,nodev,,comment=a=b"
    assert parse_options([text, ""]) == {}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("frobnicate", "unknown mount option 'frobnicate'"),
        ("cache-sise=1", "cache-size"),
        ("rw", "read-only"),
        ("uid", "takes a value"),
        ("allow_other=1", "takes no value"),
        ("ro=1", "takes no value"),
    ],
)
def test_what_can_not_be_is_named(option: str, words: str) -> None:
    """An unknown option, and one with a value too many or too few, is refused by its name."""
    with pytest.raises(InvalidInput, match=words):
        parse_options([f"allow_other,{option}"])


BAD_VALUES = """
    uid=-1 uid=root uid=4294967295 uid=² gid=0x1 umask=8 umask=1000 umask=-1 umask= refresh=0 refresh=-1 refresh=inf
    refresh=nan refresh=1e9 deadline= deadline=soon cache-size=0 cache-size=much cache-size=1X verify= verify=never
"""


@pytest.mark.parametrize("option", BAD_VALUES.split())
def test_values_are_checked(option: str) -> None:
    """A value that the option can't have is `InvalidInput`, which names the option or the value."""
    name, _, value = option.partition("=")
    with pytest.raises(InvalidInput, match=f"{name}|{value}"):
        build(option)


@given(st.text(alphabet="abcdefghijklmnop=,_-0123456789./", max_size=40))
def test_no_text_is_an_unexpected_error(text: str) -> None:
    """Whatever stands behind `-o` is taken, or refused as `InvalidInput`."""
    with contextlib.suppress(InvalidInput):
        assert build(text).mountpoint == "/mnt/data"


def test_defaults() -> None:
    """Without options everything belongs to who mounts, and nothing is hidden."""
    options = build()
    assert (options.ownership.uid, options.ownership.gid, options.ownership.umask) == (os.getuid(), os.getgid(), 0)
    assert (options.allow_other, options.dataset, options.replace) == (False, None, False)
    assert (options.cache_size, options.refresh_s, options.deadline_s) == (20 << 30, 10.0, 30.0)


def test_all_options() -> None:
    """Each option arrives where it belongs."""
    options = build("uid=7,gid=8,umask=027,allow_other,ro,dataset=set,cache-size=1MiB,refresh=0.5,deadline=3")
    assert (options.ownership.uid, options.ownership.gid, options.ownership.umask) == (7, 8, 0o27)
    assert (options.allow_other, options.dataset) == (True, "set")
    assert (options.cache_size, options.refresh_s, options.deadline_s) == (1 << 20, 0.5, 3.0)


def test_options_win_over_the_configuration() -> None:
    """What is given counts before the configuration file, and that before the defaults."""
    config = MountConfig(cache_dir="/conf", cache_size="2GiB", refresh=60.0)
    options = build(config=config)
    assert (options.cache_size, options.refresh_s) == (2 << 30, 60.0)
    assert options.cache_directory.startswith("/conf/")
    options = build("cache-dir=/given,cache-size=1GiB,refresh=1", config=config)
    assert (options.cache_directory, options.cache_size, options.refresh_s) == ("/given", 1 << 30, 1.0)


def test_a_bad_value_of_the_configuration_is_told() -> None:
    """A refresh interval that the configuration may have and a mount may not is refused with its value."""
    with pytest.raises(InvalidInput, match="1000000"):
        build(config=MountConfig(refresh=1_000_000.0))


def test_each_mount_point_has_a_cache_of_its_own() -> None:
    """Without `cache-dir`, different mount points never share a cache, whatever their names."""
    places = ["/mnt/a/b", "/mnt/a-b", "/mnt/a--b", "/mnt/a/-b", "/mnt/a-/b", "/", "/mnt", "/root"]
    caches = {build(mountpoint=place, config=MountConfig(cache_dir="/c")).cache_directory for place in places}
    assert len(caches) == len(places)
    assert all(os.path.dirname(each) == "/c" for each in caches)


def test_paths_become_absolute() -> None:
    """A relative mount point and cache directory mean those below the working directory."""
    options = build("cache-dir=c", mountpoint="m")
    assert (options.mountpoint, options.cache_directory) == (os.path.abspath("m"), os.path.abspath("c"))


def test_a_port_for_metrics() -> None:
    """`metrics` is an address, or wrong usage."""
    given = parse_options(["metrics=[::1]:9478"])
    assert build_options("/mnt", given, MountConfig(), replace=False).metrics == Address("::1", 9478)
    with pytest.raises(InvalidInput, match="is not an address"):
        build_options("/mnt", {"metrics": "9478"}, MountConfig(), replace=False)


def test_the_cache_is_checked_once_unless_told_otherwise() -> None:
    """`verify=always` is what somebody has to ask for; `verify=once` is the default by its name."""
    assert [build(text).verify_always for text in ("", "verify=once", "verify=always")] == [False, False, True]
