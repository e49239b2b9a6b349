"""What the daemon is at in one line, for people who look at `systemctl status`."""

from collections.abc import Sequence

from dasfs_daemon.state import DatasetState, Problem


def describe(datasets: Sequence[DatasetState], problems: Sequence[Problem]) -> str:
    """Return the line. The oldest problem stands at its end, with the number of the others."""
    waiting = sum(each.waiting.files + each.in_flight.files for each in datasets)
    size = sum(each.waiting.size + each.in_flight.size for each in datasets)
    committed = sum(each.counters.committed_files for each in datasets)
    parts = [
        f"{len(datasets)} {'dataset' if len(datasets) == 1 else 'datasets'}",
        f"{waiting:,} files ({size / 2**20:,.1f} MiB) on their way" if waiting else "nothing on its way",
        f"{committed:,} files committed",
    ]
    told = [(problem, "") for problem in problems]
    told += [(problem, f"{each.name}: ") for each in datasets for problem in each.problems]
    if told:
        problem, where = min(told, key=lambda pair: pair[0].since)
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        parts.append(f"{where}{problem.message}{more}")
    return "; ".join(parts)
