"""Outlines of the objects of a label image, as shapely polygons, and the pixels of polygons.

The frame is that of the image: (x, y) in pixels, pixel-corner convention, so that pixel (0, 0) covers [0, 1) x [0, 1).

An outline runs through the midpoints of the pixel edges that separate an object from what is not the object (marching
squares at one half, objects 4-connected). Every such edge belongs to one ring and is visited once, so that rings are
simple; outlines of neighbouring objects may touch, and never overlap. Each ring starts at its first edge in row order,
and all coordinates are multiples of one half: moving an object by whole pixels moves its outline by exactly as much.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.geometry import Region

_MIDPOINTS = np.array([(0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)])
"""(x, y) of the midpoints of a pixel's top, right, bottom and left edge, from the pixel's corner."""


class _Rings(NamedTuple):
    """Closed rings through edge midpoints, without the repeated last point; clockwise as seen on the screen."""

    xy: NDArray[np.float64]
    """(M, 2) vertices of all rings, one ring after another."""
    starts: NDArray[np.intp]
    """(R,) index of each ring's first vertex."""
    labels: NDArray[np.int64]
    """(R,) object that each ring belongs to."""
    areas: NDArray[np.int64]
    """(R,) pixels enclosed by the ring's edges, negative for a hole."""


def outlines(label_image: NDArray[np.integer], tolerance: float = 0.5) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Outline every object of a label image. Holes are kept.

    Args:
        label_image: (H, W) integers, 0 is background. Of a label with several 4-connected parts only the largest is
            outlined (of equal ones the first in row order).
        tolerance: largest distance in px by which simplification may move an outline (Douglas-Peucker); 0 drops only
            points on straight lines. Simplified neighbours may overlap by as much. An outline that simplification
            would make invalid stays as it was.

    Returns:
        ids: (N,) the labels present, ascending.
        polygons: (N,) valid, non-empty shapely Polygons in the frame of the image, exterior ring first point first in
            row order.
    """
    if not label_image.any():
        return np.zeros(0, np.int64), np.zeros(0, object)
    rings = _rings(label_image)
    exterior = rings.areas > 0
    ids, parts = np.unique(rings.labels[exterior], return_counts=True)
    if (parts > 1).any():
        return outlines(largest_parts(label_image), tolerance)
    return ids, _simplified(_polygons(_without_collinear(rings), ids), tolerance)


def largest_parts(label_image: NDArray[np.integer]) -> NDArray[np.int32]:
    """Keep of every label only its largest 4-connected part, of equal ones the first in row order.

    Args:
        label_image: (H, W) integers, 0 is background.

    Returns:
        (H, W) with the same labels; all other pixels are 0.
    """
    from skimage.measure import label as label_parts

    # equal labels that touch by an edge are one part; parts are numbered in row order
    parts = label_parts(label_image, background=0, connectivity=1)
    sizes = np.bincount(parts.ravel())
    owner = np.zeros(len(sizes), np.int32)
    owner[parts.ravel()] = label_image.ravel()
    owner[0] = 0
    order = np.lexsort((np.arange(len(sizes)), -sizes, owner))
    first = order[np.append(True, np.diff(owner[order]) > 0)]
    kept = np.zeros(len(sizes), np.int32)
    kept[first] = owner[first]
    largest: NDArray[np.int32] = kept[parts]
    return largest


def moments(label_image: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Sum of x, sum of y and number of pixels of the objects 1 to ``count``, exactly.

    Args:
        label_image: (H, W) integers from 0 (background) to ``count``.
        count: number of objects, N.

    Returns:
        (N, 3) by pixel index in the frame of the image; row i belongs to label i + 1.
    """
    pixels = np.flatnonzero(label_image)
    y, x = np.divmod(pixels, label_image.shape[1])
    label = label_image.ravel()[pixels]
    # sums stay far below 2**53, up to which float64 adds integers exactly
    columns = [np.bincount(label, weights, count + 1)[1:] for weights in (x, y, None)]
    return np.stack(columns, axis=1).astype(np.int64)


def circularity(polygons: NDArray[np.object_]) -> NDArray[np.float64]:
    """(N,) 4 pi area / perimeter^2 of outlines, 1 for a circle; no outline of pixels gives more."""
    roundness: NDArray[np.float64] = 4 * np.pi * shapely.area(polygons) / shapely.length(polygons) ** 2
    return np.minimum(roundness, 1.0)


def _rings(label_image: NDArray[np.integer]) -> _Rings:
    """Follow the edges around every object, with the object on the right hand."""
    keys, follower, width, flat = _edges(label_image)
    order, starts = ring_order(follower)
    keys = keys[order]
    pixel, side = np.divmod(keys, 4)
    row, column = np.divmod(pixel, width)
    x, y = column - 1, row - 1
    # area between the y axis and the ring: right edges add it, left edges take it off
    strip = np.where(side == 1, x + 1, np.where(side == 3, -x, 0))
    areas = np.add.reduceat(strip, starts)
    xy = np.stack([x, y], axis=1) + _MIDPOINTS[side]
    return _Rings(xy, starts, flat[pixel[starts]].astype(np.int64), areas)


