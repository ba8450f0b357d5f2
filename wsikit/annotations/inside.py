"""A point inside each object: the pixel of it that is nearest to its centroid.

The frame is that of the image: (x, y) in px, pixel-corner convention, so that the middle of pixel (row, column) is
(column + 0.5, row + 0.5).
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.geometry import Region
from wsikit.outlines import pixels


def inner_points(
    rows: NDArray[np.integer], columns: NDArray[np.integer], owner: NDArray[np.integer], count: int
) -> NDArray[np.float64]:
    """(count, 2) the middle of the pixel of each object that is nearest to the mean of all its pixels.

    A crescent's centroid lies outside of it, this never does. Of equally near pixels it is the first in row order; NaN
    for objects without pixels.

    Args:
        rows, columns: (M,) of pixels.
        owner: (M,) object of each, 0 to ``count`` - 1.
        count: of objects.
    """
    xy = np.stack([columns, rows], axis=1) + 0.5
    size = np.bincount(owner, minlength=count)
    sums = np.stack([np.bincount(owner, xy[:, k], minlength=count) for k in (0, 1)], axis=1)
    means = sums / np.maximum(size, 1)[:, None]
    # rounded, so that pixels as near as one another are so whatever the sums were rounded to
    distance = np.round(((xy - means[owner]) ** 2).sum(axis=1), 6)
    least = np.full(count, np.inf)
    np.minimum.at(least, owner, distance)
    near = np.flatnonzero(distance == least[owner])
    near = near[np.lexsort((columns[near], rows[near], owner[near]))]
    numbers, first = np.unique(owner[near], return_index=True)
    found = np.full((count, 2), np.nan)
    found[numbers] = xy[near[first]]
    return found


def points_of_labels(labels: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The numbers of a label image, rising, and the ``inner_points`` of their objects.

    Args:
        labels: (H, W), 0 is background; a number in several parts is one object.

    Returns:
        numbers: (N,).
        points: (N, 2) x, y.
    """
    rows, columns = np.nonzero(labels)
    numbers, owner = np.unique(labels[rows, columns], return_inverse=True)
    return numbers.astype(np.int64), inner_points(rows, columns, owner, len(numbers))


def points_of_areas(shapes: NDArray[np.object_], width: int, height: int) -> NDArray[np.float64]:
    """(N, 2) the ``inner_points`` of areas, each for itself, of the pixels of an image whose centres lie in them.

    Args:
        shapes: (N,) Polygons or MultiPolygons in px of the image.
        width, height: of the image in px.

    Returns:
        x, y; NaN for an area that holds no pixel's centre.
    """
    parts, owner = shapely.get_parts(shapes, return_index=True)
    rows, columns, part = pixels(parts, Region(0, 0, width, height, 1.0))
    return inner_points(rows, columns, owner[part], len(shapes))
