"""The TAR headers that dasfs writes are what every tar program expects."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.errors import InvalidInput
from dasfs.formats.tar import BLOCK_SIZE, END_OF_ARCHIVE, encode_header, padding, read_members

NAME = "00000000000000000042.json"
DEVICE_NUMBERS = slice(329, 345)  # Python leaves them empty for regular files, GNU tar and Go write zeros
CHECKSUM = slice(148, 156)


def write_tar(path: Path, contents: dict[str, bytes], mtime: int = 1_700_000_000) -> Path:
    with path.open("wb") as file:
        for name, content in contents.items():
            file.write(encode_header(name, len(content), mtime) + content + bytes(padding(len(content))))
        file.write(END_OF_ARCHIVE)
    return path


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8**11 - 1])
@pytest.mark.parametrize("mtime", [0, 1, 1_700_000_000, 8**11 - 1])
@pytest.mark.parametrize("name", [NAME, "00000000000000000000.", "0" * 20 + ".ä" + "x" * 77])
def test_header_is_python_s_ustar_header(name: str, size: int, mtime: int) -> None:
    """Apart from the device numbers, which mean nothing for a file, the block is what tarfile writes."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, mtime
    theirs = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape"))
    ours = bytearray(encode_header(name, size, mtime))
    ours[DEVICE_NUMBERS] = theirs[DEVICE_NUMBERS] = bytes(16)
    ours[CHECKSUM] = theirs[CHECKSUM] = bytes(8)
    assert ours == theirs


@pytest.mark.parametrize("size", [0, 1, 600])
def test_archive_is_gnu_tar_s_ustar_archive(tmp_path: Path, size: int) -> None:
    """`tar --format=ustar -b1` of the same file, owned by root, writes the same bytes to the end."""
    (tmp_path / NAME).write_bytes(b"x" * size)
    (tmp_path / NAME).chmod(0o644)
    as_root = ["--owner=0", "--group=0", "--numeric-owner", "--mtime=@1700000000"]
    subprocess.run(["tar", "--format=ustar", "-b1", *as_root, "-cf", "gnu.tar", NAME], cwd=tmp_path, check=True)
    ours = write_tar(tmp_path / "ours.tar", {NAME: b"x" * size})
    assert ours.read_bytes() == (tmp_path / "gnu.tar").read_bytes()


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_tar_programs_unpack_our_archive(tmp_path: Path, program: str) -> None:
    """Names, sizes, times and contents come out of `tar -x` as they went in, and `-t` lists the names."""
    contents = {f"{number:020d}.bin": bytes([number]) * size for number, size in enumerate((0, 5, 512, 600))}
    ours = write_tar(tmp_path / "ours.tar", contents)
    listed = subprocess.run([program, "-tf", ours], check=True, capture_output=True, text=True)
    assert (listed.stdout.splitlines(), listed.stderr) == (list(contents), "")
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([program, "-xf", ours, "-C", out], check=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == contents
    assert {path.stat().st_mtime for path in out.iterdir()} == {1_700_000_000}


@pytest.mark.parametrize("size", [8**11, 2**40, 2**60])
@pytest.mark.parametrize("mtime", [-1, -(2**40), 8**11, 2**60])
def test_numbers_beyond_octal_are_base_256(size: int, mtime: int) -> None:
    """A size of 8 GiB and more, a time before 1970 or after 2242: still one block, which tarfile reads."""
    header = encode_header(NAME, size, mtime)
    info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    assert len(header) == BLOCK_SIZE
    assert (info.size, info.mtime) == (size, mtime)


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_tar_programs_list_nine_gigabytes(tmp_path: Path, program: str) -> None:
    """A member of 9 GiB (a hole on disk) is listed with its size, and the member after it is found."""
    size = 9 << 30
    second = "00000000000000000043.json"
    with (tmp_path / "large.tar").open("wb") as file:
        file.write(encode_header(NAME, size, 0))
        file.seek(size, 1)
        file.write(encode_header(second, 0, 0) + END_OF_ARCHIVE)
    listed = subprocess.run(
        [program, "-tvf", "large.tar"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert [line.split()[-1] for line in listed] == [NAME, second]
    assert str(size) in listed[0].split()


@pytest.mark.parametrize("name", ["", "x" * 101, "ä" * 51, "a\0b"])
def test_name_that_does_not_fit_is_refused(name: str) -> None:
    """A name that would need an extended header, or end early, is never written."""
    with pytest.raises(InvalidInput, match="can't name a TAR member"):
        encode_header(name, 0, 0)


# File names come as bytes, so what reaches a header is what os.fsdecode makes of bytes without NUL and slash.
names = st.binary(min_size=1, max_size=100).map(lambda raw: raw.replace(b"\0", b"_").replace(b"/", b"_"))


@given(members=st.lists(st.tuples(names, st.binary(max_size=1500), st.integers(-(2**63), 2**63 - 1)), max_size=5))
def test_what_is_written_is_read_back(members: list[tuple[bytes, bytes, int]]) -> None:
    """Any names, contents and times come back, each member with one header block."""
    archive = io.BytesIO()
    for raw_name, content, mtime in members:
        archive.write(encode_header(raw_name.decode("utf-8", "surrogateescape"), len(content), mtime))
        archive.write(content + bytes(padding(len(content))))
    archive.write(END_OF_ARCHIVE)
    found = list(read_members(archive))
    assert [(member.name.encode("utf-8", "surrogateescape"), member.mtime) for member in found] == [
        (raw_name, mtime) for raw_name, _, mtime in members
    ]
    whole = archive.getvalue()
    assert [whole[member.content_offset :][: member.size] for member in found] == [content for _, content, _ in members]
    assert all(member.header_blocks == 1 for member in found)
