"""The daemon's configuration: its defaults as documented, and every mistake with its file, line and key."""

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.config import StoreConfig
from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from dasfs_daemon.config import (
    REQUIRED,
    AggregationConfig,
    CollectionConfig,
    DaemonConfig,
    DatasetConfig,
    LimitsConfig,
    Reader,
    StatusConfig,
)
from dasfs_daemon.service import check
from dasfs_daemon.toml_lines import find_lines
from tests.commands import dasfs, succeed
from tests.daemons import make_store

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "daemon.md").read_text()
GOOD = '[datasets.a]\nstore = "file:///x"\ndirectory = "/y"\n'


def read(tmp_path, text):
    path = tmp_path / "daemon.toml"
    path.write_text(text)
    reader = Reader(str(path))
    return reader.read(), [str(each).removeprefix(str(path)) for each in reader.mistakes]


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        (DaemonConfig, "At the top"),
        (DatasetConfig, "`[datasets.NAME]`"),
        (LimitsConfig, "`[limits]`"),
        (StatusConfig, "`[status]`"),
        (AggregationConfig, "`[aggregation]`"),
        (CollectionConfig, "`[collection]`"),
    ],
)
def test_every_key_is_documented_with_its_default(kind, heading):
    """docs/daemon.md has a row for each key below its table's heading, and the default in it is the one of the code."""
    section = PAGE.split(f"\n### {heading}\n")[1].split("\n#")[0]
    for each in fields(kind):
        if "default" not in each.metadata:
            continue
        default = each.metadata["default"]
        row = re.search(rf"^\| `{each.name}` \| (.*?) \| .+\|$", section, re.MULTILINE)
        assert row is not None, each.name
        if default is None or default is REQUIRED:
            assert row[1] == ("none" if default is None else "required"), each.name
        else:
            assert json.loads(row[1].strip("`")) == (list(default) if isinstance(default, tuple) else default), (
                each.name
            )


def test_the_keys_of_a_store_are_documented():
    """docs/daemon.md names every key of `[stores.NAME]`."""
    assert all(f"`{each.name}`" in PAGE for each in fields(StoreConfig))


