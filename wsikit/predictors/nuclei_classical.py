"""Nuclei by colour: haematoxylin density, one threshold per slide, watershed by steepest ascent. No weights.

All constants are physical (um, um^2, optical density), so that the same nuclei are found at any resolution, and
everything looks at a bounded neighbourhood, so that a nucleus is the same in whatever window it is seen. The constants
were chosen on every second image of DSB2018's purple histology (BBBC038, stage 1) and checked on the others:
``benchmarks/nuclei_quality.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.errors import ConfigError, PredictionError
from wsikit.geometry import Region, TileSpec
from wsikit.outlines import circularity, largest_parts, moments, outlines
from wsikit.predictions import Batch, Label, Objects
from wsikit.predictors.basins import basins, without_holes
from wsikit.predictors.haematoxylin import density, gaussian, slide_threshold, smoothed
from wsikit.slides import Slide
from wsikit.tissue import TissueMask

MAX_MPP = 1.1
"""Coarsest resolution, um per pixel: at 10x a small nucleus still has some twenty pixels."""
MAX_EXTENT_UM = 24.0
"""Longest side of a nucleus's bounding box; longer things are clumps or fibres."""
AREA_UM2 = (5.0, 300.0)
"""Smallest and largest nucleus."""
SURROUND_UM = 4.0
"""Sigma of the Gaussian that gives the local mean, cut off at two sigma."""
SURROUND_WEIGHT = 0.7
"""Share of the local mean in the local threshold; the slide's own threshold has the rest."""
LOCAL_FLOOR = 0.8
"""The local threshold is at least this share of the slide's, so that bare stroma gives nothing."""
MAX_HOLE_UM2 = 6.0
"""Holes up to this area are filled: nucleoli and vesicular chromatin."""
CONTRAST_CAP = 3.0
"""Densities beyond this multiple of the threshold do not make a summit any higher."""
SUMMIT_SMOOTHING_UM = 0.5
"""Sigma of the Gaussian over the summit map."""
SUMMIT_DEPTH_UM = 0.2
"""Two summits are one nucleus unless the valley between them is this deep, in um of distance at threshold contrast."""
PEAK_SHARE = 0.5
PEAK_BASE = 0.5
"""A nucleus ends where density falls below PEAK_SHARE of the way to its peak from PEAK_BASE times the threshold."""
MIN_SCORE = 0.09
"""Smallest score: mean density 10 % above the local threshold."""
MIN_CIRCULARITY = 0.4
"""Less round things are fibres, folds and edges of keratin; hardly a nucleus is lost."""
SUPPORT_UM = 2 * SURROUND_UM
"""Reach of the widest filter."""


class _Densities(NamedTuple):
    """Haematoxylin of a window, (H, W) each, OD."""

    raw: NDArray[np.float32]
    smooth: NDArray[np.float32]
    threshold: NDArray[np.float32]


