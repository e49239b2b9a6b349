"""Virtual directories beside a dataset's own: found by name in the root, and not listed there.

    DATASET@REVISION                  the dataset as it was at a revision      pinned.py
    DATASET@shuffle=SEED              it in a seeded order, pinned now         shuffled.py
    DATASET@REVISION@shuffle=SEED     a revision in a seeded order
    DATASET@names                     the tree of original paths               names_view.py

Where one dataset stands at the root, they are found as `@REVISION` and so on. A dataset's name has no `@`. Numbers are
decimal, without zeros in front, so that a view has one name.

**Concurrency:** one trio thread. Views are made when they are first looked up and stay, so that their inodes do.
"""

import re
from dataclasses import dataclass
from typing import Final

from dasfs.cache.catalog import Catalog
from dasfs.cache.names_keeper import NamesKeeper
from dasfs.cache.names_schema import ROOT_DIRECTORY
from dasfs.errors import InvalidInput, NoLongerKept, NotFound
from dasfs.fuse.datapoints import Datapoints, parse_name
from dasfs.fuse.inodes import Inode, InodeTable
from dasfs.fuse.listing import Lister
from dasfs.fuse.names_view import NamesView
from dasfs.fuse.nodes import Attributes, Directory, Listing, Located, datapoint_attributes
from dasfs.fuse.order import MAX_SEED
from dasfs.fuse.pinned import Past, Pin
from dasfs.fuse.shuffled import ShuffledView
from dasfs.names import MAX_NUMBER, DatapointNumber, check_dataset_name

# The space of the inodes of the views' own directories: no dataset's, and no revision's.
VIEWS_SPACE: Final = "@views"

