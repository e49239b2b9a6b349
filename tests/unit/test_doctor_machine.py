"""What `dasfs doctor` says of a machine: each finding, from facts alone."""

from dataclasses import replace

import pytest

from dasfs.cli.doctor.disk import Disk, Speed, check_disk, check_file_system, check_space, check_speed
from dasfs.cli.doctor.facts import look_at_machine
from dasfs.cli.doctor.finding import Finding, Verdict
from dasfs.cli.doctor.machine import (
    Access,
    Inotify,
    Library,
    Machine,
    Program,
    RequestTimeouts,
    check_machine,
    check_timeouts,
)

GIB = 1 << 30
GOOD = Machine(
    is_root=False,
    fuse_device=Access.USABLE,
    fusermount=Program("/usr/bin/fusermount3", setuid_root=True),
    user_allow_other=True,
    kernel="6.1.0-18-amd64",
    open_files=1024,
    open_files_hard=1 << 20,
    inotify=Inotify(65536, 128, 16384, instance_free=True),
    timeouts=RequestTimeouts(0, 0),
    cpus=8,
    python="3.11.2",
    libraries=(Library("trio", "0.25", "0.25.1"), Library("boto3", "1.36", "1.40.0")),
)
DISK = Disk("/cache", "ext4", free=100 * GIB, cached=0, writable=True, punches=True, speed=Speed(5e8, 1e9))


def finding_of(machine: Machine, check: str) -> Finding:
    return next(each for each in check_machine(machine, 30) if each.check == check)


def test_nothing_is_wrong_with_a_good_machine() -> None:
    """A usual machine has no warning and no problem, and nothing to do."""
    for finding in [*check_machine(GOOD, 30), *check_disk(DISK, 20 * GIB)]:
        assert (finding.verdict, finding.hint) == (Verdict.OK, None), finding


@pytest.mark.parametrize(
    ("change", "check", "verdict", "said"),
    [
        ({"fuse_device": Access.MISSING}, "/dev/fuse", Verdict.PROBLEM, "modprobe fuse"),
        ({"fuse_device": Access.REFUSED}, "/dev/fuse", Verdict.PROBLEM, "chmod 666 /dev/fuse"),
        ({"fusermount": None}, "fusermount3", Verdict.PROBLEM, "apt-get install fuse3"),
        ({"fusermount": Program("/bin/f", setuid_root=False)}, "fusermount3", Verdict.PROBLEM, "chmod u+s /bin/f"),
        (
            {"fusermount": Program("/bin/f", setuid_root=False), "is_root": True},
            "fusermount3",
            Verdict.WARNING,
            "only root can mount",
        ),
        ({"user_allow_other": False}, "allow_other", Verdict.WARNING, "echo user_allow_other >> /etc/fuse.conf"),
        ({"user_allow_other": False, "is_root": True}, "allow_other", Verdict.OK, "root may"),
        ({"kernel": "4.19.0-26-amd64"}, "kernel", Verdict.PROBLEM, "use 5.4 or newer"),
        ({"kernel": "5.10"}, "kernel", Verdict.OK, "5.10"),
        ({"open_files": 1000}, "open files", Verdict.WARNING, "ulimit -n 65536"),
        ({"open_files": 256, "open_files_hard": 4096}, "open files", Verdict.PROBLEM, "ulimit -n 4096"),
        ({"open_files": 256, "open_files_hard": 512}, "open files", Verdict.PROBLEM, "LimitNOFILE="),
        ({"inotify": None}, "inotify", Verdict.WARNING, "scans only"),
        (
            {"inotify": Inotify(65536, 128, 16384, instance_free=False)},
            "inotify",
            Verdict.PROBLEM,
            "max_user_instances=512",
        ),
        ({"inotify": Inotify(1024, 128, 16384, instance_free=True)}, "inotify", Verdict.WARNING, "max_user_watches"),
        ({"inotify": Inotify(65536, 128, 100, instance_free=True)}, "inotify", Verdict.WARNING, "max_queued_events"),
        ({"cpus": 1.0}, "CPUs", Verdict.WARNING, "1 CPU may be used"),
        ({"cpus": 0.5}, "CPUs", Verdict.WARNING, "0.5 CPUs"),
        (
            {"libraries": (Library("trio", "0.25", "0.9"), Library("apsw", "3.46", None))},
            "libraries",
            Verdict.PROBLEM,
            "trio 0.9 is older than 0.25, apsw is missing; run: python -m pip install 'trio>=0.25' 'apsw>=3.46'",
        ),
        ({"timeouts": RequestTimeouts(20, 0)}, "kernel timeouts", Verdict.PROBLEM, "default_request_timeout=45"),
        ({"timeouts": None}, "kernel timeouts", Verdict.OK, "no timeout"),
    ],
)
def test_what_is_wrong_with_a_machine(change: dict[str, object], check: str, verdict: Verdict, said: str) -> None:
    """Each thing that can be wrong is told with what to do, and nothing else is."""
    machine = replace(GOOD, **change)  # type: ignore[arg-type]
    finding = finding_of(machine, check)
    assert finding.verdict is verdict
    assert said in finding.line
    others = [each for each in check_machine(machine, 30) if each.check != check]
    assert all(each.verdict is Verdict.OK for each in others)


