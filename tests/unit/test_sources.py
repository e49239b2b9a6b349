"""Sources: what `put` finds, what each is called, and that nothing is lost or mixed up silently."""

import io
import os
import socket
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.dataset.local import READ_SIZE, Source, checksum, open_source, read
from dasfs.dataset.sources import arrange, extension_of, find_sources
from dasfs.errors import Corrupt, InvalidInput, NotFound, ObjectChanged
from dasfs.names import MAX_EXTENSION, check_extension

NUMBERED = "00000000000000000007.jpg"


def find(*paths, unpack=True):
    """Return the sources and the notices of some paths."""
    notices = []
    return find_sources([os.fspath(path) for path in paths], notices.append, unpack=unpack), notices


def originals(sources):
    return [each.original for each in sources.unnumbered]


@pytest.fixture
def tree(tmp_path):
    """A directory `train` with files on two levels."""
    top = tmp_path / "train"
    (top / "a").mkdir(parents=True)
    (top / "a" / "b.jpg").write_bytes(b"bee")
    (top / "c.tar.gz").write_bytes(b"sea")
    (top / ".hidden").write_bytes(b"")
    return top


def make_tar(path, members):
    """Write a TAR of `members`: name and content, or a ready TarInfo."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1234
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_directory_is_put_under_its_own_name(tree):
    """`put D` calls the files `D/...`, as `cp -r` does, in sorted order; hidden files are files."""
    sources, notices = find(tree)
    assert originals(sources) == ["train/.hidden", "train/a/b.jpg", "train/c.tar.gz"]
    assert [each.extension for each in sources.unnumbered] == ["", "jpg", "tar.gz"]
    assert notices == []


def test_a_directory_with_a_slash_is_put_without_its_name(tree, monkeypatch):
    """`put D/` and `put .` call the files as they are called below it, as rsync does."""
    assert originals(find(f"{tree}/")[0]) == [".hidden", "a/b.jpg", "c.tar.gz"]
    monkeypatch.chdir(tree)
    assert originals(find(".")[0]) == [".hidden", "a/b.jpg", "c.tar.gz"]


def test_a_file_is_put_under_its_basename(tree):
    """The directories that lead to a file given by itself are not part of its original path."""
    assert originals(find(tree / "a" / "b.jpg")[0]) == ["b.jpg"]


def test_names_of_datapoints_keep_their_numbers(tree):
    """A basename `%020d.ext` is a number, wherever it stands, and the numbered come in their order."""
    (tree / NUMBERED).write_bytes(b"seven")
    (tree / "a" / "00000000000000000003.x.y").write_bytes(b"three")
    sources, _ = find(tree)
    assert [(each.number, each.extension, each.size) for each in sources.numbered] == [
        (3, "x.y", 5),
        (7, "jpg", 5),
    ]
    assert len(sources.unnumbered) == 3
    assert (sources.count, sources.size) == (5, 16)


def test_a_number_above_the_limit_is_refused(tree):
    """2^63 and above can't be a datapoint: the file is named, and nothing is put."""
    (tree / "09223372036854775808.jpg").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"09223372036854775808\.jpg.*2\^63-1"):
        find(tree)


def test_an_extension_that_is_too_long_names_its_file(tree):
    """Of a million files, the one with the wrong name is told."""
    (tree / f"{1:020d}.{'x' * 80}").write_bytes(b"")
    with pytest.raises(InvalidInput, match=rf"{tree}/{1:020d}.*can't be an extension"):
        find(tree)


def test_two_files_of_one_number_are_refused_by_both_names(tree):
    """The same number twice names both files."""
    (tree / NUMBERED).write_bytes(b"1")
    (tree / "a" / "00000000000000000007.png").write_bytes(b"2")
    with pytest.raises(InvalidInput, match=r"train/0.*7\.jpg and .*train/a/0.*7\.png are both datapoint 7"):
        find(tree)


