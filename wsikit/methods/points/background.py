"""From a detector's probability map: the background to propagate, and the points that it found.

Background propagation (Qu et al. 2020) adds, before the next round of training, pixels that the detector is sure are no
nucleus. It never adds nuclei. What is neither stays ignored, so that no nucleus is punished for having been missed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.errors import ConfigError
from wsikit.methods.points.distance import checked_points

SURE = 0.7
"""Blobs are looked at where the probability is higher, when they may be too large for a nucleus."""
FREE = 0.1
"""Background is where the probability is lower."""
LARGEST = 200 / 11**2
LEAST = 12 / 11**2
"""Area of the largest and smallest blob that is a nucleus's peak, in squared radii: 200 and 12 px at a radius of 11. A
Gaussian that ends at 0.61 radii covers 1.18."""
EIGHT = np.ones((3, 3), bool)
"""Pixels that touch at a corner belong to one blob, as scikit-image has it and the authors' areas count."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Points that a detector found in one map, row by row."""

    points: NDArray[np.float64]
    """(N, 2) x and y in px, pixel-corner convention."""
    scores: NDArray[np.float32]
    """(N,) highest probability of each blob."""


def propagated_background(
    probability: NDArray[np.floating], *, largest_px: float, sure: float = SURE, free: float = FREE
) -> NDArray[np.bool_]:
    """(H, W) pixels that the next round learns as background.

    1. Blobs with a probability above ``sure`` of ``largest_px`` pixels or more are too large for a nucleus: they count
       as probability 0.
    2. Background is where the probability is below ``free``.

    Args:
        probability: (H, W), 0 to 1.
        largest_px: area in px: ``LARGEST`` times the squared nuclear radius, or um^2 over mpp^2.
        sure, free: the two limits, free <= sure.

    Raises:
        ConfigError: limits out of order, an area that is not positive, or a map that is no (H, W).
    """
    _check_map(probability)
    if not (0 <= free <= sure <= 1 and largest_px > 0):
        raise ConfigError(
            f"background needs 0 <= free <= sure <= 1 and an area, got free={free}, sure={sure}, {largest_px} px"
        )
    blobs, count = ndimage.label(probability > sure, EIGHT)
    large = _areas(blobs, count) >= largest_px
    large[0] = False
    background: NDArray[np.bool_] = (probability < free) | large[blobs]
    return background


def detect(probability: NDArray[np.floating], *, threshold: float, least_px: float, largest_px: float) -> Detections:
    """Points from a probability map: a point for every blob above ``threshold`` of a plausible area.

    A point is the blob's centroid, weighted by how far each pixel exceeds the threshold: a pixel on the rim weighs next
    to nothing, so that neither its coming and going nor the threshold moves the point, which the plain centroid lets
    them do.

    Args:
        probability: (H, W), 0 to 1.
        threshold: blobs lie strictly above.
        least_px, largest_px: areas; a blob has at least the one and less than the other.

    Raises:
        ConfigError: areas out of order, or a map that is no (H, W).
    """
    _check_map(probability)
    if not 0 <= least_px < largest_px:
        raise ConfigError(f"areas of blobs must be 0 <= least < largest, got {least_px} and {largest_px} px")
    blobs, count = ndimage.label(probability > threshold, EIGHT)
    areas = _areas(blobs, count)
    kept = 1 + np.flatnonzero((areas[1:] >= least_px) & (areas[1:] < largest_px))
    row, column = np.nonzero(blobs)
    blob, value = blobs[row, column], probability[row, column]
    excess = value.astype(np.float64) - threshold
    total = np.bincount(blob, excess, count + 1)[kept]
    x, y = (np.bincount(blob, excess * (axis + 0.5), count + 1)[kept] / total for axis in (column, row))
    peaks = np.zeros(count + 1, np.float32)
    np.maximum.at(peaks, blob, value.astype(np.float32))
    return Detections(np.stack([x, y], axis=1), peaks[kept])


def merged_points(given: NDArray[np.floating], detected: NDArray[np.floating], radius: float) -> NDArray[np.float64]:
    """(N, 2) the given points, and after them the detected ones that lie farther than ``radius`` from every given one.

    What somebody clicked is right: a detection of the same nucleus adds nothing but a second point. All in one frame
    and unit. Raises ConfigError for a radius that is not positive, or arrays that are no points.
    """
    from scipy.spatial import KDTree

    if not radius > 0:
        raise ConfigError(f"the radius in which a detection is a given point must be positive, got {radius!r}")
    given, detected = checked_points(given), checked_points(detected)
    if not (len(given) and len(detected)):
        return np.concatenate([given, detected])
    distance, _ = KDTree(given).query(detected)
    return np.concatenate([given, detected[distance > radius]])


def _areas(blobs: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    return np.bincount(blobs.ravel(), minlength=count + 1)


def _check_map(probability: NDArray[np.floating]) -> None:
    if probability.ndim != 2:
        raise ConfigError(f"a probability map must have shape (H, W), got {probability.shape}")