def _edges(
    label_image: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, NDArray[np.integer]]:
    """All edges between an object and something else, as 4 * pixel + side of the padded image, with their followers.

    Sides are 0 top, 1 right, 2 bottom, 3 left, walked clockwise. Returns the sorted keys, the index of the edge that
    follows each, the width of the padded image and that image, flat.
    """
    padded = np.pad(label_image, 1)
    width = padded.shape[1]
    flat = padded.ravel()
    outward = (-width, 1, width, -1)
    pixels = [_edge_pixels(flat, step) for step in outward]
    keys = np.concatenate([4 * pixel + side for side, pixel in enumerate(pixels)])
    follow = np.concatenate([_follow(flat, pixel, side, outward) for side, pixel in enumerate(pixels)])
    order = np.argsort(keys)
    keys = keys[order]
    return keys, np.searchsorted(keys, follow[order]), width, flat


def _edge_pixels(flat: NDArray[np.integer], outward: int) -> NDArray[np.intp]:
    """Object pixels whose neighbour ``outward`` steps away has another label. The padding keeps steps inside."""
    shift = abs(outward)
    differs = np.flatnonzero(flat[shift:] != flat[:-shift])
    pixel = differs if outward > 0 else differs + shift
    return pixel[flat[pixel] > 0]


def _follow(
    flat: NDArray[np.integer], pixel: NDArray[np.intp], side: int, outward: tuple[int, int, int, int]
) -> NDArray[np.int64]:
    """The edge after ``side`` of each pixel: around the pixel's own corner, straight on, or around an inner corner."""
    ahead = pixel + outward[(side + 1) % 4]
    diagonal = ahead + outward[side]
    label = flat[pixel]
    turn = 4 * pixel + (side + 1) % 4
    straight = 4 * ahead + side
    inner = 4 * diagonal + (side + 3) % 4
    # a diagonal neighbour counts only where the pixel ahead joins it: objects are 4-connected
    return np.where(flat[ahead] != label, turn, np.where(flat[diagonal] != label, straight, inner))


def ring_order(follower: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Edges in walking order, ring after ring, each from its first edge in row order; and where the rings start."""
    following: list[int] = follower.tolist()
    visited = bytearray(len(following))
    order: list[int] = []
    starts: list[int] = []
    for first in range(len(following)):
        if visited[first]:
            continue
        starts.append(len(order))
        edge = first
        while not visited[edge]:
            visited[edge] = 1
            order.append(edge)
            edge = following[edge]
    return np.array(order, np.intp), np.array(starts, np.intp)


def _without_collinear(rings: _Rings) -> _Rings:
    """Drop vertices on a straight line between their neighbours."""
    count = len(rings.xy)
    before, after = np.arange(-1, count - 1), np.arange(1, count + 1)
    ends = np.append(rings.starts[1:], count) - 1
    before[rings.starts], after[ends] = ends, rings.starts
    back, ahead = rings.xy - rings.xy[before], rings.xy[after] - rings.xy
    bend = back[:, 0] * ahead[:, 1] != back[:, 1] * ahead[:, 0]
    starts = np.append(0, np.cumsum(bend))[rings.starts]
    return rings._replace(xy=rings.xy[bend], starts=starts)


def _polygons(rings: _Rings, ids: NDArray[np.int64]) -> NDArray[np.object_]:
    """One polygon per id from one exterior ring and any holes of that label."""
    lengths = np.diff(np.append(rings.starts, len(rings.xy)))
    closed = shapely.linearrings(rings.xy, indices=np.repeat(np.arange(len(lengths)), lengths))
    exterior = rings.areas > 0
    shells = np.empty(len(ids), object)
    shells[np.searchsorted(ids, rings.labels[exterior])] = closed[exterior]
    owner = np.searchsorted(ids, rings.labels[~exterior])
    by_owner = np.argsort(owner, kind="stable")
    polygons: NDArray[np.object_] = shapely.polygons(shells)
    pierced, first = np.unique(owner[by_owner], return_index=True)
    for index, holes in zip(pierced, np.split(closed[~exterior][by_owner], first[1:]), strict=False):
        polygons[index] = shapely.polygons(shells[index], holes=holes)
    return polygons


def _simplified(polygons: NDArray[np.object_], tolerance: float) -> NDArray[np.object_]:
    if tolerance <= 0:
        return polygons
    simpler = shapely.simplify(polygons, tolerance, preserve_topology=False)
    sound = shapely.is_valid(simpler) & ~shapely.is_empty(simpler) & (shapely.get_type_id(simpler) == 3)
    kept: NDArray[np.object_] = np.where(sound, simpler, polygons)
    return kept


def pixels(
    shapes: NDArray[np.object_], region: Region
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The pixels of a region whose centres lie in polygons: rows, columns, and which polygon each belongs to.

    All polygons at once, by scanlines: every edge crosses the line through the centres of a row of pixels in one place;
    the crossings of a polygon with a line, sorted, bound its inside by pairs, holes and all.

    Args:
        shapes: (N,) Polygons in pixels of the region's lattice.
        region: where; rows and columns count from its corner.

    Returns:
        Three (M,) arrays, sorted by polygon.
    """
    x0, y0, x1, y1, polygon = _polygon_edges(shapes, region)
    # an edge crosses the lines y = row + 0.5 with y0 <= row + 0.5 < y1, whichever end is up
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, region.height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, region.height).astype(np.int64)
    edge, row = _ranges(first, last)
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * slope
    order = np.lexsort((x, row, polygon[edge]))
    x, row, owner = x[order], row[order], polygon[edge][order]
    enter = np.clip(np.ceil(x[::2] - 0.5), 0, region.width).astype(np.int64)
    leave = np.clip(np.ceil(x[1::2] - 0.5), 0, region.width).astype(np.int64)
    span, column = _ranges(enter, leave)
    return row[::2][span], column, owner[::2][span]


