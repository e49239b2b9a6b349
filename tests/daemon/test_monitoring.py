"""The endpoints of a real daemon: what they say is true, documented, and said in time whatever happens."""

import http.client
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from dasfs.cli.status_report import fetch
from dasfs.errors import DeadlineExceeded, Unsupported
from dasfs.metrics import render
from dasfs_daemon.door import LOOP_TIMEOUT_S, Door
from dasfs_daemon.metrics import METRICS, samples
from dasfs_daemon.state import (
    AggregationState,
    Backlog,
    CollectionState,
    Counters,
    DaemonState,
    DatasetState,
    LastCommit,
    Phase,
    Problem,
    Step,
    as_json,
    from_json,
)
from tests.ceph import Ceph
from tests.commands import dasfs
from tests.daemons import Daemon, make_store, write
from tests.mounts import wait_until
from tests.outage import proxied

TIMEOUT_S = 30.0
TIME = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def socket_of(daemon: Daemon) -> str:
    return str(daemon.home / "state" / "daemon.sock")


def listen_at(daemon: Daemon, *lines: str) -> None:
    """Write the daemon's configuration with a table `[status]`."""
    daemon.write_config()
    daemon.config.write_text("\n".join([daemon.config.read_text(), "[status]", *lines, ""]))


def port_of(daemon: Daemon) -> int:
    """Return the port that the newest line of the log tells."""
    daemon.wait_log(r"metrics are at http://")
    return int(re.findall(r"metrics are at http://\S+:(\d+)", daemon.log)[-1])


