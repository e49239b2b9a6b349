"""Imports point downward, and what touches the outside world stands in one place.

The order is DESIGN's: cli -> fuse | dasfs_daemon -> cache -> dataset -> stores -> formats -> names, errors.
Imports inside functions and below `if TYPE_CHECKING` count too.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT, ROOT / "daemon")
PACKAGES = ("dasfs", "dasfs_daemon")

# A part may import itself, its equals at the bottom, and everything of a lower layer.
LAYERS = {
    "dasfs.__main__": 8,
    "dasfs.cli": 7,
    "dasfs.fuse": 6,
    "dasfs_daemon": 6,
    # Made of the options of what it configures, so it stands above them; only who starts things uses it.
    "dasfs.config": 5,
    "dasfs.cache": 4,
    "dasfs.dataset": 3,
    "dasfs.stores": 2,
    "dasfs.formats": 1,
    "dasfs.names": 0,
    "dasfs.errors": 0,
    "dasfs.memory": 0,
    "dasfs.metrics": 0,
    "dasfs.endpoint": 0,
    "dasfs.loop": 0,
    "dasfs.notify": 0,
    "dasfs": 0,
}
BOTTOM = 0


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: its dotted name, whether it is a package's `__init__`, and what it says."""

    name: str
    is_package: bool
    tree: ast.Module


def project_modules() -> list[Module]:
    found = []
    for source, package in zip(SOURCES, PACKAGES, strict=True):
        for path in sorted((source / package).rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            found.append(Module(name, is_package, ast.parse(path.read_text(), str(path))))
    return found


MODULES = project_modules()
NAMES = frozenset(module.name for module in MODULES)


def module(name: str, source: str, *, is_package: bool = False) -> Module:
    return Module(name, is_package, ast.parse(source))


def imports(module: Module) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports: modules, and names out of them."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                kept = module.name.split(".")[: None if module.is_package else -1]
                kept = kept[: len(kept) - (node.level - 1)]
                base = ".".join([*kept, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """Return the part of the project that a module is in: `dasfs.<part>`, or `dasfs_daemon` as a whole."""
    return ".".join(name.split(".")[:2]) if name.startswith("dasfs.") else name.split(".")[0]


def target_part(name: str) -> str | None:
    """Return the part that an imported name belongs to, or None when it is somebody else's."""
    if name.split(".")[0] not in PACKAGES:
        return None
    # `from dasfs import __version__` names something that is no module: it belongs to the package itself.
    inside = part(name)
    return inside if inside in LAYERS or inside in NAMES else "dasfs"


def upward(module: Module) -> list[str]:
    """Return what is wrong with the imports of one module, one line each."""
    here = part(module.name)
    if here not in LAYERS:
        return [f"{here} has no layer: give it one in LAYERS"]
    wrong = []
    for target in imports(module):
        there = target_part(target)
        if there is None or there == here:
            continue
        height = LAYERS.get(there)
        if height is None or height > LAYERS[here] or (height == LAYERS[here] and height != BOTTOM):
            wrong.append(f"{module.name} imports {target}, which is not below it")
    return wrong


def imports_of(module: Module, foreign: str) -> bool:
    return any(name == foreign or name.startswith(f"{foreign}.") for name in imports(module))


def reads_environment(module: Module) -> bool:
    words = {"environ", "environb", "getenv", "getenvb"}
    attributes = (node for node in ast.walk(module.tree) if isinstance(node, ast.Attribute))
    direct = any(
        node.attr in words and isinstance(node.value, ast.Name) and node.value.id == "os" for node in attributes
    )
    return direct or any(f"os.{word}" in imports(module) for word in words)


def below(module: Module, *parts: str) -> bool:
    return any(module.name == name or module.name.startswith(f"{name}.") for name in parts)


def test_imports_point_downward() -> None:
    """No module of the project imports a layer above its own, or its neighbour in the same layer."""
    assert [line for module in MODULES for line in upward(module)] == []


def test_all_layers_are_there() -> None:
    """The walk sees the whole project: a package that it misses would be free to import anything."""
    packages = {
        "dasfs.cli",
        "dasfs.fuse",
        "dasfs_daemon",
        "dasfs.cache",
        "dasfs.dataset",
        "dasfs.stores",
        "dasfs.formats",
    }
    assert packages <= NAMES


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("dasfs.formats.tar", "from dasfs.stores import base"),
        ("dasfs.formats.tar", "from dasfs import stores"),
        ("dasfs.formats.tar", "import dasfs.stores.base"),
        ("dasfs.formats.tar", "from ..stores import base"),
        ("dasfs.formats.tar", "def f():\n    from dasfs.cache import blocks"),
        ("dasfs.stores.s3", "if TYPE_CHECKING:\n    from dasfs.dataset.model import Commit"),
        ("dasfs.names", "from dasfs.formats import tar"),
        ("dasfs.fuse.mount", "import dasfs_daemon.service"),
        ("dasfs_daemon.service", "import dasfs.fuse.tree"),
        ("dasfs_daemon.service", "from dasfs.cli.main import main"),
        ("dasfs.unknown", "import os"),
    ],
)
def test_an_arrow_that_points_up_is_seen(importer: str, source: str) -> None:
    """The check finds every way to import a higher or an equal layer, and a module without a layer."""
    assert upward(module(importer, source))


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("dasfs.cli.main", "from dasfs.fuse import mount\nfrom dasfs_daemon import service"),
        (
            "dasfs.stores.s3",
            "from dasfs.stores.base import Store\nfrom .base import MIB\nfrom dasfs import errors",
        ),
        ("dasfs.names", "from dasfs.errors import InvalidInput"),
        ("dasfs.formats.tar", "from dasfs import __version__\nimport tarfile"),
        ("dasfs_daemon.service", "from dasfs.dataset import writer\nfrom dasfs_daemon import journal"),
    ],
)
def test_arrows_that_point_down_are_free(importer: str, source: str) -> None:
    """The check accepts lower layers, the own part, the bottom among itself, and foreign modules."""
    assert upward(module(importer, source)) == []