def test_the_example_of_the_page_is_right(tmp_path):
    """The configuration that docs/daemon.md shows has no mistake."""
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    config, mistakes = read(tmp_path, example[1])
    assert mistakes == []
    assert config.datasets["photos"].datarange_age == 10.0
    assert config.location("photos").options.endpoint_url == "https://s3.example.org"
    assert config.limits.bandwidth == 50 * 1024 * 1024


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", ": datasets: there is no [datasets.NAME]: nothing to do"),
        ("a = \n", ": not a TOML file: Invalid value (at line 1, column 5)"),
        (GOOD + "sttle = 1\n", ":4: datasets.a.sttle: unknown key; did you mean 'settle'?"),
        (GOOD + "\n# word\nsettle = true\n", ":6: datasets.a.settle: True is not a time"),
        (GOOD + 'datarange_size = "big"\n', ":4: datasets.a.datarange_size: 'big' is not a size"),
        (GOOD + "ignore = [\n  1,\n]\n", ":4: datasets.a.ignore: it must be a list of texts"),
        (GOOD + 'compression = "gzip"\n', ":4: datasets.a.compression: "),
        (GOOD + "[limits]\nuploads = 0\n", ":5: limits.uploads: it must be a number from 1 to 64"),
        (GOOD + "[limits]\nupload = 1\n", ":5: limits.upload: unknown key; did you mean 'uploads'?"),
        (GOOD + '[status]\nlisten = "9477"\n', ":5: status.listen: '9477' is not an address"),
        (GOOD + '[status]\nlisten = "::1:9477"\n', ":5: status.listen: '::1:9477' is not an address"),
        (GOOD + '[status]\nsocket = "daemon.sock"\n', ":5: status.socket: 'daemon.sock' must be a whole path"),
        (GOOD + "aggregate = 1\n", ":4: datasets.a.aggregate: it must be true or false"),
        (GOOD + "[aggregation]\ntarget = 1\n", ":5: aggregation.target: unknown key; did you mean 'target_size'?"),
        (GOOD + "[aggregation]\ntarget_size = 0\n", ":5: aggregation.target_size: it must be more than nothing"),
        (GOOD + "[aggregation]\ngrowth = 1\n", ":5: aggregation.growth: it must be a number from 2 to 1024"),
        (GOOD + "[aggregation]\ninterval = 0\n", ":5: aggregation.interval: it must be a second or more"),
        (GOOD + '[collection]\nremoved = "soon"\n', ":5: collection.removed: 'soon' is not a time"),
        (GOOD + "limits = 3\n", ":4: datasets.a.limits: unknown key"),
        ("limits = 3\n" + GOOD, ":1: limits: it must be a table"),
        ("[limit]\n" + GOOD, ":1: limit: unknown key; did you mean 'limits'?"),
        ('[datasets.a]\nstore = "x"\ndirectory = "/y"\n', ":2: datasets.a.store: 'x' is neither the URL nor the name"),
        ('[datasets.a]\nstore = "ftp://x"\ndirectory = "/y"\n', ":2: datasets.a.store: 'ftp://x': there is no store"),
        ('[datasets.a]\nstore = "file:///x"\n', ":1: datasets.a.directory: it is missing"),
        ('[datasets.a]\nstore = "file:///x"\ndirectory = "y"\n', ":3: datasets.a.directory: 'y' must be a whole path"),
        ('[datasets."a b"]\nstore = "file:///x"\ndirectory = "/y"\n', ":1: datasets.a b: 'a b' can't name a dataset"),
        ("[stores.s]\nurl = 3\n" + GOOD, ":2: stores.s.url: it must be a text in quotes"),
        ("[stores.s]\n" + GOOD, ":1: stores.s.url: it is missing"),
        ('[stores.s]\nurl = "s3://bucket"\nendpoint = "x"\n' + GOOD, ":3: stores.s.endpoint: unknown key"),
        ("stores = 1\n" + GOOD, ":1: stores: it must be tables"),
    ],
)
def test_a_mistake_is_told_with_line_and_key(tmp_path, text, mistake):
    """Every wrong key and value is told with the file, the line where it stands, its key, and what is right."""
    _, mistakes = read(tmp_path, text)
    assert len(mistakes) == 1
    assert mistakes[0].startswith(mistake)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('[collection]\nremoved = "3d"\nlog = "2d"\n', ":6: collection.log: it is shorter than `removed`: a commit"),
        ('[collection]\nremoved = "100d"\n', ":4: collection.log: it is shorter than `removed`: a commit would go"),
        ('[collection]\nuncommitted = "59m"\n', ":5: collection.uncommitted: it must be an hour or more: what is"),
        (
            'datarange_size = "2GiB"\n',
            "aggregation.target_size: its 1,073,741,824 bytes are less than the 2,147,483,648 of a datarange of d: no",
        ),
        ('[aggregation]\ntarget_size = "1MiB"\n', ":5: aggregation.target_size: its 1,048,576 bytes are less than the"),
    ],
)
def test_values_that_do_harm_together(tmp_path, text, mistake):
    """`--check` tells of values that are fine each and wrong together, and why; also with what the dataset says."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "daemon.toml"
    url = make_store(f"file://{tmp_path}/store")
    path.write_text(f'[datasets.d]\nstore = "{url}"\ndirectory = "{tmp_path}/in"\n{text}')
    mistakes = [str(each) for each in check(str(path)) if each.key != "state_directory"]
    assert len(mistakes) == 1
    assert mistake in mistakes[0]


def test_a_dataset_that_is_not_aggregated_can_have_any_size(tmp_path):
    """With `aggregate = false` a datarange may be larger than the target size."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "daemon.toml"
    url = make_store(f"file://{tmp_path}/store")
    with open_store(url) as store:
        Dataset(store, "d").configure(datarange_size=2 << 30)
    text = f'[datasets.d]\nstore = "{url}"\ndirectory = "{tmp_path}/in"\n'
    path.write_text(text)
    assert [each.key for each in check(str(path))] == ["aggregation.target_size"]
    path.write_text(f"{text}aggregate = false\n")
    assert check(str(path)) == []


def test_all_mistakes_are_told_at_once(tmp_path):
    """One run of `--check` is enough to correct everything."""
    _, mistakes = read(tmp_path, GOOD + 'settle = "x"\nkeep = "y"\n[limits]\nuploads = "z"\n')
    assert [each.split(": ")[0] for each in mistakes] == [":7", ":4", ":5"]


