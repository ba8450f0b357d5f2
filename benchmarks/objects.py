"""How time and memory of a slide's objects grow with their number: spooled, merged, written.

    python benchmarks/objects.py [--counts 10000 100000 1000000] [--formats geojson] [--only COUNT]

Nuclei of 30 corners are planted at 5000 per mm^2 (0.5 um per px), with three measurements each, and go the way that a
model's answers go: every window's share, halo included, to the collector of its super-tile, the spools to the merge,
the features to the sinks, and the overview. Nothing is read and no model runs. Each count is a process of its own.
Before a time counts, every planted nucleus must have come out once, and without a seam conflict.

Seconds are CPU seconds of that process, so that other work on the machine matters less; memory is its largest resident
memory. Prints a table, the log-log slopes over all counts and from each to the next, and as the last line JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from figures import slope
from numpy.typing import NDArray

from wsikit.geometry import Region, TileSpec
from wsikit.pipeline.merge import merge
from wsikit.pipeline.resident import peak_rss_mb
from wsikit.predictions import Batch, Label, Objects, Stateless
from wsikit.sinks import sink_class
from wsikit.slides import Slide
from wsikit.slides.array import ArrayReader
from wsikit.stitching import collector
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

MPP = 0.5
PITCH = 28
"""px between nuclei: 5000 per mm^2, one in each cell of a lattice."""
CORNERS = 30
RADIUS = (6.0, 10.0)
"""px: 6 to 10 um across."""
SHIFT = 3.0
"""px that a nucleus lies off the middle of its cell, at most: neighbours stay apart."""
SINK = {"geojson": "geojson.gz"}
"""Format -> name of its sink, where that is another."""


@dataclass(frozen=True)
class Planted(Stateless):
    """A model that finds every nucleus of a window, the same ones in every window that sees them."""

    side: int
    """Cells of the lattice in a row, and rows."""

    name = "planted"
    produces = Objects
    labels = (Label("Nucleus", (200, 60, 40)),)
    tile = TileSpec(MPP, core=1024, halo=32)

    def predict(self, batch: Batch) -> list[Objects]:
        """One answer for each window."""
        return [planted(region, self.side) for region in batch.regions]


def planted(region: Region, side: int) -> Objects:
    """The nuclei whose cells the region holds, drawn from the number of their cell."""
    first = np.array([region.x, region.y]) // PITCH
    stop = -(-np.array([region.x1, region.y1]) // PITCH)
    first, stop = np.maximum(first, 0), np.minimum(stop, side)
    row, column = (v.ravel() for v in np.mgrid[first[1] : stop[1], first[0] : stop[0]])
    draw = noise(row, column)
    middle = (np.stack([column, row], 1) + 0.5) * PITCH + (2 * draw[:, :2] - 1) * SHIFT
    radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * draw[:, 2:3]
    angle = 2 * np.pi * (np.arange(CORNERS) / CORNERS)
    bulge = 1 + 0.1 * np.sin(3 * angle + 2 * np.pi * draw[:, 3:4])
    xy = middle[:, None] + (radius * bulge)[..., None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    pixels = np.rint(np.pi * radius[:, 0] ** 2).astype(np.int64)
    sums = np.rint((middle - 0.5 - (region.x, region.y)) * pixels[:, None]).astype(np.int64)
    measured = {
        "Area um^2": pixels * MPP**2,
        "Circularity": 0.9 + 0.1 * draw[:, 4],
        "Density": draw[:, 5],
    }
    return Objects(
        region,
        shapely.polygons(xy - (region.x, region.y)),
        np.zeros(len(xy), np.int64),
        draw[:, 6],
        np.column_stack([sums, pixels]),
        measured,
    )


def noise(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, 7) in [0, 1), of the cell's number alone."""
    cell = (row.astype(np.uint64) << np.uint64(32)) + column.astype(np.uint64)
    bits = cell[:, None] * np.uint64(7) + np.arange(7, dtype=np.uint64)
    # splitmix64, Steele, Lea and Flood 2014
    bits = bits * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (bits ^ (bits >> np.uint64(31))).astype(np.float64) / 2.0**64


class Timed:
    """A sink that counts its own CPU seconds."""

    def __init__(self, sink: Any) -> None:
        self.sink, self.takes, self.seconds = sink, sink.takes, 0.0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.sink, name)

        def timed(*arguments: Any) -> None:
            start = time.process_time()
            call(*arguments)
            self.seconds += time.process_time() - start

        return timed