@dataclass(frozen=True)
class ClassicalNuclei:
    """Outlines of nuclei in haematoxylin-stained sections, with area, circularity and density.

    The score is the share of a nucleus's mean haematoxylin OD that exceeds the local threshold, 1 - threshold / mean.

    Raises ConfigError for a resolution coarser than ``MAX_MPP`` or a halo too small for the largest nucleus.
    """

    mpp: float = 0.5
    """Micrometres per pixel to work at."""
    min_tissue: float = 0.0
    """Smallest share of a window's core that must be tissue."""
    core: int = 1024
    """Side of a window's core, px."""
    halo_um: float = 32.0
    """Context on each side of the core, um."""
    threshold: float | None = None
    """Haematoxylin OD of the slide's threshold; set by ``prepare``."""
    otsu_od: float | None = None
    """Otsu's threshold of the slide's sampled tissue, OD; None where there was none. Set by ``prepare``."""
    size: tuple[int, int] | None = None
    """(width, height) of the slide on its lattice: what lies outside does not count. Set by ``prepare``."""

    name: ClassVar[str] = "nuclei-classical"
    description: ClassVar[str] = "nuclei in H&E or haematoxylin, by colour deconvolution and watershed; no weights"
    produces: ClassVar[type[Objects]] = Objects
    labels: ClassVar[tuple[Label, ...]] = (Label("Nucleus", (64, 96, 208)),)

    def __post_init__(self) -> None:
        if not 0 < self.mpp <= MAX_MPP:
            raise ConfigError(
                f"nuclei-classical needs an mpp above 0 and up to {MAX_MPP} um per pixel, got {self.mpp!r}"
            )
        least = MAX_EXTENT_UM + SUPPORT_UM
        if not self.halo_um >= least:
            raise ConfigError(
                f"a halo of {self.halo_um!r} um is too small: the largest nucleus ({MAX_EXTENT_UM:g} um) and the "
                f"filters ({SUPPORT_UM:g} um) need at least {least:g} um"
            )

    @classmethod
    def create(cls, mpp: float | None = None, min_tissue: float | None = None) -> Self:
        """Make one with the given settings; None leaves the default."""
        return cls(cls.mpp if mpp is None else mpp, cls.min_tissue if min_tissue is None else min_tissue)

    @property
    def tile(self) -> TileSpec:
        """Cores of ``core`` px with ``halo_um`` around them."""
        return TileSpec(self.mpp, self.core, math.ceil(self.halo_um / self.mpp), self.min_tissue)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Empty: name, class and tile say it all."""
        return {}

    @property
    def bound(self) -> Mapping[str, Any]:
        """The slide's threshold and what it was made of, OD."""
        if self.threshold is None:
            return {}
        return {"haematoxylin_threshold_od": self.threshold, "haematoxylin_otsu_od": self.otsu_od}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """Bind the slide's size and its threshold (``slide_threshold``)."""
        mpp = slide.resolve(self.mpp)
        threshold, found = slide_threshold(slide, tissue, mpp)
        return replace(self, threshold=threshold, otsu_od=found, size=slide.size_at(mpp))

    def predict(self, batch: Batch) -> Sequence[Objects]:
        """Nuclei of each patch, those cut by its border left out. Raises PredictionError before ``prepare``."""
        threshold, size = self.threshold, self.size
        if threshold is None or size is None:
            raise PredictionError(
                "ClassicalNuclei has no threshold yet: call prepare(slide, tissue) and use its result"
            )
        return [
            _nuclei(_window(image, region, size, threshold), region, threshold)
            for image, region in zip(batch.images, batch.regions, strict=True)
        ]


def _window(image: NDArray[np.uint8], region: Region, size: tuple[int, int], threshold: float) -> _Densities:
    """Densities of a patch. What lies outside the slide has none, and does not dilute the mean of what lies inside."""
    inside = region.intersection(Region(0, 0, *size, region.mpp))
    if inside == region:
        return _densities(image, region.mpp, threshold)
    shape = image.shape[:2]
    window = _Densities(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.ones(shape, np.float32))
    if inside is not None:
        part = inside.slices(region)
        for whole, values in zip(window, _densities(image[part], region.mpp, threshold), strict=True):
            whole[part] = values
    return window


def _nuclei(densities: _Densities, region: Region, threshold: float) -> Objects:
    labels = _segment(densities, region.mpp, threshold)
    labels, scores, means = _scored(labels, densities)
    _, polygons = outlines(labels)
    sums = moments(labels, len(polygons))
    roundness = circularity(polygons)
    keep = roundness >= MIN_CIRCULARITY
    measurements = {
        "Area um^2": sums[keep, 2].astype(np.float64) * region.mpp**2,
        "Circularity": roundness[keep],
        "Haematoxylin OD mean": means[keep],
    }
    return Objects(region, polygons[keep], np.zeros(int(keep.sum()), np.int64), scores[keep], sums[keep], measurements)


def _densities(image: NDArray[np.uint8], mpp: float, threshold: float) -> _Densities:
    raw = density(image)
    local = gaussian(raw, SURROUND_UM, mpp, truncate=2.0)
    local *= np.float32(SURROUND_WEIGHT)
    local += np.float32((1 - SURROUND_WEIGHT) * threshold)
    np.maximum(local, np.float32(LOCAL_FLOOR * threshold), out=local)
    return _Densities(raw, smoothed(raw, mpp), local)


