"""Writing an object only if its key is free, also on stores that can't promise it.

S3 services differ in whether they honour `If-None-Match: *`. It is asked once, when a dataset begins, and
the answer stands in its configuration; where it is no, one writer at a time is safe and `put_new` looks
before it writes.
"""

import uuid
from typing import Final

from dasfs.errors import AlreadyExists, NotFound, Unsupported
from dasfs.names import DatasetKeys
from dasfs.stores.base import Store

# Objects of this name below a dataset's root are asked about and deleted at once; `collect` deletes
# forgotten ones.
PROBE: Final = "probe-"


def probe_conditional_put(store: Store, keys: DatasetKeys) -> bool:
    """Return whether the store refuses to overwrite an object when it is asked to. Leaves nothing behind."""
    return honours_condition(store, f"{keys.root}{PROBE}{uuid.uuid4().hex}")


def honours_condition(store: Store, key: str) -> bool:
    """Return whether the store refuses to overwrite `key`, which is nobody's. Leaves nothing behind."""
    try:
        store.put_if_absent(key, b"first")
        store.put_if_absent(key, b"second")
    except AlreadyExists:
        return True
    except Unsupported:
        return False
    finally:
        store.delete([key])
    return False


def put_new(store: Store, key: str, data: bytes, *, conditional: bool = True) -> None:
    """Write one object, only if its key is free.

    Raises `AlreadyExists`. With `conditional` false, and where the store has no condition at all, another
    writer's object may be overwritten when both look at the same moment.
    """
    if conditional:
        try:
            store.put_if_absent(key, data)
            return
        except Unsupported:
            pass
    try:
        store.head(key)
    except NotFound:
        store.put(key, data)
        return
    raise AlreadyExists(f"{key} is there already")
