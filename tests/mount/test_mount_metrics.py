"""The metrics of a real mount: in `.dasfs/metrics`, on its port, true, and as docs/monitoring.md lists them."""

import http.client
import os
import socket
from contextlib import closing
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from dasfs.fuse.metrics import METRICS
from dasfs.fuse.mountpoint import find_mount
from dasfs.stores import Store, open_store
from tests import datasets
from tests.mounts import Mount, Mounter, errno_of, wait_until

TIMEOUT_S = 30.0
CONTENT = b"x" * 100_000
NAME = f"{0:020d}.bin"
Samples = dict[tuple[str, ...], float]


def parse(text: str, mount: Mount) -> Samples:
    """Return the samples of a mount by name and labels, but for `mountpoint`, which is checked."""
    found: Samples = {}
    known = {metric.name.removesuffix("_total"): metric for metric in METRICS}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            if family.name in known:
                metric = known[family.name]
                assert (family.type, family.documentation) == (str(metric.kind), metric.help)
                assert labels.keys() - {"le"} == set(metric.labels)
                assert labels["mountpoint"] == str(mount.path)
                values = [labels[name] for name in (*metric.labels, "le") if name in labels]
                found[sample.name, *values[1:]] = sample.value
            else:
                assert family.name.startswith("process_")
                found[sample.name,] = sample.value
    return found


def metrics(mount: Mount) -> Samples:
    return parse((mount.path / ".dasfs" / "metrics").read_text(), mount)


def port_of(mount: Mount) -> int:
    return int(mount.status()["options"]["metrics"].removeprefix("http://127.0.0.1:"))


def ask(port: int, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_what_is_read_is_counted(s3_url: str, mounted: Mounter) -> None:
    """Requests, their errors, bytes, hits, misses and the requests to the store are counted by what they were."""
    with open_store(s3_url) as store:
        datasets.add(store, "set", 0, [CONTENT])
    mount = mounted(s3_url)
    before = metrics(mount)
    fd = os.open(mount.path / "set" / NAME, os.O_RDONLY)
    try:
        assert os.read(fd, 1 << 20) == CONTENT
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(fd, 0, os.SEEK_SET)
        assert os.read(fd, 1 << 20) == CONTENT
    finally:
        os.close(fd)
    assert errno_of(os.getxattr, mount.path / "set" / NAME, "user.none") is not None
    after = metrics(mount)

    def grown(*sample: str) -> float:
        return after.get(sample, 0.0) - before.get(sample, 0.0)

    assert after["dasfs_mount_healthy",] == 1
    assert grown("dasfs_mount_read_bytes_total") == grown("dasfs_mount_cache_served_bytes_total") == 2 * len(CONTENT)
    assert grown("dasfs_mount_cache_misses_total") >= 1
    assert grown("dasfs_mount_cache_hits_total") >= 1
    assert grown("dasfs_mount_fetched_bytes_total") >= len(CONTENT)
    assert grown("dasfs_mount_request_duration_seconds_count", "read") >= 2
    assert grown("dasfs_mount_request_duration_seconds_bucket", "read", "+Inf") >= 2
    assert 0 < grown("dasfs_mount_request_duration_seconds_sum", "read") < TIMEOUT_S
    assert grown("dasfs_mount_request_errors_total", "getxattr", "ENODATA") == 1
    assert grown("dasfs_mount_store_requests_total", "GetObject", "206") >= 1
    assert after["dasfs_mount_dataset_revision", "set"] == 2
    assert after["dasfs_mount_cache_used_bytes",] >= len(CONTENT)
    assert not any(name.startswith("process_") for name, *_ in after)


def test_a_port_of_the_mount(tmp_path: Path, local_store: Store, mounted: Mounter) -> None:
    """With `-o metrics` the port answers, follows the store's health, and is gone with the mount."""
    datasets.add(local_store, "set", 0, [b"x"])
    mount = mounted(local_store.url, options="metrics=127.0.0.1:0", warnings=["can't be read", "can't be refreshed"])
    port = port_of(mount)
    assert (mount.path / "set" / NAME).read_bytes() == b"x"
    found = parse(ask(port, "/metrics")[1], mount)
    assert found["process_open_fds",] > 3
    assert found["dasfs_mount_read_bytes_total",] == 1
    assert ask(port, "/status.json") == (200, ask(port, "/status.json")[1])
    assert (ask(port, "/health"), ask(port, "/live")) == ((200, "ok\n"), (200, "ok\n"))
    assert ask(port, "/")[0] == 404
    os.rename(tmp_path / "store", tmp_path / "away")
    said = wait_until(lambda: (answer := ask(port, "/health"))[0] == 503 and answer[1])
    assert "store" in said
    text = ask(port, "/metrics")[1]
    assert "dasfs_mount_problem{" in text
    assert parse(text, mount)["dasfs_mount_healthy",] == 0
    assert ask(port, "/live")[0] == 200
    os.rename(tmp_path / "away", tmp_path / "store")
    wait_until(lambda: ask(port, "/health")[0] == 200)
    mount.stop()
    assert errno_of(socket.create_connection, ("127.0.0.1", port)) is not None


def test_a_port_in_use(tmp_path: Path, local_url: str, mounted: Mounter) -> None:
    """A port that another program has ends the mount with one line, and nothing is mounted."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        mount = mounted(local_url, options=f"metrics=127.0.0.1:{taken}", ready=False)
        assert mount.wait() == 1
    assert f"dasfs: 127.0.0.1:{taken}: another program uses this port; end it, or give another port\n" in mount.log
    assert find_mount(str(mount.path)) is None


def test_the_files_of_the_mount_are_not_listed(local_url: str, mounted: Mounter) -> None:
    """`.dasfs` stays out of listings; its files have their sizes; names beside them are not there."""
    mount = mounted(local_url)
    assert mount.names() == []
    for name in ("metrics", "status.json"):
        assert (mount.path / ".dasfs" / name).stat().st_size > 100
    assert not (mount.path / ".dasfs" / "nothing").exists()
