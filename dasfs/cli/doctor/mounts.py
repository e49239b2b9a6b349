"""The mounts of this host: dead or stuck ones, those that the kernel would abort, those that read slowly."""

from collections.abc import Iterator
from dataclasses import dataclass

import dasfs
from dasfs.cli.doctor.finding import Finding, Verdict, ok, problem, warning
from dasfs.cli.doctor.machine import RequestTimeouts, check_timeouts
from dasfs.cli.status_report import MountReport
from dasfs.fuse.mountpoint import own_mounts
from dasfs.fuse.tuning import READ_AHEAD_KIB


@dataclass(frozen=True, slots=True)
class MountFacts:
    """One mount: what it says, and what the kernel was told. `read_ahead_kib` is None where that is hidden."""

    report: MountReport
    read_ahead_kib: int | None


def check_mount(mount: MountFacts, timeouts: RequestTimeouts | None) -> Iterator[Finding]:
    """Yield what is wrong with a mount, or one line that says that nothing is."""
    report = mount.report
    name = f"mount {report.path}"
    if report.secret:
        yield ok(name, f"{report.store}; it belongs to another user, so nothing more is known")
        return
    found = [problem(name, trouble.message, trouble.hint) for trouble in report.troubles()]
    if report.document is not None:
        found += _check_document(name, mount, timeouts)
    yield from found or [ok(name, f"{report.store} is served well")]


def _check_document(name: str, mount: MountFacts, timeouts: RequestTimeouts | None) -> Iterator[Finding]:
    document = mount.report.document
    assert document is not None
    again = "mount it again when nobody uses it"
    deadline_s = document.get("options", {}).get("deadline_s")
    if isinstance(deadline_s, float | int):
        timeout = check_timeouts(timeouts, deadline_s)
        if timeout.verdict is not Verdict.OK:
            yield problem(name, timeout.message, f"{timeout.hint}; then {again}")
    if document["dasfs"] != dasfs.__version__:
        yield warning(name, f"it runs version {document['dasfs']}, and {dasfs.__version__} is installed", again)
    if mount.read_ahead_kib is not None and mount.read_ahead_kib < READ_AHEAD_KIB:
        yield warning(
            name,
            f"the kernel reads {mount.read_ahead_kib} KiB ahead, as root may change: large files come half as fast",
            "let root mount it, with -o allow_other,uid=N,gid=N",
        )


def look_at_read_ahead(path: str) -> int | None:
    """Return how far the kernel reads ahead in the mount at `path`, in KiB. The mount itself is not asked."""
    device = next((each.device for each in own_mounts() if each.path == path), None)
    try:
        with open(f"/sys/class/bdi/{device}/read_ahead_kb", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
