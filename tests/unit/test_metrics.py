"""Metrics: the histogram of the hot path, the text that Prometheus reads, and that the pages tell of each."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from dasfs.fuse.metrics import METRICS as OF_MOUNT
from dasfs.metrics import LATENCY_BOUNDS_S, Histogram, Kind, Metric, Outcome, RequestCounts, Sample, render
from dasfs_daemon.metrics import METRICS as OF_DAEMON

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "monitoring.md").read_text()
DASHBOARD = json.loads((DOCS / "grafana-dashboard.json").read_text())
ALL = {metric.name: metric for metric in (*OF_DAEMON, *OF_MOUNT)}
# What ProcessCollector brings.
OF_PROCESS = {
    *("process_cpu_seconds_total", "process_start_time_seconds", "process_open_fds", "process_max_fds"),
    *("process_resident_memory_bytes", "process_virtual_memory_bytes"),
}
ROWS = re.findall(r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \| (.*?) ?\| .+ \|$", PAGE, re.MULTILINE)


@given(st.lists(st.one_of(st.floats(0, 100), st.sampled_from(LATENCY_BOUNDS_S))))
def test_a_histogram(seconds: list[float]) -> None:
    """Each bucket has what took no longer than its bound, the last has all, and the total is their sum."""
    histogram = Histogram()
    for each in seconds:
        histogram.observe(each)
    expected = [sum(each <= bound for each in seconds) for bound in LATENCY_BOUNDS_S]
    assert [count for _, count in histogram.buckets()] == [*expected, len(seconds)]
    assert [float(bound) for bound, _ in histogram.buckets()] == [*LATENCY_BOUNDS_S, float("inf")]
    assert histogram.total_s == pytest.approx(sum(seconds))


def test_what_is_rendered_can_be_parsed() -> None:
    """Any name of a label's value comes back, samples of one metric stand together, a histogram has its sum."""
    counter, gauge = Metric(Kind.COUNTER, "a_total", "help", ("x",)), Metric(Kind.GAUGE, "b_bytes", "help")
    histogram = Histogram()
    histogram.observe(2.0)
    odd = 'a "quoted" \\ name\nof two lines, ünïcode'
    text = render(
        [
            Sample(counter, 1, ("one",)),
            Sample(gauge, 5),
            Sample(counter, 2, (odd,)),
            Sample(Metric(Kind.HISTOGRAM, "c_seconds", "help"), histogram),
        ],
        process=False,
    ).decode()
    found = {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(text) for s in f.samples}
    assert found["a_total", "one"] == 1
    assert found["a_total", odd] == 2
    assert found["b_bytes",] == 5
    assert (found["c_seconds_sum",], found["c_seconds_count",], found["c_seconds_bucket", "3"]) == (2.0, 1, 1)
    assert text.count("# TYPE a_total counter") == 1


def test_the_process_is_measured_where_it_is_wanted() -> None:
    """CPU, memory and open files are those that the page lists; without `process` there is none of them."""
    text = render([], process=True).decode()
    assert set(re.findall(r"^(process_\w+) ", text, re.MULTILINE)) == OF_PROCESS
    assert render([], process=False) == b""


def test_requests_are_counted_by_outcome() -> None:
    """Each outcome has its own count."""
    counts = RequestCounts()
    for status in ("200", "503", "200"):
        counts.add(Outcome("GetObject", status))
    assert counts.all() == {Outcome("GetObject", "200"): 2, Outcome("GetObject", "503"): 1}


def test_the_page_and_the_code_have_the_same_metrics() -> None:
    """docs/monitoring.md has each metric with its type and its labels, and none that is gone."""
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in ROWS}
    exported = {name: (str(metric.kind), metric.labels) for name, metric in ALL.items()}
    assert len(ROWS) == len(documented)
    assert {name for name in documented if name not in exported} == OF_PROCESS
    assert {name: documented.get(name) for name in exported} == exported


@pytest.mark.parametrize("metric", ALL.values(), ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    """Names end in `_total` exactly where they only grow, units are base units, and no label is Prometheus' own."""
    assert re.fullmatch(r"dasfs_(daemon|mount)_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert not re.search(r"(milli|micro|minutes|hours|_kb|_mb|_ms|percent)", metric.name)
    assert not {"job", "instance", "le", "quantile"} & set(metric.labels)


def used_metrics(expression: str) -> Iterator[str]:
    """Yield the metrics that an expression of PromQL names."""
    for name in re.findall(r"\b(?:dasfs|process)_\w+", expression):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        yield base if base in ALL and ALL[base].kind is Kind.HISTOGRAM else name


def expressions(value: Any) -> Iterator[str]:
    """Yield every expression and query below a part of the dashboard."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key in ("expr", "definition", "query") and isinstance(each, str):
                yield each
            else:
                yield from expressions(each)
    elif isinstance(value, list):
        for each in value:
            yield from expressions(each)


def test_the_dashboard_uses_metrics_that_are_there() -> None:
    """Each metric in an expression of the dashboard is exported, and every label that it asks for is the metric's."""
    for expression in expressions(DASHBOARD["panels"]):
        names = list(used_metrics(expression))
        assert names, expression
        assert set(names) <= ALL.keys() | OF_PROCESS, expression
        for name, selector in re.findall(r"\b((?:dasfs|process)_\w+)\{(.*?)\}", expression):
            metric = ALL.get(next(used_metrics(name)))
            labels = set(re.findall(r"(\w+)(?:=|!)", selector)) - {"job", "instance"}
            assert labels <= set(metric.labels if metric else ()), expression


def test_the_dashboard_has_its_rows_and_variables() -> None:
    """Backlog, throughput, errors, aggregation and mounts are rows; the data source and what is shown are chosen."""
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Backlog", "Throughput", "Errors", "Aggregation and collection", "Mounts"]
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "job", "instance", "dataset"]
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_no_panels_overlap() -> None:
    """Each panel has its own place on the grid of 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_alert_rules_use_metrics_that_are_there() -> None:
    """Each alert rule of docs/monitoring.md is about metrics that are exported."""
    rules = re.findall(r"^ +expr: (.+)$", PAGE, re.MULTILINE)
    assert len(rules) >= 5
    for rule in rules:
        assert set(used_metrics(rule)) <= ALL.keys() | OF_PROCESS
