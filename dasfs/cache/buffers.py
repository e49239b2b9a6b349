"""Memory for what GETs bring, used again when nobody looks at it any more.

Memory that is fresh from the kernel has to be cleared, and on a virtual machine to be found by its host first: a sixth
of what a cold file cost the mount.

**Concurrency:** any number of threads; memory comes back in the one that drops the last view of it.
"""

import ctypes
import mmap
import weakref
from collections import deque

from dasfs.memory import map_memory


class Buffers:
    """Keeps up to `spare` buffers of `size` bytes, the most usual ones, for the next who needs one."""

    def __init__(self, size: int, *, spare: int) -> None:
        self._size = size
        self._free: deque[mmap.mmap] = deque(maxlen=spare)

    def take(self, size: int) -> memoryview:
        """Return memory that is the caller's until the last view of it, or of a part, is dropped.

        What it holds is left from before.
        """
        if size != self._size:
            return memoryview(map_memory(size))
        try:
            pages = self._free.pop()
        except IndexError:
            pages = map_memory(size)
        # An object that only the views keep: memoryviews tell nobody when they go.
        lease = (ctypes.c_ubyte * size).from_buffer(pages)
        weakref.finalize(lease, self._free.append, pages).atexit = False
        return memoryview(lease).cast("B")
