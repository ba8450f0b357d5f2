"""Planted class maps: a slide whose colours are its classes, and a predictor that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.geometry import Region, TileSpec
from wsikit.predictions import AreaSpec, Batch, Label, ScoreMap, Stateless

COLORS = np.array([(40, 20, 120), (200, 60, 140), (60, 160, 60), (240, 240, 240)], np.uint8)
"""Of the pixels of each class, far apart."""
LABELS = (
    Label("Tumor", (200, 0, 0)),
    Label("Stroma", (150, 200, 150)),
    Label("Necrosis", (50, 50, 50)),
    Label("Background", (225, 225, 225), background=True),
)
NO_CLEAN_UP = AreaSpec()


def planted_classes(width: int, height: int, *, grain: int = 64, seed: int = 0, classes: int = 3) -> NDArray[np.uint8]:
    """(height, width) index of a class: smooth areas about ``grain`` px wide, whatever the height is."""
    coarse = max(1, grain // 4)
    shape = -(-height // coarse) + 2, -(-width // coarse) + 2
    rng = np.random.default_rng(seed)
    best, found = np.full((height, width), -np.inf, np.float32), np.zeros((height, width), np.uint8)
    for k in range(classes):
        noise = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), 2)
        field = ndimage.zoom(noise, coarse, order=1)[:height, :width]
        better = field > best
        best[better], found[better] = field[better], k
    return found


def painted(classes: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """(H, W, 3) picture of a class map."""
    picture: NDArray[np.uint8] = COLORS[classes]
    return picture


@dataclass(frozen=True)
class Oracle(Stateless):
    """The class of the nearest colour, with a score of ``sure``; what is left goes to the others."""

    mpp: float = 0.5
    core: int = 112
    halo: int = 56
    sure: float = 0.9
    areas: AreaSpec | None = NO_CLEAN_UP

    name: ClassVar[str] = "oracle"
    produces: ClassVar[type[ScoreMap]] = ScoreMap
    labels: ClassVar[tuple[Label, ...]] = LABELS

    @property
    def tile(self) -> TileSpec:
        return TileSpec(self.mpp, self.core, self.halo)

    def predict(self, batch: Batch) -> list[ScoreMap]:
        return [self._one(image, region) for image, region in zip(batch.images, batch.regions, strict=True)]

    def _one(self, image: NDArray[np.uint8], region: Region) -> ScoreMap:
        away = [np.abs(image.astype(np.int16) - color).sum(axis=2) for color in COLORS.astype(np.int16)]
        best = np.argmin(np.stack(away), axis=0)
        low = (1 - self.sure) / (len(LABELS) - 1)
        scores = np.where(np.arange(len(LABELS)) == best[..., None], self.sure, low)
        return ScoreMap(region, scores.astype(np.float32))
