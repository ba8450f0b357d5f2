"""What predictors see and say: batches, predictions, bags, and the two predictor protocols. No torch, no I/O.

Every prediction is tied to the ``Region`` (core plus halo) that it was made on. Its coordinates are in the patch
frame: (x, y) in pixels of that region, pixel-corner convention. Stitchers move them to the slide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.errors import ConfigError, PredictionError
from wsikit.geometry import Region, TileSpec

if TYPE_CHECKING:
    from wsikit.slides import Slide
    from wsikit.tissue import TissueMask


@dataclass(frozen=True, slots=True)
class Label:
    """One class that a predictor can say, as QuPath shows it."""

    name: str
    """QuPath classification name."""
    color: tuple[int, int, int]
    """RGB, 0 to 255."""
    background: bool = False
    """True for what is none of the other classes: it is counted and written, and left out of pictures."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Patches and where they came from."""

    images: NDArray[np.uint8]
    """(N, H, W, 3) RGB."""
    regions: tuple[Region, ...]
    """N regions, core plus halo, of W x H lattice pixels."""

    def __len__(self) -> int:
        return len(self.regions)


def _check(condition: bool, region: Region, message: str) -> None:
    if not condition:
        where = f"x={region.x}, y={region.y}, {region.width}x{region.height} px at {region.mpp:.4g} um/px"
        raise PredictionError(f"{message} (patch at {where})")


def _check_instances(
    region: Region,
    count: int,
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    measurements: Mapping[str, NDArray[np.float64]],
) -> None:
    _check(labels.shape == (count,), region, f"labels must have shape ({count},), got {labels.shape}")
    _check(scores.shape == (count,), region, f"scores must have shape ({count},), got {scores.shape}")
    _check(bool(np.isfinite(scores).all()), region, "scores must be finite, got NaN or infinity")
    for name, values in measurements.items():
        _check(values.shape == (count,), region, f"measurement {name!r} must have shape ({count},), got {values.shape}")
        _check(not np.isinf(values).any(), region, f"measurement {name!r} holds infinity")


def _check_outlines(region: Region, name: str, outlines: NDArray[np.object_]) -> None:
    types = shapely.get_type_id(outlines)
    wrong = np.flatnonzero((types != shapely.GeometryType.POLYGON) | shapely.is_empty(outlines))
    if len(wrong):
        shape = outlines[wrong[0]]
        found = "None" if shape is None else f"an empty {shape.geom_type}" if shape.is_empty else f"a {shape.geom_type}"
        _check(False, region, f"{name} must be shapely Polygons with an area, got {found}")
    invalid = np.flatnonzero(~shapely.is_valid(outlines))
    if len(invalid):
        reason = shapely.is_valid_reason(outlines[invalid[0]])
        _check(False, region, f"{name} must be valid, shapely.make_valid mends them; got one with {reason}")


