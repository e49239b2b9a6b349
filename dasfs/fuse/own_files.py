"""The mount's own files in `.dasfs`: what they hold is made when they are looked up.

Each lookup gets an inode of its own, so that whoever opens a file reads one state of it to its end, whatever happens
meanwhile, and its size is known to the kernel beforehand.

**Concurrency:** used in the mount's trio thread only.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from dasfs.fuse.inodes import FIRST_OWN_FILE, Inode

# The kernel forgets an inode when nobody has it open and its name is looked up again. So many readers may be slow.
MAX_KEPT: Final = 256


class OwnFiles:
    """Files by name, each with what makes its content. They are found by name and listed nowhere."""

    def __init__(self, makers: Mapping[str, Callable[[], bytes]]) -> None:
        self._makers = makers
        self._kept: OrderedDict[Inode, bytes] = OrderedDict()
        self._next = FIRST_OWN_FILE

    def look_up(self, name: str) -> tuple[Inode, int] | None:
        """Make a file and return its inode and size in bytes; None where there is none of this name."""
        maker = self._makers.get(name)
        if maker is None:
            return None
        content = maker()
        inode, self._next = self._next, Inode(self._next + 1)
        self._kept[inode] = content
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return inode, len(content)

    def content(self, inode: int) -> bytes | None:
        """Return what a file holds; None for any other inode, and for one that is long gone."""
        return self._kept.get(Inode(inode))

    def forget(self, inode: int) -> None:
        """Drop a file that the kernel has forgotten; any other inode is none of ours."""
        self._kept.pop(Inode(inode), None)
