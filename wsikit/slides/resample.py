"""Area averaging on a fixed lattice.

Output pixel i of ratio r covers source pixels [i * r, (i + 1) * r). Edges are rounded to 1/256 of a source pixel and
all sums are integers, so a pixel's value depends on its own index only: never on the region that was asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SUBPIXEL = 256
"""Parts into which a source pixel is divided."""


def area_average(
    source: NDArray[np.uint8], origin: tuple[int, int], ratio: float, box: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """Average ``source`` over the pixels of a coarser lattice.

    Args:
        source: (H, W, 3) pixels of a level that cover the box.
        origin: (x, y) of ``source`` in that level.
        ratio: source pixels per output pixel, at least 1.
        box: x, y, width, height of the output in its own lattice.

    Returns:
        (height, width, 3) uint8, each value rounded half up.
    """
    x, y, width, height = box
    if ratio == int(ratio):
        return _block_average(source, origin, int(ratio), box)
    rows, row_weights, row_total = _taps(y, height, ratio, origin[1])
    columns, column_weights, column_total = _taps(x, width, ratio, origin[0])
    tall = np.zeros((height, source.shape[1], 3), np.int32)
    for index, weight in zip(rows, row_weights, strict=True):
        tall += source[index] * weight[:, None, None].astype(np.int32)
    total = np.zeros((height, width, 3), np.int64)
    for index, weight in zip(columns, column_weights, strict=True):
        total += tall[:, index] * weight[None, :, None]
    area = row_total[:, None, None] * column_total[None, :, None]
    averaged: NDArray[np.uint8] = ((total + area // 2) // area).astype(np.uint8)
    return averaged


def _block_average(
    source: NDArray[np.uint8], origin: tuple[int, int], ratio: int, box: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """The same for a whole ratio, where every weight is one."""
    x, y, width, height = box
    left, top = x * ratio - origin[0], y * ratio - origin[1]
    view = source[top : top + height * ratio, left : left + width * ratio]
    tall = np.zeros((height, width * ratio, 3), np.uint32)
    for k in range(ratio):
        tall += view[k::ratio]
    total = np.zeros((height, width, 3), np.uint32)
    for k in range(ratio):
        total += tall[:, k::ratio]
    area = ratio * ratio
    return ((total + area // 2) // area).astype(np.uint8)


def _taps(
    start: int, count: int, ratio: float, origin: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Source indices (T, count), their weights (T, count) and the weights' sum (count,) for one axis."""
    edges = np.rint(np.arange(start, start + count + 1) * (ratio * SUBPIXEL)).astype(np.int64)
    low, high = edges[:-1], edges[1:]
    first = low // SUBPIXEL
    steps = np.arange(int((-(-high // SUBPIXEL) - first).max()))[:, None]
    pixel = first + steps
    weights = np.minimum(high, (pixel + 1) * SUBPIXEL) - np.maximum(low, pixel * SUBPIXEL)
    weights = np.maximum(weights, 0)
    # a tap of weight zero may point past the source: point it at the first pixel instead
    index = np.where(weights > 0, pixel, first) - origin
    return index, weights, high - low
