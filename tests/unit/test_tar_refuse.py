"""What can't be a datarange is refused with a line that names the member."""

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasfs.errors import Corrupt, DasfsError, InvalidInput, Unsupported
from dasfs.formats.tar import END_OF_ARCHIVE, encode_header, padding, read_datarange, read_members

FIRST = "00000000000000000001.txt"
SECOND = "00000000000000000002.txt"


def archive_of(*names: str, content: bytes = b"hello") -> bytes:
    member = content + bytes(padding(len(content)))
    return b"".join(encode_header(name, len(content), 0) + member for name in names) + END_OF_ARCHIVE


def numbered(*numbers: int) -> bytes:
    return archive_of(*(f"{number:020d}.txt" for number in numbers))


def refusal(archive: bytes) -> str:
    with pytest.raises(InvalidInput) as caught:
        list(read_datarange(io.BytesIO(archive)))
    return caught.value.message


def damage(archive: bytes) -> str:
    with pytest.raises(Corrupt) as caught:
        list(read_datarange(io.BytesIO(archive)))
    return caught.value.message


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1, 2, 4), "00000000000000000004.txt: expected number 3: a gap"),
        ((1, 2, 2), "00000000000000000002.txt: expected number 3: a duplicate"),
        ((1, 2, 1), "00000000000000000001.txt: expected number 3: wrong order or a duplicate"),
        ((2, 1), "00000000000000000001.txt: expected number 3: wrong order or a duplicate"),
    ],
)
def test_numbers_must_ascend_by_one(numbers: tuple[int, ...], message: str) -> None:
    """A gap, a duplicate, a wrong order: the first wrong member is named, and the number expected there."""
    assert refusal(numbered(*numbers)) == message


@pytest.mark.parametrize(
    "name",
    [
        "1.txt",
        "file.txt",
        ".txt",
        "0" * 19 + "1",
        "0" * 18 + "1.txt",
        "0" * 20 + "1.txt",
        "dir/" + "0" * 20 + ".a",
    ],
)
def test_names_must_be_datapoint_names(name: str) -> None:
    """Twenty digits, a dot and an extension; a folder before it does not count as a datapoint."""
    assert refusal(archive_of(name)) == f"{name}: not the name of a datapoint"


@pytest.mark.parametrize("name", ["00000000000000000001.", "09223372036854775807.x", "./00000000000000000001.json.zst"])
def test_odd_names_that_are_datapoint_names(name: str) -> None:
    """An empty extension, the highest number and a leading `./` are fine."""
    (entry,) = read_datarange(io.BytesIO(archive_of(name)))
    assert str(entry.name) == name.removeprefix("./")


def test_number_above_the_highest() -> None:
    """A number above 2^63-1 is refused with that limit."""
    assert "99999999999999999999.x: the number is above" in refusal(archive_of("99999999999999999999.x"))


def test_name_with_control_characters_stays_one_line() -> None:
    """A message never breaks its line or the terminal, whatever the member is called."""
    assert refusal(archive_of("a\nb\x1b")) == r"'a\nb\x1b': not the name of a datapoint"


@pytest.mark.parametrize("name", ["ü" * 2**20, f"{1:020d}.{'x' * 2**20}", f"{2**63:020d}.{'x' * 2**20}"])
def test_name_of_a_megabyte_is_cut_short(name: str) -> None:
    """A long name may take megabytes; the message shows its beginning."""
    assert len(refusal(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT) + END_OF_ARCHIVE)) < 500


def test_archive_without_members() -> None:
    """Two zero blocks alone are a valid TAR file, but no datarange."""
    assert refusal(END_OF_ARCHIVE) == "the TAR file has no members"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Path.mkdir, "a directory"),
        (lambda path: path.symlink_to("elsewhere"), "a symbolic link"),
        (lambda path: path.hardlink_to(path.with_name("00000000000000000001.txt")), "a hard link"),
    ],
)
def test_only_regular_files(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    """A directory or a link is refused by its name, even if that is a datapoint's."""
    (tmp_path / "00000000000000000001.txt").touch()
    make(tmp_path / "00000000000000000002.txt")
    names = ["00000000000000000001.txt", "00000000000000000002.txt"]
    subprocess.run(["tar", "-cf", "their.tar", *names], cwd=tmp_path, check=True)
    message = refusal((tmp_path / "their.tar").read_bytes())
    assert message.startswith("00000000000000000002.txt")
    assert message.endswith(f": {kind}; a datarange holds regular files only")


@pytest.mark.parametrize("arguments", [["--format=gnu"], ["--format=posix"]])
def test_sparse_members_are_not_supported(tmp_path: Path, arguments: list[str]) -> None:
    """The stored bytes of a sparse member are not its content, so it is refused and not packed wrongly."""
    name = "00000000000000000001.bin"
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["tar", "-S", *arguments, "-cf", "their.tar", name], cwd=tmp_path, check=True)
    with (tmp_path / "their.tar").open("rb") as file, pytest.raises(Unsupported, match="sparse") as caught:
        list(read_datarange(file))
    assert "00000000000000000001.bin" in caught.value.message


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "after the start: the file ends at 0 without an end-of-archive mark"),
        (100, "after the start: the file ends at 100 without an end-of-archive mark"),
        (514, f"{FIRST}: the file ends at 514, within the content, which should end at 517"),
        (
            1024,
            f"after {FIRST}: the file ends at 1024 without an end-of-archive mark",
        ),
        (
            2048,
            f"after {SECOND}: the file ends at 2048 without an end-of-archive mark",
        ),
        (
            2560,
            f"after {SECOND}: the end-of-archive mark at 2048 is cut off, after one zero block",
        ),
    ],
)
def test_truncated_archive(size: int, message: str) -> None:
    """Wherever the file is cut, the message names the member and the offset."""
    assert damage(numbered(1, 2)[:size]) == message


