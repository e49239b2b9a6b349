"""Archives of GNU tar, bsdtar and Python's tarfile are read, whatever format and padding they choose."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from dasfs.formats.tar import (
    END_OF_ARCHIVE,
    DatarangeMember,
    encode_header,
    padding,
    read_datarange,
    read_members,
)

CONTENTS = {
    "00000000000000000007.txt": b"",
    "00000000000000000008.json.zst": b"hello",
    "00000000000000000009.": b"\0" * 600,
    # 100 bytes and not ASCII: PAX writers add a record for it.
    "00000000000000000010.ä" + "x" * 77: os.urandom(512),
    "00000000000000000011.jpg": os.urandom(70_000),
}
PROGRAMS = {
    "gnu": ["tar", "--format=gnu", "-cf"],
    "gnu-ustar": ["tar", "--format=ustar", "-cf"],
    "gnu-v7": ["tar", "--format=v7", "-cf"],
    "gnu-oldgnu": ["tar", "--format=oldgnu", "-cf"],
    "gnu-pax": ["tar", "--format=posix", "-cf"],
    "gnu-global-pax": ["tar", "--format=posix", "--pax-option=globexthdr.name=g,comment=hello", "-cf"],
    "gnu-1-block": ["tar", "-b1", "-cf"],
    "gnu-100-blocks": ["tar", "-b100", "-cf"],
    "bsd": ["bsdtar", "-cf"],
    "bsd-ustar": ["bsdtar", "--format=ustar", "-cf"],
    "bsd-pax": ["bsdtar", "--format=pax", "-cf"],
    "bsd-gnutar": ["bsdtar", "--format=gnutar", "-cf"],
}
PYTHON_FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with the files of `CONTENTS`, whose times have fractions of seconds."""
    directory = tmp_path / "source"
    directory.mkdir()
    for name, content in CONTENTS.items():
        (directory / name).write_bytes(content)
        os.utime(directory / name, ns=(0, 1_700_000_000_900_000_000))
    return directory


def contents_of(archive: Path) -> dict[str, bytes]:
    """Read an archive as a datarange, and check the places that it reports against the bytes."""
    found: dict[str, bytes] = {}
    with archive.open("rb") as file:
        end = 0
        for entry in read_datarange(file):
            member = entry.member
            assert (member.header_offset, member.mtime) == (end, 1_700_000_000)
            assert member.content_offset == member.header_offset + member.header_blocks * 512
            file.seek(member.content_offset)
            found[str(entry.name)] = file.read(member.size)
            end = member.content_offset + member.size + padding(member.size)
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_archive_of_a_tar_program(source: Path, tmp_path: Path, program: str) -> None:
    """Each format of GNU tar and bsdtar is read, times rounded down, with contents read in between."""
    archive = tmp_path / "their.tar"
    subprocess.run([*PROGRAMS[program], archive, *CONTENTS], cwd=source, check=True)
    assert contents_of(archive) == CONTENTS


@pytest.mark.parametrize("name", PYTHON_FORMATS)
def test_archive_of_python(source: Path, tmp_path: Path, name: str) -> None:
    """Each format of Python's tarfile is read; its PAX format adds records for fractions of seconds."""
    archive = tmp_path / "their.tar"
    with tarfile.open(archive, "w", format=PYTHON_FORMATS[name]) as tar:
        for member in CONTENTS:
            tar.add(source / member, arcname=member)
    assert contents_of(archive) == CONTENTS


def test_leading_dot_slash_is_dropped(source: Path, tmp_path: Path) -> None:
    """`tar -cf x.tar ./0*` writes names with `./`, which are datapoints all the same."""
    archive = tmp_path / "their.tar"
    subprocess.run(["tar", "-cf", archive, *(f"./{name}" for name in CONTENTS)], cwd=source, check=True)
    assert contents_of(archive) == CONTENTS


@pytest.mark.parametrize("name", PYTHON_FORMATS)
def test_long_names(name: str) -> None:
    """A name beyond 100 bytes is whole: from the prefix of ustar, a GNU long name, or a PAX record."""
    long_name = "d" * 90 + "/" + "f" * 90
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=PYTHON_FORMATS[name]) as tar:
        for member in (long_name, "short"):
            tar.addfile(tarfile.TarInfo(member))
    assert [member.name for member in read_members(archive)] == [long_name, "short"]


