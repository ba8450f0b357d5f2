"""Resident memory of this process: now, and at its peak."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil

STATUS = Path("/proc/self/status")
"""Where Linux says it."""


def held() -> int:
    """Resident bytes now."""
    return int(psutil.Process().memory_info().rss)


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far.

    Not ``ru_maxrss`` where the system says another: on Linux that is handed on from the process that started this one
    (getrusage(2) and execve(2): it is kept over an exec), so a child of a large process would claim its parent's peak.
    """
    if STATUS.exists():
        with STATUS.open("rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) / (1 << 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
