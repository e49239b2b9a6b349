"""A real S3 gateway for tests: one-node Ceph (a monitor, an OSD in memory, a gateway) on free loopback ports.

It needs Debian's packages `radosgw ceph-mon ceph-osd ceph-common`, starts in 1.5 s, and keeps nothing. For what does
not fit into memory its OSD writes to the disk of the temporary directory instead.
"""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PACKAGES = "radosgw ceph-mon ceph-osd ceph-common"
PROGRAMS = ("monmaptool", "ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
ACCESS_KEY = "DASFSTESTKEY00000001"
SECRET_KEY = "dasfstestsecret0000000000000000000000001"
# The start takes 1.5 s on two idle cores.
START_TIMEOUT_S = 60
# Clients first: a monitor that goes before its OSD makes the OSD linger.
DAEMONS = ("client.rgw", "osd.0", "mon.a")

# The monitor gathers changes for a second before it decides (paxos_*); a start makes ten of them, one after another.
CONFIGURATION = """
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{monitor_port}
mon_initial_members = a
ms_bind_msgr2 = false
public_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = {directory}
pid_file = {directory}/$name.pid
admin_socket = {directory}/$name.asok
log_file = {directory}/$name.log
keyring = {directory}/keyring
mon_data = {directory}/mon
osd_data = {directory}/osd
osd_objectstore = {object_store}
memstore_device_bytes = 8589934592
bluestore_block_size = 34359738368
osd_memory_target = 1073741824
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_crush_chooseleaf_type = 0
osd_class_update_on_start = false
osd_crush_update_on_start = false
osd_class_load_list = *
osd_class_default_list = *
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{gateway_port} tcp_nodelay=1
"""


@dataclass(frozen=True, slots=True)
class Ceph:
    """A running gateway."""

    endpoint_url: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead boto3, also that of subprocesses, to the gateway."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            # Nothing of the user's own configuration must leak into tests.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def missing_programs() -> list[str]:
    """Return the programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextlib.contextmanager
def running_ceph(*, on_disk: bool = False) -> Iterator[Ceph]:
    """Start Ceph, hand it out, and end it. Raises `RuntimeError` with Ceph's own words when it does not start.

    It holds 8 GiB in memory, or 32 GiB `on_disk`.
    """
    # A Unix socket's path has at most 107 bytes, so not below pytest's long directories.
    directory = Path(tempfile.mkdtemp(prefix="dasfs-ceph-"))
    try:
        yield _start(directory, "bluestore" if on_disk else "memstore")
    finally:
        for name in DAEMONS:
            _end(directory / f"{name}.pid")
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    """Return a loopback port that nobody listens on.

    It is below the range from which the kernel gives ports to clients, so that it stays free until it is used.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _start(directory: Path, object_store: str) -> Ceph:
    fsid, osd, monitor_port, gateway_port = uuid.uuid4(), uuid.uuid4(), free_port(), free_port()
    (directory / "mon").mkdir()
    (directory / "osd").mkdir()
    (directory / "keyring").touch()
    configuration = directory / "ceph.conf"
    configuration.write_text(
        CONFIGURATION.format(
            fsid=fsid,
            directory=directory,
            monitor_port=monitor_port,
            gateway_port=gateway_port,
            object_store=object_store,
        )
    )
    monitor = f"v1:127.0.0.1:{monitor_port}"
    user = f"--uid=dasfs --display-name=dasfs --access-key={ACCESS_KEY} --secret-key={SECRET_KEY}"
    deadline = time.monotonic() + START_TIMEOUT_S
    for command in (
        f"monmaptool --create --clobber --addv a [{monitor}] --fsid {fsid} {directory}/monmap",
        f"ceph-mon --id a --mkfs --monmap {directory}/monmap",
        "ceph-mon --id a",
        f"ceph osd new {osd}",
        f"ceph-osd --id 0 --mkfs --osd-uuid {osd}",
        "ceph-osd --id 0",
        "ceph osd crush add osd.0 1.0 root=default host=localhost",
        "radosgw --id rgw",
        f"radosgw-admin user create {user}",
    ):
        _run(command.split(), configuration, deadline)
    _wait_for_port(gateway_port, deadline)
    return Ceph(f"http://127.0.0.1:{gateway_port}")


def _run(command: list[str], configuration: Path, deadline: float) -> None:
    """Run one command of the start, again if it fails.

    On a busy machine a client of Ceph 16 can send its first command before it has learned the cluster's id; the
    monitor refuses that (EPERM, "wrong fsid").
    """
    while True:
        # A file, not a pipe: daemons keep it open, and a pipe would never end.
        with tempfile.TemporaryFile() as output:
            process = subprocess.run(
                command,
                env={**os.environ, "CEPH_CONF": str(configuration)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=max(1.0, deadline - time.monotonic()),
                check=False,
            )
            if process.returncode == 0:
                return
            if time.monotonic() > deadline - START_TIMEOUT_S / 2:
                output.seek(0)
                raise RuntimeError(f"{' '.join(command)} failed:\n{output.read().decode(errors='replace')}")


def _wait_for_port(port: int, deadline: float) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise


def _end(pid_file: Path) -> None:
    """Kill the daemon that a pid file names: it has nothing to save, and would take 5 s to say good-bye."""
    with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
        psutil.Process(int(pid_file.read_text())).kill()
