"""Tasks that workers of a cluster can import, and their children soon: nothing of dask or pytest is imported here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from wsikit.errors import PixelReadError


def note_pids(folder: Path, number: int) -> int:
    """Takes a while, and leaves a file that says by a child of which worker it was done."""
    (folder / f"{number}-{os.getppid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.1)
    return number * number


def sleep_noted(folder: Path, seconds: float) -> None:
    """Leaves a file named like the child that is at it."""
    (folder / str(os.getpid())).touch()
    time.sleep(seconds)


def noted_until(folder: Path, gate: Path) -> None:
    """Leaves a file named like the child that is at it, and ends when there is a gate."""
    (folder / str(os.getpid())).touch()
    while not gate.exists():
        time.sleep(0.05)


def fail_to_read() -> None:
    """Raises what a reader would."""
    raise PixelReadError("tile 3", code="reader_crash", remedy="copy it")


def kill_worker() -> None:
    """Takes the dask worker along."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
