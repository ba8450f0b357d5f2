"""Windows as instances: how many a cell fills, which of them are learned from, and where the score of one counts.

All arithmetic is numpy's and keyed by (image, row, column) of the window: nothing depends on the order in which images
are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.methods.counting.config import Instances

STRIDE = 4
"""px between the cells of the feature map that windows are cut from."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Sliding windows in cells of the feature map."""

    tile: int
    """Side."""
    interval: int
    """Step in training."""

    @classmethod
    def of(cls, config: Instances, mpp: float) -> Windows:
        """Windows of physical sizes at a resolution, rounded to whole cells and at least one."""
        tile, interval = (max(1, round(um / mpp / STRIDE)) for um in (config.tile_um, config.interval_um))
        if interval > tile:
            raise ConfigError(
                f"windows of {config.tile_um:g} um every {config.interval_um:g} um leave gaps: cells in them are lost",
                remedy="give instances an interval_um of at most tile_um",
            )
        return cls(tile, interval)

    def grid(self, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the windows' first cells on a map; the last of each is moved to the edge.

        Raises ConfigError where the map is smaller than a window.
        """
        if min(height, width) < self.tile:
            raise ConfigError(
                f"an image of {width * STRIDE} x {height * STRIDE} px is smaller than a window of "
                f"{self.tile * STRIDE} px",
                remedy="give instances a smaller tile_um, or leave the image out",
            )
        return self._starts(height), self._starts(width)

    def _starts(self, length: int) -> NDArray[np.int64]:
        return np.unique(np.append(np.arange(0, length - self.tile + 1, self.interval), length - self.tile))


def k_p(radius: float, tile: float, interval: float) -> float:
    """Windows that a cell fills, n^2.

    A cell of radius a is covered by n windows a side where they span it: ``n * t - (n - 1) * d = 2 a`` with the overlap
    ``d = t - interval``, so ``n = (2 a - d) / (t - d) = (2 a - t) / interval + 1``; at least one window. All in one
    unit.
    """
    n = (2 * radius - tile) / interval + 1
    return max(n, 1.0) ** 2


def windows_per_cell(config: Instances, mpp: float) -> float:
    """``k_p`` of the windows as they are cut, or what the configuration says."""
    if config.k_p is not None:
        return config.k_p
    windows = Windows.of(config, mpp)
    return k_p(config.cell_radius_um / mpp, windows.tile * STRIDE, windows.interval * STRIDE)


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Rows of the table of windows that an epoch learns from."""

    positive: NDArray[np.int64]
    negative: NDArray[np.int64]


def select(
    scores: NDArray[np.floating],
    images: NDArray[np.int64],
    counts: Sequence[int],
    *,
    per_cell: float,
    config: Instances,
    rng: np.random.Generator,
) -> Selection:
    """Adaptive top-k: the best ``per_cell * count`` windows of each image, the hardest ones of images without cells.

    Args:
        scores: (N,) of the windows.
        images: (N,) index of each window's image; windows of one image are neighbours.
        counts: cells of each image.
        per_cell: windows per cell.
        config: k_n, ratio, and where negatives come from.
        rng: leaves out what is too many.

    Raises:
        ConfigError: negatives are to come from images without cells, and there are none.
    """
    lowest = _from_lowest(config, counts)
    positive, negative = [], []
    bounds = np.searchsorted(images, np.arange(len(counts) + 1))
    for start, stop, count in zip(bounds[:-1], bounds[1:], counts, strict=True):
        # of equal scores the first in row order
        order = start + np.argsort(-scores[start:stop], kind="stable")
        k = min(round(per_cell * count), len(order))
        if count:
            positive.append(order[:k])
        if not count:
            negative.append(order[: config.k_n])
        elif lowest:
            # the upper half of what is left holds the rims of cells
            negative.append(order[k + (len(order) - k) // 2 :])
    return _balanced(_joined(positive), _joined(negative), config.ratio, rng)


def _from_lowest(config: Instances, counts: Sequence[int]) -> bool:
    empty = not all(counts)
    if config.negatives == "zero" and not empty:
        raise ConfigError(
            "no training image is without cells, and negatives are to come from such images",
            remedy="add images with a count of 0, or say negatives: lowest",
        )
    return config.negatives == "lowest" or (config.negatives == "auto" and not empty)


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _balanced(
    positive: NDArray[np.int64], negative: NDArray[np.int64], ratio: float | None, rng: np.random.Generator
) -> Selection:
    if ratio is not None and len(positive) and len(negative):
        positive = _some(positive, round(ratio * len(negative)), rng)
        negative = _some(negative, round(len(positive) / ratio), rng)
    return Selection(positive, negative)


def _some(rows: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, max(most, 1), replace=False))


def count_threshold(scores: NDArray[np.floating], counts: Sequence[int], per_cell: float) -> float:
    """The score that as many windows exceed as the counts ask for, ``per_cell`` for each cell, over all images.

    Halfway between the last window that should count and the first that should not, so that neither is on the edge.
    """
    wanted = min(round(per_cell * sum(counts)), len(scores))
    ranked = -np.sort(-scores)
    if not wanted or wanted == len(scores):
        return float(np.nextafter(ranked[0], np.inf) if not wanted else ranked[-1])
    return float((ranked[wanted - 1] + ranked[wanted]) / 2)
