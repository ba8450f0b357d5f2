"""Time in proportion to the number of objects, memory that does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapely

from wsikit.pipeline.merge import DRAWN_OUTLINES, DRAWN_POINTS, _Gallery

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "objects.py"


@pytest.mark.slow
def test_time_grows_with_the_objects_and_memory_does_not() -> None:
    """10^4 to 10^6 planted nuclei through spools, merge, GeoJSON and the overview."""
    command = [sys.executable, str(SCRIPT), "--formats", "geojson"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    slopes = json.loads(done.stdout.splitlines()[-1])["slopes"]
    assert slopes["seconds"] <= 1.05, done.stdout
    assert slopes["peak_mb"] <= 0.1, done.stdout


@pytest.mark.parametrize("parts", [1, 7, 300])
def test_the_overview_keeps_an_even_sample_of_points(parts: int) -> None:
    count = 2 * DRAWN_POINTS + 12_345
    gallery, rows = _Gallery(), np.arange(count)
    for part in np.array_split(rows, parts):
        xy = np.stack([part, part], 1).astype(np.float64)
        gallery.add(xy, part % 7, shapely.points(xy[:1]).repeat(len(part)))
    assert gallery.centroids[:, 0].tolist() == rows[:: gallery.step].tolist()
    assert gallery.labels.tolist() == (rows[:: gallery.step] % 7).tolist()
    assert DRAWN_POINTS / 2 < len(gallery.labels) <= DRAWN_POINTS
    assert gallery.outlines == []


def test_the_overview_keeps_all_outlines_while_they_are_few() -> None:
    gallery, rows = _Gallery(), np.arange(DRAWN_OUTLINES)
    for part in np.array_split(rows, 9):
        gallery.add(np.stack([part, part], 1).astype(np.float64), part % 2, part.astype(object))
    assert np.concatenate(gallery.outlines).tolist() == rows.tolist()
    assert gallery.labels.tolist() == (rows % 2).tolist()