def _check_density(region: Region, density: NDArray[np.float32] | None) -> None:
    if density is None:
        return
    shape = density.shape
    # without a whole cell along each side there is no size to speak of
    cell = region.width // shape[1] if len(shape) == 2 and shape[1] > 0 else 0
    fits = cell > 0 and (shape[0] * cell, shape[1] * cell) == (region.height, region.width)
    _check(fits, region, f"density must be (h, w), square cells of whole px that fill the patch, got {shape}")
    real = bool(np.issubdtype(density.dtype, np.floating)) and bool(np.isfinite(density).all())
    _check(real and bool((density >= 0).all()), region, "density must be finite floats >= 0, objects in each cell")


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMap:
    """Scores of K labels for every pixel of a patch."""

    region: Region
    scores: NDArray[np.float32]
    """(H, W, K) in [0, 1]. The stitcher keeps them in steps of 1/255."""

    def check(self, labels: int) -> None:
        """Raise PredictionError unless shape, range and finiteness hold for ``labels`` labels."""
        want = (self.region.height, self.region.width, labels)
        _check(self.scores.shape == want, self.region, f"a ScoreMap must be {want}, got {self.scores.shape}")
        # min and max are NaN where any score is, and NaN fails both comparisons
        inside = bool(self.scores.min() >= 0) and bool(self.scores.max() <= 1)
        _check(inside, self.region, "scores must lie in [0, 1], got NaN or a value outside")


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """N detected points of a patch, its halo included; the stitcher keeps those whose core they fall into."""

    region: Region
    xy: NDArray[np.float64]
    """(N, 2) x, y in the patch frame."""
    labels: NDArray[np.int64]
    """(N,) index into the predictor's labels."""
    scores: NDArray[np.float64]
    """(N,) confidence in [0, 1]."""
    measurements: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """name -> (N,); NaN means not measured. Physical sizes in um or um^2, the unit in the name."""
    radius: float = 0.0
    """Two points of different cores closer than this many px are one detection."""
    density: NDArray[np.float32] | None = None
    """(h, w) expected number of objects in each square cell of ``region.width / w`` lattice px, the halo included, for
    predictors that have a ``density_cell``. Cells add up: their sum is the count."""

    def check(self, labels: int) -> None:
        """Raise PredictionError unless shapes, label indices and finiteness hold for ``labels`` labels."""
        count = len(self.xy)
        _check(self.xy.shape == (count, 2), self.region, f"xy must be (N, 2), got {self.xy.shape}")
        _check(bool(np.isfinite(self.xy).all()), self.region, "xy must be finite, got NaN or infinity")
        _check_instances(self.region, count, self.labels, self.scores, self.measurements)
        _check(_indices_fit(self.labels, labels), self.region, f"labels must be indices below {labels}")
        _check_density(self.region, self.density)


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """N outlined objects of a patch, its halo included; the stitcher keeps those whose core they belong to."""

    region: Region
    outlines: NDArray[np.object_]
    """(N,) shapely Polygons in the patch frame, valid, holes kept."""
    labels: NDArray[np.int64]
    """(N,) index into the predictor's labels."""
    scores: NDArray[np.float64]
    """(N,) confidence in [0, 1]; the higher one survives a conflict at a seam."""
    moments: NDArray[np.int64]
    """(N, 3) sum of x, sum of y and number of the object's pixels, by pixel index in the patch frame. Integers, so that
    the core which owns an object is decided exactly."""
    measurements: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """name -> (N,); NaN means not measured. Physical sizes in um or um^2, the unit in the name."""
    nuclei: NDArray[np.object_] | None = None
    """(N,) nucleus outlines; when given, the objects are cells and the outlines are their boundaries."""
    density: NDArray[np.float32] | None = None
    """(h, w) expected number of objects in each square cell of ``region.width / w`` lattice px, the halo included, for
    predictors that have a ``density_cell``. Cells add up: their sum is the count."""

    def check(self, labels: int) -> None:
        """Raise PredictionError unless shapes, label indices, finiteness and outlines hold for ``labels`` labels."""
        count = len(self.outlines)
        _check(self.moments.shape == (count, 3), self.region, f"moments must be ({count}, 3), got {self.moments.shape}")
        _check(bool((self.moments[:, 2] > 0).all()), self.region, "every object needs at least one pixel")
        _check_instances(self.region, count, self.labels, self.scores, self.measurements)
        _check(_indices_fit(self.labels, labels), self.region, f"labels must be indices below {labels}")
        _check_density(self.region, self.density)
        _check(self.nuclei is None or len(self.nuclei) == count, self.region, f"nuclei must have length {count}")
        _check_outlines(self.region, "outlines", self.outlines)
        if self.nuclei is not None:
            _check_outlines(self.region, "nuclei", self.nuclei)


