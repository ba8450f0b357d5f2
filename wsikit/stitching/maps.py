"""Score maps: overlapping patches are blended in integers, so that the sum has one value in any order.

Scores are kept in steps of 1/255. Across an overlap of o = 2 * halo px the weight rises as a raised cosine (Hann's
window), ``WEIGHT / 2 * (1 - cos(pi * (i + 1/2) / o))`` at its pixel i, in whole numbers: it begins and ends level, so
that nothing jumps where a patch ends, and the other patch has what is left to ``WEIGHT``, exactly. A pixel's blended
score is ``sum(weight * score) / sum(weight)`` over the patches that hold it, rounded half up. Without a halo nothing
overlaps and scores are stored as they are.

A task sums the patches of its super-tile and spools the sums in blocks of a fixed lattice; the merge adds what the
tasks say of a block. Memory: one super-tile in the task, one block in the merge.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsikit.features import MaskBlock
from wsikit.geometry import Box, Region
from wsikit.predictions import ScoreMap
from wsikit.stitching import spool as spools
from wsikit.stitching.raster import blocks
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

STEPS = 255
SPOOL_BLOCK = 2048
"""Side of the spooled blocks in lattice pixels."""
WEIGHT = 2048
"""What the weights along an axis add up to: the largest power of two of which (2 * 255 + 1) * WEIGHT^2, the largest
number in rounding, fits 32 bits."""
CONFIDENT = 51
"""Pixels with a smaller margin between their two best scores, in steps, are of low confidence: a fifth of the scale."""


def ramp(patch: int, halo: int) -> NDArray[np.int32]:
    """(patch,) whole weights along one axis of a patch: 1 to ``WEIGHT``; without a halo all are 1."""
    overlap = 2 * halo
    if overlap == 0:
        return np.ones(patch, np.int32)
    rise = np.rint(WEIGHT / 2 * (1 - np.cos(np.pi * (np.arange(halo) + 0.5) / overlap))).astype(np.int32)
    # a pixel that one patch alone holds has a weight, however close to its border it lies
    rise = np.maximum(rise, 1)
    weights = np.full(patch, WEIGHT, np.int32)
    weights[:overlap] = np.concatenate([rise, WEIGHT - rise[::-1]])
    weights[patch - overlap :] = weights[:overlap][::-1]
    return weights


def sum_type(halo: int) -> type[np.integer]:
    """The smallest type that holds what is summed of a pixel."""
    return np.int32 if halo else np.uint8


class MapCollector:
    """Sums weighted scores over a super-tile.

    Args: see ``wsikit.stitching.collector``.
    """

    def __init__(self, grid: TileGrid, labels: int, spool: Path, index: int) -> None:
        plane = Region(0, 0, *grid.size, grid.spec.mpp)
        extent = grid.extent().intersection(plane)
        assert extent is not None  # cores touch the slide
        self._extent = extent
        self._spool = spool
        self._index = index
        self._weights = ramp(grid.spec.patch, grid.spec.halo)
        self._sums = np.zeros((labels, extent.height, extent.width), sum_type(grid.spec.halo))

    def add(self, prediction: ScoreMap, core: Region) -> None:
        """Add the prediction of one window; what lies outside the slide is dropped."""
        inside = prediction.region.intersection(self._extent)
        assert inside is not None  # the window belongs to this super-tile
        rows, columns = inside.slices(prediction.region)
        steps = np.floor(prediction.scores[rows, columns] * STEPS + 0.5)
        weights = self._weights[rows, None] * self._weights[columns]
        # (H, W, K) scores onto (K, H, W) sums
        weighted = np.moveaxis(steps.astype(self._sums.dtype) * weights[:, :, None].astype(self._sums.dtype), 2, 0)
        target = inside.slices(self._extent)
        self._sums[:, target[0], target[1]] += weighted

    def save(self) -> list[Path]:
        """Write the sums block by block; returns the files."""
        saved = []
        first_x, first_y = self._extent.x // SPOOL_BLOCK, self._extent.y // SPOOL_BLOCK
        for by in range(first_y, -(-self._extent.y1 // SPOOL_BLOCK)):
            for bx in range(first_x, -(-self._extent.x1 // SPOOL_BLOCK)):
                saved.append(self._save_block(bx, by))
        return saved

    def _save_block(self, bx: int, by: int) -> Path:
        square = Region(bx * SPOOL_BLOCK, by * SPOOL_BLOCK, SPOOL_BLOCK, SPOOL_BLOCK, self._extent.mpp)
        part = square.intersection(self._extent)
        assert part is not None  # only blocks that the extent touches are asked for
        rows, columns = part.slices(self._extent)
        sums = np.ascontiguousarray(self._sums[:, rows, columns])
        path = self._spool / f"m{by:06d}_{bx:06d}_s{self._index:06d}.npz"
        spools.save(
            path,
            box=np.array([part.x, part.y, part.width, part.height]),
            dtype=np.array(sums.dtype.str),
            data=np.frombuffer(_packed(sums), np.uint8),
        )
        return path


def _packed(sums: NDArray[np.integer]) -> bytes | bytearray:
    """Compressed by one thread: several put their blocks in the order in which they end, so that the same sums have
    other bytes each time."""
    values: Any = sums  # its stubs know of no arrays
    packed: bytes | bytearray = imagecodecs.blosc_encode(
        values, level=1, compressor="lz4", shuffle="shuffle", typesize=sums.itemsize, numthreads=1
    )
    return packed


@dataclass(slots=True)
class MapMerge:
    """Blended scores and labels of a slide, block by block.

    Args:
        spool: folder that the collectors saved to.
        grid: every window that was predicted.
        labels: number of labels.
        tissue: where results count; elsewhere the label and the scores are 0.
        bad: unreadable boxes, (x0, y0, x1, y1) on the grid's lattice: label and scores 0.
        dropped: (column, row) of windows that were not good enough: label and scores 0 in their cores, though the halo
            of a neighbour may reach there.
    """

    spool: Path
    grid: TileGrid
    labels: int
    tissue: TissueMask
    bad: list[Box]
    dropped: Set[tuple[int, int]] = frozenset()
    _windows: set[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._windows = {(int(column), int(row)) for column, row in self.grid.cells}

    def blocks(self, side: int) -> Iterator[MaskBlock]:
        """Blocks with scores, confidence and a layer ``classes`` (uint8, label + 1; 0 where nothing was analysed)."""
        for region in blocks(Region(0, 0, *self.grid.size, self.grid.spec.mpp), side):
            block = self.block(region)
            if block is not None:
                yield block

    def block(self, region: Region) -> MaskBlock | None:
        """One region, or None where nothing was predicted."""
        sums = self._sums(region)
        if sums is None:
            return None
        weight = self._weight(region)
        analysed = (weight > 0) & self.tissue.sample(region)
        for x0, y0, x1, y1 in self.bad:
            rows = slice(max(0, int(np.floor(y0)) - region.y), max(0, int(np.ceil(y1)) - region.y))
            columns = slice(max(0, int(np.floor(x0)) - region.x), max(0, int(np.ceil(x1)) - region.x))
            analysed[rows, columns] = False
        for core in self._dropped_cores(region):
            analysed[core.slices(region)] = False
        scores = _blend(sums, weight)
        classes = np.where(analysed, scores.argmax(axis=0) + 1, 0).astype(np.uint8)
        scores *= analysed  # twenty times as fast as an assignment by mask
        return MaskBlock(region, {"classes": classes}, scores, margin(scores))

    def _dropped_cores(self, region: Region) -> Iterator[Region]:
        """What of a region lies in the cores of dropped windows."""
        spec, (px, py) = self.grid.spec, self.grid.spec.phase
        for row in range((region.y - py) // spec.core, (region.y1 - 1 - py) // spec.core + 1):
            for column in range((region.x - px) // spec.core, (region.x1 - 1 - px) // spec.core + 1):
                inside = spec.core_region(column, row).intersection(region) if (column, row) in self.dropped else None
                if inside is not None:
                    yield inside

    def _sums(self, region: Region) -> NDArray[np.integer] | None:
        total: NDArray[np.integer] | None = None
        for by in range(region.y // SPOOL_BLOCK, -(-region.y1 // SPOOL_BLOCK)):
            for bx in range(region.x // SPOOL_BLOCK, -(-region.x1 // SPOOL_BLOCK)):
                for path in self.spool.glob(f"m{by:06d}_{bx:06d}_s*.npz"):
                    part, sums = _load(path, self.labels, region.mpp)
                    inside = part.intersection(region)
                    if inside is None:
                        continue
                    if total is None:
                        total = np.zeros((self.labels, region.height, region.width), self._dtype)
                    (rows, columns), (r, c) = inside.slices(region), inside.slices(part)
                    total[:, rows, columns] += sums[:, r, c]
        return total

    @property
    def _dtype(self) -> type[np.integer]:
        return sum_type(self.grid.spec.halo)

    def _weight(self, region: Region) -> NDArray[np.int32]:
        """(H, W) sum of the weights of all predicted windows that hold a pixel."""
        spec = self.grid.spec
        weights = ramp(spec.patch, spec.halo)
        total = np.zeros((region.height, region.width), np.int32)
        (px, py), reach = spec.phase, spec.halo
        for row in range((region.y - reach - py) // spec.core, (region.y1 + reach - 1 - py) // spec.core + 1):
            for column in range((region.x - reach - px) // spec.core, (region.x1 + reach - 1 - px) // spec.core + 1):
                if (column, row) not in self._windows:
                    continue
                patch = spec.patch_region(column, row)
                inside = patch.intersection(region)
                if inside is not None:
                    r, c = inside.slices(patch)
                    total[inside.slices(region)] += weights[r, None] * weights[c]
        return total


@dataclass(slots=True)
class MapTotals:
    """What all blocks of a map come to.

    Args:
        labels: K.
    """

    labels: int
    pixels: NDArray[np.int64] = field(init=False)
    """(K,) pixels of each label."""
    confidence: int = 0
    """Sum over the analysed pixels, in steps of 1/255."""
    unsure: int = 0
    """Analysed pixels below ``CONFIDENT``."""

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.labels, np.int64)

    def add(self, block: MaskBlock) -> None:
        """Take the next block."""
        classes = block.layers["classes"]
        self.pixels += np.bincount(classes.ravel(), minlength=self.labels + 1)[1:]
        assert block.confidence is not None  # maps have it
        steps = np.bincount(block.confidence[classes > 0], minlength=STEPS + 1)
        self.confidence += int(steps @ np.arange(STEPS + 1))
        self.unsure += int(steps[:CONFIDENT].sum())


def margin(scores: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) the best of (K, H, W) scores less the second best; of a single label its score."""
    first, second = np.zeros((2, *scores.shape[1:]), np.uint8)
    for plane in scores:
        np.maximum(second, np.minimum(first, plane), out=second)
        np.maximum(first, plane, out=first)
    found: NDArray[np.uint8] = first - second
    return found


def _blend(sums: NDArray[np.integer], weight: NDArray[np.int32]) -> NDArray[np.uint8]:
    if sums.dtype == np.uint8:
        return sums.astype(np.uint8, copy=False)  # no halo: no pixel has two patches
    divisor = np.maximum(weight, 1)
    blended: NDArray[np.uint8] = ((2 * sums + divisor) // (2 * divisor)).astype(np.uint8)
    return blended


def _load(path: Path, labels: int, mpp: float) -> tuple[Region, NDArray[np.integer]]:
    arrays = spools.load(path)
    x, y, width, height = (int(v) for v in arrays["box"])
    data = imagecodecs.blosc_decode(arrays["data"].tobytes())
    sums = np.frombuffer(data, np.dtype(str(arrays["dtype"]))).reshape(labels, height, width)
    return Region(x, y, width, height, mpp), sums
