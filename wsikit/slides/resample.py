"""Area averaging on a fixed lattice.

Output pixel i of ratio r covers source pixels [i * r, (i + 1) * r). Edges are rounded to 1/256 of a source pixel and
all sums are exact integers (in floating point where their size allows), so a pixel's value depends on its own index
only: never on the region that was asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy import sparse

SUBPIXEL = 256
"""Parts into which a source pixel is divided."""
BLOCK = 64
"""Output rows that are made at once: sums of more than these fall out of the processor's cache."""


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
    if ratio == int(ratio):
        return _whole_ratio(source, origin, int(ratio), box)
    return _any_ratio(source, origin, ratio, box)


def source_box(ratio: float, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The source pixels that a box of the coarser lattice covers, and none that its rounded edges leave out.

    One more at the slide's border would lie outside it, and all that is read there be copied beside background.

    Args:
        ratio: source pixels per output pixel.
        box: x, y, width, height of the output in its own lattice.

    Returns:
        x0, y0, x1, y1 in pixels of the level; x1 and y1 are past the last.

    >>> source_box(1.9999999, (3, 0, 3, 2))
    (6, 0, 12, 4)
    """
    x, y, width, height = box
    left, top, right, bottom = (round(edge * (ratio * SUBPIXEL)) for edge in (x, y, x + width, y + height))
    return left // SUBPIXEL, top // SUBPIXEL, -(-right // SUBPIXEL), -(-bottom // SUBPIXEL)


def _whole_ratio(
    source: NDArray[np.uint8], origin: tuple[int, int], ratio: int, box: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """Every source pixel counts fully, for one output pixel: plain sums."""
    x, y, width, height = box
    left, top = x * ratio - origin[0], y * ratio - origin[1]
    area = ratio * ratio
    # 16 bits where the sum fits: twice as many at a time
    kind: Any = np.uint16 if 255 * area + area // 2 <= np.iinfo(np.uint16).max else np.uint32
    averaged = np.empty((height, width, 3), np.uint8)
    for first in range(0, height, BLOCK):
        rows = min(BLOCK, height - first)
        start = top + first * ratio
        view = source[start : start + rows * ratio, left : left + width * ratio]
        tall = view[0::ratio].astype(kind)
        for k in range(1, ratio):
            tall += view[k::ratio]
        # channel by channel, so that the inner loop runs along the row and not over three values
        total = np.full((3, rows, width), area // 2, kind)
        for channel in range(3):
            for k in range(ratio):
                total[channel] += tall[:, k::ratio, channel]
        total //= kind(area)
        averaged[first : first + rows] = total.transpose(1, 2, 0)
    return averaged


def _any_ratio(
    source: NDArray[np.uint8], origin: tuple[int, int], ratio: float, box: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """Weighted sums, rows first: a sparse matrix for each axis."""
    x, y, width, height = box
    # sums of whole numbers are exact up to 2^24 in float32 and 2^53 in float64
    narrow = 255 * SUBPIXEL * (ratio + 2) < 2**24
    columns, column_total = _weights(x, width, ratio, origin[0], source.shape[1], np.float64)
    averaged = np.empty((height, width, 3), np.uint8)
    for first in range(0, height, BLOCK):
        rows = min(BLOCK, height - first)
        low = max(0, math.floor((y + first) * ratio) - 1 - origin[1])
        part = source[low : math.ceil((y + first + rows) * ratio) + 1 - origin[1]]
        kind = np.float32 if narrow else np.float64
        weights, row_total = _weights(y + first, rows, ratio, origin[1] + low, len(part), kind)
        tall = weights @ part.reshape(len(part), -1).astype(kind)
        # (rows, W, 3) -> (W, rows * 3): the other axis first
        turned = np.ascontiguousarray(tall.reshape(rows, -1, 3).transpose(1, 0, 2), np.float64)
        total = (columns @ turned.reshape(len(turned), -1)).reshape(width, rows, 3)
        area = np.multiply.outer(column_total, row_total)[..., None]
        # exact enough: a quotient below a whole number is at least 1 / area below it
        averaged[first : first + rows] = ((total + area // 2) / area).astype(np.uint8).transpose(1, 0, 2)
    return averaged


def _weights(
    start: int, count: int, ratio: float, origin: int, length: int, kind: Any
) -> tuple[sparse.csr_array, NDArray[np.int64]]:
    """(count, length) weights of the source pixels, in 1/256 of a pixel, and their (count,) sums, for one axis."""
    from scipy import sparse

    edges = np.rint(np.arange(start, start + count + 1) * (ratio * SUBPIXEL)).astype(np.int64)
    low, high = edges[:-1], edges[1:]
    first = low // SUBPIXEL
    taps = -(-high // SUBPIXEL) - first
    starts = np.concatenate([[0], np.cumsum(taps)])
    pixel = np.arange(starts[-1]) - np.repeat(starts[:-1] - first, taps)
    weights = np.minimum(np.repeat(high, taps), (pixel + 1) * SUBPIXEL) - np.maximum(
        np.repeat(low, taps), pixel * SUBPIXEL
    )
    return sparse.csr_array((weights.astype(kind), pixel - origin, starts), shape=(count, length)), high - low