def test_bytes_that_are_no_utf8_survive(tmp_path: Path) -> None:
    """An undecodable name comes as os.fsdecode gives it."""
    raw = b"00000000000000000001.\xff\xfe"
    directory = os.fsencode(tmp_path)
    with open(os.path.join(directory, raw), "wb"):
        pass
    subprocess.run([b"tar", b"-cf", b"their.tar", raw], cwd=directory, check=True)
    with (tmp_path / "their.tar").open("rb") as file:
        (entry,) = read_datarange(file)
    assert str(entry.name) == os.fsdecode(raw)


@pytest.mark.parametrize("format_name", ["gnu", "pax"])
def test_sizes_beyond_8_gib(tmp_path: Path, format_name: str) -> None:
    """9 GiB are read as base-256 and as a PAX record. The content is a hole, so the test is quick."""
    size = 9 << 30
    info = tarfile.TarInfo("00000000000000000001.bin")
    info.size = size
    with (tmp_path / "large.tar").open("w+b") as file:
        file.write(info.tobuf(PYTHON_FORMATS[format_name]))
        file.seek(size, 1)
        file.write(encode_header("00000000000000000002.bin", 0, 0) + END_OF_ARCHIVE)
        first, second = read_datarange(file)
    assert first.member.size == size
    assert second.member.header_offset == first.member.content_offset + size


@pytest.mark.parametrize(
    ("text", "seconds"), [("1.999", 1), ("-1", -1), ("-0.5", -1), ("-1.5", -2), ("-2.0", -2), ("3.", 3)]
)
def test_pax_times_are_rounded_down(text: str, seconds: int) -> None:
    """A time with a fraction becomes the second that it lies in, before 1970, too."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("00000000000000000001.txt")
        info.pax_headers = {"mtime": text}
        tar.addfile(info)
    assert [member.mtime for member in read_members(archive)] == [seconds]


def test_global_pax_records_hold_for_all_that_follow() -> None:
    """A global mtime is every member's, unless a member has its own."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"mtime": "77"}) as tar:
        tar.addfile(tarfile.TarInfo("00000000000000000001.txt"))
        own = tarfile.TarInfo("00000000000000000002.txt")
        own.pax_headers = {"mtime": "88"}
        tar.addfile(own)
    assert [member.mtime for member in read_members(archive)] == [77, 88]


def test_other_members_are_yielded_with_their_type(tmp_path: Path) -> None:
    """read_members leaves it to the caller what to do with directories and links."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "hard").hardlink_to(tmp_path / "file")
    (tmp_path / "soft").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    names = ["directory", "file", "hard", "soft", "fifo"]
    subprocess.run(["tar", "-cf", "their.tar", *names], cwd=tmp_path, check=True)
    with (tmp_path / "their.tar").open("rb") as file:
        found = {member.name: member.type for member in read_members(file)}
    assert found == {"directory/": b"5", "file": b"0", "hard": b"1", "soft": b"2", "fifo": b"6"}


def test_extended_headers_belong_to_their_member() -> None:
    """The header of a member begins with its PAX header, so that the index can count all its blocks."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, size, mtime in ((1, 0, 0), (2, 5, 0.5), (3, 600, 0)):
            info = tarfile.TarInfo(f"{number:020d}.txt")
            info.size, info.mtime = size, mtime
            tar.addfile(info, io.BytesIO(bytes(size)))

    def place(entry: DatarangeMember) -> tuple[int, int, int]:
        return entry.member.header_offset, entry.member.header_blocks, entry.member.content_offset

    assert [place(entry) for entry in read_datarange(archive)] == [
        (0, 1, 512),
        (512, 3, 2048),
        (2560, 1, 3072),
    ]


def test_signed_checksums_of_old_programs() -> None:
    """Some old programs added up signed bytes, which differs with an umlaut in the name: that is fine."""
    header = bytearray(encode_header("00000000000000000001.ä", 0, 0))
    above_127 = sum(byte > 127 for byte in header)
    header[148:156] = b"%06o\0 " % (int(header[148:154], 8) - 256 * above_127)
    (member,) = read_members(io.BytesIO(bytes(header) + END_OF_ARCHIVE))
    assert (above_127, member.name) == (2, "00000000000000000001.ä")
