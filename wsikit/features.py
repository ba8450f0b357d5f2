"""What stitchers hand to sinks: finished features in the slide frame, and finished blocks of masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import PredictionError
from wsikit.geometry import Region

FeatureKind = Literal["detection", "cell", "annotation", "tile", "tmaCore"]
"""QuPath's object types. wsikit itself makes no tmaCore; annotation files may hold them."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """N features of one kind, in final order."""

    kind: FeatureKind
    geometries: NDArray[np.object_]
    """(N,) shapely Points, Polygons or MultiPolygons, from annotation files also lines and MultiPoints; (x, y) in
    level-0 pixels of the full plane."""
    labels: NDArray[np.int64]
    """(N,) index into the context's labels; -1 for no class."""
    measurements: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """name -> (N,); NaN means not measured and is left out."""
    nuclei: NDArray[np.object_] | None = None
    """(N,) nucleus Polygons of cells, same frame."""
    names: tuple[str, ...] | None = None
    """(N,) display names, where features have one; the empty string is none."""
    ids: tuple[str, ...] | None = None
    """(N,) UUIDs that features have already; the empty string, or None for all, is one made of slide and geometry."""
    locked: NDArray[np.bool_] | None = None
    """(N,) whether QuPath refuses to move it; None locks annotations and nothing else."""
    colors: NDArray[np.int16] | None = None
    """(N, 3) RGB of an object's own, apart from its class's; -1 for none."""

    def __len__(self) -> int:
        return len(self.geometries)

    def __getitem__(self, rows: slice | NDArray[np.intp] | NDArray[np.bool_]) -> Features:
        """Some of the features, in the order of ``rows``."""
        chosen = np.arange(len(self))[rows].tolist()
        columns = {name: values[rows] for name, values in self.measurements.items()}
        return Features(
            self.kind,
            self.geometries[rows],
            self.labels[rows],
            columns,
            None if self.nuclei is None else self.nuclei[rows],
            None if self.names is None else tuple(self.names[i] for i in chosen),
            None if self.ids is None else tuple(self.ids[i] for i in chosen),
            None if self.locked is None else self.locked[rows],
            None if self.colors is None else self.colors[rows],
        )

    def check(self, labels: int) -> None:
        """Raise PredictionError unless all columns have N values and label indices are below ``labels``."""
        count = len(self)
        for name, values in {"labels": self.labels, **self.measurements}.items():
            if values.shape != (count,):
                raise PredictionError(f"features need {count} values of {name!r}, got an array of {values.shape}")
        if count and not -1 <= self.labels.min() <= self.labels.max() < labels:
            raise PredictionError(f"feature labels must be -1 (none) or an index below {labels}")
        if self.nuclei is not None and (self.kind != "cell" or len(self.nuclei) != count):
            raise PredictionError(f"nuclei go with cells, one each; got {len(self.nuclei)} with {count} {self.kind}s")
        for what, column in (("names", self.names), ("ids", self.ids), ("locks", self.locked)):
            if column is not None and len(column) != count:
                raise PredictionError(f"features need {count} {what}, got {len(column)}")


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
    confidence: NDArray[np.uint8] | None = None
    """(H, W) the best score of each pixel less the second best, in steps of 1/255, for score maps; 0 where nothing was
    analysed."""


@dataclass(frozen=True, slots=True, eq=False)
class DensityBlock:
    """One finished block of a density map. Blocks are aligned to the sink's block lattice and come once each."""

    region: Region
    """Where, on the lattice of the map's cells; clipped to the slide."""
    density: NDArray[np.float32]
    """(H, W) objects per mm^2. A cell that the slide's border cuts counts with all of its area, so that the number of
    objects is the sum of all pixels times the area of one."""