def test_check_tells_each_mistake_once_and_by_line(tmp_path):
    """What is wrong with a store is told where it stands, and not again of each dataset in it."""
    path = tmp_path / "daemon.toml"
    text = '[limits]\nuploads = 0\n[stores.s]\nurl = "s3:/x"\n[datasets.a]\nstore = "s"\ndirectory = "/nowhere"\n'
    path.write_text(text + '[datasets.b]\nstore = "none"\ndirectory = "/nowhere2"\nsettle = -1\n')
    found = [(each.line, each.key) for each in check(str(path)) if each.key != "state_directory"]
    assert found == [
        (2, "limits.uploads"),
        (4, "stores.s.url"),
        (7, "datasets.a.directory"),
        (9, "datasets.b.store"),
        (10, "datasets.b.directory"),
        (11, "datasets.b.settle"),
    ]


def test_check_looks_at_directories_and_stores(tmp_path):
    """`--check` lists nested, shared, missing and own directories, absent stores and missing datasets; exit 1."""
    url = make_store(f"file://{tmp_path}/store")
    (tmp_path / "a" / "b").mkdir(parents=True)
    text = f'state_directory = "{tmp_path}/a/state"\n'
    for name, store, directory in [
        ("d", url, "a"),
        ("e", url, "a/b"),
        ("f", f"file://{tmp_path}/none", "a"),
        ("g", url, "missing"),
        ("h", url, "store/inside"),
    ]:
        text += f'[datasets.{name}]\nstore = "{store}"\ndirectory = "{tmp_path}/{directory}"\n'
    path = tmp_path / "daemon.toml"
    path.write_text(text)
    answer = dasfs("daemon", "--config", str(path), "--check")
    assert answer.code == 1
    for wanted in [
        r":4: datasets.d.directory: the state directory .* lies in it",
        r":7: datasets.e.directory: .*/a/b and .*/a of d lie in each other",
        r":10: datasets.f.directory: .*/a is the directory of d, too",
        r":9: datasets.f.store: .*none",
        r":6: datasets.e.store: there is no dataset e .*; run: dasfs dataset create e --store",
        r":13: datasets.g.directory: the write directory .*/missing is missing",
        r":16: datasets.h.directory: .* and the store .* lie in each other",
    ]:
        assert re.search(wanted, answer.out), wanted
    refused = dasfs("daemon", "--config", str(path))
    assert refused.code == 2
    assert "--check' lists them all" in refused.message


def test_check_of_what_is_right(tmp_path):
    """A configuration without mistakes is exit code 0 and one line on stderr."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "daemon.toml"
    url = make_store(f"sqlite://{tmp_path}/store.db")
    path.write_text(
        f'state_directory = "{tmp_path}/state"\n[datasets.d]\nstore = "{url}"\ndirectory = "{tmp_path}/in"\n'
    )
    assert succeed("daemon", "--config", str(path), "--check") == ""


KEYS = st.text("abc-_1", min_size=1, max_size=3)
VALUES = st.one_of(st.integers(0, 9), st.sampled_from(["x", "[y]", "k = 1", "#"]), st.lists(st.integers(0, 9)))


@given(st.dictionaries(KEYS, st.one_of(VALUES, st.dictionaries(KEYS, VALUES)), max_size=5), st.booleans())
def test_lines_are_found_in_any_document(document, blank):
    """For any document, the line that is told for a key is the one where its value stands."""
    lines, expected = [], {}
    for name, value in sorted(document.items(), key=lambda item: isinstance(item[1], dict)):
        lines += [""] * blank
        if not isinstance(value, dict):
            lines.append(f'"{name}" = {json.dumps(value)}')
            expected[name,] = len(lines)
            continue
        lines.append(f"[{name}] # header")
        expected[name,] = len(lines)
        for key, inner in value.items():
            lines.append(f"{key} = {json.dumps(inner, indent=blank or None)}")
            expected[name, key] = sum(line.count("\n") + 1 for line in lines[:-1]) + 1
            lines[-1:] = lines[-1].split("\n")
    text = "\n".join(lines)
    tomllib.loads(text)
    assert find_lines(text) == expected
