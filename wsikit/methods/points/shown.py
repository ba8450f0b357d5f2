"""What the network is shown: colours as they are, or how much of the stain of nuclei there is, as a grey picture.

Laboratories differ in hue and strength of stains, and networks take both for what they have learned: one trained on
purple smears took the pink stroma of H&E for nuclei (docs/nuclei.md). The stain of nuclei alone, counted in the slide's
own threshold between ground and nuclei, looks the same in both.

1. Where a section holds haematoxylin and eosin, or haematoxylin and another stain, it is haematoxylin by colour
   deconvolution, which does not see eosin.
2. Where it holds one stain only, as ``Macenko.fit`` says, it is that one, with its own hue: deconvolution would take
   the difference of two channels there, which is mostly noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import StainError
from wsikit.predictors.haematoxylin import MAX_OD, smoothed, threshold_of
from wsikit.predictors.sampling import OD_BINS, od_histogram, tissue_pixels
from wsikit.slides import Slide
from wsikit.stain.density import EOSIN, HAEMATOXYLIN, absorption, decadic_density, stained_pixels
from wsikit.stain.macenko import Macenko, basis
from wsikit.tissue import TissueMask

BLACK = 3.0
"""Thresholds of stain that are shown as black; none is white."""
Sample = list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]
"""(H, W, 3) windows of a slide, and (H, W) where they are tissue."""


@dataclass(frozen=True)
class NuclearStain:
    """What tells nuclei from ground on one slide."""

    weights: tuple[float, float, float]
    """Of the decadic OD of red, green and blue, in the stain's density."""
    threshold: float
    """Density from which on a pixel is more likely nucleus than ground."""

    @classmethod
    def of(cls, slide: Slide, tissue: TissueMask, mpp: float) -> Self:
        """Of a slide at so many um per px, from a fixed sample of its tissue."""
        sample = list(tissue_pixels(slide, tissue, mpp))
        return cls._fitted(weights_of(sample), sample, mpp)

    @classmethod
    def haematoxylin(cls, slide: Slide, tissue: TissueMask, mpp: float) -> Self:
        """As if the slide held eosin, too."""
        return cls._fitted(haematoxylin_weights(), list(tissue_pixels(slide, tissue, mpp)), mpp)

    @classmethod
    def _fitted(cls, weights: NDArray[np.float64], sample: Sample, mpp: float) -> Self:
        red, green, blue = weights.tolist()
        plain, histogram = cls((red, green, blue), 1.0), np.zeros(OD_BINS, np.int64)
        for pixels, inside in sample:
            histogram += od_histogram(smoothed(plain.density(pixels), mpp)[inside])
        return cls(plain.weights, threshold_of(histogram)[0])

    @property
    def facts(self) -> dict[str, Any]:
        """For a slide's record."""
        return {"stain_weights": list(self.weights), "stain_threshold_od": self.threshold}

    def density(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W) of (H, W, 3) RGB, decadic OD."""
        red, green, blue = (decadic_density() * np.array(self.weights)[:, None]).astype(np.float32)
        total = red[image[..., 0]] + green[image[..., 1]] + blue[image[..., 2]]
        density: NDArray[np.float32] = np.minimum(total, np.float32(MAX_OD))
        return density

    def shown(self, image: NDArray[np.uint8], error: float = 1.0) -> NDArray[np.uint8]:
        """A grey picture in which nuclei are as dark on one slide as on another.

        Args:
            image: (H, W, 3) RGB.
            error: factor of the threshold, for training.

        Returns:
            (H, W, 3), three equal channels.
        """
        grey = 255 * (1 - np.clip(self.density(image) / np.float32(BLACK * self.threshold * error), 0, 1))
        return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


def haematoxylin_weights() -> NDArray[np.float64]:
    """(3,) of its density beside eosin's."""
    return np.asarray(np.linalg.inv(basis(np.array([HAEMATOXYLIN, EOSIN])))[:, 0])


def weights_of(sample: Sample) -> NDArray[np.float64]:
    """(3,) of the stain of nuclei in a sample of tissue."""
    pixels = np.concatenate([np.zeros((0, 3), np.uint8), *(window[inside] for window, inside in sample)])
    try:
        Macenko.fit(pixels)
    except StainError as error:
        if error.code == "one_stain":
            density = absorption(stained_pixels(pixels))
            direction = np.linalg.eigh(density.T @ density)[1][:, 2]
            return np.asarray(direction * np.sign(direction.sum()))
    return haematoxylin_weights()