def _polygon_edges(shapes: NDArray[np.object_], region: Region) -> tuple[NDArray[Any], ...]:
    """x0, y0, x1, y1 of all edges that are not level, from the region's corner, and the polygon that each is of."""
    rings, polygon = shapely.get_rings(shapes, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points = points - (region.x, region.y)
    start = np.flatnonzero((ring[1:] == ring[:-1]) & (points[1:, 1] != points[:-1, 1]))
    return *points[start].T, *points[start + 1].T, polygon[ring[start]]


def _ranges(first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The integers of many half-open ranges: which range each is of, and the integer."""
    counts = np.maximum(last - first, 0)
    owner = np.repeat(np.arange(len(counts)), counts)
    step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, first[owner] + step


def coverage(shapes: NDArray[np.object_], region: Region) -> NDArray[np.float64]:
    """(region.height, region.width) the share of each pixel that lies in polygons, exactly.

    1. Cut every edge at the lines between pixels, so that each piece lies in one pixel.
    2. A piece that runs down by dy covers, in its row, dy of every pixel to its right and, of its own pixel, dy times
       what lies to the right of the piece's middle. Pieces of the other side of the polygon take it off again.
    3. Add up from left to right.

    Args:
        shapes: (N,) valid Polygons that do not overlap, in pixels of the region's lattice.
        region: where.
    """
    # normal form: left sides of shells run down, those of holes up
    x0, y0, x1, y1, _ = _polygon_edges(shapely.normalize(shapes), region)
    edge, start, stop = _pieces(x0, y0, x1, y1, region)
    down = (stop - start) * (y1 - y0)[edge]
    middle = (start + stop) / 2
    x, y = x0[edge] + middle * (x1 - x0)[edge], y0[edge] + middle * (y1 - y0)[edge]
    kept = (y >= 0) & (y < region.height) & (x < region.width)
    row, x, down = np.floor(y[kept]).astype(np.int64), np.maximum(x[kept], 0.0), down[kept]
    column = np.floor(x).astype(np.int64)
    # one more column catches what begins in the last pixel
    width = region.width + 1
    place, size = row * width + column, region.height * width
    change = np.bincount(place, down * (column + 1 - x), size) + np.bincount(place + 1, down * (x - column), size)
    total = np.cumsum(change.reshape(region.height, width), axis=1)[:, :-1]
    return np.clip(total, 0.0, 1.0)


def _pieces(
    x0: NDArray[np.float64],
    y0: NDArray[np.float64],
    x1: NDArray[np.float64],
    y1: NDArray[np.float64],
    region: Region,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Edges, from the region's corner, cut at whole x and y of the region: which edge each piece is of, and where on
    it, from 0 to 1, it begins and ends."""
    edges, places = [np.arange(len(x0))], [np.zeros(len(x0))]
    for a, b, size in ((x0, x1, region.width), (y0, y1, region.height)):
        # beyond the region an edge of any length is one piece
        first = np.clip(np.floor(np.minimum(a, b)) + 1, 0, size + 1).astype(np.int64)
        last = np.clip(np.ceil(np.maximum(a, b)), 0, size + 1).astype(np.int64)
        edge, line = _ranges(first, last)
        edges.append(edge)
        places.append((line - a[edge]) / (b - a)[edge])
    edge, start = np.concatenate(edges), np.concatenate(places)
    order = np.lexsort((start, edge))
    edge, start = edge[order], start[order]
    stop = np.append(start[1:], 1.0)
    stop[np.append(edge[1:] != edge[:-1], True)] = 1.0
    return edge, start, stop
