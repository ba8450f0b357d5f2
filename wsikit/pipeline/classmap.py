"""What the class map of a slide comes to: areas, confidence, and annotations for QuPath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from wsikit.features import Features
from wsikit.predictions import Label
from wsikit.slides import Slide
from wsikit.stitching.areas import Outlined
from wsikit.stitching.maps import STEPS, MapTotals
from wsikit.tissue import TissueMask

TUMOR, STROMA = "Tumor", "Stroma"
"""QuPath's names of the classes that have a ratio."""


@dataclass(frozen=True, slots=True)
class MapFacts:
    """A class map in numbers."""

    areas_mm2: Mapping[str, float]
    """label -> mm^2."""
    fractions: Mapping[str, float]
    """label -> share of what was analysed; all 0 where nothing was."""
    confidence: float | None = None
    """Mean over what was analysed of the best score less the second best; None where nothing was."""
    low_confidence: float | None = None
    """Share of what was analysed where that is below ``stitching.maps.CONFIDENT``."""

    @classmethod
    def of(cls, totals: MapTotals, labels: Sequence[Label], mpp: float) -> MapFacts:
        """The numbers of a map of ``mpp`` um per pixel."""
        names, pixels = [label.name for label in labels], totals.pixels.tolist()
        total = sum(pixels)
        areas = {name: count * mpp**2 / 1e6 for name, count in zip(names, pixels, strict=True)}
        fractions = {name: count / max(total, 1) for name, count in zip(names, pixels, strict=True)}
        if not total:
            return cls(areas, fractions)
        return cls(areas, fractions, totals.confidence / (STEPS * total), totals.unsure / total)

    @property
    def tumor_stroma_ratio(self) -> float | None:
        """mm^2 of tumour per mm^2 of stroma; None without both labels, or without stroma."""
        tumor, stroma = self.areas_mm2.get(TUMOR), self.areas_mm2.get(STROMA)
        return tumor / stroma if tumor is not None and stroma else None


def tissue_annotation(tissue: TissueMask, slide: Slide, facts: MapFacts) -> Features:
    """One annotation of all tissue that carries the areas, so that QuPath shows them; none without tissue."""
    polygons = tissue.polygons(slide)
    shapes = np.empty(1 if polygons else 0, object)
    shapes[:] = shapely.MultiPolygon(polygons)
    values = {f"{name} area um^2": mm2 * 1e6 for name, mm2 in facts.areas_mm2.items()}
    values |= {f"{name} fraction": share for name, share in facts.fractions.items()}
    measured = {name: np.full(len(shapes), value, np.float64) for name, value in values.items()}
    return Features("annotation", shapes, np.full(len(shapes), -1), measured, names=("Tissue",) * len(shapes))


def with_areas(tissue: Features, found: Outlined, mpp: float, slide: Slide) -> Features:
    """The annotation of the tissue, then one for each connected area of a map of ``mpp`` um per pixel.

    They have the same measurements, NaN where one does not have it: tables take no others.
    """
    scale, count = mpp / slide.mpp, len(found.labels)
    own = {"Area mm^2": found.pixels.astype(np.float64) * (mpp**2 / 1e6), "Mean score": found.scores}
    none = {name: np.full(count, np.nan) for name in tissue.measurements}
    before = {**tissue.measurements, **{name: np.full(len(tissue), np.nan) for name in own}}
    return Features(
        "annotation",
        np.concatenate([tissue.geometries, shapely.transform(found.polygons, lambda xy: xy * scale)]),
        np.concatenate([tissue.labels, found.labels]),
        {name: np.concatenate([values, {**none, **own}[name]]) for name, values in before.items()},
        names=(*(tissue.names or ()), *[""] * count),
    )
