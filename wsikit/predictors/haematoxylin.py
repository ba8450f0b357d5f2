"""How much haematoxylin a pixel holds, and from which amount on it is a nucleus on this slide.

Laboratories stain differently, and a slide's own threshold is what makes their densities comparable.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.predictors.sampling import OD_BINS, OD_RANGE, od_histogram, otsu, tissue_pixels
from wsikit.predictors.stain import Deconvolution
from wsikit.slides import Slide
from wsikit.stain.density import EOSIN, HAEMATOXYLIN
from wsikit.tissue import TissueMask

SMOOTHING_UM = 0.5
"""Sigma of the Gaussian against noise and chromatin texture."""
THRESHOLD_FLOOR = 0.12
"""Smallest threshold, OD: glass and pale stroma stay below, the palest nuclei seen are at 0.2."""
MAX_OD = OD_RANGE[1]
"""Densities are cut off here: darker pixels are black, and their hue is noise."""


def density(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W) haematoxylin of (H, W, 3) RGB, decadic OD, at most ``MAX_OD``; negative where a hue is its complement."""
    return np.minimum(Deconvolution.of(HAEMATOXYLIN, EOSIN).density(image, 0), np.float32(MAX_OD))


def gaussian(values: NDArray[np.float32], sigma_um: float, mpp: float, truncate: float) -> NDArray[np.float32]:
    """Smooth to ``sigma_um`` in all: the pixels' own width, a box of variance mpp^2 / 12, is part of it."""
    sigma = math.sqrt(max(sigma_um**2 - mpp**2 / 12, 0.0)) / mpp
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(values, sigma, mode="reflect", truncate=truncate)
    return smooth


def smoothed(values: NDArray[np.float32], mpp: float) -> NDArray[np.float32]:
    """Densities without noise and texture."""
    return gaussian(values, SMOOTHING_UM, mpp, truncate=3.0)


def slide_threshold(slide: Slide, tissue: TissueMask, mpp: float) -> tuple[float, float | None]:
    """Threshold of a slide at so many um per px, OD: Otsu's of the smoothed density over a fixed sample of the tissue.

    Returns:
        At least ``THRESHOLD_FLOOR``, which a slide without tissue gets; and what Otsu said, None without tissue.
    """
    histogram = np.zeros(OD_BINS, np.int64)
    for pixels, inside in tissue_pixels(slide, tissue, mpp):
        histogram += od_histogram(smoothed(density(pixels), mpp)[inside])
    return threshold_of(histogram)


def threshold_of(histogram: NDArray[np.int64]) -> tuple[float, float | None]:
    """As ``slide_threshold``, of an ``od_histogram`` of smoothed densities."""
    found = otsu(histogram)
    return max(THRESHOLD_FLOOR, found or 0.0), found
