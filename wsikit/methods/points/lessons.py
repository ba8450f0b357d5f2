"""What is learned of a piece of a training image: planes that lie on its pixels.

Masks and maps of an image are cut like its pixels. Targets of points are drawn at the piece's own size from their
coordinates, so that no peak is blurred and no edge of a cell lost by resizing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsikit.methods.points.clusters import cluster_label
from wsikit.methods.points.crops import Box, cut
from wsikit.methods.points.inner import contact, inner_distance
from wsikit.methods.points.targets import gaussian_target, naive_target
from wsikit.methods.points.voronoi import voronoi_label

SEGMENTER_SIGMA = 0.5
"""Sigma of the Gaussian whose summits part nuclei, in radii: as wide as a nucleus, so that each of its pixels is on a
slope. The detector's is half as wide, so that two points never become one blob."""
CONTACT_SIGMA = 0.27
"""Of the weight between two nuclei, in radii: 0.75 um."""
DEPTH, NUMBER = 1, 3
"""Planes of ``Masks``: inner distance, and the number of the nucleus."""
Kind = Literal["voronoi", "cluster"]
Points = NDArray[np.float64]
Planes = NDArray[np.float32]
"""(S, S, K) what is learned of a piece, pixel by pixel."""
Lesson = Callable[[Box], Planes]
"""The planes of a box of one image."""


def placed(points: Points, size: tuple[int, int], box: Box, side: int) -> Points:
    """(N, 2) points of an image in the frame of a piece, those of what was mirrored included.

    Args:
        points: (n, 2) x, y in px of the image.
        size: (width, height) of the image.
        box: of the piece in the image.
        side: of the piece, px.
    """
    for axis, length in enumerate(size):
        copies = [points]
        for number in range(1, math.ceil(box[2 + axis] / length)):
            copy = points.copy()
            # every other copy is the image itself again
            copy[:, axis] = (number + 1) * length - copy[:, axis] if number % 2 else number * length + copy[:, axis]
            copies.append(copy)
        points = np.concatenate(copies)
    return (points - box[:2]) * (side / (box[2] - box[0]))


@dataclass(frozen=True)
class Masks:
    """Share of nucleus, inner distance, how much nuclei meet, and the number of the nucleus. Called with a box it gives
    the planes of an image with these instances."""

    labels: Callable[[], NDArray[np.int64]]
    radius: float
    """Nuclear radius, px of the image."""
    side: int
    keep: bool = True
    """Whether the whole image's planes stay in memory, 16 bytes a pixel."""

    def __call__(self, box: Box) -> Planes:
        """(S, S, 4)."""
        return np.stack(cut(self._kept if self.keep else self._known(), box, self.side), axis=2, dtype=np.float32)

    @cached_property
    def _kept(self) -> tuple[NDArray[Any], ...]:
        return self._known()

    def _known(self) -> tuple[NDArray[Any], ...]:
        labels, sigma = self.labels(), CONTACT_SIGMA * self.radius
        inside = (labels > 0).astype(np.float32)
        return inside, inner_distance(labels), contact(labels, sigma), labels.astype(np.int32)


@dataclass(frozen=True)
class Heat:
    """Gaussians on points and their weights: what the detector learns of an image."""

    points: Points
    size: tuple[int, int]
    """(width, height) of the image."""
    radius: float
    """Nuclear radius, px of the image."""
    side: int
    target: Literal["extended", "naive"] = "extended"
    background: NDArray[np.bool_] | None = field(default=None, repr=False)
    """(H, W) pixels of the image that are known to be none."""

    def __call__(self, box: Box) -> Planes:
        """(S, S, 2) target and weight."""
        shape, radius = (self.side, self.side), self.radius * self.side / (box[2] - box[0])
        points = placed(self.points, self.size, box, self.side)
        if self.target == "naive":
            return np.stack(naive_target(points, shape, radius_px=radius), axis=2)
        known = None
        if self.background is not None:
            known = cut([self.background.astype(np.uint8)], box, self.side)[0] > 0
        return np.stack(gaussian_target(points, shape, radius_px=radius, background=known), axis=2)


@dataclass(frozen=True)
class Labels:
    """Voronoi and cluster label, and wide Gaussians: what the segmenter learns of an image whose points are all
    there."""

    points: Points
    size: tuple[int, int]
    pixels: Callable[[], NDArray[np.uint8]]
    radius: float
    side: int
    kinds: Sequence[Kind]
    seed: int = 0

    @cached_property
    def clusters(self) -> NDArray[np.uint8]:
        """Cluster label of the whole image."""
        return cluster_label(self.pixels(), self.points, radius_px=self.radius, seed=self.seed)

    def __call__(self, box: Box) -> Planes:
        """(S, S, 2 + kinds) target and weight of the centre, then a label for each kind."""
        shape, radius = (self.side, self.side), self.radius * self.side / (box[2] - box[0])
        points = placed(self.points, self.size, box, self.side)
        planes: list[NDArray[np.float32]] = list(
            naive_target(points, shape, radius_px=radius, sigma=SEGMENTER_SIGMA, peak_weight=1.0)
        )
        for kind in self.kinds:
            label = voronoi_label(points, shape) if kind == "voronoi" else cut([self.clusters], box, self.side)[0]
            planes.append(label.astype(np.float32))
        return np.stack(planes, axis=2)
