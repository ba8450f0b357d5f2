"""Stained area by colour: every pixel is DAB positive, haematoxylin or background. No weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError, PredictionError
from wsikit.geometry import TileSpec
from wsikit.predictions import Batch, Label, ScoreMap
from wsikit.predictors.sampling import OD_BINS, od_histogram, otsu, tissue_pixels
from wsikit.predictors.stain import Deconvolution
from wsikit.slides import Slide
from wsikit.stain.density import DAB, HAEMATOXYLIN, decadic_density
from wsikit.tissue import TissueMask

DAB_OD = (0.15, 0.40)
"""The DAB threshold is Otsu's, kept inside these: weak positive staining ends at about 0.2 (where QuPath starts)."""
HAEMATOXYLIN_OD = (0.10, 0.25)
"""The haematoxylin threshold is Otsu's over what is not DAB positive, kept inside these: counterstains are pale."""
DARK_OD = 0.5
"""Otsu sees haematoxylin densities above this as this: a few black nuclei must not push the threshold up."""
BROWN = 0.75
"""Least blue OD, in parts of the green OD, of DAB: the geometric mean (0.74) of the ratios that Ruifrok's vectors give
haematoxylin (0.41) and DAB (1.36). Without this bound a tenth to a half of H&E sections passes for weak DAB, since
scanned eosin absorbs more blue (ratios up to 0.7) than its vector says. Where DAB lies over haematoxylin, a pixel is
positive from 0.7 times as much DAB as haematoxylin."""

SATURATED_OD = 1.2
"""Densities beyond this (values up to 16) say nothing of the hue: the densest DAB is black."""


@dataclass(frozen=True)
class StainAreaPredictor:
    """Per-pixel classes of DAB immunohistochemistry, as scores of 0 and 1.

    A pixel is DAB positive where it is brown (see ``BROWN``) and its deconvolved DAB OD reaches the DAB threshold; else
    haematoxylin where that reaches its own; else background.
    """

    mpp: float = 0.5
    """Micrometres per pixel to work at."""
    min_tissue: float = 0.0
    """Smallest share of a window's core that must be tissue."""
    core: int = 1024
    """Side of a window's core, px."""
    dab_threshold: float | None = None
    """DAB OD from which a pixel is positive; set by ``prepare``."""
    haematoxylin_threshold: float | None = None
    """Haematoxylin OD from which a pixel is haematoxylin; set by ``prepare``."""

    name: ClassVar[str] = "stain-area"
    description: ClassVar[str] = "DAB positive, haematoxylin and background area, by colour deconvolution; no weights"
    produces: ClassVar[type[ScoreMap]] = ScoreMap
    labels: ClassVar[tuple[Label, ...]] = (
        Label("DAB positive", (146, 84, 36)),
        Label("Haematoxylin", (64, 96, 208)),
        Label("Background", (225, 225, 225), background=True),
    )

    @classmethod
    def create(cls, mpp: float | None = None, min_tissue: float | None = None) -> Self:
        """Make one with the given settings; None leaves the default."""
        return cls(cls.mpp if mpp is None else mpp, cls.min_tissue if min_tissue is None else min_tissue)

    def __post_init__(self) -> None:
        if (self.dab_threshold is None) != (self.haematoxylin_threshold is None):
            raise ConfigError(
                "stain-area needs both thresholds or neither (prepare sets them), got "
                f"dab_threshold={self.dab_threshold!r}, haematoxylin_threshold={self.haematoxylin_threshold!r}"
            )

    @property
    def tile(self) -> TileSpec:
        """Cores of ``core`` px without halo: a pixel's class depends on that pixel alone."""
        return TileSpec(self.mpp, self.core, 0, self.min_tissue)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Empty: name, class and tile say it all."""
        return {}

    @property
    def bound(self) -> Mapping[str, Any]:
        """Both thresholds, OD."""
        if self.dab_threshold is None:
            return {}
        return {"dab_threshold_od": self.dab_threshold, "haematoxylin_threshold_od": self.haematoxylin_threshold}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """Bind both thresholds from a fixed sample of the tissue; without tissue, the upper ends of their ranges."""
        mpp = slide.resolve(self.mpp)
        densities = [
            (_haematoxylin(pixels)[inside], _dab(pixels)[inside])
            for pixels, inside in tissue_pixels(slide, tissue, mpp)
        ]
        dab_threshold = _threshold([dab for _, dab in densities], DAB_OD)
        negative = [np.minimum(other[dab < dab_threshold], np.float32(DARK_OD)) for other, dab in densities]
        return replace(self, dab_threshold=dab_threshold, haematoxylin_threshold=_threshold(negative, HAEMATOXYLIN_OD))

    def predict(self, batch: Batch) -> Sequence[ScoreMap]:
        """One-hot (H, W, 3) scores of each patch. Raises PredictionError before ``prepare``."""
        if self.dab_threshold is None or self.haematoxylin_threshold is None:
            raise PredictionError("stain-area has no thresholds yet: call prepare(slide, tissue) and use its result")
        return [
            ScoreMap(region, _classes(image, self.dab_threshold, self.haematoxylin_threshold))
            for image, region in zip(batch.images, batch.regions, strict=True)
        ]


def _haematoxylin(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return Deconvolution.of(HAEMATOXYLIN, DAB).density(image, 0)


def _dab(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """DAB OD where a pixel is brown, else 0."""
    density = Deconvolution.of(HAEMATOXYLIN, DAB).density(image, 1)
    visible = np.minimum(decadic_density(), SATURATED_OD).astype(np.float32)
    density[visible[image[..., 2]] < (np.float32(BROWN) * visible)[image[..., 1]]] = 0
    return density


def _threshold(values: Sequence[NDArray[np.float32]], allowed: tuple[float, float]) -> float:
    histogram = sum((od_histogram(part) for part in values), np.zeros(OD_BINS, np.int64))
    found = otsu(histogram)
    low, high = allowed
    return high if found is None else min(max(found, low), high)


def _classes(image: NDArray[np.uint8], dab_threshold: float, haematoxylin_threshold: float) -> NDArray[np.float32]:
    positive = _dab(image) >= np.float32(dab_threshold)
    haematoxylin = (_haematoxylin(image) >= np.float32(haematoxylin_threshold)) & ~positive
    scores = np.empty((*positive.shape, 3), np.float32)
    scores[..., 0] = positive
    scores[..., 1] = haematoxylin
    scores[..., 2] = ~(positive | haematoxylin)
    return scores
