"""Where a mount's socket is, and who may ask there. No kernel, no mount."""

import pytest

from dasfs.endpoint import Peer
from dasfs.fuse.door import SHARED_DIRECTORY, Admission, plan_socket

OWNER, GROUP, MOUNTER, STRANGER = 1000, 100, 500, 9999


def admission(*, mode: int = 0o555, allow_other: bool = True, mounted_by: int = MOUNTER) -> Admission:
    return Admission(mounted_by, allow_other, OWNER, GROUP, mode)


def peer(uid: int, *groups: int) -> Peer:
    return Peer(1, uid, frozenset(groups))


@pytest.mark.parametrize("allow_other", [False, True])
def test_root_and_who_mounted_may_always_ask(allow_other: bool) -> None:
    """Root and the user of the mount's process are admitted whatever the mount hides."""
    closed = admission(mode=0, allow_other=allow_other)
    assert closed.admits(peer(0))
    assert closed.admits(peer(MOUNTER))


@pytest.mark.parametrize(
    ("mode", "who", "admitted"),
    [
        (0o555, peer(STRANGER), True),
        (0o550, peer(STRANGER), False),
        (0o550, peer(STRANGER, 7, GROUP), True),
        (0o505, peer(STRANGER, GROUP), False),
        (0o500, peer(OWNER), True),
        (0o055, peer(OWNER, GROUP), False),
        (0o554, peer(STRANGER), False),
    ],
)
def test_others_may_ask_as_far_as_they_may_read(mode: int, who: Peer, admitted: bool) -> None:
    """With `allow_other` the rights of the mount's directories decide, as they do for `ls`; without it nobody else."""
    assert admission(mode=mode).admits(who) is admitted
    assert not admission(mode=mode, allow_other=False).admits(who)


def test_the_socket_is_in_the_cache_unless_others_need_it() -> None:
    """Only a mount of root's that lets others in goes elsewhere, to a short path, and then the cache is the way out."""
    inside = "/cache/dasfs-cache"
    private = f"{inside}/control.sock"
    assert plan_socket(None, inside, "/mnt/a", admission()).places == (private,)
    assert plan_socket(None, inside, "/mnt/a", admission(allow_other=False, mounted_by=0)).places == (private,)
    shared = {
        plan_socket(None, inside, path, admission(mounted_by=0)).places
        for path in ("/mnt/a", "/srv/a", "/" + "b" * 250)
    }
    assert {places[1:] for places in shared} == {(private,)}
    assert len({places[0] for places in shared}) == 3
    assert all(places[0].startswith(SHARED_DIRECTORY + "/") and len(places[0]) < 100 for places in shared)


def test_where_the_user_says_and_nowhere_else() -> None:
    """A path that was given is the only one, and must do."""
    plan = plan_socket("/run/x.sock", "/cache", "/mnt", admission(mounted_by=0))
    assert (plan.places, plan.required) == (("/run/x.sock",), True)
