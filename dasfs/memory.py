"""Large pieces of memory of a process's own, used again when nobody looks at them any more.

Memory that is fresh from the kernel has to be cleared, and on a virtual machine to be found by its host first: a sixth
of what a cold file cost the mount, and of what packing a small one costs.

**Concurrency:** any number of threads; memory comes back in the one that drops the last view of it.
"""

import ctypes
import mmap
import weakref
from collections import deque
from contextlib import suppress


class Buffers:
    """Keeps up to `spare` buffers of at least `least` bytes for the next who needs that size.

    Who needs another size lets them be given back to the kernel: what is spare never adds to what is in use at most.
    """

    def __init__(self, least: int, *, spare: int) -> None:
        self._least = least
        # No lock: what comes back does so wherever the garbage collector runs, also in the middle of `take`.
        self._free: deque[mmap.mmap] = deque(maxlen=spare)

    def take(self, size: int) -> memoryview:
        """Return memory that is the caller's until the last view of it, or of a part, is dropped.

        What it holds is left from before.
        """
        if size < self._least:
            return memoryview(map_memory(size))
        try:
            pages = self._free.pop()
        except IndexError:
            pages = map_memory(size)
        if len(pages) != size:
            self._free.clear()
            pages = map_memory(size)
        # An object that only the views keep: memoryviews tell nobody when they go.
        lease = (ctypes.c_ubyte * size).from_buffer(pages)
        weakref.finalize(lease, self._free.append, pages).atexit = False
        return memoryview(lease).cast("B")

    def clear(self) -> None:
        """Give what is spare back to the kernel."""
        self._free.clear()


def map_memory(size: int) -> mmap.mmap:
    """Return `size` bytes that are fresh from the kernel, in huge pages where it gives them."""
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # To touch 64 MiB for the first time costs 48 ms in pages of 4 KiB, and 5 ms in huge ones.
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