def test_two_files_of_one_original_path_are_refused_by_both_names(tree, tmp_path):
    """Two files that would be known by the same path name each other."""
    other = tmp_path / "b.jpg"
    other.write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"b\.jpg and .*b\.jpg would both be 'b\.jpg'"):
        find(tree / "a" / "b.jpg", other)


def test_links_to_files_are_followed(tree, tmp_path):
    """A symbolic link to a file is put with the file's content under the link's name."""
    (tmp_path / "target").write_bytes(b"content")
    (tree / "link.txt").symlink_to(tmp_path / "target")
    sources, notices = find(tree)
    link = next(each for each in sources.unnumbered if each.original == "train/link.txt")
    assert (link.size, read(link), notices) == (7, b"content", [])


def test_a_link_to_nothing_is_an_error(tree):
    """Data that was named but is not there is never left out silently."""
    (tree / "dangling").symlink_to("nowhere")
    with pytest.raises(NotFound, match=r"train/dangling: a link to nothing"):
        find(tree)


def test_what_is_no_file_is_left_out_with_a_line(tree, monkeypatch):
    """FIFOs, sockets and links to directories are named and left out; nobody waits for a FIFO."""
    os.mkfifo(tree / "fifo")
    (tree / "loop").symlink_to(tree)
    monkeypatch.chdir(tree)  # the path of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        sources, notices = find(tree)
    assert sources.count == 3
    assert sorted(notice.rpartition("/")[2] for notice in notices) == [
        "fifo is left out: it is a FIFO",
        "loop is left out: it is a link to a directory",
        "socket is left out: it is a socket",
    ]


def test_a_fifo_by_itself_is_refused(tmp_path):
    """A path that can't be put at all is an error, not a notice."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidInput, match="neither a file nor a directory"):
        find(tmp_path / "fifo")


def test_a_missing_path_is_named(tmp_path):
    """What is not there is told by its name."""
    with pytest.raises(NotFound, match="missing: no such file"):
        find(tmp_path / "missing")


def test_a_tar_stands_for_its_regular_members(tmp_path):
    """Members are called as they are in the TAR, without `./` and `/`; they keep time, content and numbers."""
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "x"
    directory = tarfile.TarInfo("d")
    directory.type = tarfile.DIRTYPE
    members = [
        ("./d/x.txt", b"ex"),
        ("/abs", b""),
        (f"d/{NUMBERED}", b"seven"),
        (link, b""),
        (directory, b""),
    ]
    sources, notices = find(make_tar(tmp_path / "all.tar", members))
    assert originals(sources) == ["abs", "d/x.txt"]
    assert [(each.number, read(each), each.mtime) for each in sources.numbered] == [(7, b"seven", 1234)]
    assert [read(each) for each in sources.unnumbered] == [b"", b"ex"]
    assert notices == [f"{tmp_path}/all.tar: link is left out: it is no regular file"]


def test_a_hard_link_in_a_tar_is_refused(tmp_path):
    """Leaving a hard link out would lose a file; the message says how to pack instead."""
    link = tarfile.TarInfo("second")
    link.type, link.linkname = tarfile.LNKTYPE, "first"
    with pytest.raises(InvalidInput, match=r"second is a hard link; .*--hard-dereference"):
        find(make_tar(tmp_path / "x.tar", [("first", b"1"), (link, b"")]))


def test_a_damaged_tar_is_named(tmp_path):
    """A TAR that is cut off names the TAR and its member."""
    path = make_tar(tmp_path / "x.tar", [("first", b"1" * 5000)])
    os.truncate(path, 3000)
    with pytest.raises(Corrupt, match=r"x\.tar: .*first"):
        find(path)


def test_a_tar_is_a_file_below_a_directory_without_unpack_and_with_a_number(tree, tmp_path):
    """Only a TAR that is named on the command line is unpacked; never a datapoint's file."""
    make_tar(tree / "inner.tar", [("x", b"1")])
    numbered = make_tar(tmp_path / "00000000000000000001.tar", [("x", b"1")])
    assert "train/inner.tar" in originals(find(tree)[0])
    assert originals(find(tree / "inner.tar", unpack=False)[0]) == ["inner.tar"]
    assert [each.extension for each in find(numbered)[0].numbered] == ["tar"]


