"""From patch frame to slide frame, overlaps resolved.

A task collects the predictions of its super-tile and spools what it owns to disk; when all tasks are done, the spools
are merged in an order that depends on the lattice only. So the result is the same, byte for byte, for any super-tile
size, order and number of workers. The kinds of prediction differ in what they collect and how they merge:
``objects`` (outlines and points), ``maps`` (scores per pixel), ``bags`` (attention back to the slide).
"""

from __future__ import annotations

from pathlib import Path

from wsikit.geometry import Box
from wsikit.predictions import Objects, Points, ScoreMap
from wsikit.stitching.maps import MapCollector
from wsikit.stitching.objects import ObjectCollector
from wsikit.tiling import TileGrid

__all__ = ["MapCollector", "ObjectCollector", "collector"]


def collector(
    produces: type[ScoreMap] | type[Points] | type[Objects],
    grid: TileGrid,
    labels: int,
    bad: list[Box],
    spool: Path,
    index: int,
) -> MapCollector | ObjectCollector:
    """The collector for one super-tile.

    Args:
        produces: the predictor's kind of prediction.
        grid: the super-tile's windows.
        labels: number of the predictor's labels.
        bad: unreadable boxes, (x0, y0, x1, y1) on the grid's lattice: nothing is kept there.
        spool: folder to save to.
        index: number of the super-tile, part of the file names.
    """
    if produces is ScoreMap:
        return MapCollector(grid, labels, spool, index)
    return ObjectCollector(grid.spec, bad, spool, index)
