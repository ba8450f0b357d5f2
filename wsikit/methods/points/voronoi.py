"""Voronoi label: what points alone say of masks. A point is nucleus, and between two points there is an edge."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.methods.points.distance import nearest_point, point_distance

NUCLEUS, BACKGROUND, IGNORED = 1, 0, 255
"""Values of labels; nucleus wins over background where a pixel is both."""
DISC_PX = 2.0
"""Radius of what is nucleus around a point (Qu et al. 2019, 2020)."""


def voronoi_label(
    points: NDArray[np.floating], shape: tuple[int, int], *, disc_px: float = DISC_PX, reach_px: float = math.inf
) -> NDArray[np.uint8]:
    """(H, W) 1 in discs around the points, 0 on the edges between their cells, 255 (ignored) elsewhere.

    1. Every pixel belongs to the point that is nearest to its middle (``nearest_point``), or to none if that is farther
       than ``reach_px``.
    2. A pixel is edge where its right, lower or lower right neighbour belongs to another point. So edges are a pixel
       wide and cut cells apart even where pixels touch at corners. Neighbours outside the image count: its border is
       no edge, and the label of a crop is the crop of the label.
    3. A pixel whose middle is within ``disc_px`` of a point is nucleus.

    No polygons are made: one, two, collinear and coincident points are no special cases. A lone point has no edge, and
    coincident ones have one cell.

    A tile has the label of the whole if it is given, beside its own points, those of a halo of ``reach_px + 2`` px, or,
    where ``reach_px`` is infinite, of 2 px more than the distance of that pixel of the tile to its nearest point which
    is farthest from any.

    Args:
        points: (N, 2) x and y in px, pixel-corner convention; they may lie outside the image.
        shape: (height, width).
        disc_px: radius of discs; 0 makes none.
        reach_px: beyond, cells end, without an edge there.

    Raises:
        ConfigError: a negative length, or wrong points.
    """
    if not (disc_px >= 0 and reach_px >= 0):
        raise ConfigError(f"disc and reach of the Voronoi label must be 0 or more px, got {disc_px} and {reach_px}")
    label = np.full(shape, IGNORED, np.uint8)
    label[_edges(points, shape, reach_px)] = BACKGROUND
    if disc_px > 0:
        label[point_distance(points, shape, disc_px) <= disc_px] = NUCLEUS
    return label


def _edges(points: NDArray[np.floating], shape: tuple[int, int], reach_px: float) -> NDArray[np.bool_]:
    height, width = shape
    owner = nearest_point(points, (height + 1, width + 1), reach=reach_px)
    here = owner[:-1, :-1]
    edge = np.zeros(shape, bool)
    for there in (owner[:-1, 1:], owner[1:, :-1], owner[1:, 1:]):
        edge |= (there != here) & (there >= 0)
    return edge & (here >= 0)
