"""What must hold for the project's files as a whole: versions, sizes, links, and things that never go in."""

import ast
import io
import os
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import dasfs

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
CODE_FOLDERS = ("dasfs", "daemon", "tests", "bench", "docs")
# Written in two pieces, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def python_files(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    # Not those of an environment that stands there, as that of the benchmark does.
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


def markdown_files() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for an attribute of an attribute of a name, and what there is of that for others."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def names_used(source: str) -> set[str]:
    """Return every name, dotted name and name imported from a module that a source file uses."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        used.add(dotted(node))
        if isinstance(node, ast.ImportFrom):
            used.update(f"{node.module}.{alias.name}" for alias in node.names)
    return used


def never_allowed(source: str, *, test: bool) -> set[str]:
    """Return the stubs and skips in a source file, and for a test the sleeps too."""
    banned = {"NotImplementedError", "pytest.skip", "pytest.importorskip", "pytest.xfail"}
    banned |= {"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"}
    # A retry may wait by the clock; a test that does is slow on one machine and wrong on another.
    return names_used(source) & (banned | ({"time.sleep"} if test else set()))


def comments(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def relative_links(path: Path) -> Iterator[str]:
    """Yield where the links of a Markdown file go, but for those to other sites and those within the page."""
    for target in LINK.findall(FENCE.sub("", path.read_text())):
        if not re.match(r"[a-z]+:|#", target):
            yield target.partition("#")[0]


def test_one_version() -> None:
    """What is installed, what `dasfs --version` prints and what the change log tells of is one version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == dasfs.__version__
    assert f"\n## [{dasfs.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_files_are_short() -> None:
    """No module of the project outgrows what can be read at one sitting."""
    sizes = {path: len(path.read_text().splitlines()) for path in python_files("dasfs", "daemon", "bench")}
    assert {str(path.relative_to(ROOT)): n for path, n in sizes.items() if n > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    """No function outgrows a screen."""
    long = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path in python_files("dasfs", "daemon", "bench", "docs")
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_nothing_is_unfinished() -> None:
    """What is in the tree is done: no reminders, no stubs; and no test skips or waits by the clock."""
    found = []
    for path in python_files(*CODE_FOLDERS):
        source, is_test = path.read_text(), path.is_relative_to(ROOT / "tests")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in sorted(never_allowed(source, test=is_test))]
        found += [f"{path.relative_to(ROOT)}: {line}" for line in comments(source) if UNFINISHED.search(line)]
    for path in [
        *markdown_files(),
        ROOT / "Makefile",
        *(ROOT / ".ci").iterdir(),
        *(ROOT / "bench").glob("*.c"),
    ]:
        found += [f"{path.relative_to(ROOT)}: {word}" for word in UNFINISHED.findall(path.read_text())]
    assert found == []


def test_what_is_unfinished_is_seen() -> None:
    """The check above finds a stub, a skip and a sleep however they are spelled."""
    for source in ("raise NotImplementedError", "raise NotImplementedError('later')"):
        assert never_allowed(source, test=False) == {"NotImplementedError"}
    assert never_allowed("@pytest.mark.skipif(True)\ndef test(): ...", test=True) == {"pytest.mark.skipif"}
    assert never_allowed("from pytest import skip", test=True) == {"pytest.skip"}
    for source in ("import time\ntime.sleep(1)", "from time import sleep"):
        assert never_allowed(source, test=True) == {"time.sleep"}
        assert never_allowed(source, test=False) == set()
    assert never_allowed("import trio\nasync def f(): await trio.sleep(1)", test=True) == set()


def test_relative_links_resolve() -> None:
    """Every link from one of the project's pages to another, or to a file, finds it."""
    broken = [
        f"{page.relative_to(ROOT)} -> {target}"
        for page in markdown_files()
        for target in relative_links(page)
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_navigation() -> None:
    """A page that mkdocs does not list would be found by nobody; one that it lists is there."""
    listed = re.findall(r"^ +- .*?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)


def test_make_has_the_verbs() -> None:
    """The verbs that people and CI rely on are targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    verbs = {"help", "demo", "test", "check", "bench", "docs", "install", "uninstall", "clean"}
    assert verbs <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def test_scripts_can_be_run() -> None:
    """The scripts of CI and of make are executable, also in a fresh clone."""
    assert all(os.access(ROOT / name, os.X_OK) for name in (".ci/run", ".ci/setup", "systemd/setup"))
