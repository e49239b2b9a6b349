"""Virtual directories on a real mount: pinned revisions, a seeded order, and the tree of original paths."""

import errno
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dasfs.fuse.order import SeededOrder
from dasfs.stores import open_store
from tests import datasets
from tests.mounts import Mount, Mounter, errno_of, mounting

CLASSES = ("n01440764", "n01443537", "ä ö")


def files() -> dict[str, bytes]:
    """Return a tree as ImageNet has it: path and content."""
    chosen = random.Random(5)
    found = {f"train/{name}/x{k}.JPEG": chosen.randbytes(k * 37 % 5000) for name in CLASSES for k in range(120)}
    found |= {f"val/{name}/y{k}.JPEG": chosen.randbytes(100 + k) for name in CLASSES for k in range(5)}
    return found | {"README": b"read me", "a/b/c/d/e.tar.gz": b"deep"}


FILES = files()


def name(number: int, extension: str = "bin") -> str:
    return f"{number:020d}.{extension}"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program; return what it wrote to stdout. It must succeed and write nothing to stderr."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def tree_of(directory: Path) -> dict[str, bytes]:
    """Return the files below a directory: relative path and content."""
    return {
        os.path.relpath(os.path.join(at, each), directory): Path(at, each).read_bytes()
        for at, _, names in os.walk(directory)
        for each in names
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that the dataset `photos` was made of, on a disk."""
    directory = tmp_path_factory.mktemp("original")
    for path, content in FILES.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
        os.utime(directory / path, (datasets.MTIME, datasets.MTIME))
    return directory


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A store with datasets that no test of this module changes."""
    directory = tmp_path_factory.mktemp("views")
    with open_store(f"file://{directory}/store") as store:
        store.create()
        datasets.add_named(store, "photos", 0, dict(list(FILES.items())[:200]))
        datasets.add_named(store, "photos", 500, dict(list(FILES.items())[200:]))
        for k in range(4):
            datasets.add(store, "plain", 100 * k, [b"%d" % (number * 7) for number in range(100 * k, 100 * k + 50)])
    with mounting(directory) as mounter:
        yield mounter(f"file://{directory}/store")


def test_views_are_not_listed(mount: Mount) -> None:
    """The root lists datasets and nothing else, also after views were used."""
    assert (mount.path / "photos@names" / "README").read_bytes() == b"read me"
    assert os.path.isdir(mount.path / "photos@2")
    assert os.path.isdir(mount.path / "photos@shuffle=1")
    assert run("ls", "-A", mount.path).split() == ["photos", "plain"]


@pytest.mark.parametrize(
    "missing",
    [
        *("photos@", "photos@0", "photos@-1", "photos@02", "photos@9999", "photos@9999999999999999999", "photos@x"),
        *("photos@shuffle", "photos@shuffle=", "photos@shuffle=x", "photos@shuffle=-1", "photos@shuffle=01"),
        *("photos@shuffle=18446744073709551616", "photos@2@shuffle=", "photos@9999@shuffle=1", "photos@@shuffle=1"),
        *("photos@2@names", "photos@names@2", "photos@shuffle=1@2", "nosuch@3", "nosuch@names", "nosuch@shuffle=1"),
        *("@3", "@names", "@", "photos@names/nothing", "photos@names/train/x", "photos@names/README~5"),
        *("photos@shuffle=1/00000001.bin", "photos@shuffle=1/0.JPEG", "photos@shuffle=1/99999999.JPEG"),
        *("photos@2/README", f"photos@2/{name(0, 'jpg')}", f"photos@2/{name(500, 'JPEG')}", "photos@1/x"),
    ],
)
def test_what_is_not_there_is_enoent(mount: Mount, missing: str) -> None:
    """Names that no view has, and names that are not in one, are `ENOENT`, and harm nothing."""
    assert errno_of(os.stat, mount.path / missing) == errno.ENOENT
    assert mount.status()["problem"] is None


def test_the_tree_of_names_is_the_original(mount: Mount, original: Path, tmp_path: Path) -> None:
    """`diff -r`, `find`, `cp -r`, `rsync` and `tar` see the original tree, bytes, sizes and times."""
    tree = mount.path / "photos@names"
    assert run("diff", "-r", tree, original) == ""
    printed = [run("find", ".", "-type", "f", "-printf", "%p %s %T@ %y\n", cwd=each) for each in (tree, original)]
    assert sorted(printed[0].splitlines()) == sorted(printed[1].splitlines())
    directories = [run("find", ".", "-type", "d", cwd=each) for each in (tree, original)]
    assert sorted(directories[0].splitlines()) == sorted(directories[1].splitlines())
    run("cp", "-r", tree, tmp_path / "copy")
    assert tree_of(tmp_path / "copy") == FILES
    assert run("rsync", "-rti", "--checksum", "--delete", f"{tree}/", f"{original}/").count("f") == 0
    run("tar", "-C", tree, "-cf", tmp_path / "names.tar", ".")
    with tarfile.open(tmp_path / "names.tar") as archive:
        members = {each.name: each for each in archive if each.isfile()}
        assert {path.removeprefix("./") for path in members} == set(FILES)


def test_checksums_by_names(mount: Mount, original: Path) -> None:
    """`find | xargs sha256sum` gives the same in both trees."""
    script = "find . -type f -print0 | sort -z | xargs -0 sha256sum"
    assert run("sh", "-c", script, cwd=mount.path / "photos@names") == run("sh", "-c", script, cwd=original)


def test_an_image_folder_works(mount: Mount) -> None:
    """What PyTorch's ImageFolder does: directories are classes, files are found below them."""
    root = mount.path / "photos@names" / "train"
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    assert classes == sorted(CLASSES)
    samples = [
        os.path.join(at, each)
        for each_class in classes
        for at, _, names in sorted(os.walk(root / each_class))
        for each in names
    ]
    assert len(samples) == 360
    assert all(Path(path).read_bytes() == FILES[os.path.relpath(path, root.parent)] for path in samples)


def test_files_are_the_datapoints(mount: Mount) -> None:
    """A file in the tree of names is its datapoint: same inode, attributes that say which."""
    path = mount.path / "photos@names" / "train" / CLASSES[0] / "x3.JPEG"
    assert os.getxattr(path, "user.dasfs.number") == b"3"
    assert os.getxattr(path, "user.dasfs.original_name") == f"train/{CLASSES[0]}/x3.JPEG".encode()
    assert path.stat().st_ino == (mount.path / "photos" / name(3, "JPEG")).stat().st_ino
    assert os.getxattr(path.parent, "user.dasfs.dataset") == b"photos"


def test_the_tree_can_be_gone_up(mount: Mount) -> None:
    """`..` leads where it should, and not further."""
    tree = mount.path / "photos@names"
    assert (tree / "train" / ".." / "README").read_bytes() == b"read me"
    assert os.path.samefile(tree / "..", mount.path)
    assert run("sh", "-c", "cd train && cd .. && pwd -P", cwd=tree).strip() == str(tree)


def test_a_shuffled_directory_is_the_dataset_in_order_of_its_seed(mount: Mount) -> None:
    """The k-th file is the datapoint at place k of the seed's order; all are there once, the same each time."""
    numbers = [number for k in range(4) for number in range(100 * k, 100 * k + 50)]
    for seed in (0, 7, 2**64 - 1):
        directory = mount.path / f"plain@shuffle={seed}"
        order = SeededOrder(200, seed)
        assert os.listdir(directory) == [f"{place:08d}.bin" for place in range(200)]
        contents = [(directory / f"{place:08d}.bin").read_bytes() for place in range(200)]
        assert contents == [b"%d" % (numbers[order[place]] * 7) for place in range(200)]
        assert int(os.getxattr(directory / "00000012.bin", "user.dasfs.number")) == numbers[order[12]]
        assert os.getxattr(directory, "user.dasfs.seed") == b"%d" % seed
        pinned = mount.path / f"plain@5@shuffle={seed}"
        assert [each.read_bytes() for each in sorted(pinned.iterdir())] == contents
        assert (pinned / "00000012.bin").stat().st_ino == (directory / "00000012.bin").stat().st_ino


def test_a_shuffled_directory_can_be_copied(mount: Mount, tmp_path: Path) -> None:
    """`cp -r`, `tar` and `ls -l` work on it."""
    run("cp", "-r", mount.path / "plain@shuffle=3", tmp_path / "copy")
    assert sorted(each.read_bytes() for each in (tmp_path / "copy").iterdir()) == sorted(
        b"%d" % (number * 7) for k in range(4) for number in range(100 * k, 100 * k + 50)
    )
    assert run("ls", "-l", mount.path / "plain@shuffle=3").count("\n") == 201
    run("tar", "-C", mount.path, "-cf", tmp_path / "x.tar", "plain@shuffle=3")


def test_an_earlier_revision_is_what_it_was(mount: Mount) -> None:
    """`@REVISION` lists and reads what there was then, and nothing that came later."""
    assert os.listdir(mount.path / "plain@1") == []
    for revision in range(2, 6):
        expected = [number for k in range(revision - 1) for number in range(100 * k, 100 * k + 50)]
        directory = mount.path / f"plain@{revision}"
        assert os.listdir(directory) == [name(number) for number in expected]
        assert (directory / name(expected[-1])).read_bytes() == b"%d" % (expected[-1] * 7)
        assert os.getxattr(directory, "user.dasfs.revision") == b"%d" % revision
        assert os.getxattr(directory / name(0), "user.dasfs.revision") == b"%d" % revision
        with os.scandir(directory) as entries:
            assert all(entry.inode() == entry.stat().st_ino for entry in entries)


def test_every_change_is_erofs(mount: Mount) -> None:
    """Views are as read-only as everything else."""
    for path in ("photos@names/new", "photos@names/README", "photos@2/new", "photos@shuffle=1/new"):
        assert errno_of(os.open, mount.path / path, os.O_CREAT | os.O_WRONLY) == errno.EROFS
    assert errno_of(os.mkdir, mount.path / "photos@9998") == errno.EROFS
    assert errno_of(os.rmdir, mount.path / "photos@names" / "train") == errno.EROFS


def test_one_dataset_at_the_root(mount: Mount, mounted: Mounter) -> None:
    """With `dataset=NAME` views are found as `@REVISION` and so on, and not listed."""
    only = mounted(f"file://{mount.path.parent}/store", options="dataset=photos")
    assert (only.path / "@names" / "README").read_bytes() == b"read me"
    assert len(os.listdir(only.path / "@2")) == 200
    assert len(os.listdir(only.path / "@shuffle=4")) == len(FILES)
    assert len(os.listdir(only.path / "@2@shuffle=4")) == 200
    assert len(os.listdir(only.path)) == len(FILES)
    for missing in ("photos@2", "photos@names", "@0", "@99", "@", "plain@2"):
        assert errno_of(os.stat, only.path / missing) == errno.ENOENT
