"""Watershed by steepest ascent: every pixel of a mask belongs to the summit that walking uphill from it reaches.

Unlike a flooding watershed this looks only along a pixel's own path, so that a summit's basin is the same in whatever
window it is seen, ties included.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MERGE_ROUNDS = 4
"""Each round may join a summit to a neighbour; more rounds would let far-away summits count."""


class _Saddles(NamedTuple):
    """Pairs of touching mask pixels under different summits, by their positions in the list of mask pixels."""

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    height: NDArray[np.float32]
    """The lower of the two pixels' heights."""


def basins(height: NDArray[np.float32], mask: NDArray[np.bool_], depth: float) -> NDArray[np.int32]:
    """Cut a mask along the valleys of a height map.

    A summit that rises less than ``depth`` above the pass to a higher neighbour joins that neighbour. Equal summits
    rank by row order, the first being the higher. Pixels are neighbours over corners too.

    Args:
        height: (H, W) smooth map, higher in the middle of objects.
        mask: (H, W) pixels to share out. The outermost pixels of the image are left out.
        depth: in the units of ``height``.

    Returns:
        (H, W) labels from 1 in row order of their summits; 0 outside the mask.
    """
    pixels, position = _inner_pixels(mask)
    flat, width = height.ravel(), height.shape[1]
    heights = flat[pixels]
    summit = _uphill(flat, pixels, position, width)
    saddles = _saddles(summit, heights, pixels, position, width)
    for _ in range(MERGE_ROUNDS):
        joined = _join_low_summits(summit, heights, saddles, depth)
        if joined is None:
            break
        summit = joined
    labels = np.zeros(mask.size, np.int32)
    is_summit = summit == np.arange(len(summit))
    labels[pixels] = np.cumsum(is_summit, dtype=np.int32)[summit]
    return labels.reshape(mask.shape)


def _inner_pixels(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Flat indices of the mask's pixels, and for every pixel of the image its position in that list or -1."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1]
    pixels = np.flatnonzero(inner)
    position = np.full(mask.size, -1, np.int32)
    position[pixels] = np.arange(len(pixels), dtype=np.int32)
    return pixels, position


def _uphill(
    flat: NDArray[np.float32], pixels: NDArray[np.intp], position: NDArray[np.int32], width: int
) -> NDArray[np.int32]:
    """Position of the summit above each pixel."""
    best = flat[pixels]
    target = np.arange(len(pixels), dtype=np.int32)
    for step in (-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1):
        neighbour = position[pixels + step]
        # of equal neighbours the first in row order wins
        higher = np.flatnonzero((neighbour >= 0) & (flat[pixels + step] > best))
        best[higher] = flat[pixels[higher] + step]
        target[higher] = neighbour[higher]
    return _roots(target)


def _roots(parent: NDArray[np.int32]) -> NDArray[np.int32]:
    """Follow every pointer to its end, doubling the stride each time. Pointers must have no cycle but self."""
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            return parent
        parent = further


def _saddles(
    summit: NDArray[np.int32],
    heights: NDArray[np.float32],
    pixels: NDArray[np.intp],
    position: NDArray[np.int32],
    width: int,
) -> _Saddles:
    first, second = [], []
    for step in (1, width - 1, width, width + 1):
        neighbour = position[pixels + step]
        # position -1 is no neighbour; its summit is looked up and not used
        index = np.flatnonzero((neighbour >= 0) & (summit[neighbour] != summit)).astype(np.int32)
        first.append(index)
        second.append(neighbour[index])
    a, b = np.concatenate(first), np.concatenate(second)
    return _Saddles(a, b, np.minimum(heights[a], heights[b]))


def _join_low_summits(
    summit: NDArray[np.int32], heights: NDArray[np.float32], saddles: _Saddles, depth: float
) -> NDArray[np.int32] | None:
    """Join each low summit over its highest pass to a higher one; None where nothing is left to join."""
    a, b = summit[saddles.first], summit[saddles.second]
    border = np.flatnonzero(a != b)
    a, b, passes = a[border], b[border], saddles.height[border]
    a_is_lower = (heights[a] < heights[b]) | ((heights[a] == heights[b]) & (a > b))
    low, high = np.where(a_is_lower, a, b), np.where(a_is_lower, b, a)
    # the last entry of each low summit is its highest pass; of equal ones, that to the first neighbour in row order
    order = np.lexsort((-high, passes, low))
    low, high, passes = low[order], high[order], passes[order]
    last = np.append(low[1:] != low[:-1], np.ones(min(1, len(low)), bool))
    low, high, passes = low[last], high[last], passes[last]
    shallow = heights[low] - passes < depth
    if not shallow.any():
        return None
    parent = np.arange(len(summit), dtype=np.int32)
    parent[low[shallow]] = high[shallow]
    return _roots(parent)[summit]


def without_holes(mask: NDArray[np.bool_], most: float) -> NDArray[np.bool_]:
    """Fill holes of up to ``most`` px. A hole cut by the border is left: how large it is, another window knows."""
    holes, _ = ndimage.label(~mask)
    small = np.bincount(holes.ravel()) <= most
    for border in (holes[0], holes[-1], holes[:, 0], holes[:, -1]):
        small[border] = False
    small[0] = False
    filled: NDArray[np.bool_] = mask | small[holes]
    return filled