def _segment(densities: _Densities, mpp: float, threshold: float) -> NDArray[np.int32]:
    """Labels of nuclei of the right size, not cut by the border; 4-connected, numbered without gaps in row order."""
    mask = without_holes(densities.smooth > densities.threshold, MAX_HOLE_UM2 / mpp**2)
    labels = basins(_summits(densities, mask, mpp), mask, SUMMIT_DEPTH_UM)
    labels = _cut_to_peak(labels, densities.smooth, PEAK_BASE * threshold)
    least, most = (area / mpp**2 for area in AREA_UM2)
    # most basins are specks: drop them before the slower steps
    labels = largest_parts(_only(labels, np.bincount(labels.ravel()) >= least))
    sizes = np.bincount(labels.ravel())
    return _only(labels, (sizes >= least) & (sizes <= most) & _fits(labels, len(sizes), MAX_EXTENT_UM / mpp))


def _summits(densities: _Densities, mask: NDArray[np.bool_], mpp: float) -> NDArray[np.float32]:
    """Height map in um: distance to the edge of the mask, times how far the density exceeds the threshold."""
    height: NDArray[np.float32] = ndimage.distance_transform_edt(mask).astype(np.float32)
    height *= np.float32(mpp)
    height *= np.minimum(densities.smooth / densities.threshold, np.float32(CONTRAST_CAP))
    return gaussian(height, SUMMIT_SMOOTHING_UM, mpp, truncate=3.0)


def _cut_to_peak(labels: NDArray[np.int32], density: NDArray[np.float32], base: float) -> NDArray[np.int32]:
    """Take off every basin what is far paler than its peak: the blurred rim and pale bridges."""
    pixels = np.flatnonzero(labels)
    label, value = labels.ravel()[pixels], density.ravel()[pixels]
    peak = np.zeros(int(labels.max()) + 1, np.float32)
    np.maximum.at(peak, label, value)
    least = np.float32(base) + np.float32(PEAK_SHARE) * (peak - np.float32(base))
    cut = labels.copy()
    cut.ravel()[pixels[value < least[label]]] = 0
    return cut


def _fits(labels: NDArray[np.int32], count: int, extent: float) -> NDArray[np.bool_]:
    """(count,) which labels lie off the border and within a box of side ``extent`` px."""
    height, width = labels.shape
    fits = np.zeros(count, bool)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            rows, columns = box
            # basins leave out the outermost pixels, so that a cut nucleus ends one pixel before them
            inside = min(rows.start, columns.start) > 1 and rows.stop < height - 1 and columns.stop < width - 1
            fits[label] = inside and max(rows.stop - rows.start, columns.stop - columns.start) <= extent
    return fits


def _only(labels: NDArray[np.int32], keep: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The labels to keep, renumbered from 1 in their old order; index 0 of ``keep``, the background, is ignored."""
    number = np.cumsum(np.append(False, keep[1:]), dtype=np.int32)
    number[~keep] = 0
    number[0] = 0
    renumbered: NDArray[np.int32] = number[labels]
    return renumbered


def _scored(
    labels: NDArray[np.int32], densities: _Densities
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Labels with a score of at least ``MIN_SCORE``, their scores and their mean densities."""
    pixels = np.flatnonzero(labels)
    label = labels.ravel()[pixels]
    count = int(labels.max()) + 1
    number, density, threshold = (
        np.bincount(label, weights, count)[1:]
        for weights in (None, densities.raw.ravel()[pixels], densities.threshold.ravel()[pixels])
    )
    # a threshold is positive, so that only a mean below it could make the quotient negative or undefined
    scores = 1 - threshold / np.maximum(density, threshold)
    keep = scores >= MIN_SCORE
    return _only(labels, np.append(False, keep)), scores[keep], density[keep] / number[keep]
