"""What predictors bind once per slide: a fixed sample of its tissue, and thresholds from that sample's histogram."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsikit.geometry import Region
from wsikit.slides import Pixels, Slide
from wsikit.tissue import TissueMask

WINDOW_UM = 128.0
"""Side of a sampled window: 256 px at 0.5 um per pixel. In um, so that every resolution samples the same places."""
WINDOWS = 32
"""Windows sampled at most; 0.5 mm^2 of tissue, read in about half a second."""
OD_RANGE = (-0.5, 2.5)
OD_BINS = 768
"""Histograms of optical density have bins of 1/256."""


def tissue_windows(slide: Slide, tissue: TissueMask, mpp: float) -> list[Region]:
    """At most ``WINDOWS`` regions at ``mpp``, spread evenly over the windows that hold the most tissue.

    The slide is cut into squares from (0, 0), clipped to it. Squares at least half tissue are taken where there are
    any, else all that touch tissue. Empty where the slide has no tissue. The choice depends on nothing but slide, mask
    and mpp.
    """
    side = max(1, round(WINDOW_UM / mpp))
    width, height = slide.size_at(mpp)
    y, x = (corner.ravel() * side for corner in np.mgrid[0 : -(-height // side), 0 : -(-width // side)])
    share = tissue.coverages(x, y, side, mpp)
    # the integral image leaves rounding crumbs where there is no tissue at all
    candidates = np.flatnonzero(share >= min(0.5, max(float(share.max()), 1e-6)))
    chosen = candidates[_evenly(len(candidates), WINDOWS)]
    return [_clipped(int(x[i]), int(y[i]), side, (width, height), mpp) for i in chosen]


def _evenly(count: int, wanted: int) -> NDArray[np.int64]:
    """Indices of at most ``wanted`` of ``count`` things, the middle of each of ``wanted`` equal stretches."""
    if count <= wanted:
        return np.arange(count)
    return (2 * np.arange(wanted) + 1) * count // (2 * wanted)


def _clipped(x: int, y: int, side: int, size: tuple[int, int], mpp: float) -> Region:
    return Region(x, y, min(side, size[0] - x), min(side, size[1] - y), mpp)


def tissue_pixels(slide: Slide, tissue: TissueMask, mpp: float) -> Iterator[tuple[Pixels, NDArray[np.bool_]]]:
    """The sampled windows: (H, W, 3) pixels, unreadable tiles as background, and (H, W) where they are good tissue."""
    for region in tissue_windows(slide, tissue, mpp):
        part = slide.read_partial(region)
        # a window with unreadable pixels would put background into the histogram
        if not part.bad:
            yield part.pixels, tissue.sample(region)


def od_histogram(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """(OD_BINS,) counts of optical densities; what lies outside ``OD_RANGE`` is counted in the outermost bins."""
    low, high = OD_RANGE
    index = ((values - low) * (OD_BINS / (high - low))).astype(np.int32)
    return np.bincount(np.clip(index, 0, OD_BINS - 1).ravel(), minlength=OD_BINS).astype(np.int64)


def otsu(histogram: NDArray[np.int64]) -> float | None:
    """Otsu's threshold (IEEE Trans SMC 9 (1979) 62-66) of an OD histogram.

    Where all counts lie in one bin, that bin's upper edge: nothing is above. None where there are no counts.
    """
    low, high = OD_RANGE
    edges = np.linspace(low, high, OD_BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    below = histogram.cumsum()
    total, weighted = int(below[-1]), (histogram * centres).cumsum()
    split = (below > 0) & (below < total)
    if not split.any():
        return float(edges[1 + histogram.argmax()]) if total else None
    below_split = below[split].astype(np.float64)
    spread = (weighted[-1] * below_split / total - weighted[split]) ** 2 / (below_split * (total - below_split))
    # equal maxima (an empty stretch between two peaks): the middle of the stretch
    best = np.flatnonzero(split)[np.flatnonzero(spread >= spread.max() * (1 - 1e-9))]
    return float(edges[1:][best].mean())
