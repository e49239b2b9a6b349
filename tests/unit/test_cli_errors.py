"""Bad input to the commands: one clear line, no traceback, the documented exit code, and nothing lost."""

import io
import json
import os
import tarfile

import pytest

from dasfs.cli.main import run
from dasfs.dataset import spool
from dasfs.dataset.dataset import Dataset
from dasfs.stores import open_store
from tests.commands import Answer


@pytest.fixture
def dasfs(capsys, monkeypatch):
    """A function that runs a command line in this process and returns how it ended."""
    for name in [name for name in os.environ if name.startswith("DASFS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DASFS_CONFIG", os.devnull)

    def run_command(*arguments):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run_command


@pytest.fixture
def url(tmp_path, dasfs, monkeypatch):
    """A store with a dataset `d` that holds datapoints 0..2 (unnumbered files) and 10."""
    url = f"file://{tmp_path}/store"
    monkeypatch.setenv("DASFS_STORE", url)
    top = tmp_path / "in"
    top.mkdir()
    assert dasfs("dataset", "create", "d").code == 0
    for names in (("a.txt", "b.txt", "c.txt"), (f"{10:020d}.bin",)):
        for name in names:
            (top / name).write_text(name)
        assert dasfs("put", "d", f"{top}/").code == 0
    return url


def object_path(tmp_path, kind, first):
    """Return the file of one object of the dataset in its directory store."""
    with open_store(f"file://{tmp_path}/store") as store:
        keys = [
            each.key for each in store.list("datas3t/d/") if each.key.endswith(kind) and f"/{first:020d}-" in each.key
        ]
    (found,) = [path for path in (tmp_path / "store").rglob("*") if path.name == os.path.basename(keys[0])]
    return found


def commit_path(tmp_path, revision):
    (found,) = (tmp_path / "store").rglob(f"{revision:020d}.json")
    return found


def state(url):
    with open_store(url) as store:
        return Dataset(store, "d").snapshot()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["dataset", "list", "--store", "s4://bucket"], 2, "'s4'"),
        (["dataset", "list", "--store", "fiel:///x"], 2, "'fiel'; did you mean file"),
        (["dataset", "list", "--store", "/srv/data"], 2, "file:///srv/data"),
        (["dataset", "list", "--store", "lab"], 2, "'lab' is neither the URL nor the name of a store"),
        (["dataset", "list", "--store", "file:///no/such/directory"], 1, "/no/such/directory"),
        (["dataset", "list", "--store", "sqlite:///no/such/file.db"], 1, "/no/such/file.db"),
        (["dataset", "list", "--store", "s3://UPPER_case"], 2, "UPPER_case"),
        (["dataset", "create", "a/b"], 2, "'a/b' can't name a dataset; use letters, digits"),
        (["dataset", "create", "x" * 129], 2, "at most 128"),
        (["dataset", "create", "d"], 1, "dataset d exists already"),
        (["dataset", "create", "e", "--compression", "gzip"], 2, "'gzip' is no compression"),
        (["dataset", "create", "e", "--datarange-size", "much"], 2, "'much' is not a size"),
        (["dataset", "show", "nothing"], 1, "there is no dataset nothing"),
        (["dataset", "log", "nothing"], 1, "there is no log of a dataset nothing"),
        (["dataset", "verify", "d", "100-200"], 1, "datapoints 100-200 are not in dataset d"),
        (["dataset", "import", "d"], 1, "has a log already"),
        (["dataset", "clear", "d"], 2, "there is no terminal to ask on; add --yes"),
        (["dataset", "delete", "d"], 2, "there is no terminal to ask on; add --yes"),
        (["put", "nothing", "/"], 1, "there is no dataset nothing"),
        (["put", "d", "/no/such/file"], 1, "/no/such/file: no such file or directory"),
        (["put", "d", "/dev/null"], 2, "/dev/null: neither a file nor a directory"),
        (["put", "d"], 2, "Missing argument 'PATH...'; see 'dasfs put --help'"),
        (["put", "d", "x", "--jobs", "0"], 2, "0 is not in the range"),
        (["get", "d", "0-2", "-o", "/dev/null/x"], 2, "/dev/null/x"),
        (["get", "d", "0-10", "-o", "/tmp/unused"], 1, "3-9: not in dataset d; add --allow-gaps"),
        (["get", "d", "50", "-o", "/tmp/unused"], 1, "datapoint 50 is not in dataset d"),
        (["get", "d", "9223372036854775808", "-o", "/tmp/unused"], 2, "2^63-1"),
        (["get", "d", "2-1", "-o", "/tmp/unused"], 2, "the last number is below the first"),
        (["get", "d", "0"], 2, "Missing option '--output'"),
        (["cat", "d", "7"], 1, "datapoint 7 is not in dataset d"),
        (["cat", "d", "18446744073709551616"], 2, "2^63-1"),
        (["datarange", "delete", "d", "0-1", "--yes"], 2, "only whole dataranges can be deleted"),
        (["datarange", "delete", "d", "20-30", "--yes"], 2, "dataset d has no datapoints 20-30"),
        (["datarange", "upload-tar", "d", "/no/such.tar"], 1, "/no/such.tar: no such file"),
        (["collect", "nothing"], 1, "there is no log of dataset nothing"),
        (["collect", "d", "--removed", "soon"], 2, "'soon' is not a time"),
        (["--config", "/no/such.toml", "dataset", "list"], 1, "/no/such.toml: no such configuration file"),
        (["completion", "tcsh"], 2, "'tcsh' is not one of"),
        (["dataset", "frob"], 2, "No such command 'frob'"),
        (["frob"], 2, "No such command 'frob'"),
        (["put", "--frob"], 2, "No such option '--frob'"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(dasfs, url, arguments, code, message):
    """Each mistake: its exit code, one line on stderr that names it, nothing on stdout, the dataset as it was."""
    before = state(url)
    answer = dasfs(*arguments)
    assert answer.code == code, answer
    assert message in answer.message
    assert answer.out == ""
    assert state(url) == before


def make_tar(path, names, *, cut=0):
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name.rstrip("/"))
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = 0 if name.endswith("/") else 700
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    if cut:
        os.truncate(path, cut)
    return path


