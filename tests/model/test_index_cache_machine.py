"""The index cache against a dictionary, through any sequence of saving, dropping, restarting and losing everything."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dasfs.cache.index import IndexCache, ManifestView
from dasfs.cache.pages import PAGE_RECORDS
from dasfs.errors import NotFound
from dasfs.formats.manifest import RECORD_SIZE, Manifest
from dasfs.names import DatarangeId
from tests.manifests import make_manifest

IDS = ("5a3c7d1e00004000800000000000000a", "5a3c7d1e00004000800000000000000b")
# Of each shape one, so that a mixture of two would show: numbers of records below, at and above a page.
SHAPES = [(0, 3), (3, PAGE_RECORDS), (3 + PAGE_RECORDS, PAGE_RECORDS + 5)]
MANIFESTS = [
    make_manifest(first, count, counter, seed=counter * 100 + first % 7, names=bool(counter % 2))
    for first, count in SHAPES
    for counter in (1, 2)
]

identities = st.sampled_from(IDS)
# Numbers, since hypothesis prints what it draws.
manifests = st.integers(0, len(MANIFESTS) - 1)


class IndexCacheMachine(RuleBasedStateMachine):
    """What is kept is a dictionary by dataset and datarange; views of what is gone say so."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="dasfs-index-"))
        self.kept: dict[tuple[str, DatarangeId], Manifest] = {}
        self.views: list[tuple[str, Manifest, ManifestView]] = []
        self.index = self.open()

    def open(self) -> IndexCache:
        # Few pages in memory: others are read from the file, and pages of what was dropped linger.
        return IndexCache(str(self.directory / "index.sqlite"), memory=4 * PAGE_RECORDS * RECORD_SIZE)

    @rule(identity=identities, number=manifests)
    def save(self, identity: str, number: int) -> None:
        manifest = MANIFESTS[number]
        self.index.save_manifest(identity, manifest)
        self.kept[identity, manifest.id] = manifest

    @rule(identity=identities, numbers=st.sets(manifests))
    def drop(self, identity: str, numbers: set[int]) -> None:
        kept = {MANIFESTS[number].id for number in numbers}
        self.index.drop_manifests(identity, keep=kept)
        self.kept = {key: each for key, each in self.kept.items() if key[0] != identity or key[1] in kept}

    @rule(identity=identities, number=manifests)
    def find(self, identity: str, number: int) -> None:
        manifest = MANIFESTS[number]
        view = self.index.find_manifest(identity, manifest.id)
        assert (view is not None) == ((identity, manifest.id) in self.kept)
        if view is not None:
            self.views.append((identity, manifest, view))

    @rule(place=st.floats(0, 1, exclude_max=True))
    def look(self, place: float) -> None:
        """A view gives its own records, or says that they are gone; gone for good once it said so."""
        for identity, manifest, view in list(self.views):
            k = int(place * manifest.count)
            try:
                assert self.index.record(view, k) == manifest.record(k)
            except NotFound:
                self.views.remove((identity, manifest, view))
            else:
                assert self.index.original_name(view, k) in (None, manifest.original_name(k))

    @rule()
    def restart(self) -> None:
        self.index.close()
        self.index = self.open()
        self.views.clear()

    @rule()
    def rebuild(self) -> None:
        self.index.rebuild()
        self.kept.clear()
        for _, _, view in self.views:
            self.assert_gone(view)

    def assert_gone(self, view: ManifestView) -> None:
        try:
            self.index.record(view, 0)
        except NotFound:
            return
        raise AssertionError("a view outlived what it was made of")

    @invariant()
    def what_is_kept_is_whole(self) -> None:
        for (identity, datarange), manifest in self.kept.items():
            view = self.index.find_manifest(identity, datarange)
            assert view is not None
            for k in (0, manifest.count - 1):
                assert self.index.record(view, k) == manifest.record(k)
                assert self.index.original_name(view, k) == manifest.original_name(k)

    def teardown(self) -> None:
        self.index.close()
        shutil.rmtree(self.directory)


TestIndexCache = IndexCacheMachine.TestCase
TestIndexCache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
