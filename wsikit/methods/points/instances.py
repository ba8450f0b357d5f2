"""From the network's two maps to nuclei: markers, their basins within the foreground, what is dropped, scores.

1. The foreground is where its probability is at least ``cut``; holes smaller than ``hole_um2`` are filled.
2. The centre map, times the foreground's probability, is smoothed by a Gaussian.
3. A summit of it that rises less than ``depth`` above the pass to a higher one is no marker of its own (the h-maxima
   rule); every pixel of the foreground belongs to the marker that walking uphill ends at.
4. Of each object the largest part counts; what is too small, too large or too long for a nucleus, and what the border
   cuts, is dropped.

Steps look at a bounded neighbourhood only, so that a nucleus is the same in whatever window it is seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.methods.points.config import Instances
from wsikit.outlines import largest_parts
from wsikit.predictors.basins import basins, without_holes


class Nuclei(NamedTuple):
    """The nuclei of a window."""

    labels: NDArray[np.int32]
    """(H, W) numbered from 1 without gaps in row order of their first pixels' markers; 0 is background."""
    scores: NDArray[np.float64]
    """(N,) mean probability of each one's pixels, in [0, 1]."""


def separate(
    foreground: NDArray[np.float32], centre: NDArray[np.float32], mpp: float, rule: Instances, *, border: bool = False
) -> Nuclei:
    """Nuclei of a window.

    Args:
        foreground: (H, W) probability of a pixel to be nucleus.
        centre: (H, W) in [0, 1], highest in the middle of nuclei.
        mpp: um per px.
        rule: constants, in um.
        border: keep nuclei that the border of the window cuts; without, another window knows how large they are.
    """
    mask = without_holes(np.asarray(foreground >= rule.cut), rule.hole_um2 / mpp**2)
    labels = largest_parts(_basins(heights(foreground, centre, mpp, rule), mask, rule.depth))
    sizes = np.bincount(labels.ravel())
    keep = (sizes >= max(rule.least_um2 / mpp**2, 1)) & (sizes <= rule.most_um2 / mpp**2)
    keep[np.flatnonzero(_longest(labels) > rule.most_um / mpp) + 1] = False
    if not border:
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[edge] = False
    keep[0] = False
    number = np.cumsum(keep, dtype=np.int32) * keep
    numbered = np.asarray(number[labels], np.int32)
    return Nuclei(numbered, np.clip(means(numbered, foreground), 0, 1))


def _longest(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """(N,) longer side of the bounding box of each label from 1 on, px."""
    pixels = np.flatnonzero(labels)
    label = labels.ravel()[pixels]
    longest = np.zeros(int(label.max(initial=0)) + 1, np.int64)
    for place in np.divmod(pixels, labels.shape[1]):
        first, last = np.full(len(longest), labels.size), np.full(len(longest), -1)
        np.minimum.at(first, label, place)
        np.maximum.at(last, label, place)
        np.maximum(longest, last + 1 - first, out=longest)
    return longest[1:]


def _basins(height: NDArray[np.float32], mask: NDArray[np.bool_], depth: float) -> NDArray[np.int32]:
    """``basins`` of all pixels: it leaves out the outermost ones."""
    return basins(np.pad(height, 1, "edge"), np.pad(mask, 1), depth)[1:-1, 1:-1]


def heights(
    foreground: NDArray[np.float32], centre: NDArray[np.float32], mpp: float, rule: Instances
) -> NDArray[np.float32]:
    """(H, W) map whose summits are markers: smooth, and low where the foreground is unlikely."""
    product = centre * foreground
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(
        product, rule.smoothing_um / mpp, mode="nearest", truncate=3.0
    )
    return smooth


def means(labels: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) mean of the values of the pixels of each label, numbered from 1 without gaps."""
    pixels = np.flatnonzero(labels)
    label = labels.ravel()[pixels]
    count = int(label.max(initial=0)) + 1
    sums, sizes = (np.bincount(label, weights, count)[1:] for weights in (values.ravel()[pixels], None))
    return np.asarray(sums / np.maximum(sizes, 1))
