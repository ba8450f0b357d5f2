"""How far pixels are from points, and which point is nearest.

Points are (N, 2), x and y in px in the frame of an array of shape (height, width), pixel-corner convention: the middle
of the pixel in row r and column c is (c + 0.5, r + 0.5). They may lie outside the array, as those of a halo do, and
everything here is a function of a pixel's place and of the points alone: a crop whose points are shifted by its origin
has the values of the whole.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError

if TYPE_CHECKING:
    from scipy.spatial import KDTree

TIE_PX = 1e-9
"""Distances that differ by less are equal: what shifting a frame rounds off must not change which point is nearest."""
BLOCK = 1 << 18
"""Pixels that are looked up at once; bounds the memory."""


def checked_points(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 2) points as doubles.

    Raises ConfigError for another shape, or a coordinate that is no finite number.
    """
    checked = np.asarray(points, np.float64)
    if checked.ndim != 2 or checked.shape[1] != 2:
        raise ConfigError(f"points must have shape (N, 2), x and y in px, got {checked.shape}")
    wrong = np.flatnonzero(~np.isfinite(checked).all(axis=1))
    if len(wrong):
        raise ConfigError(
            f"point {int(wrong[0])} has a coordinate that is no finite number",
            remedy="leave points without coordinates out",
        )
    return checked


def point_distance(points: NDArray[np.floating], shape: tuple[int, int], reach: float) -> NDArray[np.float64]:
    """(H, W) distance in px of each pixel's middle to the nearest point, infinite beyond ``reach``.

    A window around each point is enough, so that the time grows with the area within reach of points, not with the
    image: this is drawn anew for every training crop.
    """
    height, width = shape
    squared = np.full(shape, np.inf)
    for x, y in checked_points(points):
        rows, columns = _within(y, reach, height), _within(x, reach, width)
        window = squared[rows.start : rows.stop, columns.start : columns.stop]
        across, down = np.asarray(columns) + 0.5 - x, np.asarray(rows) + 0.5 - y
        np.minimum(window, down[:, None] ** 2 + across**2, out=window)
    distance: NDArray[np.float64] = np.sqrt(squared)
    distance[distance > reach] = np.inf
    return distance


def _within(place: float, reach: float, length: int) -> range:
    """Pixels of an axis whose middles are within reach of a place."""
    first = min(max(math.ceil(place - reach - 0.5), 0), length)
    return range(first, max(min(math.floor(place + reach - 0.5) + 1, length), first))


def nearest_point(
    points: NDArray[np.floating],
    shape: tuple[int, int],
    *,
    reach: float = math.inf,
    origin: tuple[int, int] = (0, 0),
) -> NDArray[np.int64]:
    """(H, W) index of the point that is nearest to each pixel's middle; -1 where none is within reach.

    Of points at the same distance the leftmost counts, then the uppermost; of coincident points the first. So neither
    their order nor the way in which an image is cut changes anything but the numbers.

    Args:
        points: see the module.
        shape: (height, width) of the array.
        reach: largest distance in px, inclusive.
        origin: (x, y) of the array's first pixel in the frame of the points.
    """
    from scipy.spatial import KDTree

    points = checked_points(points)
    if not len(points):
        return np.full(shape, -1, np.int64)
    # sorted by x, then y: the lowest of equal ones is the leftmost
    seeds, first = np.unique(points, axis=0, return_index=True)
    tree = KDTree(seeds)
    rows = max(1, BLOCK // max(shape[1], 1))
    found = [
        _nearest(tree, _middles(range(top, min(top + rows, shape[0])), shape[1], origin), reach)
        for top in range(0, shape[0], rows)
    ]
    seed = np.concatenate([np.zeros(0, np.int64), *found]).reshape(shape)
    index: NDArray[np.int64] = np.append(first, -1)[seed]
    return index


def _middles(rows: range, width: int, origin: tuple[int, int]) -> NDArray[np.float64]:
    """(P, 2) x and y of the middles of pixels, row by row."""
    x, y = np.meshgrid(np.arange(width) + origin[0] + 0.5, np.asarray(rows) + origin[1] + 0.5)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _nearest(tree: KDTree, places: NDArray[np.float64], reach: float) -> NDArray[np.int64]:
    """(P,) index of the seed nearest to each place, the lowest of equal ones; ``tree.n`` where none is within reach."""
    distance, index = tree.query(places, k=[1, 2], distance_upper_bound=np.nextafter(reach, np.inf))
    nearest = np.asarray(index[:, 0], np.int64)
    tied = np.flatnonzero((distance[:, 1] <= distance[:, 0] + TIE_PX) & np.isfinite(distance[:, 0]))
    if len(tied):
        groups = tree.query_ball_point(places[tied], distance[tied, 0] + TIE_PX)
        nearest[tied] = [min(group) for group in groups]
    return nearest
