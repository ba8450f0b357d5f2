"""Class maps of tall slides: memory does not grow with the height."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.planted_areas import painted, planted_classes

WIDTH, TILE = 2048, 256
SCRIPT = """
import sys
from pathlib import Path
from tests.planted_areas import Oracle
from wsikit.pipeline.run import run
from wsikit.predictions import AreaSpec
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.slides import open_slide
from wsikit.tissue import TissueMask

path, out = Path(sys.argv[1]), Path(sys.argv[2])
with open_slide(path) as slide:
    sinks = GeoJSONSink(out / "a.geojson.gz"), OmeZarrSink(out / "m.ome.zarr", block=1024)
    predictor = Oracle(1.0, areas=AreaSpec(500.0))
    report = run(slide, predictor, *sinks, mask=TissueMask.whole(slide), supertile=1024)
print(report.peak_rss_mb)
"""


def tall_slide(path: Path, period: NDArray[np.uint8], height: int) -> Path:
    """The picture and its mirror image by turns; a level of downsample 16 beside it for the overview."""

    def tiles(step: int) -> Iterator[NDArray[np.uint8]]:
        small = period[::step, ::step]
        both = np.concatenate([small, small[::-1]])
        for y in range(0, height // step, TILE):
            rows = both[np.arange(y, min(y + TILE, height // step)) % len(both)]
            for x in range(0, WIDTH // step, TILE):
                part = rows[:, x : x + TILE]
                yield np.pad(part, ((0, TILE - part.shape[0]), (0, TILE - part.shape[1]), (0, 0)))

    with tifffile.TiffWriter(path) as writer:
        for step in (1, 16):
            writer.write(
                tiles(step), shape=(height // step, WIDTH // step, 3), dtype=np.uint8, tile=(TILE, TILE),
                photometric="rgb", compression="jpeg", metadata=None, subfiletype=int(step > 1),
                resolution=(20_000 / step, 20_000 / step), resolutionunit="CENTIMETER",
            )  # fmt: skip
    return path


def peak_mb(path: Path, out: Path) -> float:
    """Of a run in a process of its own, the less of two.

    Threads and the allocator move it by up to 36 MB; a leak is there each time.
    """
    command, folder = [sys.executable, "-c", SCRIPT, str(path), str(out)], Path(__file__).parents[2]
    env = os.environ | {"MALLOC_ARENA_MAX": "1"}
    runs = [subprocess.run(command, capture_output=True, check=True, cwd=folder, env=env) for _ in range(2)]
    return min(float(run.stdout) for run in runs)


@pytest.mark.slow
def test_memory_is_flat_from_8k_to_131k_rows(tmp_path: Path) -> None:
    # 4096 rows are too few to fill what is under way at a time
    period, peaks = painted(planted_classes(WIDTH, 4096, grain=800)), []
    for height in (8192, 131072):
        path = tall_slide(tmp_path / f"{height}.tif", period, height)
        (out := tmp_path / str(height)).mkdir()
        peaks.append(peak_mb(path, out))
    assert peaks[1] <= 1.15 * peaks[0], peaks
