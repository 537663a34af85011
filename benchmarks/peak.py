"""The most memory that this process held since a moment: a column of tables of methods.

Linux keeps a high-water mark for each process and lets the process itself set it back. It is of the
whole process, libraries and what an earlier method left to be used again among it, so it compares
methods of one table, which have those in common.
"""

from __future__ import annotations

from pathlib import Path


def reset_peak() -> float:
    """Start a new high-water mark of this process's memory; returns what it holds, MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """Return the most that the process held since, MB."""
    return _status_mb("VmHWM")


def _status_mb(field: str) -> float:
    for entry in Path("/proc/self/status").read_text().splitlines():
        if entry.startswith(f"{field}:"):
            return int(entry.split()[1]) / 1e3
    return float("nan")
