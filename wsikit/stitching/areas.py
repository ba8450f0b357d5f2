"""Class maps as areas: cleaned up, and outlined along pixel edges.

1. All blocks are merged once for their connected areas (``components``), which are then cleaned up in um^2.
2. They are merged once more, their pixels given the classes that came out. These blocks go to the sinks, and their
   edges to the tracer (``edges``): map and polygons say the same.
3. Polygons of all areas are simplified at once as a coverage: neighbours keep one edge between them. Where the area of
   a class would change by more than ``AREA_ERROR``, all are simplified less.

The outcome is that of the map, whatever the blocks. Memory: a block, and what areas are drawn with: 14 bytes for every
corner of their edges while blocks come, about 170 at the end, when outlines are simplified. It grows with the length of
all edges, and not with the slide's area.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.features import MaskBlock
from wsikit.geometry import Region
from wsikit.predictions import AreaSpec, Label
from wsikit.stitching.components import AreaGraph, SettledAreas
from wsikit.stitching.edges import EdgeTracer
from wsikit.stitching.maps import STEPS, MapMerge
from wsikit.stitching.raster import blocks

TOLERANCES = (1.0, 0.5, 0.25)
"""px by which outlines may be simplified, in the order in which they are tried: at 1 the steps of slanted edges go."""
AREA_ERROR = 0.01
"""Largest share by which the polygons of a class may be larger or smaller than its pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlined:
    """N areas of other classes than background, in the order of their first pixels by row."""

    polygons: NDArray[np.object_]
    """(N,) valid Polygons in pixels of the map, holes kept; those that touch share their edges."""
    labels: NDArray[np.int64]
    """(N,) index of the label."""
    pixels: NDArray[np.int64]
    """(N,) of the map."""
    scores: NDArray[np.float64]
    """(N,) mean score of that label over them."""


@dataclass(slots=True)
class AreaMerge:
    """The cleaned class map of a slide, block by block, and then its areas.

    Args:
        merge: the map.
        labels: K; background ones receive nothing in the clean-up and are not outlined.
        spec: what is too small.
        side: of the blocks, in lattice pixels.
    """

    merge: MapMerge
    labels: Sequence[Label]
    spec: AreaSpec
    side: int
    _settled: SettledAreas | None = None
    _tracer: EdgeTracer | None = None
    _background: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self._background = np.array([label.background for label in self.labels], np.bool_)

    @property
    def _plane(self) -> Region:
        grid = self.merge.grid
        return Region(0, 0, *grid.size, grid.spec.mpp)

    def blocks(self) -> Iterator[MaskBlock]:
        """Blocks that hold anything, as ``MapMerge.blocks`` gives them, with the cleaned classes."""
        plane = self._plane
        self._tracer = EdgeTracer(plane.width, plane.height)
        for region in blocks(plane, self.side):
            block, outlined = self._cleaned(region)
            self._tracer.add(region, outlined)
            if block is not None:
                yield block

    def classes(self, region: Region) -> NDArray[np.uint8]:
        """(H, W) cleaned classes of any region: label + 1, 0 where nothing was analysed."""
        found = np.zeros((region.height, region.width), np.uint8)
        for square in blocks(self._plane, self.side):
            inside = square.intersection(region)
            block = self._cleaned(square)[0] if inside is not None else None
            if inside is not None and block is not None:
                found[inside.slices(region)] = block.layers["classes"][inside.slices(square)]
        return found

    def areas(self) -> Outlined:
        """The areas, once ``blocks`` has come to its end."""
        assert self._tracer is not None  # blocks were asked for before
        numbers, polygons = self._tracer.polygons()
        areas, index = self._settle().areas, numbers - 1
        labels, pixels = areas.labels[index], areas.pixels[index]
        scores = areas.sums[index, labels] / (STEPS * np.maximum(pixels, 1))
        return Outlined(simplified(polygons, labels, pixels), labels, pixels, scores)

    def _settle(self) -> SettledAreas:
        if self._settled is None:
            grid = self.merge.grid
            graph = AreaGraph(grid.size[0], len(self.labels), self.spec.least_um2 / grid.spec.mpp**2)
            for region in blocks(self._plane, self.side):
                block = self.merge.block(region)
                if block is None:
                    graph.add(region, None, None)
                else:
                    graph.add(region, block.layers["classes"].astype(np.uint8, copy=False), block.scores)
            self._settled = graph.settled((~self._background).tolist())
        return self._settled

    def _cleaned(self, region: Region) -> tuple[MaskBlock | None, NDArray[np.int32] | None]:
        """A block, and for its pixels 1 + the index of the area that will be outlined, 0 for none."""
        settled, block = self._settle(), self.merge.block(region)
        if block is None:
            return None, None
        places = settled.places(region, block.layers["classes"].astype(np.uint8, copy=False))
        labels = settled.areas.labels
        # index -1, of what was not analysed, is the last entry
        classes = np.append(labels + 1, 0).astype(np.uint8)[places]
        numbers = np.where(self._background[labels], 0, np.arange(1, len(labels) + 1))
        outlined = np.append(numbers, 0).astype(np.int32)[places]
        return replace(block, layers={"classes": classes}), outlined


def simplified(
    polygons: NDArray[np.object_], labels: NDArray[np.int64], pixels: NDArray[np.int64]
) -> NDArray[np.object_]:
    """Polygons with fewer corners; those that share edges still do.

    Args:
        polygons: (N,) a coverage: what touches has the same corners along its common edges.
        labels: (N,) class of each.
        pixels: (N,) area of each, which that of a class stays within ``AREA_ERROR`` of.
    """
    if not len(polygons):
        return polygons
    wanted = np.bincount(labels, pixels)
    for tolerance in TOLERANCES:
        simpler: NDArray[np.object_] = shapely.coverage_simplify(polygons, tolerance)
        error = np.abs(np.bincount(labels, shapely.area(simpler)) - wanted)
        if (error <= AREA_ERROR * wanted).all() and _sound(simpler):
            return simpler
    return polygons


def _sound(polygons: NDArray[np.object_]) -> bool:
    whole = (shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(polygons)
    return bool((whole & shapely.is_valid(polygons)).all())
