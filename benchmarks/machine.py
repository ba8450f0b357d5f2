"""What machine this is, holding processes to some of its cores, and whether anybody else uses it."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

IDLE = 0.15
"""Cores' worth of work by others that still counts as an idle machine."""
PATIENCE = 900.0
"""Seconds that a bench waits for an idle machine."""
LOOK = 2.0
"""Seconds of one look at the load."""
PACKAGES = ("wsikit", "numpy", "imagecodecs", "tifffile", "openslide-bin", "zarr", "dask", "distributed")


def pinned(count: int) -> list[int]:
    """Hold this process, and all that it starts, to the first ``count`` cores that it may use."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    return cores


def described(cores: list[int]) -> dict[str, Any]:
    """For the JSON: nothing in it names the machine or its user."""
    return {
        "cpu": _cpu(),
        "cores_used": len(cores),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def busy_seconds() -> float:
    """CPU seconds that all processes of the machine have used."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def background() -> float:
    """Cores' worth of work that is done now; call it while nothing of one's own runs."""
    before, start = busy_seconds(), time.perf_counter()
    time.sleep(LOOK)
    return (busy_seconds() - before) / (time.perf_counter() - start)


def wait_until_idle() -> float:
    """Wait until nobody else works and return what little was going on. Raises SystemExit when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while (load := background()) > IDLE:
        if time.monotonic() > deadline:
            raise SystemExit(
                f"others keep {load:.2f} cores busy, at most {IDLE} is allowed: stop them, or pass --any-load, "
                "which the results then say"
            )
    return load