@pytest.mark.parametrize(
    ("default", "most", "deadline", "verdict", "said"),
    [
        (0, 0, 30, Verdict.OK, "no timeout"),
        (0, 45, 30, Verdict.OK, "after 45 s"),
        (45, 600, 30, Verdict.OK, "after 45 s"),
        (600, 44, 30, Verdict.PROBLEM, "fs.fuse.max_request_timeout=45, or mount with -o deadline=29"),
        (0, 44, 30, Verdict.PROBLEM, "sysctl -w fs.fuse.max_request_timeout=45"),
        (44, 40, 30, Verdict.PROBLEM, "default_request_timeout=45 fs.fuse.max_request_timeout=45"),
        (15, 0, 0.5, Verdict.PROBLEM, "sysctl -w fs.fuse.default_request_timeout=16"),
        (16, 0, 0.5, Verdict.OK, "its deadline is 0.5 s"),
    ],
)
def test_timeouts_of_the_kernel(default: int, most: int, deadline: float, verdict: Verdict, said: str) -> None:
    """A timeout that could abort a mount within its deadline and 15 s is a problem, with the values to set."""
    finding = check_timeouts(RequestTimeouts(default, most), deadline)
    assert finding.verdict is verdict
    assert said in finding.line


@pytest.mark.parametrize(
    ("change", "verdict", "said"),
    [
        ({"writable": False}, Verdict.PROBLEM, "may not write to /cache"),
        ({"free": 10 * GIB}, Verdict.WARNING, "--cache-size 9GiB"),
        ({"free": 10 * GIB, "cached": 10 * GIB}, Verdict.OK, "10.0 GiB free"),
        ({"free": 100 << 20}, Verdict.PROBLEM, "only 100.0 MiB free at /cache"),
    ],
)
def test_space_for_the_cache(change: dict[str, object], verdict: Verdict, said: str) -> None:
    """What is free and what the cache has already must be as much as it may take."""
    finding = check_space(replace(DISK, **change), 20 * GIB)  # type: ignore[arg-type]
    assert finding.verdict is verdict
    assert said in finding.line


@pytest.mark.parametrize(
    ("kind", "punches", "said"),
    [
        ("tmpfs", True, "takes memory"),
        ("nfs4", False, "slower than a disk"),
        ("fuse.sshfs", None, "slower than a disk"),
        ("overlay", True, "a volume"),
        ("ext3", False, "use ext4"),
    ],
)
def test_file_systems_that_don_t_suit_a_cache(kind: str, punches: bool | None, said: str) -> None:
    """Memory, network and container layers are told, and what can't give space back."""
    finding = check_file_system(replace(DISK, file_system=kind, punches=punches))
    assert finding.verdict is Verdict.WARNING
    assert said in finding.line


def test_a_slow_disk() -> None:
    """A disk that is slower than a usual link is told, with its figures."""
    finding = check_speed("/cache", Speed(2e7, 1e9))
    assert finding.verdict is Verdict.WARNING
    assert "20 MB/s" in finding.line
    assert finding.measured["write_bytes_per_second"] == 2e7


def test_this_machine_can_be_looked_at() -> None:
    """The facts of a real machine are there, and none is nonsense."""
    machine = look_at_machine()
    assert machine.cpus > 0
    assert machine.open_files > 0
    assert {"apsw", "trio", "boto3"} <= {each.name for each in machine.libraries}
    assert all(each.is_enough for each in machine.libraries)
    assert machine.kernel[0].isdigit()
