"""The programs that people use on a directory work on a mount, and find in it what was put."""

import errno
import mmap
import os
import random
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dasfs.names import MAX_NUMBER
from dasfs.stores import open_store
from tests import datasets
from tests.datasets import MTIME
from tests.mounts import Mount, errno_of, mounting

COUNT = 300
LARGE = random.Random(1).randbytes(40 << 20)


def content(number: int) -> bytes:
    """Return what datapoint `number` holds: of all small sizes, also none."""
    return random.Random(number).randbytes(number * number % 7001)


def name(number: int, extension: str = "bin") -> str:
    return f"{number:020d}.{extension}"


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A store with several datasets, mounted once for all tests of this module: they change nothing."""
    directory = tmp_path_factory.mktemp("programs")
    with open_store(f"file://{directory}/store") as store:
        store.create()
        for first in range(0, COUNT, 100):
            datasets.add(store, "small", first, [content(number) for number in range(first, first + 100)])
        datasets.add(store, "large", 0, [LARGE, b"after"])
        datasets.add(store, "edge", 5, [b"five"], extension="tar.gz")
        datasets.add(store, "edge", 6, [b"six"], extension="")
        datasets.add(store, "edge", 7, [b"seven"], extension="ä b'\"$")
        datasets.add(store, "edge", MAX_NUMBER - 1, [b"last but one", b"last"])
        for compression in ("zstd", "lz4"):
            datasets.add(store, compression, 0, [b"x" * 1_000_000, b"", b"abc"], compression=compression)
    with mounting(directory) as mounter:
        yield mounter(f"file://{directory}/store")


def run(*command: str | Path) -> str:
    """Run a program; return what it wrote to stdout. It must succeed and write nothing to stderr."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def assert_copied(copy: Path) -> None:
    """Check that `copy` holds the dataset `small`, whole, with sizes and times."""
    assert sorted(os.listdir(copy)) == [name(number) for number in range(COUNT)]
    for number in range(COUNT):
        assert (copy / name(number)).read_bytes() == content(number)


def test_ls_lists_in_number_order(mount: Mount) -> None:
    """`ls -U` shows the datapoints in number order; `ls` shows the datasets and not `.dasfs`."""
    assert run("ls", "-U", mount.path / "small").split() == [name(number) for number in range(COUNT)]
    assert run("ls", mount.path).split() == ["edge", "large", "lz4", "small", "zstd"]
    assert ".dasfs" not in run("ls", "-A", mount.path)
    assert str(len(content(299))) in run("ls", "-l", mount.path / "small" / name(299))


def test_find_finds_everything_once(mount: Mount) -> None:
    """`find` walks all datasets, tells files from directories, and tests sizes and times."""
    assert len(run("find", mount.path, "-type", "f").split("\n")) == COUNT + 2 + 5 + 6 + 1
    assert len(run("find", mount.path, "-type", "d").split()) == 6
    empty = run("find", mount.path / "small", "-type", "f", "-size", "0").split()
    assert empty == [str(mount.path / "small" / name(k)) for k in range(COUNT) if not content(k)]
    assert run("find", mount.path / "small", "-newermt", "2024-05-07", "-type", "f") == ""


