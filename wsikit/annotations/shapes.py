"""Geometries from what files hold: points, lines, rings, boxes, ellipses; and holes that stand apart from their areas.

The frame is the file's own: (x, y) in pixels, pixel-corner convention.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import affinity

from wsikit.annotations.annotations import Item
from wsikit.errors import AnnotationError

MAX_COORDINATE = 1e9
"""px, a thousand slides wide: geometry overflows where nothing says how far out a corner may lie."""
ELLIPSE_CORNERS = 128
"""Corners of the polygon that stands for an ellipse: 0.03 % of its radius off at most."""


def coordinates(points: object, where: str) -> NDArray[np.float64]:
    """(N, 2) finite x, y of a list of positions; further values of a position (z) are left out.

    Raises AnnotationError, beginning with ``where``, for what is no list of positions.
    """
    try:
        array = np.array(points, np.float64)
    except (ValueError, TypeError) as error:
        raise AnnotationError(f"{where}: positions are lists of numbers [x, y], got {_short(points)}") from error
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise AnnotationError(f"{where}: positions are lists of numbers [x, y], got {_short(points)}")
    if not (np.abs(array[:, :2]) <= MAX_COORDINATE).all():
        raise AnnotationError(
            f"{where}: coordinates must be finite numbers of at most {MAX_COORDINATE:g} px, got {_short(points)}"
        )
    return array[:, :2]


def polygon(rings: Sequence[object], where: str) -> shapely.Polygon:
    """A Polygon of an outer ring and holes, closed where they are not. Raises AnnotationError for under 3 corners."""
    closed = [coordinates(ring, where) for ring in rings]
    # of longer rings only the number is looked at: a hundred times as fast
    if not closed or any(len(ring) <= 8 and len(set(map(tuple, ring.tolist()))) < 3 for ring in closed):
        raise AnnotationError(f"{where}: an area needs at least 3 corners, got {_short(rings)}")
    return shapely.Polygon(closed[0], closed[1:])


def encloses(points: Sequence[tuple[float, float]]) -> bool:
    """Whether a ring has the 3 corners that it takes to be an area; a stray click has not."""
    return len(set(points)) >= 3


def line(points: object, where: str) -> shapely.LineString:
    """A line. Raises AnnotationError for fewer than 2 points."""
    xy = coordinates(points, where)
    if len(xy) < 2:
        raise AnnotationError(f"{where}: a line needs at least 2 points, got {_short(points)}")
    return shapely.LineString(xy)


def dots(points: object, where: str) -> shapely.Point | shapely.MultiPoint:
    """A Point, or a MultiPoint where there are several. Raises AnnotationError where there is none."""
    xy = coordinates(points, where)
    return shapely.Point(xy[0]) if len(xy) == 1 else shapely.MultiPoint(xy)


def ellipse(bounds: Sequence[float], where: str, rotation: float = 0.0) -> shapely.Polygon:
    """The ellipse that fills a box (x0, y0, x1, y1), as a polygon; turned clockwise on the screen, in radians."""
    x0, y0, x1, y1 = _box(bounds, where)
    angle = np.arange(ELLIPSE_CORNERS) * (2 * math.pi / ELLIPSE_CORNERS)
    x = (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(angle)
    y = (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(angle)
    return _turned(shapely.Polygon(np.stack([x, y], axis=1)), rotation, where)


def rectangle(bounds: Sequence[float], where: str, rotation: float = 0.0) -> shapely.Polygon:
    """A box (x0, y0, x1, y1), turned about its middle, clockwise on the screen, in radians."""
    return _turned(shapely.box(*_box(bounds, where)), rotation, where)


def _box(bounds: Sequence[float], where: str) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = coordinates([bounds[:2], bounds[2:]], where)
    if x0 == x1 or y0 == y1:
        raise AnnotationError(f"{where}: a box needs a width and a height, got {_short(bounds)}")
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _turned(shape: shapely.Polygon, rotation: float, where: str) -> shapely.Polygon:
    if not math.isfinite(rotation):
        raise AnnotationError(f"{where}: a rotation must be a finite number of radians, got {rotation}")
    # y runs down, so that shapely's counter-clockwise is clockwise on the screen
    return affinity.rotate(shape, rotation, "center", use_radians=True) if rotation else shape


def _short(value: object) -> str:
    return reprlib.repr(value)


@dataclass(frozen=True, slots=True)
class Hole:
    """A hole that a file holds as an object of its own."""

    ring: shapely.Polygon
    after: int
    """Number of items before it in the file."""
    where: str
    """What it is, for messages."""


def cut_holes(items: Sequence[Item], holes: Sequence[Hole]) -> list[str]:
    """Cut holes out of the areas that they lie in, in place.

    A hole belongs to the object just before it where that covers it, else to the smallest that does.

    Returns:
        A sentence for each hole that lies in no area.
    """
    left = []
    for hole in holes:
        owner = _owner(items, hole)
        if owner is None:
            left.append(f"{hole.where} is a hole that lies in no area, left out")
        else:
            owner.geometry = _without(owner.geometry, hole.ring)
    return left


def _owner(items: Sequence[Item], hole: Hole) -> Item | None:
    outer = [i for i, item in enumerate(items) if isinstance(item.geometry, shapely.Polygon)]
    before = [i for i in outer if i < hole.after]
    if before and _holds(items[before[-1]].geometry, hole.ring):
        return items[before[-1]]
    holding = [items[i] for i in outer if _holds(items[i].geometry, hole.ring)]
    return min(holding, key=lambda item: float(item.geometry.area), default=None)


def _holds(area: shapely.Polygon, ring: shapely.Polygon) -> bool:
    # a hole may touch holes that were cut before it: the outer ring decides
    return bool(shapely.covers(_sound(shapely.Polygon(area.exterior)), _sound(ring)))


def _sound(shape: shapely.Polygon) -> shapely.Geometry:
    return shape if shapely.is_valid(shape) else shapely.make_valid(shape)


def _without(area: shapely.Polygon, ring: shapely.Polygon) -> shapely.Geometry:
    """The ring kept as the file has it, where that gives an area; else what the hole leaves."""
    pierced = shapely.Polygon(area.exterior, [*area.interiors, ring.exterior])
    if shapely.is_valid(pierced) or not (shapely.is_valid(area) and shapely.is_valid(ring)):
        return pierced
    return shapely.difference(area, ring)
