"""Fixtures that all tests share: the three kinds of store, the S3 one against a real Ceph gateway."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import hypothesis
import pytest

from dasfs.stores import Store, StoreOptions, open_store
from tests.ceph import PACKAGES, Ceph, missing_programs, running_ceph

# Tests that are slow on a busy machine must not meet the deadline; those of outages set their own.
OPTIONS = StoreOptions(deadline_s=60)

# Examples that are slow because the machine is busy are no failures; a test as a whole has its timeout.
hypothesis.settings.register_profile("dasfs", deadline=None)
hypothesis.settings.load_profile("dasfs")


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """A Ceph gateway of this session. A machine without the packages fails the test: it is never skipped."""
    missing = missing_programs()
    if missing:
        pytest.fail(f"{', '.join(missing)}: not installed; run: apt-get install --no-install-recommends {PACKAGES}")
    with running_ceph(on_disk=os.environ.get("DASFS_SCALE") == "full") as gateway:
        yield gateway


@pytest.fixture
def s3_environment(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> Ceph:
    """Lead boto3 to the gateway: in this process and in all that the test starts."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    for name, value in ceph.environment.items():
        monkeypatch.setenv(name, value)
    return ceph


@pytest.fixture
def make_bucket(s3_environment: Ceph) -> Callable[[], str]:
    """A function that makes a new, empty bucket and returns its name."""

    def make() -> str:
        name = f"dasfs-{uuid.uuid4().hex}"
        client = boto3.client("s3")
        client.create_bucket(Bucket=name)
        client.close()
        return name

    return make


@pytest.fixture
def s3_url(make_bucket: Callable[[], str]) -> str:
    """The URL of an S3 store with a prefix in a bucket of its own."""
    return f"s3://{make_bucket()}/some/prefix"


@pytest.fixture(params=["file", "sqlite", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store, once for each kind. It exists already."""
    if request.param == "s3":
        url: str = request.getfixturevalue("s3_url")
        return url
    url = f"file://{tmp_path}/store" if request.param == "file" else f"sqlite://{tmp_path}/store.db"
    with open_store(url, OPTIONS) as store:
        store.create()
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An empty store, once for each kind."""
    with open_store(store_url, OPTIONS) as opened:
        yield opened
