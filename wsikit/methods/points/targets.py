"""Heat maps to learn from a part of the points, and the loss that leaves out what nobody has looked at.

The extended Gaussian of Qu et al. (IEEE Transactions on Medical Imaging 2020): a Gaussian on each annotated point, the
rest of a disc around it background, everything farther away ignored, since nuclei without a point lie there. Whoever
takes it for background (``naive_target``) teaches that most nuclei are none.

Lengths are multiples of the nuclear radius, so that they hold at any resolution. The constants are those of the
authors' multi-organ settings: radius 11 px at 40x (2.75 um), disc of 22 px, sigma 11 / 4 px, weight 10.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.methods.points.distance import point_distance

SIGMA = 0.25
"""Of the Gaussian, in radii."""
KNOWN = 2.0
"""Radius of the disc around a point in which everything but the point is background, in radii."""
CUT = 0.05
"""Smaller values of the Gaussian are 0; it ends at 2.45 sigma, 0.61 radii."""
PEAK_WEIGHT = 10.0
"""Of pixels of a Gaussian; those of the background weigh 1."""
LEAST_RADIUS_PX = 2.0
"""Below, sigma is less than half a pixel, and the height of a peak says more of where its point lies between pixels
than of anything else."""


def gaussian_target(
    points: NDArray[np.floating],
    shape: tuple[int, int],
    *,
    radius_px: float,
    background: NDArray[np.bool_] | None = None,
    sigma: float = SIGMA,
    known: float = KNOWN,
    peak_weight: float = PEAK_WEIGHT,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Extended Gaussians, drawn from coordinates: augment those, not the map.

    Args:
        points: (N, 2) annotated points, x and y in px in the frame of the map, pixel-corner convention; those outside
            count as far as their discs reach in.
        shape: (height, width) of the map.
        radius_px: nuclear radius r1.
        background: (H, W) pixels that are known to be background wherever they are: see ``background.py``.
        sigma: of the Gaussian, in radii.
        known: radius r2 of the disc that is known, in radii.
        peak_weight: weight of a Gaussian's pixels.

    Returns:
        (H, W) target, exp(-D^2 / 2 sigma^2) of the distance D to the nearest point, 0 where that is below ``CUT``; and
        (H, W) weight, ``peak_weight`` where the target is above 0, 1 in the rest of the discs (D < r2) and on
        ``background``, 0 elsewhere. Without points and background nothing has a weight.

    Raises:
        ConfigError: a radius below ``LEAST_RADIUS_PX``, a length or weight that is not positive, or wrong shapes.
    """
    target, distance = _gaussians(points, shape, radius_px, sigma, known)
    weight = (distance < known * radius_px).astype(np.float32)
    if background is not None:
        if background.shape != shape:
            raise ConfigError(f"the background must have the map's shape {shape}, got {background.shape}")
        weight[background] = 1
    return target, _with_peaks(weight, target, peak_weight)


def naive_target(
    points: NDArray[np.floating],
    shape: tuple[int, int],
    *,
    radius_px: float,
    sigma: float = SIGMA,
    peak_weight: float = PEAK_WEIGHT,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As ``gaussian_target``, with all that no Gaussian covers taken for background: right where every nucleus has a
    point, and else what the extended Gaussian is measured against."""
    target, _ = _gaussians(points, shape, radius_px, sigma, KNOWN)
    return target, _with_peaks(np.ones(shape, np.float32), target, peak_weight)


def _gaussians(
    points: NDArray[np.floating], shape: tuple[int, int], radius_px: float, sigma: float, known: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    if not radius_px >= LEAST_RADIUS_PX:
        raise ConfigError(
            f"a nuclear radius of {radius_px:g} px is too small, at least {LEAST_RADIUS_PX:g} px are needed",
            remedy="work at a finer resolution (a smaller mpp)",
        )
    if not (sigma > 0 and known > 0):
        raise ConfigError(f"sigma and the known disc must be positive multiples of the radius, got {sigma}, {known}")
    width = sigma * radius_px
    # far enough for both the disc and the Gaussian
    distance = point_distance(points, shape, max(known * radius_px, width * math.sqrt(-2 * math.log(CUT)) + 1))
    target = np.exp(-(distance**2) / (2 * width**2))
    target[target < CUT] = 0
    return target.astype(np.float32), distance


def _with_peaks(weight: NDArray[np.float32], target: NDArray[np.float32], peak_weight: float) -> NDArray[np.float32]:
    if not peak_weight > 0:
        raise ConfigError(f"the weight of peaks must be positive, got {peak_weight!r}")
    weight[target > 0] = peak_weight
    return weight


def heat_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sum of weight times squared error of sigmoid(logits), over the number of pixels that have a weight.

    The divisor counts pixels, not weights, as the authors' does, over the whole batch: a crop with few known pixels
    counts for few. 0, with a gradient of 0, where no pixel is known. Counted in single precision whatever the logits'.

    Args:
        logits: (...), any shape.
        target, weight: the same shape.
    """
    error = torch.sigmoid(logits.float()) - target.float()
    return (weight.float() * error.square()).sum() / (weight > 0).sum().clamp(min=1)
