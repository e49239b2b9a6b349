"""Joints: objects that exist for minutes, in which a store puts small bytes behind the tail of a large object.

A part of an S3 upload has 5 MiB, but the last one may be smaller. So what is smaller is made the last part of an object
of its own, behind 5 MiB that the store copies there; that object is a part of the upload that needs it.

**Concurrency:** joints have names that nobody else uses. They are made in a few threads, which have ended when
`made_joints` returns.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final

from dasfs.errors import DasfsError
from dasfs.names import DatasetKeys
from dasfs.stores.base import CopyPiece, Store

# Objects of this name below a dataset's root are deleted as soon as they were used; `collect` deletes forgotten ones.
JOINT: Final = "joint-"
# Each takes four requests one after another, and holds less than 5 MiB.
JOBS: Final = 8


@contextmanager
def made_joints(
    store: Store, keys: DatasetKeys, recipes: Mapping[int, Iterable[CopyPiece | bytes]]
) -> Iterator[dict[int, str]]:
    """Make an object of each recipe, and hand out their keys. They are deleted when the block ends.

    Raises what `compose` raises; then none of them is left.
    """
    names = {place: f"{keys.root}{JOINT}{uuid.uuid4().hex}" for place in recipes}
    pool = ThreadPoolExecutor(JOBS, thread_name_prefix="dasfs-joint")
    try:
        for future in [pool.submit(store.compose, names[place], recipes[place]) for place in names]:
            future.result()
        yield names
    finally:
        pool.shutdown(cancel_futures=True)
        if names:
            with suppress(DasfsError):
                store.delete(names.values())
