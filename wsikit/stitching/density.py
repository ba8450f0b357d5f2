"""Density maps: how many objects to expect in each cell of a slide, so that cells add up to counts.

1. Cells are squares of ``cell`` lattice px from the slide's (0, 0). A predictor's core, halo and phase are multiples of
   that, so a cell lies in one core. Cores tile the plane, and a window keeps the cells of its core: none counts twice.
2. A cell whose first pixel lies outside the slide is dropped. One that the far border cuts is kept, all of it.
3. A cell that shares an area with an unreadable tile counts nothing, as objects there do.
4. A cell counts where it lies on tissue and inside the limits: its centre decides, as an object's centroid does. Of a
   cell that the border cuts it is the centre of what lies on the slide.
5. Numbers are summed in units of 2^-30 objects, as integers: a sum has one value in any order, and pieces of a slide
   have exactly the sum of the whole.

A task spools one array for its super-tile; the merge puts a block together from those that touch it. Memory: the cells
of one super-tile in the task, those of one block in the merge.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsikit.geometry import Box, Region
from wsikit.predictions import Objects, Points
from wsikit.stitching import spool as spools
from wsikit.stitching.raster import blocks
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

UNITS = 1 << 30
"""Units that an object is counted in: a billionth of one, and 2^33 objects fit."""
STRIP = 128
"""Rows of a block that are looked up at once: places of all cells of a block would take 300 MB."""


class Counts(NamedTuple):
    """N cells that count something."""

    x: NDArray[np.float64]
    """(N,) centre of what of the cell lies on the slide, in lattice px of the prediction."""
    y: NDArray[np.float64]
    units: NDArray[np.int64]
    """(N,) in ``1 / UNITS`` objects."""


class DensityCollector:
    """Keeps the cells of a super-tile's cores and spools them in one file.

    Args:
        grid: the super-tile's windows.
        cell: side of a cell in lattice px.
        bad: unreadable boxes, (x0, y0, x1, y1) on the grid's lattice.
        spool: folder to save to.
        index: number of the super-tile, part of the file name.
    """

    def __init__(self, grid: TileGrid, cell: int, bad: list[Box], spool: Path, index: int) -> None:
        self._cell, self._bad = cell, bad
        self._path = spool / f"d{index:06d}.npz"
        plane = cells_plane(grid.size, grid.spec.mpp, cell)
        extent = _in_cells(grid.extent().padded(-grid.spec.halo), cell).intersection(plane)
        assert extent is not None  # cores touch the slide
        self._extent = extent
        self._density = np.zeros((extent.height, extent.width), np.float32)

    def add(self, prediction: Objects | Points, core: Region) -> None:
        """Take the density of the window with this core."""
        assert prediction.density is not None  # held to it before
        patch = _in_cells(prediction.region, self._cell)
        inside = _in_cells(core, self._cell).intersection(self._extent)
        assert inside is not None  # the core touches the slide
        self._density[inside.slices(self._extent)] = prediction.density[inside.slices(patch)]

    def save(self) -> list[Path]:
        """Write the spool file; returns it."""
        extent = self._extent
        for x0, y0, x1, y1 in self._bad:
            columns = _touched(x0 / self._cell, x1 / self._cell, extent.x)
            rows = _touched(y0 / self._cell, y1 / self._cell, extent.y)
            self._density[rows, columns] = 0
        spools.save(self._path, box=np.array([extent.x, extent.y, extent.width, extent.height]), density=self._density)
        return [self._path]


def cells_plane(size: tuple[int, int], mpp: float, cell: int) -> Region:
    """All cells of a slide of ``size`` (width, height) lattice px of ``mpp``, on the lattice of cells."""
    return Region(0, 0, -(-size[0] // cell), -(-size[1] // cell), mpp * cell)


def _in_cells(region: Region, cell: int) -> Region:
    """The same rectangle on the lattice of cells, of which its sides are multiples."""
    return Region(region.x // cell, region.y // cell, region.width // cell, region.height // cell, region.mpp * cell)


def _touched(first: float, last: float, start: int) -> slice:
    """Cells that a range shares more than an edge with, from ``start`` on."""
    return slice(max(0, int(np.floor(first)) - start), max(0, int(np.ceil(last)) - start))


class DensityMerge:
    """The density map of a slide, block by block.

    Args:
        spool: folder that the collectors saved to.
        grid: every window that was predicted.
        cell: side of a cell in lattice px.
        tissue: where cells count.
    """

    def __init__(self, spool: Path, grid: TileGrid, cell: int, tissue: TissueMask) -> None:
        self._grid, self._cell, self._tissue = grid, cell, tissue
        self.plane = cells_plane(grid.size, grid.spec.mpp, cell)
        """All cells, on their lattice."""
        self._files = {path: self._box(path) for path in sorted(spool.glob("d*.npz"))}

    def _box(self, path: Path) -> Region:
        x, y, width, height = (int(v) for v in spools.array(path, "box"))
        return Region(x, y, width, height, self.plane.mpp)

    def blocks(self, side: int) -> Iterator[tuple[Region, NDArray[np.float32]]]:
        """Blocks of ``side`` cells that hold anything, row by row: (H, W) objects in each cell, 0 where none count."""
        for region in blocks(self.plane, side):
            found = self._block(region)
            if found is not None:
                yield region, found

    def _block(self, region: Region) -> NDArray[np.float32] | None:
        parts = [(path, box.intersection(region)) for path, box in self._files.items()]
        touching = [(path, inside) for path, inside in parts if inside is not None]
        if not touching:
            return None
        density = np.zeros((region.height, region.width), np.float32)
        for path, inside in touching:
            # windows of two super-tiles share no cell
            density[inside.slices(region)] += spools.array(path, "density")[inside.slices(self._files[path])]
        for top in range(0, region.height, STRIP):
            self._clear_off_tissue(density[top : top + STRIP], region.x, region.y + top)
        return density

    def _clear_off_tissue(self, density: NDArray[np.float32], column: int, row: int) -> None:
        """Set what does not count to 0, in the cells from (column, row) on."""
        rows, columns = np.nonzero(density)
        x, y = self._centres(columns + column, 0), self._centres(rows + row, 1)
        off = ~self._tissue.contains(x, y, self._grid.spec.mpp)
        density[rows[off], columns[off]] = 0

    def _centres(self, cells: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        """Of what of cells lies on the slide, along x (0) or y (1), in lattice px."""
        first = cells * self._cell
        centres: NDArray[np.float64] = (first + np.minimum(first + self._cell, self._grid.size[axis])) / 2
        return centres

    def counts(self, region: Region, density: NDArray[np.float32]) -> Iterator[Counts]:
        """What a block counts, strip by strip; strips that count nothing are left out."""
        for top in range(0, region.height, STRIP):
            strip = density[top : top + STRIP]
            rows, columns = np.nonzero(strip)
            if not len(rows):
                continue
            x, y = self._centres(columns + region.x, 0), self._centres(rows + region.y + top, 1)
            yield Counts(x, y, np.rint(strip[rows, columns].astype(np.float64) * UNITS).astype(np.int64))
