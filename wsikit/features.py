"""What stitchers hand to sinks: finished features in the slide frame, and finished blocks of masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsikit.geometry import Region

FeatureKind = Literal["detection", "cell", "annotation", "tile"]
"""QuPath's object types, the ones that wsikit writes."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """N features of one kind, in final order."""

    kind: FeatureKind
    geometries: NDArray[np.object_]
    """(N,) shapely Points, Polygons or MultiPolygons; (x, y) in level-0 pixels of the full plane."""
    labels: NDArray[np.int64]
    """(N,) index into the context's labels; -1 for no class."""
    measurements: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """name -> (N,); NaN means not measured and is left out."""
    nuclei: NDArray[np.object_] | None = None
    """(N,) nucleus Polygons of cells, same frame."""
    names: tuple[str, ...] | None = None
    """(N,) display names, where features have one."""

    def __len__(self) -> int:
        return len(self.geometries)


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """N patches and their feature vectors, by row, then column."""

    corners: NDArray[np.int64]
    """(N, 2) x, y of each patch on the lattice of the prediction."""
    features: NDArray[np.float32]
    """(N, D)."""

    def __len__(self) -> int:
        return len(self.corners)


@dataclass(frozen=True, slots=True)
class Layer:
    """One label image of a slide."""

    name: str
    """Folder name under ``labels/``."""
    dtype: Literal["uint8", "uint32"]
    colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    """Pixel value -> RGB. Empty for instance masks, where every object has a value of its own."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Pixel value -> class name."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskBlock:
    """One finished block of all mask layers. Blocks are aligned to the sink's block lattice and come once each."""

    region: Region
    """Where, on the lattice of the prediction; clipped to the slide."""
    layers: Mapping[str, NDArray[np.unsignedinteger]]
    """layer name -> (H, W) pixel values; 0 is nothing."""
    scores: NDArray[np.uint8] | None = None
    """(K, H, W) scores of the K labels in steps of 1/255, for score maps."""