def spooled(grid: TileGrid, side: int, folder: Path) -> float:
    """Spool all nuclei; returns the CPU seconds of the collectors alone."""
    seconds = 0.0
    for index, part in enumerate(grid.supertiles()):
        kept = collector(Objects, part, 1, [], folder, index)
        for k, region in enumerate(part):
            found = planted(region, side)
            start = time.process_time()
            kept.add(found, part.core(k))
            seconds += time.process_time() - start
        start = time.process_time()
        kept.save()
        seconds += time.process_time() - start
    return seconds


def merged(slide: Slide, grid: TileGrid, side: int, spool: Path, out: Path, formats: list[str]) -> dict[str, Any]:
    """Merge what was spooled; returns CPU seconds, of each sink too."""
    sinks = {name: Timed(sink_class(SINK.get(name, name))(out / f"objects.{name}")) for name in formats}
    model, tissue = Planted(side), TissueMask.whole(slide)
    start = time.process_time()
    found = merge(slide, "planted", model, grid, tissue, (), spool, list(sinks.values()), out / "overview.png")
    seconds = time.process_time() - start
    return {"found": found, "seconds": seconds, "written": {name: sink.seconds for name, sink in sinks.items()}}


def one(count: int, formats: list[str]) -> dict[str, Any]:
    """One slide of about so many nuclei, in this process."""
    side = round(math.sqrt(count))
    pixels = np.broadcast_to(np.full(3, 240, np.uint8), (2 * side * PITCH, 2 * side * PITCH, 3))
    slide = Slide(ArrayReader([pixels[::step, ::step] for step in (1, 2, 8, 32)], MPP / 2))
    grid = TileGrid.cover(slide, Planted(side).tile)
    with tempfile.TemporaryDirectory() as folder:
        out, spool, empty = (Path(folder) / name for name in ("out", "spool", "empty"))
        for made in (out, spool, empty):
            made.mkdir()
        fixed = merged(slide, grid, side, empty, out, formats)["seconds"]
        spooling = spooled(grid, side, spool)
        work = merged(slide, grid, side, spool, out, formats)
    if work["found"].objects != side**2 or work["found"].seam_conflicts:
        raise SystemExit(f"{side**2} nuclei were planted, {work['found']} came out: no time counts")
    return {
        "objects": side**2,
        "spool_s": round(spooling, 3),
        "merge_s": round(work["seconds"] - fixed, 3),
        "fixed_s": round(fixed, 3),
        "seconds": round(spooling + work["seconds"] - fixed, 3),
        "per_second": {name: round(side**2 / seconds) for name, seconds in work["written"].items()},
        "peak_mb": round(peak_rss_mb(), 1),
    }


def main() -> None:
    """Run all counts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--formats", nargs="+", default=["geojson", "geojson.gz", "parquet"])
    parser.add_argument("--only", type=int, help="this count, in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(one(arguments.only, arguments.formats)))
        return
    command = [sys.executable, __file__, "--formats", *arguments.formats, "--only"]
    rows = []
    for count in arguments.counts:
        done = subprocess.run([*command, str(count)], check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
        print(table_row(rows[-1]), flush=True)
    for what in ("seconds", "peak_mb"):
        steps = [growth(list(pair), what) for pair in pairwise(rows)]
        print(f"log-log slope of {what}: {growth(rows, what):.3f}; by steps", *(f"{step:.3f}" for step in steps))
    print(json.dumps({"rows": rows, "slopes": {what: growth(rows, what) for what in ("seconds", "peak_mb")}}))


def growth(rows: list[dict[str, Any]], what: str) -> float:
    """Log-log slope on the number of objects."""
    return slope([row["objects"] for row in rows], [row[what] for row in rows])


def table_row(row: dict[str, Any]) -> str:
    """A count in words."""
    rates = ", ".join(f"{name} {rate:,}/s" for name, rate in row["per_second"].items())
    return (
        f"{row['objects']:>9,} nuclei: spool {row['spool_s']:.2f} s, merge {row['merge_s']:.2f} s "
        f"(and {row['fixed_s']:.2f} s without objects), {rates}, peak {row['peak_mb']:.0f} MB"
    )


if __name__ == "__main__":
    main()