@dataclass(frozen=True, slots=True, eq=False)
class BagScore:
    """What a bag-level model says of one slide or patient."""

    regions: tuple[Region, ...]
    """The N instances' regions."""
    scores: NDArray[np.float64]
    """(K,) score of each label for the whole bag."""
    attention: NDArray[np.float64] | None = None
    """(N,) weight of each instance, non-negative; None where the model weighs all alike, as patch classifiers do."""
    instances: NDArray[np.float64] | None = None
    """(N, K) score of each label for each instance in [0, 1], where the model has them: tiles get a class from it."""
    measurements: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """name -> (N,) further per-instance values."""

    def check(self, labels: int) -> None:
        """Raise PredictionError unless shapes, ranges and finiteness hold for ``labels`` labels."""
        count = len(self.regions)

        def need(condition: bool, message: str) -> None:
            if not condition:
                raise PredictionError(f"{message} (bag of {count} instances)")

        shape = self.scores.shape
        need(shape == (labels,) and bool(np.isfinite(self.scores).all()), f"scores must be ({labels},) finite numbers")
        if self.attention is not None:
            weights = self.attention
            fits = weights.shape == (count,) and bool((np.isfinite(weights) & (weights >= 0)).all())
            need(fits, f"attention must be finite numbers >= 0, one per region, got shape {weights.shape}")
        if self.instances is not None:
            want, got = (count, labels), self.instances.shape
            need(got == want, f"instances must have shape {want}, got {got}")
            inside = not count or (self.instances.min() >= 0 and self.instances.max() <= 1)
            need(bool(inside), "scores of instances must lie in [0, 1], got NaN or a value outside")
        for name, values in self.measurements.items():
            need(values.shape == (count,), f"measurement {name!r} must have shape ({count},), got {values.shape}")
            need(not np.isinf(values).any(), f"measurement {name!r} holds infinity")


Prediction = ScoreMap | Points | Objects | BagScore


def _indices_fit(indices: NDArray[np.int64], count: int) -> bool:
    return bool(np.issubdtype(indices.dtype, np.integer) and ((indices >= 0) & (indices < count)).all())


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """The instances of one slide or patient and their one weak label."""

    name: str
    """Slide or patient identifier."""
    features: NDArray[np.float32]
    """(N, D) instance features."""
    regions: tuple[Region, ...]
    """N regions that the instances came from."""
    label: int | None = None
    """Index of the bag's label, or None where it is unknown."""
    slides: tuple[str, ...] = ()
    """The slide of each of the N instances, since regions are a slide's own; empty where all are of the slide ``name``.
    """

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, slots=True)
class AreaSpec:
    """How a class map becomes areas.

    Raises ConfigError for a size that is no finite number of at least 0.
    """

    least_um2: float = 0.0
    """Connected areas below this, um^2, and holes of that size are given to the class around them that scores best
    there; never to a background label. 0 leaves the map as it is."""

    def __post_init__(self) -> None:
        size: object = self.least_um2
        if isinstance(size, bool) or not isinstance(size, int | float) or not (math.isfinite(size) and size >= 0):
            raise ConfigError(f"AreaSpec.least_um2 is a finite area in um^2 of at least 0, got {size!r}")


