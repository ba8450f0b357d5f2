"""Memory does not grow with the slide: minutes long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest


@pytest.mark.slow
def test_memory_is_flat_and_time_grows_no_faster_than_tissue(cmu: Path) -> None:
    """On slides that are tissue all over: where glass is between, a small slide may have no super-tile that is full."""
    script = Path(__file__).parents[2] / "benchmarks" / "growth.py"
    command = [sys.executable, str(script), "--tissue", "1.0", "--sides", "8192", "16384"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, *rest = orjson.loads(done.stdout.splitlines()[-1])["rows"]
    for row in rest:
        assert row["peak_mb"] <= 1.15 * first["peak_mb"], done.stdout
        assert row["seconds"] / first["seconds"] <= 1.1 * row["tissue_mm2"] / first["tissue_mm2"], done.stdout