def test_every_cut_is_noticed() -> None:
    """No prefix of an archive is taken for a whole one."""
    archive = numbered(1, 2)
    for size in range(len(archive)):
        damage(archive[:size])


def test_bytes_after_the_end() -> None:
    """Of two archives joined by cat the second would be lost silently, so they are refused."""
    message = f"after {FIRST}: bytes at 2048, behind the end-of-archive mark: are two files joined?"
    assert damage(numbered(1) + numbered(2)) == message


def test_wrong_checksum_names_the_member() -> None:
    """A changed bit in a header is found by its checksum."""
    archive = bytearray(numbered(1, 2))
    archive[1024 + 105] ^= 1
    expected = f"{SECOND} (header at 1024, after {FIRST}): the header's checksum is wrong"
    assert damage(bytes(archive)) == expected


def test_something_else_than_a_tar_file() -> None:
    """A file that is no TAR file at all is called so."""
    assert damage(b"\x1f\x8b" + bytes(range(256)) * 4).startswith("this is no TAR file")


@pytest.mark.parametrize(
    "records",
    [{"size": "-1"}, {"size": "1.5"}, {"size": "1e3"}, {"mtime": "1e999999999"}, {"mtime": "9" * 5000}],
)
def test_pax_numbers_that_are_none(records: dict[str, str]) -> None:
    """A size or time that is no number is refused, quickly, however long it is."""
    info = tarfile.TarInfo("00000000000000000001.txt")
    info.pax_headers = records
    assert damage(info.tobuf(tarfile.PAX_FORMAT) + END_OF_ARCHIVE).startswith("00000000000000000001.txt")


def extended(content: bytes, kind: bytes = b"x", size: int | None = None) -> bytes:
    info = tarfile.TarInfo("extended")
    info.type, info.size = kind, len(content) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(padding(len(content)))


@pytest.mark.parametrize(
    "archive",
    [
        extended(b"nonsense") + numbered(1),
        extended(b"99 path=x\n") + numbered(1),
        extended(b"3 x\n") + numbered(1),
        extended(b"7 path\n\n") + numbered(1),
        extended(b"", size=17 << 20) + numbered(1),
        extended(b"", size=1 << 20) + numbered(1),
        extended(b"10 path=x\n") + END_OF_ARCHIVE,
        extended(b"name\0", kind=b"L") + END_OF_ARCHIVE,
    ],
    ids=[
        "no-length",
        "too-long",
        "too-short",
        "no-equals",
        "huge",
        "beyond-the-end",
        "pax-alone",
        "long-name-alone",
    ],
)
def test_malformed_extended_headers(archive: bytes) -> None:
    """A broken extended header is named with its offset."""
    assert "extended header at 0" in damage(archive)


@given(st.binary(max_size=4096), st.integers(0, 4096))
def test_garbage_never_escapes_as_another_error(garbage: bytes, position: int) -> None:
    """Whatever bytes stand in the file, only our errors come out."""
    archive = bytearray(numbered(1, 2, 3))
    archive[position : position + len(garbage)] = garbage
    with contextlib.suppress(DasfsError):
        list(read_datarange(io.BytesIO(archive)))


@given(
    fields=st.fixed_dictionaries(
        {
            "name": st.binary(max_size=100),
            "size": st.binary(min_size=12, max_size=12),
            "tail": st.binary(max_size=355),
        }
    )
)
def test_any_header_with_a_right_checksum(fields: dict[str, bytes]) -> None:
    """Also a header that was made to deceive gives members within the file, or one of our errors."""
    block = bytearray(512)
    block[: len(fields["name"])] = fields["name"]
    block[124:136] = fields["size"]
    block[156 : 156 + len(fields["tail"])] = fields["tail"]
    block[148:156] = b"%06o\0 " % (sum(block) + 8 * 32)
    archive = io.BytesIO(bytes(block) + numbered(1))
    with contextlib.suppress(DasfsError):
        for member in read_members(archive):
            assert member.header_offset < member.content_offset <= len(archive.getvalue()) - member.size