@pytest.mark.parametrize(
    ("names", "cut", "code", "message"),
    [
        ([f"{1:020d}.x", f"{3:020d}.x"], 0, 2, f"{3:020d}.x: expected number 2: a gap"),
        ([f"{1:020d}.x", f"{1:020d}.y"], 0, 2, f"{1:020d}.y: expected number 2: a duplicate"),
        (["sub/"], 0, 2, "sub/: a directory"),
        (["readme.txt"], 0, 2, "readme.txt: not the name of a datapoint"),
        ([f"{20:020d}.x"], 900, 1, f"{20:020d}.x: the file ends at 900"),
        (["09223372036854775808.x"], 0, 2, "2^63-1"),
        ([f"{1:020d}.x"], 0, 1, "datapoint 1 is there already with another"),
        ([], 0, 2, "no members"),
    ],
)
def test_a_tar_that_can_be_no_datarange_is_refused(dasfs, url, tmp_path, names, cut, code, message):
    """A gap, a duplicate, a directory, a wrong name, a cut end, taken numbers: the TAR and its member are named."""
    before = state(url)
    path = make_tar(tmp_path / "in.tar", names, cut=cut)
    answer = dasfs("datarange", "upload-tar", "d", path)
    assert answer.code == code, answer
    assert message in answer.message
    assert str(path) in answer.message
    assert state(url) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("hole", "has a hole: revision 3 is missing"),
        ("cut", "00003.json"),
        ("unknown format", "00003.json"),
        ("not json", "00003.json"),
    ],
)
def test_a_damaged_log_is_named(dasfs, url, tmp_path, damage, message):
    """A hole, a corrupt commit, an unknown format: nothing is guessed, and the object is named."""
    path = commit_path(tmp_path, 3)
    os.chmod(path, 0o600)
    content = path.read_bytes()
    if damage == "hole":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "not json":
        path.write_bytes(b"\0" * 100)
    else:
        path.write_text(json.dumps(json.loads(content) | {"format": "dasfs-commit-99"}))
    for arguments in (["dataset", "show", "d"], ["get", "d", "0", "-o", str(tmp_path / "out")]):
        answer = dasfs(*arguments)
        assert answer.code == 1, answer
        assert message in answer.message


@pytest.mark.parametrize("kind", ["manifest", "index", "tar"])
@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_a_damaged_object_costs_only_its_datapoints(dasfs, url, tmp_path, kind, damage):
    """`verify` names the datapoints; `cat` of them is one line; the others are read as ever."""
    path = object_path(tmp_path, kind, 10)
    os.chmod(path, 0o600)
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[514 % len(content)] ^= 1
        path.write_bytes(content[:-1] if damage == "short" else content)
    answer = dasfs("dataset", "verify", "d")
    assert answer.code == 1
    assert "datapoint 10: " in answer.out
    assert "datapoint 0" not in answer.out
    problems = json.loads(dasfs("dataset", "verify", "d", "--json").out)
    assert {(each["first"], each["last"]) for each in problems} == {(10, 10)}
    assert dasfs("cat", "d", "0").out == "a.txt"
    answer = dasfs("cat", "d", "10")
    if kind == "index":
        assert answer.code == 0  # the manifest says all that is needed to read
    else:
        assert answer.code == 1
        assert answer.message


def test_a_hostile_original_path_stays_inside(dasfs, url, tmp_path):
    """`..` in an original path (a TAR may have it) never leads out of the directory; without it all is well."""
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("../../evil.txt"))
    assert dasfs("put", "d", path).code == 0
    answer = dasfs("get", "d", "11", "--original-names", "-o", tmp_path / "x" / "y")
    assert answer.code == 1
    assert "'../../evil.txt' leads astray; get it without --original-names" in answer.message
    assert not list(tmp_path.rglob("evil.txt"))
    assert dasfs("get", "d", "11", "-o", tmp_path / "x" / "y").code == 0
    assert os.listdir(tmp_path / "x" / "y") == [f"{11:020d}.txt"]


