"""Instances and bags: feature vectors from super-tiles to one table in reading order; attention back to the slide.

A task spools the vectors of its windows with their cells. The merge orders all cells by row, then column, so that the
table is the same for any super-tile size, and gathers the vectors part by part from files that stay on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.atomic import temporary
from wsikit.features import Features, Instances, MaskBlock
from wsikit.geometry import Box, HasMpp, Region, TileSpec
from wsikit.predictions import Bag, BagScore, Label
from wsikit.stitching import spool as spools
from wsikit.stitching.raster import blocks
from wsikit.tiling import TileGrid

PART = 4096
"""Instances gathered at once: 16 MB at 1024 features."""


class InstanceCollector:
    """Spools the feature vectors of a super-tile's windows.

    Args:
        grid: the super-tile's windows.
        bad: unreadable boxes, (x0, y0, x1, y1) on the grid's lattice: a window that touches one is left out.
        spool: folder to save to.
        index: number of the super-tile, part of the file names.
    """

    def __init__(self, grid: TileGrid, bad: list[Box], spool: Path, index: int) -> None:
        self._grid, self._spool, self._index = grid, spool, index
        patches = shapely.box(*np.array([(r.x, r.y, r.x1, r.y1) for r in grid]).T)
        whole = [
            ~shapely.intersects(patches, shapely.box(*box)) | shapely.touches(patches, shapely.box(*box)) for box in bad
        ]
        self._keep = np.logical_and.reduce([np.ones(len(grid), bool), *whole])
        self._parts: list[NDArray[np.float32]] = []

    def add(self, features: NDArray[np.float32]) -> None:
        """Take the (N, D) vectors of the next N windows."""
        self._parts.append(features)

    def save(self) -> list[Path]:
        """Write the vectors, then the cells: where the cells are, all is there. Returns the files."""
        path = self._spool / f"i{self._index:06d}.npy"
        hidden = temporary(path)
        with hidden.open("wb") as file:
            np.save(file, np.concatenate(self._parts)[self._keep], allow_pickle=False)
        hidden.replace(path)
        spools.save(path.with_suffix(".npz"), cells=self._grid.cells[self._keep])
        return [path, path.with_suffix(".npz")]


@dataclass(slots=True)
class InstanceMerge:
    """All instances of a slide, by row, then column.

    Args:
        spool: folder that the collectors saved to.
        spec: how the slide was cut.
    """

    spool: Path
    spec: TileSpec
    cells: NDArray[np.int64] = field(init=False)
    """(N, 2) column and row of each instance on the lattice of cores."""
    width: int = field(init=False)
    """Length of a vector; 0 where there is no instance."""
    _files: list[NDArray[np.float32]] = field(init=False)
    _file: NDArray[np.int64] = field(init=False)
    _place: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        found = sorted(self.spool.glob("i*.npz"))
        cells = [np.zeros((0, 2), np.int64), *(spools.load(path)["cells"] for path in found)]
        counts = [len(part) for part in cells[1:]]
        self._files = [_mapped(path.with_suffix(".npy"), n) for path, n in zip(found, counts, strict=True)]
        self.width = next((part.shape[1] for part in self._files if len(part)), 0)
        together = np.concatenate(cells)
        order = np.lexsort((together[:, 0], together[:, 1]))
        self.cells = together[order]
        self._file = np.repeat(np.arange(len(found)), counts)[order]
        self._place = np.concatenate([np.arange(n) for n in [0, *counts]])[order].astype(np.int64)

    def __len__(self) -> int:
        return len(self.cells)

    def features(self, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, D) vectors of a run of instances."""
        gathered = np.empty((stop - start, self.width), np.float32)
        file, place = self._file[start:stop], self._place[start:stop]
        for k in np.unique(file):
            mine = file == k
            gathered[mine] = self._files[k][place[mine]]
        return gathered

    def corners(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start, 2) x, y of the patches of a run of instances, on the lattice of the prediction."""
        corners: NDArray[np.int64] = self.cells[start:stop] * self.spec.core + self.spec.phase - self.spec.halo
        return corners

    def parts(self) -> Iterator[Instances]:
        """Runs of at most ``PART`` instances."""
        for start in range(0, len(self), PART):
            stop = min(start + PART, len(self))
            yield Instances(self.corners(start, stop), self.features(start, stop))

    def bag(self, name: str) -> Bag:
        """All instances in memory."""
        regions = tuple(self.spec.patch_region(int(column), int(row)) for column, row in self.cells)
        return Bag(name, self.features(0, len(self)), regions)


def _mapped(path: Path, count: int) -> NDArray[np.float32]:
    """The vectors of a file, left on disk; a file of none cannot be mapped."""
    array: NDArray[np.float32] = np.load(path, mmap_mode="r" if count else None, allow_pickle=False)
    return array


def attention_tiles(score: BagScore, slide: HasMpp, labels: Sequence[Label] = ()) -> Features:
    """One QuPath ``tile`` per instance, with its attention and its scores, where it has them, as measurements.

    Args:
        score: a bag's score; its regions are all of ``slide``.
        slide: gives the level-0 resolution.
        labels: the model's; a tile gets the class of its highest score where instances are scored.

    Returns:
        Features in the order of the instances; squares in level-0 pixels of the full plane.

    Raises:
        PredictionError: the score does not keep its contract.
    """
    score.check(len(labels) if score.instances is not None else len(score.scores))
    count = len(score.regions)
    boxes = np.array([region.level0(slide) for region in score.regions]).reshape(count, 4)
    squares = shapely.box(boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3])
    measured = {} if score.attention is None else {"Attention": score.attention}
    classes = np.full(count, -1, np.int64)
    if score.instances is not None:
        measured |= {f"{label.name} score": score.instances[:, k] for k, label in enumerate(labels)}
        classes = score.instances.argmax(axis=1).astype(np.int64)
    return Features("tile", squares, classes, {**measured, **score.measurements})


def percentiles(attention: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) share of the instances that have at most an instance's attention, in (0, 1]; equal ones share theirs.

    Attention spans orders of magnitude and its scale depends on the size of the bag: heat maps show ranks, as CLAM's do
    (Lu et al., Nat Biomed Eng 5 (2021) 555-570).
    """
    values, place, counts = np.unique(attention, return_inverse=True, return_counts=True)
    share: NDArray[np.float64] = (
        (counts.cumsum() / max(len(attention), 1))[place.reshape(-1)] if len(values) else attention
    )
    return share


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """A bag's score as masks with one pixel per core: layer ``classes``, scores of attention and of each label.

    What the model does not say (attention, or scores of instances) is left out.

    Args:
        score: a bag's score; the cores of its regions lie on a lattice from (0, 0).
        spec: how the slide was cut.
        size: (width, height) of the slide on the lattice of ``spec``.
    """

    score: BagScore
    spec: TileSpec
    size: tuple[int, int]

    @property
    def plane(self) -> Region:
        """The slide on the lattice of cores."""
        core = self.spec.core
        return Region(0, 0, -(-self.size[0] // core), -(-self.size[1] // core), self.spec.mpp * core)

    def sampled(self, region: Region) -> NDArray[np.uint8] | None:
        """(region.height, region.width) classes, k for the label of index k - 1 and 0 where no instance is.

        Args:
            region: on the lattice of any mpp; a pixel takes the core that its centre lies in.
        """
        if self.score.instances is None:
            return None
        plane, scale = self.plane, region.mpp / self.plane.mpp
        classes = np.zeros((plane.height, plane.width), np.uint8)
        columns, rows = self._cells()
        classes[rows, columns] = self.score.instances.argmax(axis=1) + 1
        x = np.floor((np.arange(region.x, region.x1) + 0.5) * scale).astype(np.int64)
        y = np.floor((np.arange(region.y, region.y1) + 0.5) * scale).astype(np.int64)
        found: NDArray[np.uint8] = classes[np.ix_(np.clip(y, 0, plane.height - 1), np.clip(x, 0, plane.width - 1))]
        return found

    def _cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) columns and rows of the instances on the lattice of cores."""
        corners = np.array([(r.x, r.y) for r in self.score.regions], np.int64).reshape(-1, 2)
        columns, rows = (corners + self.spec.halo).T // self.spec.core
        return columns, rows

    def blocks(self, side: int) -> Iterator[MaskBlock]:
        """Blocks of ``side`` cores that hold an instance."""
        columns, rows = self._cells()
        steps = np.rint(self._channels() * 255).astype(np.uint8)
        for region in blocks(self.plane, side):
            inside = (columns >= region.x) & (columns < region.x1) & (rows >= region.y) & (rows < region.y1)
            if not inside.any():
                continue
            at = rows[inside] - region.y, columns[inside] - region.x
            scores = np.zeros((len(steps), region.height, region.width), np.uint8)
            scores[:, at[0], at[1]] = steps[:, inside]
            yield MaskBlock(region, self._classes(region, at, inside), scores if len(steps) else None)

    def _channels(self) -> NDArray[np.float64]:
        """(C, N) in [0, 1]: attention, then the instances' scores, of these what there is."""
        attention, instances = self.score.attention, self.score.instances
        ranks = [] if attention is None else [percentiles(attention)[None]]
        scores = [] if instances is None else [instances.T]
        return np.concatenate([np.zeros((0, len(self.score.regions))), *ranks, *scores])

    def _classes(
        self, region: Region, at: tuple[NDArray[np.int64], NDArray[np.int64]], inside: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.unsignedinteger]]:
        if self.score.instances is None:
            return {}
        classes = np.zeros((region.height, region.width), np.uint8)
        classes[at] = self.score.instances[inside].argmax(axis=1) + 1
        return {"classes": classes}