def ask(port: int, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def numbered(kind: Any, numbers: Iterator[int]) -> Any:
    """Return a value of a dataclass in which every number is another one, so that each can be found again."""
    values: dict[str, Any] = {}
    for each in fields(kind):
        text = str(each.type)
        if text in ("int", "<class 'int'>"):
            values[each.name] = next(numbers)
        elif "float" in text:
            values[each.name] = float(next(numbers))
        elif "bool" in text:
            values[each.name] = True
        elif "datetime" in text:
            values[each.name] = datetime.fromtimestamp(next(numbers), UTC)
    return values


def whole_state() -> DaemonState:
    """A state in which nothing is missing and no two numbers are the same."""
    numbers = iter(range(1_000_001, 2_000_000, 7))
    step = Step(**numbered(Step, numbers))
    problem = Problem("store", "it is away", "wait", TIME, TIME, 3)
    dataset = DatasetState(
        name="photos",
        store_url="s3://bucket",
        directory="/in",
        phase=Phase.WAITING,
        waiting=Backlog(**numbered(Backlog, numbers)),
        in_flight=Backlog(**numbered(Backlog, numbers)),
        last_commit=LastCommit(**numbered(LastCommit, numbers)),
        aggregation=AggregationState(step=step, **numbered(AggregationState, numbers)),
        collection=CollectionState(**numbered(CollectionState, numbers)),
        counters=Counters(**numbered(Counters, numbers)),
        problems=(problem,),
        **{name: value for name, value in numbered(DatasetState, numbers).items() if name != "last_commit"},
    )
    own = numbered(DaemonState, numbers)
    texts = {"version": "1", "host": "h", "config_file": "/c", "state_directory": "/s"}
    return DaemonState(
        **own, **texts, datasets=(dataset, replace(dataset, name="scans", last_commit=None)), problems=(problem,)
    )


# What a person reads and Prometheus can compute, or has no use for.
NOT_MEASURED = {
    *("pid", "time", "started"),  # the process has metrics of its own
    *("files_per_second", "bytes_per_second"),  # rate() of the counters
    *("oldest",),  # as an age
    *("planned", "running_since", "since", "last_seen", "count"),
    *("first", "last", "size", "dataranges"),  # of one commit, of one step
}


def numbers_in(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield each number and time of a state with the name of its field."""
    if is_dataclass(value):
        for each in fields(value):
            yield from numbers_in(getattr(value, each.name), each.name)
    elif isinstance(value, datetime):
        yield name, value.timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def test_every_number_of_the_state_is_a_metric() -> None:
    """Whatever is counted or timed in the state of a dataset or the daemon stands in the metrics."""
    state = whole_state()
    text = render(samples(state), process=False).decode()
    values = {sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    for part in (state, state.datasets[0]):
        missing = {name for name, value in numbers_in(part) if value not in values} - NOT_MEASURED
        assert missing == set()


def test_every_metric_comes_from_a_state() -> None:
    """A state with everything in it has all metrics that are declared, and no others."""
    text = render(samples(whole_state()), process=False).decode()
    assert set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE)) == {metric.name for metric in METRICS}


def test_a_state_comes_back_from_json() -> None:
    """What the daemon says is the state again at the other end, also from one that says more or less."""
    state = whole_state()
    document = json.loads(json.dumps(as_json(state)))
    assert from_json(document) == state
    document["news"] = document["datasets"][0]["counters"]["news"] = 1
    del document["datasets"][0]["counters"]["scans"]
    assert from_json(document).datasets[0].counters.scans == 0
    del document["datasets"]
    with pytest.raises(Unsupported, match="of version 1 can't be read"):
        from_json(document)


def test_what_a_running_daemon_says(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """On socket and port: the state as it is, metrics that the page lists, `ok`, and 404 elsewhere."""
    daemon = daemon_of(file_url)
    listen_at(daemon, 'listen = "127.0.0.1:0"')
    daemon.start()
    write(daemon.directory, {"a": b"x" * 1000, "b/c": b"y"})
    daemon.wait_empty()
    port = port_of(daemon)
    state = wait_until(lambda: (s := from_json(fetch(socket_of(daemon), "/status.json"))).datasets[0].last_commit and s)
    dataset = state.datasets[0]
    assert (state.pid, state.config_file, state.healthy) == (daemon.process.pid, str(daemon.config), True)
    assert (dataset.name, dataset.phase, dataset.directory) == ("d", Phase.RUNNING, str(daemon.directory))
    assert (dataset.counters.committed_files, dataset.counters.committed_bytes) == (2, 1001)
    status, text = ask(port, "/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    known = {metric.name.removesuffix("_total"): metric for metric in METRICS}
    assert {name for name in families if name.startswith("dasfs")} <= known.keys()
    for name, family in families.items():
        if name in known:
            assert (family.type, family.documentation) == (str(known[name].kind), known[name].help)
            assert all(tuple(sample.labels) == known[name].labels for sample in family.samples)
    assert families["dasfs_daemon_committed_files"].samples[0].value == 2
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6
    assert (ask(port, "/health"), ask(port, "/live")) == ((200, "ok\n"), (200, "ok\n"))
    assert ask(port, "/secrets")[0] == ask(port, "/")[0] == 404
    assert daemon.end() == 0
    assert not Path(socket_of(daemon)).exists()


def test_an_outage_is_told(daemon_of: Callable[..., Daemon], s3_environment: Ceph, s3_url: str) -> None:
    """While the store is away, health is 503 with what is wrong and what to do, no key or password is told anywhere,
    and the main loop is alive; when the store is back, all is well again."""
    make_store(s3_url)
    with proxied(s3_environment.endpoint_url) as proxy:
        daemon = daemon_of(s3_url)
        daemon.expected = ["can't connect", "answer", "connection"]
        listen_at(daemon, 'listen = "127.0.0.1:0"')
        endpoint = proxy.url.replace("http://", "http://me:hidden@")
        text = daemon.config.read_text().replace(
            "[stores.lab]", f'[stores.lab]\nendpoint_url = "{endpoint}"\ndeadline = 3'
        )
        daemon.config.write_text(text)
        daemon.start()
        port = port_of(daemon)
        wait_until(
            lambda: (
                ask(port, "/health")[0] == 200
                and from_json(fetch(socket_of(daemon), "/status.json")).datasets[0].phase is Phase.RUNNING
            )
        )
        proxy.refuse()
        write(daemon.directory, {"a": b"x"})
        _, said = wait_until(lambda: (answer := ask(port, "/health"))[0] == 503 and answer)
        assert re.match(r"d: .*can't connect to .*; check the network and the endpoint\n", said)
        assert ask(port, "/live")[0] == 200
        answers = [said, ask(port, "/metrics")[1], ask(port, "/status.json")[1], daemon.log]
        answers += [dasfs("status", "--config", str(daemon.config), *more).out for more in ((), ("--json",))]
        for secret in (
            "hidden",
            *(s3_environment.environment[name] for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")),
        ):
            assert not any(secret in each for each in answers)
        assert 'dasfs_daemon_problem{dataset="d",key="store"} 1.0' in answers[1]
        assert "check the network and the endpoint" in answers[4]
        proxy.recover()
        daemon.wait_empty(90)
        wait_until(lambda: ask(port, "/health") == (200, "ok\n"))


def test_a_main_loop_that_is_stuck() -> None:
    """While the main loop is stuck, every path is answered within the bound, with an error that says so."""
    heard: list[str] = []

    def body(door: Door, path: str) -> None:
        try:
            door.answer(path)
        except DeadlineExceeded as error:
            heard.append(error.message)

    async def main() -> None:
        door = Door(whole_state)
        paths = ("/status.json", "/metrics", "/health", "/live")
        threads = [threading.Thread(target=body, args=(door, path), daemon=True) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)  # in the trio thread: nothing else of it runs meanwhile

    trio.run(main)
    assert heard == [f"the main loop did not answer within {LOOP_TIMEOUT_S:g} s"] * 4


def test_a_killed_daemons_socket_is_replaced(daemon_of: Callable[..., Daemon], file_url: str) -> None:
    """A daemon starts where another was killed; where one runs, it does not."""
    daemon = daemon_of(file_url)
    daemon.start()
    daemon.end(signal.SIGKILL)
    assert Path(socket_of(daemon)).is_socket()
    daemon.start()
    assert from_json(fetch(socket_of(daemon), "/status.json")).pid == daemon.process.pid


@pytest.mark.parametrize("kind", ["port", "socket"])
def test_a_place_in_use_ends_the_start(
    daemon_of: Callable[..., Daemon], file_url: str, kind: str, tmp_path: Path
) -> None:
    """A port or a socket that another program has ends the start with one line and exit code 1."""
    daemon = daemon_of(file_url)
    family, place = (socket.AF_INET, ("127.0.0.1", 0)) if kind == "port" else (socket.AF_UNIX, f"{tmp_path}/s")
    with socket.socket(family) as other:
        other.bind(place)
        other.listen()
        line = f'listen = "127.0.0.1:{other.getsockname()[1]}"' if kind == "port" else f'socket = "{place}"'
        listen_at(daemon, line)
        answer = dasfs("daemon", "--config", str(daemon.config))
    assert answer.code == 1
    assert re.search("another program uses this port|another process answers at", answer.message)


def test_sighup_moves_the_endpoints(daemon_of: Callable[..., Daemon], file_url: str, tmp_path: Path) -> None:
    """SIGHUP opens new places and closes old ones; where a new one can't be had, all stay as they are."""
    daemon = daemon_of(file_url)
    daemon.expected = ["the old configuration stays"]
    daemon.start()
    new = f"{tmp_path}/run/new.sock"
    listen_at(daemon, f'socket = "{new}"', 'listen = "127.0.0.1:0"')
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log("read .* again")
    assert from_json(fetch(new, "/status.json")).healthy
    assert ask(port_of(daemon), "/live")[0] == 200
    wait_until(lambda: not os.path.exists(socket_of(daemon)))
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen_at(daemon, f'listen = "127.0.0.1:{other.getsockname()[1]}"')
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_log("the old configuration stays: .* another program uses this port")
    state = from_json(fetch(new, "/status.json"))
    assert [problem.key for problem in state.problems] == ["configuration"]
    assert not os.path.exists(socket_of(daemon))