def test_du_adds_up_the_sizes(mount: Mount) -> None:
    """`du --apparent-size` is the sum of the sizes, and `du` the blocks that they would take."""
    sizes = [len(content(number)) for number in range(COUNT)]
    apparent = int(run("du", "-s", "--apparent-size", "-B1", mount.path / "small").split()[0])
    assert apparent == sum(sizes)
    assert int(run("du", "-s", "-B1", mount.path / "small").split()[0]) == sum(-(-size // 512) * 512 for size in sizes)


def test_cp_copies_a_dataset(mount: Mount, tmp_path: Path) -> None:
    """`cp -r --preserve` copies every byte and time."""
    run("cp", "-r", "--preserve=timestamps", mount.path / "small", tmp_path / "copy")
    assert_copied(tmp_path / "copy")
    assert (tmp_path / "copy" / name(1)).stat().st_mtime == MTIME


def test_rsync_copies_once(mount: Mount, tmp_path: Path) -> None:
    """`rsync -a` copies everything, and finds nothing left to do the second time, also by checksum."""
    source, copy = f"{mount.path}/small/", f"{tmp_path}/copy/"
    run("rsync", "-a", source, copy)
    assert_copied(tmp_path / "copy")
    assert run("rsync", "-ai", "--checksum", "--delete", source, copy) == ""


def test_tar_packs_a_dataset(mount: Mount, tmp_path: Path) -> None:
    """`tar c` packs every byte with its time."""
    run("tar", "-C", mount.path, "-cf", tmp_path / "small.tar", "small")
    with tarfile.open(tmp_path / "small.tar") as archive:
        members = {member.name: member for member in archive if member.isfile()}
        assert len(members) == COUNT
        for number in range(COUNT):
            member = members[f"small/{name(number)}"]
            file = archive.extractfile(member)
            assert file is not None
            assert (file.read(), member.mtime) == (content(number), MTIME)


def test_grep_searches_contents(mount: Mount) -> None:
    """`grep -r` finds a text in exactly the file that holds it, also in a compressed one."""
    assert run("grep", "-rl", "last but one", mount.path / "edge").split() == [
        str(mount.path / "edge" / name(MAX_NUMBER - 1))
    ]
    assert run("grep", "-rc", "abc", mount.path / "zstd" / name(2)) == "1\n"


def test_a_file_can_be_mapped(mount: Mount) -> None:
    """`mmap` shows a file's bytes, touched in any order."""
    with (
        (mount.path / "large" / name(0)).open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[30_000_000:30_000_100] == LARGE[30_000_000:30_000_100]
        assert mapped[:10] == LARGE[:10]
        assert mapped[-10:] == LARGE[-10:]
        assert mapped.find(LARGE[5_000_000:5_000_016]) == 5_000_000


def test_a_file_can_be_sent(mount: Mount, tmp_path: Path) -> None:
    """`sendfile` and `copy_file_range`'s fallback bring a whole file."""
    with (mount.path / "large" / name(0)).open("rb") as source, (tmp_path / "copy").open("wb") as target:
        sent = 0
        while count := os.sendfile(target.fileno(), source.fileno(), sent, 1 << 30):
            sent += count
    assert (tmp_path / "copy").read_bytes() == LARGE
    shutil.copyfile(mount.path / "large" / name(0), tmp_path / "another")
    assert (tmp_path / "another").read_bytes() == LARGE


def test_reads_at_any_offset_and_size(mount: Mount) -> None:
    """`pread` at odd offsets and sizes returns exactly these bytes, fewer only at the end, none behind it."""
    chosen = random.Random(2)
    fd = os.open(mount.path / "large" / name(0), os.O_RDONLY)
    try:
        for _ in range(300):
            offset, size = chosen.randrange(len(LARGE) + 100_000), chosen.choice([0, 1, 511, 4097, 100_001, 700_000])
            assert os.pread(fd, size, offset) == LARGE[offset : offset + size]
    finally:
        os.close(fd)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_dataset_shows_what_was_put(mount: Mount, compression: str) -> None:
    """Compressed datapoints have the name, the size and the bytes that were put."""
    directory = mount.path / compression
    assert mount.names(compression) == [name(0), name(1), name(2)]
    assert [(directory / name(k)).stat().st_size for k in range(3)] == [1_000_000, 0, 3]
    assert [(directory / name(k)).read_bytes() for k in range(3)] == [b"x" * 1_000_000, b"", b"abc"]
    stored = int(os.getxattr(directory / name(0), "user.dasfs.stored_size"))
    assert stored < 10_000
    assert os.getxattr(directory / name(0), "user.dasfs.codec").decode() == compression


def test_names_at_the_edges(mount: Mount) -> None:
    """Extensions with dots, without anything, beyond ASCII, and the highest number there is, are found and read."""
    directory = mount.path / "edge"
    listed = [name(5, "tar.gz"), name(6, ""), name(7, "ä b'\"$"), name(MAX_NUMBER - 1), name(MAX_NUMBER)]
    assert mount.names("edge") == listed
    assert [(directory / each).read_bytes() for each in listed] == [b"five", b"six", b"seven", b"last but one", b"last"]
    with os.scandir(directory) as entries:
        assert [entry.inode() for entry in entries] == [(directory / each).stat().st_ino for each in listed]


@pytest.mark.parametrize(
    "missing",
    [
        "edge/00000000000000000004.bin",
        "edge/00000000000000000008.bin",
        "edge/00000000000000000005.bin",
        "edge/00000000000000000005",
        "edge/5.tar.gz",
        "edge/000000000000000000005.tar.gz",
        "edge/99999999999999999999.bin",
        "edge/README",
        "edge/" + "x" * 255,
        "nothing",
        "not a dataset",
        ".git",
        ".dasfs/other",
        ".dasfs/status.json.bak",
    ],
)
def test_what_is_not_there_is_enoent(mount: Mount, missing: str) -> None:
    """Gaps, other extensions, and names that no dataset or datapoint can have, are `ENOENT`."""
    assert errno_of(os.stat, mount.path / missing) == errno.ENOENT
    assert mount.status()["problem"] is None


def test_stat_makes_sense(mount: Mount) -> None:
    """Sizes, times, links, blocks, modes and owners of files and directories are those of a read-only disk."""
    file = (mount.path / "small" / name(83)).stat()
    assert file.st_size == len(content(83)) == 6889
    assert (file.st_blocks, file.st_nlink) == (14, 1)
    assert file.st_mtime_ns == file.st_ctime_ns == file.st_atime_ns == MTIME * 10**9
    assert stat.filemode(file.st_mode) == "-r--r--r--"
    assert file.st_blksize >= 4096
    directory = (mount.path / "small").stat()
    assert (stat.filemode(directory.st_mode), directory.st_nlink) == ("dr-xr-xr-x", 2)
    root = mount.path.stat()
    assert (root.st_ino, root.st_nlink, stat.S_ISDIR(root.st_mode)) == (1, 7, True)
    assert {(each.st_uid, each.st_gid) for each in (file, directory, root)} == {(os.getuid(), os.getgid())}


def test_statfs_makes_sense(mount: Mount) -> None:
    """`df` shows a full, read-only file system of the size of the data, with the number of datapoints."""
    mount.names("small")
    (mount.path / "large" / name(0)).stat()
    found = os.statvfs(mount.path / "small")
    assert found.f_bavail == found.f_bfree == found.f_ffree == 0
    assert found.f_blocks * found.f_frsize >= len(LARGE)
    assert found.f_files >= COUNT
    assert (found.f_namemax, bool(found.f_flag & os.ST_RDONLY)) == (255, True)
    assert "100%" in run("df", "-h", mount.path)


def test_every_change_is_erofs(mount: Mount, tmp_path: Path) -> None:
    """Whatever would change the mount fails with `EROFS`, for root as well."""
    file, new, directory = mount.path / "small" / name(1), mount.path / "small" / "new", mount.path / "newdir"
    changes = [
        (os.open, file, os.O_WRONLY),
        (os.open, file, os.O_RDWR),
        (os.open, file, os.O_RDONLY | os.O_TRUNC),
        (os.open, new, os.O_CREAT | os.O_WRONLY),
        (os.open, mount.path / ".dasfs/status.json", os.O_WRONLY),
        (os.truncate, file, 0),
        (os.unlink, file),
        (os.rmdir, mount.path / "small"),
        (os.mkdir, directory),
        (os.rename, file, new),
        (os.link, file, new),
        (os.symlink, "target", new),
        (os.mkfifo, new),
        (os.chmod, file, 0o600),
        (os.chown, file, 1, 1),
        (os.utime, file, (1, 1)),
        (os.setxattr, file, "user.a", b"b"),
        (os.removexattr, file, "user.dasfs.number"),
    ]
    assert {f"{each[0].__name__} {each[1:]}": errno_of(*each) for each in changes} == {
        f"{each[0].__name__} {each[1:]}": errno.EROFS for each in changes
    }
    assert not os.access(file, os.W_OK)
    assert file.read_bytes() == content(1)


def test_a_large_file_is_whole(mount: Mount) -> None:
    """A file of 40 MiB comes through whole, and what stands behind it in the TAR is its own."""
    assert (mount.path / "large" / name(0)).read_bytes() == LARGE
    assert (mount.path / "large" / name(1)).read_bytes() == b"after"


def test_attributes_say_where_a_datapoint_lies(mount: Mount) -> None:
    """`user.dasfs.*` of a datapoint name its object, offset and checksum: with them the store gives the same bytes."""
    path = mount.path / "small" / name(150)
    values = {each: os.getxattr(path, each).decode() for each in os.listxattr(path)}
    store = mount.path.parent / "store"
    with (store / values["user.dasfs.object"]).open("rb") as file:
        file.seek(int(values["user.dasfs.offset"]))
        assert file.read(int(values["user.dasfs.size"])) == content(150)
    assert values["user.dasfs.dataset"] == "small"
    assert values["user.dasfs.number"] == "150"
    assert values["user.dasfs.datarange"] == "100-199"
    assert errno_of(os.getxattr, path, "user.other") == errno.ENODATA


def test_attributes_of_directories(mount: Mount) -> None:
    """A dataset's attributes say which it is and how much it holds; the root's name the store."""
    assert os.getxattr(mount.path / "small", "user.dasfs.datapoints") == b"300"
    assert os.getxattr(mount.path / "small", "user.dasfs.dataranges") == b"3"
    assert os.getxattr(mount.path, "user.dasfs.store") == f"file://{mount.path.parent}/store".encode()
    assert os.listxattr(mount.path / ".dasfs") == []
    assert os.listxattr(mount.path / ".dasfs/status.json") == []


def test_the_status_file_is_valid(mount: Mount) -> None:
    """`.dasfs/status.json` is whole JSON that says who serves what, and counts reads."""
    before = mount.status()
    assert (before["pid"], before["mountpoint"]) == (mount.process.pid, str(mount.path))
    assert before["store"] == f"file://{mount.path.parent}/store"
    (mount.path / "edge" / name(5, "tar.gz")).read_bytes()
    after = mount.status()
    assert after["reads"] >= before["reads"]
    assert after["datasets"]["edge"]["datapoints"] == 5
    assert after["block_cache"]["capacity"] > 0
    assert len(run("cat", mount.path / ".dasfs/status.json")) > 100