@runtime_checkable
class Predictor(Protocol):
    """A model over patches. Plain Python objects that pickle; ``prepare`` returns a bound copy.

    ``predict`` must give for a patch the same answer whatever else is in the batch.

    A predictor of ``Objects`` or ``Points`` that gives a ``density`` with every prediction says so by an attribute
    ``density_cell: int``, the side of the cells in lattice px. Core, halo and phase are whole multiples of it.

    A predictor of ``ScoreMap`` whose classes are areas that a person would draw says so by an attribute ``areas:
    AreaSpec``. Its map is then cleaned up, and outlined: an annotation for every connected area of a class.
    """

    @property
    def name(self) -> str:
        """As reports show it."""
        ...

    produces: ClassVar[type[ScoreMap] | type[Points] | type[Objects]]
    """The one kind of prediction that ``predict`` returns."""

    @property
    def tile(self) -> TileSpec:
        """How slides are to be cut for this predictor."""
        ...

    @property
    def labels(self) -> tuple[Label, ...]:
        """The classes that predictions index into."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the answers beside name, class, tile and labels: hashes of weights and code, parameters.

        JSON-ready, known before ``prepare`` and part of the resume key; empty where there is nothing.
        """
        ...

    @property
    def bound(self) -> Mapping[str, Any]:
        """What ``prepare`` bound, JSON-ready; empty before. Recorded in slide.json and part of the resume key."""
        ...

    def prepare(self, slide: Slide, tissue: TissueMask) -> Predictor:
        """Bind what is constant for a slide (thresholds, stain vectors) and return the bound predictor."""
        ...

    def predict(self, batch: Batch) -> Sequence[Prediction]:
        """One prediction per patch, in order, each with the patch's region."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A model that makes one feature vector of a patch. Pickles; ``prepare`` returns a bound copy.

    ``embed`` must give for a patch the same vector whatever else is in the batch.
    """

    @property
    def name(self) -> str:
        """As reports show it."""
        ...

    @property
    def tile(self) -> TileSpec:
        """How slides are cut; patches overlap by twice the halo, and those of a ``BagPredictor`` have phase (0, 0)."""
        ...

    @property
    def labels(self) -> tuple[Label, ...]:
        """The classes that ``BagScore.scores`` follow; empty where the model only embeds."""
        ...

    @property
    def width(self) -> int:
        """D, the length of a feature vector."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """As in ``Predictor``."""
        ...

    @property
    def bound(self) -> Mapping[str, Any]:
        """As in ``Predictor``."""
        ...

    def prepare(self, slide: Slide, tissue: TissueMask) -> Encoder:
        """Bind what is constant for a slide and return the bound model."""
        ...

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """(N, D) finite features of N patches, in order."""
        ...


@runtime_checkable
class BagPredictor(Encoder, Protocol):
    """A model over bags: instances are embedded patch by patch, then scored together."""

    def prepare(self, slide: Slide, tissue: TissueMask) -> BagPredictor:
        """Bind what is constant for a slide and return the bound model."""
        ...

    def score(self, bag: Bag) -> BagScore:
        """Score one bag; the answer does not depend on the order of its instances."""
        ...


class Stateless:
    """A base for models that bind nothing per slide and have no weights or parameters to name beside their fields.

    It leaves ``name``, ``tile``, ``labels`` and what the model does (``produces`` and ``predict``, or ``width`` and
    ``embed``) to write. Fields that decide the answers belong into ``identity``, or else a run with other values keeps
    the results of an earlier one.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """The fields of a dataclass by name; empty for other classes."""
        return {item.name: getattr(self, item.name) for item in fields(self)} if is_dataclass(self) else {}

    @property
    def bound(self) -> Mapping[str, Any]:
        """Empty."""
        return {}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """The model itself."""
        return self


Model = Predictor | Encoder
"""Whatever can be run over a slide; a ``BagPredictor`` is an ``Encoder`` that scores as well."""


def density_cell(model: Model) -> int:
    """Side in lattice px of the cells of a model's density maps; 0 where it gives none."""
    cell: int = getattr(model, "density_cell", 0)
    return cell


def area_spec(model: Model) -> AreaSpec | None:
    """How a model's class map becomes areas; None where it does not."""
    spec: AreaSpec | None = getattr(model, "areas", None)
    return spec


def check_area_spec(model: Model) -> None:
    """Raise PredictionError unless ``areas`` of a model is what it should be."""
    spec = area_spec(model)
    if spec is None:
        return
    if not (isinstance(model, Predictor) and model.produces is ScoreMap):
        raise PredictionError(f"{model.name!r} has areas, which go with ScoreMap")
    if not isinstance(spec, AreaSpec):
        raise PredictionError(
            f"{model.name!r} has areas={spec!r}, an AreaSpec is needed",
            remedy="write areas = AreaSpec(least_um2=...), or leave it out",
        )


def check_density_cell(model: Model) -> None:
    """Raise PredictionError unless cells of density fit a model's windows: each lies in one core and one patch."""
    cell = density_cell(model)
    if cell == 0:
        return
    if not (isinstance(model, Predictor) and model.produces in (Objects, Points)):
        raise PredictionError(f"{model.name!r} has a density_cell, which goes with Objects or Points")
    if not isinstance(cell, int) or cell < 0:
        raise PredictionError(f"{model.name!r} has the density_cell {cell!r}, it is a whole number of px, 0 for none")
    tile = model.tile
    if any(side % cell for side in (tile.core, tile.halo, *tile.phase)):
        raise PredictionError(
            f"{model.name!r} gives density in cells of {cell} px; its core of {tile.core} px, halo of {tile.halo} px "
            f"and phase {tile.phase} must be whole multiples of that"
        )
