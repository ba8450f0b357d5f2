"""Cutting a slide: the grid of windows that a recipe gives, the super-tiles that are read, and batches of patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.geometry import Region, TileSpec
from wsikit.predictions import Batch
from wsikit.slides import Pixels, Slide
from wsikit.tissue import TissueMask

BATCH_PIXELS = 1 << 22
"""Pixels in a batch of the default size."""
SUPERTILE = 4096
"""Default side in lattice pixels of what one task reads: half a second of work and more, about 50 MB."""


@dataclass(frozen=True, eq=False)
class TileGrid(Sequence[Region]):
    """The windows of one slide, row by row: an immutable sequence of patch ``Region``s (core plus halo)."""

    spec: TileSpec
    """The recipe, with the true mpp of this slide."""
    cells: NDArray[np.int64]
    """(N, 2) column and row of each window on the lattice of cores, sorted by row, then column."""
    size: tuple[int, int]
    """(width, height) of the slide on the lattice."""

    @classmethod
    def cover(cls, slide: Slide, spec: TileSpec, tissue: TissueMask | None = None) -> TileGrid:
        """All windows whose core touches the slide and, where a mask is given, holds enough tissue.

        How much is told by what of the core lies on the slide: a strip of tissue at its edge is tissue all over.

        Raises ResolutionError where the slide holds nothing as fine as ``spec.mpp``.
        """
        spec = spec.at(slide.resolve(spec.mpp))
        size = slide.size_at(spec.mpp)
        (c0, c1), (r0, r1) = (
            ((-phase - spec.core) // spec.step + 1, -(-(extent - phase) // spec.step))
            for extent, phase in zip(size, spec.phase, strict=True)
        )
        rows, columns = np.mgrid[r0:r1, c0:c1]
        cells = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.int64)
        if tissue is not None:
            corner = cells * spec.step + np.array(spec.phase)
            share = tissue.coverages(corner[:, 0], corner[:, 1], spec.core, spec.mpp, size)
            # the integral image leaves rounding crumbs where there is no tissue at all
            cells = cells[(share > 1e-9) & (share >= spec.min_tissue - 1e-9)]
        return cls(spec, cells, size)

    def __len__(self) -> int:
        return len(self.cells)

    @overload
    def __getitem__(self, index: int) -> Region: ...
    @overload
    def __getitem__(self, index: slice) -> TileGrid: ...
    def __getitem__(self, index: int | slice) -> Region | TileGrid:
        if isinstance(index, slice):
            return TileGrid(self.spec, self.cells[index], self.size)
        column, row = self.cells[index]
        return self.spec.patch_region(int(column), int(row))

    def core(self, index: int) -> Region:
        """The core of window ``index``, without its halo."""
        column, row = self.cells[index]
        return self.spec.core_region(int(column), int(row))

    def where(self, wanted: NDArray[np.bool_]) -> TileGrid:
        """The windows marked in (N,) ``wanted``."""
        return TileGrid(self.spec, self.cells[wanted], self.size)

    @cached_property
    def corners(self) -> NDArray[np.int64]:
        """(N, 2) x, y of the upper left corner of each patch, in px of the lattice."""
        found: NDArray[np.int64] = self.cells * self.spec.step + np.array(self.spec.phase) - self.spec.halo
        return found

    def extent(self) -> Region:
        """The smallest region that holds every patch. The grid must not be empty."""
        (c0, r0), (c1, r1) = self.cells.min(axis=0), self.cells.max(axis=0)
        first, last = self.spec.patch_region(int(c0), int(r0)), self.spec.patch_region(int(c1), int(r1))
        return Region(first.x, first.y, last.x1 - first.x, last.y1 - first.y, self.spec.mpp)

    def supertiles(self, side: int = SUPERTILE) -> list[TileGrid]:
        """The same windows in groups that are read at once: squares of at most ``side`` px of whole cores."""
        if side < 1:
            raise ConfigError(f"a super-tile's side is a positive number of pixels, got {side}")
        per_side = max(1, side // self.spec.step)
        group = self.cells // per_side
        order = np.lexsort((self.cells[:, 0], self.cells[:, 1], group[:, 0], group[:, 1]))
        cells, group = self.cells[order], group[order]
        starts = np.flatnonzero(np.any(np.diff(group, axis=0, prepend=group[:1] - 1), axis=1))
        return [TileGrid(self.spec, part, self.size) for part in np.split(cells, starts[1:])] if len(cells) else []


def cut(pixels: Pixels, inside: Region, grid: TileGrid, batch_size: int | None = None) -> Iterator[Batch]:
    """Cut every patch of a grid from one array of pixels that holds them all.

    Args:
        pixels: (inside.height, inside.width, 3).
        inside: the region that ``pixels`` covers.
        grid: the windows to cut.
        batch_size: largest number of patches in a batch; by default as many as make 4 megapixels.

    Raises ConfigError for a batch size below 1.
    """
    if batch_size is None:
        batch_size = max(1, BATCH_PIXELS // grid.spec.patch**2)
    if batch_size < 1:
        raise ConfigError(f"batch_size is a positive number of patches, got {batch_size}")
    for start in range(0, len(grid), batch_size):
        regions = tuple(grid[start : start + batch_size])
        yield Batch(np.stack([pixels[region.slices(inside)] for region in regions]), regions)
