"""Painting merged objects into mask blocks: an instance mask and a class mask."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.features import MaskBlock
from wsikit.geometry import Region
from wsikit.stitching import spool as spools
from wsikit.stitching.objects import Origin, Records


class InstanceIds:
    """Remembers on disk, beside each spool file, the number that every record got in the final order.

    0 is a record that was dropped. Also keeps each file's bounding box, so that a block loads only what touches it.
    """

    def __init__(self) -> None:
        self._boxes: dict[Path, NDArray[np.float64]] = {}

    def assign(self, records: Records, origin: Origin, first: int) -> None:
        """Number records ``first``, ``first`` + 1, ... in the order given."""
        numbers = np.arange(first, first + len(records), dtype=np.uint32)
        for k in np.unique(origin.file):
            mine = origin.file == k
            path = origin.files[k]
            ids = np.zeros(origin.place[mine].max() + 1, np.uint32)
            ids[origin.place[mine]] = numbers[mine]
            np.save(path.with_suffix(".ids.npy"), ids)
            self._boxes[path] = shapely.total_bounds(records.geometries[mine])

    def touching(self, region: Region) -> list[Path]:
        """Spool files with records that may touch a region."""
        return [
            path
            for path, (x0, y0, x1, y1) in self._boxes.items()
            if x0 < region.x1 and x1 > region.x and y0 < region.y1 and y1 > region.y
        ]

    @staticmethod
    def load(path: Path) -> tuple[NDArray[np.object_], NDArray[np.uint32], NDArray[np.int64]]:
        """Outlines, numbers and labels of the records of a spool file that were not dropped."""
        records = Records.from_arrays(spools.load(path))
        ids = np.load(path.with_suffix(".ids.npy"))
        kept = np.flatnonzero(ids)
        return records.geometries[kept], ids[kept], records.labels[kept]


def blocks(plane: Region, side: int) -> Iterator[Region]:
    """The blocks of a lattice from (0, 0), clipped to the plane, row by row."""
    for y in range(0, plane.height, side):
        for x in range(0, plane.width, side):
            width, height = min(side, plane.width - x), min(side, plane.height - y)
            yield Region(x, y, width, height, plane.mpp)


def instance_blocks(ids: InstanceIds, plane: Region, side: int) -> Iterator[MaskBlock]:
    """Blocks with layers ``instances`` (uint32, position in the GeoJSON from 1) and ``classes`` (uint8, label + 1)."""
    load = lru_cache(maxsize=8)(ids.load)
    for region in blocks(plane, side):
        files = ids.touching(region)
        if not files:
            continue
        instances = np.zeros((region.height, region.width), np.uint32)
        classes = np.zeros(instances.shape, np.uint8)
        painted = [_paint(region, *load(path)) for path in files]
        shapes, numbers, labels = (np.concatenate(column) for column in zip(*painted, strict=True))
        for i in np.argsort(numbers):
            rows, columns = _pixels(shapes[i], region)
            instances[rows, columns] = numbers[i]
            classes[rows, columns] = labels[i] + 1
        if len(numbers):
            yield MaskBlock(region, {"instances": instances, "classes": classes})


def _paint(
    region: Region, shapes: NDArray[np.object_], numbers: NDArray[np.uint32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.object_], NDArray[np.uint32], NDArray[np.int64]]:
    """Those that touch the region."""
    x0, y0, x1, y1 = shapely.bounds(shapes).T
    near = (x0 < region.x1) & (x1 > region.x) & (y0 < region.y1) & (y1 > region.y)
    return shapes[near], numbers[near], labels[near]


def _pixels(shape: shapely.Polygon, region: Region) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the pixels whose centres lie in a polygon, holes left out."""
    from skimage.draw import polygon

    size = (region.height, region.width)
    # pixel-corner to pixel-index: the centre of pixel 0 is at 0.5
    offset = np.array([region.x, region.y]) + 0.5
    shell = shapely.get_coordinates(shape.exterior) - offset
    rows, columns = polygon(shell[:, 1], shell[:, 0], size)
    if not shape.interiors:
        return rows, columns
    inside = np.zeros(size, np.bool_)
    inside[rows, columns] = True
    for ring in shape.interiors:
        hole = shapely.get_coordinates(ring) - offset
        inside[polygon(hole[:, 1], hole[:, 0], size)] = False
    rows, columns = np.nonzero(inside)
    return rows, columns