# What speaks with the kernel; the rest of fuse/ can be tested without one.
PROTOCOL = ("dasfs.fuse.protocol", "dasfs.fuse.device", "dasfs.fuse.session")


@pytest.mark.parametrize("name", ["tree", "content", "prefetch", "inodes", "own_files", "xattrs", "invalidation"])
def test_the_model_knows_no_protocol(name: str) -> None:
    """What a mount looks like and holds is decided without the kernel's format and without its descriptor."""
    (found,) = [module for module in MODULES if module.name == f"dasfs.fuse.{name}"]
    assert not any(imports_of(found, each) for each in PROTOCOL)


def test_only_fuse_speaks_with_the_kernel() -> None:
    """Nothing outside fuse knows the protocol, and the protocol knows nothing of the project."""
    users = {module.name for module in MODULES if any(imports_of(module, each) for each in PROTOCOL)}
    assert {"dasfs.fuse.operations", "dasfs.fuse.mount"} <= users
    assert {name for name in users if not name.startswith("dasfs.fuse.")} == set()
    (protocol,) = [module for module in MODULES if module.name == PROTOCOL[0]]
    assert [name for name in imports(protocol) if target_part(name)] == []


@pytest.mark.parametrize("library", ["pyfuse3", "fuse", "llfuse", "fusepy"])
def test_there_is_no_library_between(library: str) -> None:
    """The session is dasfs's own: no FUSE library is imported."""
    assert [m.name for m in MODULES if imports_of(m, library)] == []


@pytest.mark.parametrize("library", ["boto3", "botocore", "s3transfer"])
def test_only_stores_speak_s3(library: str) -> None:
    """What knows of S3's client is a store, so that another client or another store touches nothing else."""
    assert [m.name for m in MODULES if imports_of(m, library) and not below(m, "dasfs.stores")] == []


def test_only_those_who_start_things_read_the_configuration() -> None:
    """Everything below the command line and the daemon gets what it needs handed in."""
    allowed = ("dasfs.cli", "dasfs_daemon", "dasfs.config")
    assert [m.name for m in MODULES if imports_of(m, "dasfs.config") and not below(m, *allowed)] == []


def test_only_the_command_line_and_the_configuration_read_the_environment() -> None:
    """No option hides in the middle of the code: os.environ and os.getenv stand in cli and config."""
    assert [m.name for m in MODULES if reads_environment(m) and not below(m, "dasfs.cli", "dasfs.config")] == []


@pytest.mark.parametrize(
    "source", ["import os\nos.environ['A']", "import os\nos.getenv('A')", "from os import environ"]
)
def test_reading_the_environment_is_seen(source: str) -> None:
    """The check finds each way to read it, and not an attribute of the same name that is another's."""
    assert reads_environment(module("dasfs.stores.s3", source))
    assert not reads_environment(module("dasfs.stores.s3", "self.environ = options.getenv"))
