"""Regions of interest: polygons that bound what is looked at, exactly, whatever the resolution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.geometry import Region

TOUCH = 1e-6
"""Pixels by which boxes are taken smaller, so that one whose edge lies on a region's edge does not touch it."""


class Area(NamedTuple):
    """A region of interest as somebody has drawn it."""

    shape: shapely.Polygon | shapely.MultiPolygon
    """Valid; (x, y) in level-0 pixels of the full plane."""
    name: str = ""
    """As it was called; empty where it has no name."""
    label: str = ""
    """Its class; empty for none."""


@dataclass(frozen=True, eq=False)
class Limits:
    """The union of some polygons."""

    polygons: NDArray[np.object_]
    """(N,) valid shapely Polygons; (x, y) in level-0 pixels of the full plane."""
    mpp: float
    """Micrometres per level-0 pixel."""
    drawn: tuple[Area, ...] = ()
    """The areas that the polygons are parts of, where more is known of them."""

    @property
    def areas(self) -> tuple[Area, ...]:
        """As they were drawn; they may overlap. Each polygon is one where no more is known."""
        return self.drawn or tuple(Area(polygon) for polygon in self.polygons)

    @cached_property
    def area(self) -> shapely.Geometry:
        """All of it as one geometry, in level-0 pixels of the full plane."""
        union = shapely.union_all(self.polygons)
        shapely.prepare(union)
        return union

    def contains(self, x: NDArray[np.float64], y: NDArray[np.float64], mpp: float) -> NDArray[np.bool_]:
        """(N,) whether points, in pixels of the lattice of ``mpp``, lie inside or on the edge."""
        scale = mpp / self.mpp
        found: NDArray[np.bool_] = shapely.intersects_xy(self.area, x * scale, y * scale)
        return found

    def touches(self, boxes: NDArray[np.float64], mpp: float) -> NDArray[np.bool_]:
        """(N,) whether boxes, (N, 4) x0, y0, x1, y1 in pixels of the lattice of ``mpp``, share an area with it."""
        x0, y0, x1, y1 = ((boxes + np.array([TOUCH, TOUCH, -TOUCH, -TOUCH])) * (mpp / self.mpp)).T
        found: NDArray[np.bool_] = shapely.intersects(self.area, shapely.box(x0, y0, x1, y1))
        return found

    def sample(self, region: Region) -> NDArray[np.bool_]:
        """(region.height, region.width) whether the centre of each pixel of a region lies inside."""
        from wsikit.outlines import pixels

        inside = np.zeros((region.height, region.width), np.bool_)
        rows, columns, _ = pixels(self._on_lattice(region.mpp), region)
        inside[rows, columns] = True
        return inside

    def shares(self, region: Region) -> NDArray[np.float64]:
        """(region.height, region.width) the share of each pixel of a region that lies inside."""
        from wsikit.outlines import coverage

        return coverage(self._on_lattice(region.mpp), region)

    def _on_lattice(self, mpp: float) -> NDArray[np.object_]:
        """The disjoint parts, in pixels of the lattice of ``mpp``."""
        scale = self.mpp / mpp
        parts = shapely.get_parts(self.area)
        moved: NDArray[np.object_] = shapely.transform(parts, lambda xy: xy * scale)
        return moved
