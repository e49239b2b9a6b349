"""The `user.dasfs.*` attributes: where a datapoint lies, and what a dataset and the mount are."""

import os
from typing import Final

from dasfs.cache.index import IndexCache
from dasfs.errors import NotFound
from dasfs.fuse.inodes import ROOT
from dasfs.fuse.status import Status
from dasfs.fuse.tree import Located, Tree
from dasfs.names import DatasetKeys

XATTR_PREFIX: Final = b"user.dasfs."


async def describe(tree: Tree, status: Status, index: IndexCache, inode: int) -> dict[bytes, bytes]:
    """Return the attributes of a node by their full names. Raises what finding a datapoint raises."""
    if inode == ROOT:
        values: dict[str, object] = {"store": status.store}
        dataset = tree.dataset_of(inode)
    else:
        values, dataset = {}, tree.dataset_of(inode)
    if dataset is not None:
        state = status.catalog.known(dataset)
        if state is not None:
            values |= {
                "dataset": dataset,
                "dataset_id": state.snapshot.dataset_id,
                "revision": state.snapshot.revision,
                "datapoints": state.snapshot.count,
                "dataranges": len(state.snapshot.dataranges),
            }
    elif inode != ROOT:
        try:
            values = await tree.describe_view(inode) or _datapoint(await tree.locate(inode), index)
        except NotFound:
            values = {}
    return {XATTR_PREFIX + name.encode(): os.fsencode(str(value)) for name, value in values.items()}


def _datapoint(located: Located, index: IndexCache) -> dict[str, object]:
    record, datarange = located.record, located.datarange
    values: dict[str, object] = {
        "dataset": located.snapshot.dataset,
        "number": located.number,
        "datarange": f"{datarange.first}-{datarange.last}",
        "object": DatasetKeys(located.snapshot.dataset).tar(datarange.id),
        "offset": record.content_offset,
        "stored_size": record.stored_size,
        "size": record.true_size,
        "codec": record.codec.name.lower(),
        "crc32": f"{record.crc32:08x}",
        "revision": (located.pin or located.snapshot).revision,
    }
    original_name = index.original_name(located.view, located.number - datarange.first)
    if original_name is not None:
        values["original_name"] = original_name
    return values
