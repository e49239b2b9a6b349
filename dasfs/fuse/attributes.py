"""What the mount shows of a node, in the kernel's format: attributes, entries of lookups, stretches of listings.

Contents never change under a name, so the kernel may keep names and attributes of datapoints for long. What is deleted
is invalidated when the mount learns of it.
"""

import stat
from dataclasses import dataclass
from struct import Struct
from typing import Final

from dasfs.formats.manifest import RECORD, RECORD_SIZE
from dasfs.fuse.inodes import Inode
from dasfs.fuse.nodes import Attributes, Entry, ListedPage
from dasfs.fuse.protocol import ATTRIBUTES_FOR, DIRENT, ENTRY, pack_dirent

LONG_S: Final = 3600
# "Not there" may become "there" with the next commit, and a directory's mtime changes with each.
SHORT_S: Final = 1
BLOCK_SIZE: Final = 512  # of st_blocks, fixed by POSIX
PREFERRED_IO: Final = 128 << 10  # st_blksize: what cp and cat read at once
_NUMBER: Final = 21  # digits and a dot, before the extension

_FILE: Final = stat.S_IFREG >> 12
# An entry of a listing with attributes: what a lookup of it would answer, then the entry itself.
_ENTRY_AND_DIRENT: Final = Struct(ENTRY.format + DIRENT.format.removeprefix("="))

ABSENT: Final = ENTRY.pack(0, 0, SHORT_S, *[0] * 19)


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who owns what the mount shows, and which permissions are taken away."""

    uid: int
    gid: int
    umask: int


class Packer:
    """Packs what one mount shows."""

    def __init__(self, ownership: Ownership) -> None:
        self._uid = ownership.uid
        self._gid = ownership.gid
        self._file_mode = stat.S_IFREG | (0o444 & ~ownership.umask)
        self._directory_mode = stat.S_IFDIR | (0o555 & ~ownership.umask)

    def file_entry(
        self, inode: int, size: int, mtime: int, *, kept_s: int = LONG_S, name_kept_s: int = LONG_S
    ) -> bytes:
        """Return the entry of a regular file. The hot path of lookups."""
        return ENTRY.pack(
            *(inode, 0, name_kept_s, kept_s, 0, 0),
            *(inode, size, -(-size // BLOCK_SIZE), mtime, mtime, mtime, 0, 0, 0),
            *(self._file_mode, 1, self._uid, self._gid, 0, PREFERRED_IO, 0),
        )

    def entry(self, found: Attributes) -> bytes:
        """Return the entry of a node."""
        kept_s = SHORT_S if found.is_directory else LONG_S
        name_kept_s = kept_s if found.name_kept_s is None else found.name_kept_s
        return ENTRY.pack(found.inode, 0, name_kept_s, kept_s, 0, 0, *self._attributes(found))

    def attributes(self, found: Attributes) -> bytes:
        """Return what answers GETATTR."""
        return ATTRIBUTES_FOR.pack(SHORT_S if found.is_directory else LONG_S, 0, 0, *self._attributes(found))

    def own_attributes(self, inode: int, size: int, mtime: int) -> bytes:
        """Return what answers GETATTR for a file of the mount's own."""
        return self.attributes(Attributes(Inode(inode), is_directory=False, size=size, mtime=mtime))

    def page(self, page: ListedPage, room: int, *, attributes: bool) -> tuple[bytes, int]:
        """Return the first entries of `page` that fit into `room` bytes, and how many those are."""
        width = max((len(each) for each in page.extensions), default=0) + _NUMBER
        padded = width + -width % 8
        entry = (_ENTRY_AND_DIRENT if attributes else DIRENT).size + padded
        # By the longest name: a few more might fit, which the kernel asks for then.
        count = min(room // entry, len(page.records) // RECORD_SIZE)
        records = memoryview(page.records)[: count * RECORD_SIZE]
        return b"".join(self._listed(page, records) if attributes else _names(page, records)), count

    def listed(self, each: Entry, *, attributes: bool) -> bytes:
        """Return one entry of a listing, whatever it is."""
        kind = (stat.S_IFDIR if each.attributes.is_directory else stat.S_IFREG) >> 12
        dirent = pack_dirent(each.attributes.inode, each.next, kind, each.name)
        return self.entry(each.attributes) + dirent if attributes else dirent

    def _attributes(self, found: Attributes) -> tuple[int, ...]:
        mtime = found.mtime
        return (
            *(found.inode, found.size, -(-found.size // BLOCK_SIZE), mtime, mtime, mtime, 0, 0, 0),
            *(self._directory_mode if found.is_directory else self._file_mode, found.links, self._uid, self._gid),
            *(0, PREFERRED_IO, 0),
        )

    def _listed(self, page: ListedPage, records: memoryview) -> list[bytes]:
        """Return entries with attributes: 1.5 µs each."""
        pack, mode, uid, gid = _ENTRY_AND_DIRENT.pack, self._file_mode, self._uid, self._gid
        # What was replaced since the listing began is shown, but the kernel must not keep it.
        valid_s = LONG_S if page.live else 0
        number, inode, position = page.first, page.inode, page.position
        entries = []
        for k, (_, _, size, mtime, _, extension, _) in enumerate(RECORD.iter_unpack(records)):
            name = b"%020d.%b" % (number + k, page.extensions[extension])
            length, here, blocks = len(name), inode + k, -(-size // BLOCK_SIZE)
            entries.append(
                pack(
                    *(here, 0, valid_s, valid_s, 0, 0, here, size, blocks, mtime, mtime, mtime, 0, 0, 0),
                    *(mode, 1, uid, gid, 0, PREFERRED_IO, 0, here, position + k + 1, length, _FILE),
                )
                + name
                + bytes(-length % 8)
            )
        return entries


def _names(page: ListedPage, records: memoryview) -> list[bytes]:
    """Return entries without attributes."""
    number, inode, position = page.first, page.inode, page.position
    return [
        pack_dirent(inode + k, position + k + 1, _FILE, b"%020d.%b" % (number + k, page.extensions[record[5]]))
        for k, record in enumerate(RECORD.iter_unpack(records))
    ]