def test_a_compressed_tar_is_put_as_a_file_and_says_so(tree):
    """A `.tar.gz` is not unpacked; whoever expected that is told."""
    sources, notices = find(tree / "c.tar.gz")
    assert originals(sources) == ["c.tar.gz"]
    assert "unpack it first" in notices[0]


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.jpg", "jpg"),
        ("x.tar.gz", "tar.gz"),
        ("plain", ""),
        (".bashrc", ""),
        (".config.json", "json"),
        ("ends.", ""),
        ("two..dots", "dots"),
        ("Mr. Smith 1.jpg", "jpg"),
        ("1. a b", ""),
        ("a." + "x" * 80 + ".gz", "gz"),
        ("a." + "x" * 80, ""),
        ("a.\udcff", "\udcff"),
    ],
)
def test_an_extension_is_what_stands_behind_the_first_dot(name, extension):
    """webdataset's rule, with exceptions for spaces and for what does not fit a header."""
    assert extension_of(name) == extension


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_an_extension_always_fits_a_datapoints_name(name):
    """Whatever a file is called, its extension can be packed, and the name ends with it."""
    extension = extension_of(name)
    assert check_extension(extension) == extension
    assert len(extension.encode()) <= MAX_EXTENSION
    assert name.endswith(extension)


def test_names_that_are_not_utf_8_are_kept(tmp_path):
    """The bytes of a name come through unchanged."""
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.bin"
    with open(raw, "wb") as file:
        file.write(b"1")
    sources, _ = find(tmp_path)
    assert os.fsencode(sources.unnumbered[0].original).endswith(b"/\xff\xfe.bin")
    assert read(sources.unnumbered[0]) == b"1"


def test_a_file_that_changes_is_noticed(tmp_path):
    """A file that is longer, shorter or newer than when it was found is an error, however it is read."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    source = find(path)[0].unnumbered[0]
    path.write_bytes(b"01234")
    with pytest.raises(ObjectChanged, match="changed while it was put"):
        read(source)
    with pytest.raises(ObjectChanged, match="changed while it was put"), open_source(source) as file:
        file.read()
    path.write_bytes(b"abcdefghij")
    os.utime(path, ns=(0, 0))
    with pytest.raises(ObjectChanged):
        read(source)


def test_a_file_that_vanishes_is_named(tmp_path):
    """A source that is gone when its turn comes says which."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    source = find(path)[0].unnumbered[0]
    path.unlink()
    with pytest.raises(NotFound, match="file: no such file"):
        read(source)
    with pytest.raises(NotFound, match="file: no such file"):
        open_source(source)


def test_large_files_have_the_same_checksum_in_pieces(tmp_path):
    """`checksum` does not depend on how many reads it takes."""
    import zlib

    data = os.urandom(READ_SIZE * 2 + 17)
    path = tmp_path / "large"
    path.write_bytes(data)
    assert checksum(find(path)[0].unnumbered[0]) == zlib.crc32(data)


def make_source(original, number=None):
    return Source(original, original, number, "", 0, 0, 0, 0, 0)


@given(st.lists(st.text("ab/", min_size=1, max_size=4), unique=True), st.sets(st.integers(0, 2**63 - 1)))
def test_the_order_of_the_sources_does_not_depend_on_how_they_were_found(paths, numbers):
    """Unnumbered by original path, numbered by number, none lost."""
    found = [make_source(path) for path in paths] + [make_source(str(number), number) for number in numbers]
    sources = arrange(reversed(found))
    assert originals(sources) == sorted(paths)
    assert [each.number for each in sources.numbered] == sorted(numbers)
