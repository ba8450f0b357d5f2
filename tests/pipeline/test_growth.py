"""Memory does not grow with the slide: minutes long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest


@pytest.mark.slow
def test_memory_is_flat_and_time_grows_no_faster_than_tissue_from_8k_to_32k(cmu: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "growth.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    first, *rest = orjson.loads(done.stdout.splitlines()[-1])["rows"]
    for row in rest:
        assert row["peak_mb"] <= 1.15 * first["peak_mb"], done.stdout
        assert row["seconds"] / first["seconds"] <= 1.1 * row["tissue_mm2"] / first["tissue_mm2"], done.stdout
