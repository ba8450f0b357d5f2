"""From heat maps to the masks that the segmenter learns from: hot and coloured, refined along edges, cleaned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.errors import ConfigError
from wsikit.methods.counting.config import Pseudo
from wsikit.methods.counting.instances import STRIDE
from wsikit.predictors.sampling import OD_BINS, od_histogram, otsu
from wsikit.predictors.stain import Deconvolution
from wsikit.stain.density import DAB, EOSIN, HAEMATOXYLIN, decadic_density

Channel = Literal["value", "dab", "haematoxylin"]
CUT = 0.5
"""Of the refined mask, whose values are shares of neighbours that were in it."""


def strength(image: NDArray[np.uint8], channel: Channel) -> NDArray[np.float32]:
    """(H, W) of (H, W, 3) RGB: how much of what marks a cell a pixel holds, more is stronger.

    value: decadic optical density of the brightest channel, which is HSV's value read as light; dab and haematoxylin:
    density of the stain after colour deconvolution (Ruifrok and Johnston 2001).
    """
    if channel == "value":
        table = decadic_density().astype(np.float32)
        return np.asarray(table[image.max(axis=2)])
    if channel == "dab":
        return Deconvolution.of(HAEMATOXYLIN, DAB).density(image, 1)
    return Deconvolution.of(HAEMATOXYLIN, EOSIN).density(image, 0)


def colour_level(images: Iterable[NDArray[np.uint8]], config: Pseudo) -> float:
    """Least ``strength`` of a cell's pixels: what the configuration says, or Otsu's threshold over all images.

    Raises ConfigError where the images hold no stain to take a threshold of.
    """
    if config.level != "otsu":
        dark = config.channel == "value"
        return float(-np.log10(max(config.level, 1) / 255)) if dark else float(config.level)
    histogram = np.zeros(OD_BINS, np.int64)
    for image in images:
        histogram += od_histogram(strength(image, config.channel).ravel())
    found = otsu(histogram)
    if found is None:
        raise ConfigError(
            f"the training images have no {config.channel} to take a threshold of",
            remedy="give pseudo another channel, or a level",
        )
    return found


def pseudo_mask(
    heat: NDArray[np.float32], image: NDArray[np.uint8], *, threshold: float, level: float, config: Pseudo, mpp: float
) -> NDArray[np.bool_]:
    """(H, W) pixels that count as cells.

    Args:
        heat: (h, w) probability of a cell in every 4 x 4 px.
        image: (H, W, 3) RGB.
        threshold: of the heat.
        level: of ``strength``.
        config: channel, refinement and smallest sizes.
        mpp: micrometres per pixel.
    """
    hot = spread(heat, image.shape[:2]) >= threshold
    mask = hot & (strength(image, config.channel) >= level)
    if config.refine and mask.any():
        mask = _refined(mask, image)
    return cleaned(mask, config, mpp)


def spread(cells: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Cells of 4 x 4 px to (H, W) pixels, each taking its cell's value."""
    return cells.repeat(STRIDE, 0).repeat(STRIDE, 1)[: shape[0], : shape[1]]


def _refined(mask: NDArray[np.bool_], image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    import torch

    from wsikit.methods.counting.refine import refine

    with torch.inference_mode():
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        soft = refine(torch.from_numpy(mask)[None, None].float(), pixels)[0, 0]
        return np.asarray((soft >= CUT).numpy())


def cleaned(mask: NDArray[np.bool_], config: Pseudo, mpp: float) -> NDArray[np.bool_]:
    """Without objects and holes below the configuration's areas in um^2; 4-connected."""
    mask = _without_small(mask, config.least_um2 / mpp**2)
    return ~_without_small(~mask, config.hole_um2 / mpp**2)


def _without_small(mask: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    parts, _ = ndimage.label(mask)
    large = np.bincount(parts.ravel()) >= least
    large[0] = False
    kept: NDArray[np.bool_] = large[parts]
    return kept