def test_a_get_replaces_nothing_without_force(dasfs, url, tmp_path):
    """What is the same is skipped; another content is refused, and replaced with `--force`."""
    out = tmp_path / "out"
    assert "got 3 files" in dasfs("get", "d", "0-2", "-o", out).err
    assert "3 files were there already" in dasfs("get", "d", "0-2", "-o", out).err
    changed = out / f"{1:020d}.txt"
    changed.write_text("mine!")
    answer = dasfs("get", "d", "0-2", "-o", out)
    assert answer.code == 1
    assert f"{changed} is there already with another content" in answer.message
    assert changed.read_text() == "mine!"
    assert dasfs("get", "d", "0-2", "-o", out, "--force").code == 0
    assert changed.read_text() == "b.txt"
    assert sorted(os.listdir(out)) == [f"{number:020d}.txt" for number in range(3)]


def test_a_tar_that_is_there_is_not_replaced_without_force(dasfs, url, tmp_path):
    """Both ways to make a TAR leave a file alone, and leave no part of one behind after an error."""
    out = tmp_path / "out.tar"
    out.write_text("mine")
    for command in (["get", "d", "0-2"], ["datarange", "download-tar", "d", "0-2"]):
        answer = dasfs(*command, "-o", out)
        assert answer.code == 1
        assert "out.tar is there already; add --force" in answer.message
        assert out.read_text() == "mine"
    assert dasfs("get", "d", "0-2", "-o", out, "--force", "--original-names").code == 0
    with tarfile.open(out) as archive:
        assert archive.getnames() == ["a.txt", "b.txt", "c.txt"]
    object_path(tmp_path, "tar", 0).unlink()
    for command in (["get", "d", "0-2"], ["datarange", "download-tar", "d", "0-2"]):
        assert dasfs(*command, "-o", tmp_path / "new.tar").code == 1
    assert [name for name in os.listdir(tmp_path) if "new" in name or name.endswith(".part")] == []


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_what_is_no_file_is_never_replaced(dasfs, url, tmp_path, force):
    """A FIFO in the way of a file is neither waited for nor replaced: it could as well be /dev/null."""
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "empty").touch()
    assert dasfs("put", "d", tmp_path / "in" / "empty").code == 0
    os.mkfifo(tmp_path / "out" / f"{11:020d}.")
    os.mkfifo(tmp_path / "out.tar")
    for command in (["get", "d", "11", "-o", tmp_path / "out"], ["get", "d", "0", "-o", tmp_path / "out.tar"]):
        answer = dasfs(*command, *force)
        assert answer.code == 2
        assert "is there already and is no file" in answer.message
    assert (tmp_path / "out" / f"{11:020d}.").is_fifo()
    assert (tmp_path / "out.tar").is_fifo()


@pytest.mark.parametrize("command", [["datarange", "delete", "d", "0-1"], ["datarange", "delete", "d", "3-9"]])
def test_what_can_not_be_deleted_is_told_before_it_is_asked_for(dasfs, url, command):
    """A question is asked only about what can be done."""
    answer = dasfs(*command)
    assert answer.code == 2
    assert (
        "only whole dataranges" in answer.message or "has no datapoints 3-9; nearest: 0-2 and 10-10" in answer.message
    )


def test_a_temporary_directory_that_is_missing_is_named(dasfs, url, tmp_path, monkeypatch):
    """TMPDIR is never passed over for another directory, where what is packed does not fit into memory."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(spool, "_memory", spool._Memory(0))
    (tmp_path / "new.txt").write_bytes(bytes(2 * spool._SMALLEST_WINDOW))
    answer = dasfs("put", "d", tmp_path / "new.txt")
    assert answer.code == 1
    assert f"{tmp_path}/nowhere: No such file or directory; set TMPDIR to a directory that exists" in answer.message


def test_long_original_paths_fit_into_a_tar(dasfs, url, tmp_path):
    """Paths that no plain header can hold come out of the TAR as they were."""
    deep = tmp_path / "deep" / ("d" * 120) / ("é" * 60)
    deep.mkdir(parents=True)
    (deep / "file.txt").write_text("deep")
    assert dasfs("put", "d", tmp_path / "deep").code == 0
    assert dasfs("get", "d", "11", "--original-names", "-o", tmp_path / "out.tar").code == 0
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert archive.getnames() == [f"deep/{'d' * 120}/{'é' * 60}/file.txt"]


def test_an_unexpected_error_names_itself_and_the_way_to_its_traceback(dasfs, url, monkeypatch):
    """A defect is one line, too; `--debug` shows where."""

    def broken(*_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("dasfs.cli.dataset.dataset_names", broken)
    answer = dasfs("dataset", "list")
    assert answer.code == 1
    assert "unexpected ZeroDivisionError: oops; run 'dasfs --debug ...'" in answer.message
    assert "Traceback" in dasfs("--debug", "dataset", "list").err
