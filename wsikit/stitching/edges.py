"""Areas of a label image as polygons along pixel edges, gathered block by block.

The frame is that of the image: (x, y) in pixels, pixel-corner convention; pixel (0, 0) covers [0, 1) x [0, 1).

1. A *corner* is a point where four pixels meet. It matters unless they are all of one area, or of two that part in a
   straight line: then both areas turn there, or a third one ends at their common edge.
2. An area is walked with itself on the right hand. Whatever corner matters is a vertex of every area whose edge runs
   through it, straight on or not, so that neighbours have the same vertices along their common edge.
3. Where an area meets itself by a corner only, its edge turns so that what lies on either side of that corner gets a
   ring of its own: rings touch there and none crosses or touches itself, as OGC's polygons need it.
4. A corner that an edge leaves to the right is followed by the next one that an edge of the same area and row enters to
   the right; so for all four directions. That takes four sorts of corners, and no block needs to be kept: polygons do
   not depend on the blocks.

Memory: a block, 14 bytes for every corner while blocks come and about 80 while polygons are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.geometry import Region
from wsikit.outlines import ring_order

WALKED = 1 << 18
"""Corners whose rings are walked at once."""

_RIGHT, _DOWN, _LEFT, _UP = range(4)
_LEAVING = ((3, 1, 2, 0), (2, 3, 0, 1), (0, 2, 1, 3), (1, 0, 3, 2))
"""For an edge that leaves a corner to the right, down, left and up: which of the four pixels (upper left, upper right,
lower left, lower right) is on its right hand, on its left hand, behind the first, and across the corner from it."""


class _Corners(NamedTuple):
    """Corners of areas, one for every edge that leaves one."""

    area: NDArray[np.int32]
    """(M,) number of the area."""
    place: NDArray[np.int64]
    """(M,) y * (width of the image + 1) + x."""
    entering: NDArray[np.int8]
    """(M,) direction of the edge that ends there."""
    leaving: NDArray[np.int8]
    """(M,) direction of the edge that begins there."""

    def some(self, rows: NDArray[np.intp] | slice) -> _Corners:
        """Those of ``rows``, in that order."""
        return _Corners(self.area[rows], self.place[rows], self.entering[rows], self.leaving[rows])


@dataclass(slots=True)
class EdgeTracer:
    """Takes a label image block by block and makes polygons of it.

    Args:
        width: of the image, px.
        height: of the image, px.
    """

    width: int
    height: int
    _found: list[_Corners] = field(default_factory=list)
    _above: NDArray[np.int32] = field(init=False)
    """(width + 1,) the row above the blocks of this row, after a pixel that is outside of the image."""
    _below: NDArray[np.int32] = field(init=False)
    """The last row of the blocks of this row, so far."""
    _left: NDArray[np.int32] = field(init=False)
    """Last column of the block before."""

    def __post_init__(self) -> None:
        self._above, self._below = np.zeros((2, self.width + 1), np.int32)
        self._left = np.zeros(0, np.int32)

    def add(self, region: Region, areas: NDArray[np.int32] | None) -> None:
        """Take the next block. They come row by row from (0, 0), each row of one height, none left out.

        Args:
            region: where, within the image.
            areas: (region.height, region.width) number of the area that each pixel is of, 0 for none; None for a block
                without any. An area is 4-connected; all of its pixels have its number, in whichever block.
        """
        if region.x == 0:
            self._above, self._below = self._below, np.zeros_like(self._below)
            self._left = np.zeros(region.height, np.int32)
        # beyond the far border of the image there is a pixel of nothing, so that its edges have both sides
        right, bottom = int(region.x1 == self.width), int(region.y1 == self.height)
        seen = np.zeros((1 + region.height + bottom, 1 + region.width + right), np.int32)
        seen[0, : region.width + 1] = self._above[region.x : region.x1 + 1]
        seen[1 : region.height + 1, 0] = self._left
        if areas is not None:
            seen[1 : region.height + 1, 1 : region.width + 1] = areas
        self._left = seen[1 : region.height + 1, region.width].copy()
        self._below[region.x + 1 : region.x1 + 1] = seen[region.height, 1 : region.width + 1]
        if seen.any():
            self._found += self._corners(seen, region.x, region.y)

    def _corners(self, seen: NDArray[np.int32], x: int, y: int) -> list[_Corners]:
        quad = seen[:-1, :-1], seen[:-1, 1:], seen[1:, :-1], seen[1:, 1:]
        straight = ((quad[0] == quad[1]) & (quad[2] == quad[3])) | ((quad[0] == quad[2]) & (quad[1] == quad[3]))
        rows, columns = np.nonzero(~straight)
        pixels = [part[rows, columns] for part in quad]
        place = (rows + y) * (self.width + 1) + columns + x
        found = []
        for leaving, (own, other, behind, across) in enumerate(_LEAVING):
            area = pixels[own]
            begins = np.flatnonzero((area > 0) & (area != pixels[other]))
            area, pixel_behind, pixel_across = area[begins], pixels[behind][begins], pixels[across][begins]
            turned = np.where(pixel_behind == area, leaving, (leaving + 3) % 4)
            # an area that holds the pixel across its own joins it, by its side or by the corner alone
            entering = np.where(pixel_across == area, (leaving + 1) % 4, turned).astype(np.int8)
            found.append(_Corners(area, place[begins], entering, np.full(len(begins), leaving, np.int8)))
        return found

    def polygons(self) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
        """The areas, once all blocks have come.

        Returns:
            numbers: (N,) of the areas, ascending.
            polygons: (N,) valid Polygons, holes kept, corners at whole pixels; rings begin at their first one by row.
        """
        corners = self._in_order()
        numbers, first = np.unique(corners.area, return_index=True)
        polygons, first = np.empty(len(numbers), object), np.append(first, len(corners.area))
        # the walk takes a hundred bytes for a corner, so some areas at a time
        for begin, end in _chunks(first):
            polygons[begin:end] = self._polygons(corners.some(slice(first[begin], first[end])))
        return numbers.astype(np.int64), polygons

    def _in_order(self) -> _Corners:
        """All corners by area, then place, then leaving edge; what came is let go of."""
        kinds = np.int32, np.int64, np.int8, np.int8
        columns: list[Any] = [
            np.concatenate([np.zeros(0, kind), *(part[k] for part in self._found)]) for k, kind in enumerate(kinds)
        ]
        self._found.clear()
        corners = _Corners(*columns)
        return corners.some(np.lexsort((corners.leaving, corners.place, corners.area)))

    def _polygons(self, corners: _Corners) -> NDArray[np.object_]:
        """One polygon for each area of corners in order."""
        walk, starts = ring_order(self._followers(corners))
        y, x = np.divmod(corners.place[walk], self.width + 1)
        lengths = np.diff(np.append(starts, len(walk)))
        xy = np.stack([x, y], axis=1).astype(np.float64)
        rings = shapely.linearrings(xy, indices=np.repeat(np.arange(len(starts)), lengths))
        # of each area the ring through its first corner is the outer one
        owner = np.unique(corners.area[walk[starts]], return_inverse=True)[1]
        polygons: NDArray[np.object_] = shapely.polygons(rings, indices=owner)
        return polygons

    def _followers(self, corners: _Corners) -> NDArray[np.int64]:
        """(M,) index of the corner that the edge from each ends at."""
        y, x = np.divmod(corners.place, self.width + 1)
        along = x * (self.height + 1) + y
        followers = np.empty(len(x), np.int64)
        for direction in (_RIGHT, _DOWN, _LEFT, _UP):
            line = corners.place if direction in (_RIGHT, _LEFT) else along
            begin, end = (np.flatnonzero(column == direction) for column in (corners.leaving, corners.entering))
            begin, end = (rows[np.lexsort((line[rows], corners.area[rows]))] for rows in (begin, end))
            followers[begin] = end
        return followers


def _chunks(first: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of areas of about ``WALKED`` corners, of which each has (first[k], first[k + 1]), or of one area."""
    begin = 0
    while begin < len(first) - 1:
        end = max(begin + 1, int(np.searchsorted(first, first[begin] + WALKED, side="right")) - 1)
        yield begin, end
        begin = end