_VIEW: Final = re.compile(
    r"([a-zA-Z0-9_-]*)(?:@([1-9][0-9]{0,18}))?(?:@(?:(names)|shuffle=(0|[1-9][0-9]{0,19})))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class ViewName:
    """What the name of a virtual directory asks for."""

    dataset: str
    names: bool = False
    revision: int | None = None
    seed: int | None = None

    @classmethod
    def parse(cls, name: str, only: str | None = None) -> "ViewName | None":
        """Return what `name` asks for in the root, where `only` may stand; None where it is no view's name."""
        match = _VIEW.fullmatch(name)
        if match is None or not any(match.groups()[1:]) or (match[2] and match[3]):
            return None
        dataset, revision, names, seed = match[1], match[2], match[3] is not None, match[4]
        if only is not None:
            dataset = only if not dataset else ""
        try:
            check_dataset_name(dataset)
        except InvalidInput:
            return None
        if (revision and int(revision) > MAX_NUMBER) or (seed and int(seed) > MAX_SEED):
            return None
        return cls(dataset, names, int(revision) if revision else None, int(seed) if seed else None)


class PinnedView:
    """`DATASET@REVISION`: the datapoints of one revision, under their own names."""

    def __init__(self, past: Past, lister: Lister, space: str, inode: Inode) -> None:
        self.inode = inode
        self._past = past
        self._lister = lister
        self._space = space

    def peek_name(self, name: str) -> Located | None:
        """Return the datapoint `name`, if everything needed is in memory; else None."""
        parsed = parse_name(name)
        located = None if parsed is None else self._past.peek_datapoint(self._space, parsed.number)
        if parsed is None or located is None or located.record.extension != parsed.extension:
            return None
        return located

    async def lookup(self, name: str) -> Attributes | None:
        """Return the attributes of the datapoint `name`, or None where there is none."""
        parsed = parse_name(name)
        located = None if parsed is None else await self._past.locate(self._space, parsed.number)
        if parsed is None or located is None or located.record.extension != parsed.extension:
            return None
        return datapoint_attributes(located)

    async def attributes(self) -> Attributes:
        """Return the attributes of the directory."""
        mtime = int((await self._pin()).snapshot.time.timestamp())
        return Attributes(self.inode, is_directory=True, size=0, mtime=mtime, links=2)

    async def open(self) -> Listing:
        """Return what the directory lists."""
        return self._lister.open((await self._pin()).snapshot, self._space)

    async def describe(self) -> dict[str, object]:
        """Return what the extended attributes of the directory tell."""
        snapshot = (await self._pin()).snapshot
        return {
            "dataset": snapshot.dataset,
            "dataset_id": snapshot.dataset_id,
            "revision": snapshot.revision,
            "datapoints": snapshot.count,
            "dataranges": len(snapshot.dataranges),
        }

    async def _pin(self) -> Pin:
        pin = await self._past.pin(self._space)
        if pin is None:
            raise NotFound(f"there is no {self._space}")
        return pin


class Views:
    """The virtual directories of one mount. Without `names` there are no `@names`."""

    def __init__(
        self,
        catalog: Catalog,
        datapoints: Datapoints,
        past: Past,
        lister: Lister,
        inodes: InodeTable,
        *,
        names: NamesKeeper | None,
        only: str | None,
    ) -> None:
        self._catalog = catalog
        self._datapoints = datapoints
        self._past = past
        self._lister = lister
        self._inodes = inodes
        self._names = names
        self._only = only
        self._views: list[Directory] = []
        self._known: dict[ViewName, Directory] = {}
        self._names_of: dict[str, NamesView] = {}

    async def lookup(self, name: str) -> Attributes | None:
        """Return the attributes of the virtual directory `name` of the root, or None where there is none.

        Raises `NoLongerKept` for a revision that was collected, and `NotReady` where its index is being built.
        """
        wanted = ViewName.parse(name, self._only)
        if wanted is None:
            return None
        view = self._known.get(wanted) or await self._make(wanted)
        if view is None:
            return None
        try:
            return await view.attributes()
        except NoLongerKept:
            raise
        except NotFound:
            return None

    def find(self, inode: int) -> Directory | None:
        """Return the virtual directory that `inode` is, or None."""
        place = self._inodes.find_datapoint(inode)
        if place is None or "@" not in place.dataset:
            return None
        if place.dataset == VIEWS_SPACE:
            return self._views[place.number] if place.number < len(self._views) else None
        names = self._names_of.get(place.dataset)
        return None if names is None else names.directory(place.number)

    async def _make(self, wanted: ViewName) -> Directory | None:
        """Make the view that a name asks for; None where there is no such dataset or revision."""
        if wanted.names:
            return await self._make_names(wanted)
        if wanted.revision is not None:
            pin = await self._past.pin(f"{wanted.dataset}@{wanted.revision}")
            space = None if pin is None else pin.space
        else:
            state = await self._catalog.dataset(wanted.dataset)
            space = None if state is None else self._past.keep(state.snapshot)
        if space is None:
            return None
        inode = self._next_inode()
        if wanted.seed is None:
            return self._add(wanted, PinnedView(self._past, self._lister, space, inode))
        return self._add(wanted, ShuffledView(self._past, space, wanted.seed, inode))

    async def _make_names(self, wanted: ViewName) -> Directory | None:
        if self._names is None or await self._catalog.dataset(wanted.dataset) is None:
            return None
        space = f"{wanted.dataset}@names"
        view = NamesView(self._names, self._catalog, self._datapoints, self._inodes, wanted.dataset, space)
        # Two that look it up at once must not have an index each.
        view = self._names_of.setdefault(space, view)
        return self._add(wanted, view.directory(ROOT_DIRECTORY))

    def _next_inode(self) -> Inode:
        return self._inodes.datapoint(VIEWS_SPACE, DatapointNumber(len(self._views)))

    def _add(self, wanted: ViewName, view: Directory) -> Directory:
        """Remember a view, unless another task made it meanwhile."""
        known = self._known.setdefault(wanted, view)
        if known is view:
            self._views.append(view)
        return known
