"""The S3 store that everything is read from: a Ceph gateway of our own behind a latency, or one that is given.

Every client goes through `delay_proxy`, which adds the latency and counts requests and bytes, alike for all of
them. What prepares a case goes past it.
"""

import contextlib
import os
import struct
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3

from bench.processes import BenchError, ended
from bench.programs import build
from tests.ceph import PACKAGES, missing_programs, running_ceph

COUNTERS: Final = struct.Struct("4Q")
OWN_LATENCY_MS: Final = 20.0
UPLOADS: Final = 8
LINK_LIFETIME_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has passed the proxy: requests, and bytes from the server and to it."""

    requests: int
    received: int
    sent: int

    def since(self, earlier: "Traffic") -> "Traffic":
        return Traffic(self.requests - earlier.requests, self.received - earlier.received, self.sent - earlier.sent)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A bucket, and how to reach it. `prefix` is ours alone and ends with a slash."""

    bucket: str
    prefix: str
    latency_ms: float
    endpoint: str  # through the proxy, where there is one
    direct: str
    keys: Mapping[str, str]
    counters: Path | None

    @property
    def environment(self) -> dict[str, str]:
        """The environment for a client that is measured."""
        return {**os.environ, **self.keys, "AWS_ENDPOINT_URL": self.endpoint, "FSSPEC_S3_ENDPOINT_URL": self.endpoint}

    @property
    def direct_environment(self) -> dict[str, str]:
        """The environment for what prepares a case."""
        return {**self.environment, "AWS_ENDPOINT_URL": self.direct}

    @property
    def store(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}store"

    def traffic(self) -> Traffic | None:
        """Return what has passed the proxy so far; None without one, as with a store behind TLS."""
        if self.counters is None:
            return None
        _connections, requests, sent, received = COUNTERS.unpack(self.counters.read_bytes())
        return Traffic(requests, received, sent)

    def client(self, endpoint: str) -> Any:
        keys = self.keys
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=keys.get("AWS_SESSION_TOKEN"),
            region_name=keys["AWS_DEFAULT_REGION"],
        )

    def upload(self, files: Mapping[str, Path]) -> None:
        """Put local files under `prefix` plus their names."""
        client = self.client(self.direct)
        with ThreadPoolExecutor(UPLOADS) as pool:
            for _ in pool.map(
                lambda name: client.upload_file(str(files[name]), self.bucket, self.prefix + name), files
            ):
                pass

    def link(self, name: str) -> str:
        """Return a URL that anybody may read one object with, through the proxy, also in ranges."""
        where = {"Bucket": self.bucket, "Key": self.prefix + name}
        url: str = self.client(self.endpoint).generate_presigned_url(
            "get_object", Params=where, ExpiresIn=LINK_LIFETIME_S
        )
        return url

    def empty(self) -> None:
        """Delete everything under `prefix`."""
        client = self.client(self.direct)
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix):
            keys = [{"Key": each["Key"]} for each in page.get("Contents", ())]
            if keys:
                client.delete_objects(Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True})


@contextlib.contextmanager
def open_gateway(work: Path, store: str | None, latency_ms: float | None) -> Iterator[Gateway]:
    """Yield a gateway for one case: of our own, or a new prefix of `store`, which is emptied at the end.

    `store` is `s3://BUCKET[/PREFIX]`, found by boto3 as it finds any. Without `latency_ms` it is 20 for our own, and
    0 for one that is given, which has a latency of its own. A Ceph of a case's own has all memory free.
    """
    with contextlib.ExitStack() as stack:
        if store is None:
            direct, keys, bucket, prefix = stack.enter_context(_own_ceph())
        else:
            direct, keys, bucket, prefix = _given(store)
        latency_ms = latency_ms if latency_ms is not None else (OWN_LATENCY_MS if store is None else 0.0)
        endpoint, counters = direct, None
        if urlsplit(direct).scheme == "http":
            counters = work / "traffic"
            endpoint = stack.enter_context(_proxy(direct, latency_ms, counters))
        elif latency_ms:
            raise BenchError(f"{direct}: no latency can be added to https")
        prefix += f"dasfs-bench-{uuid.uuid4().hex[:12]}/"
        gateway = Gateway(bucket, prefix, latency_ms, endpoint, direct, keys, counters)
        if store is not None:
            stack.callback(gateway.empty)
        yield gateway


Place = tuple[str, Mapping[str, str], str, str]


@contextlib.contextmanager
def _own_ceph() -> Iterator[Place]:
    if missing := missing_programs():
        raise BenchError(f"{', '.join(missing)}: not installed; apt-get install --no-install-recommends {PACKAGES}")
    with running_ceph() as ceph:
        keys = {name: value for name, value in ceph.environment.items() if name != "AWS_ENDPOINT_URL"}
        boto3.client(
            "s3",
            endpoint_url=ceph.endpoint_url,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            region_name=keys["AWS_DEFAULT_REGION"],
        ).create_bucket(Bucket="bench")
        yield ceph.endpoint_url, keys, "bench", ""


def _given(store: str) -> Place:
    url = urlsplit(store)
    if url.scheme != "s3" or not url.netloc:
        raise BenchError(f"{store}: not s3://BUCKET[/PREFIX]")
    session: Any = boto3.Session()
    credentials = session.get_credentials()
    if credentials is None:
        raise BenchError(
            f"{store}: boto3 finds no keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
        )
    frozen = credentials.get_frozen_credentials()
    client = session.client("s3")
    keys: dict[str, str] = {
        "AWS_ACCESS_KEY_ID": frozen.access_key,
        "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
        "AWS_DEFAULT_REGION": client.meta.region_name or "us-east-1",
    }
    if frozen.token:
        keys["AWS_SESSION_TOKEN"] = frozen.token
    prefix = url.path.strip("/")
    return client.meta.endpoint_url, keys, url.netloc, f"{prefix}/" if prefix else ""


@contextlib.contextmanager
def _proxy(target: str, latency_ms: float, counters: Path) -> Iterator[str]:
    """Yield the endpoint of a latency in front of `target`."""
    url = urlsplit(target)
    command = [str(build("delay_proxy")), "0", url.hostname or "", str(url.port or 80), str(latency_ms), str(counters)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, text=True)
    with ended(process):
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise BenchError(f"the proxy in front of {target} did not start")
        yield f"http://127.0.0.1:{port}"
