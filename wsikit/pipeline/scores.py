"""One image scored: what was found against what is true, both at level 0."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.errors import AnnotationError, ConfigError
from wsikit.geometry import Region
from wsikit.metrics import (
    Ratio,
    absolute_error,
    aji,
    aji_plus,
    class_dice,
    class_iou,
    confusion_matrix,
    dice,
    ensemble_dice,
    frequency_weighted_iou,
    match_points,
    mean_iou,
    object_scores,
    overlaps_of_blocks,
    pixel_accuracy,
)
from wsikit.outlines import pixels
from wsikit.pipeline.truth import Areas, Truth, centroids
from wsikit.predictions import Label, Objects, Points, Predictor, ScoreMap
from wsikit.sinks.memory import ClassMap, FeatureList
from wsikit.stitching.raster import blocks

BLOCK = 2048
"""Side in level-0 pixels of what is painted and compared at once."""
IOU = 0.5
"""Objects match where their intersection over union exceeds this."""
POINTS, OUTLINES, CLASSES = "detection F1 and counts", "object F1, PQ, AJI and Dice", "IoU of classes"
"""Groups of metrics: what they need of truth and model differs."""
IGNORE = -1
"""Class of pixels that are not annotated."""
OF_CLASS = "detection_f1["
"""What metrics of a class begin with; its name and a ] follow."""
NOTHING = "nothing"
"""Name of the class of pixels that no label of the model covers."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the figures depend on beside model and data."""

    radius_um: float = 6.0
    """Largest distance of a detection from its true point, about the radius of a large nucleus."""
    mpp_override: float | None = None
    """Micrometres per level-0 pixel of every image, whatever its file says."""
    mask_classes: Mapping[int, str] = field(default_factory=dict)
    """Value of a class mask -> name of the model's label, or "ignore" for pixels to leave out. Other values are places
    in the model's labels from 1, and 0 is background."""

    def __post_init__(self) -> None:
        if not 0 < self.radius_um < np.inf:
            raise ConfigError(f"the radius must be a positive number of um, got {self.radius_um!r}")


@dataclass(frozen=True, eq=False)
class Shapes:
    """Polygons; where they overlap the later one has the pixel."""

    polygons: NDArray[np.object_]
    """(N,) shapely Polygons, (x, y) in level-0 pixels of the full plane."""
    values: NDArray[np.int64]
    """(N,) at least 1."""

    @classmethod
    def numbered(cls, polygons: NDArray[np.object_]) -> Shapes:
        """Every polygon an object of its own."""
        return cls(polygons, np.arange(1, len(polygons) + 1))

    @cached_property
    def _bounds(self) -> NDArray[np.float64]:
        bounds: NDArray[np.float64] = shapely.bounds(self.polygons).reshape(-1, 4)
        return bounds

    def paint(self, region: Region) -> NDArray[np.int64]:
        """See ``Areas``."""
        x0, y0, x1, y1 = self._bounds.T
        near = (x0 < region.x1) & (x1 > region.x) & (y0 < region.y1) & (y1 > region.y)
        painted = np.zeros((region.height, region.width), np.int64)
        rows, columns, owner = pixels(self.polygons[near], region)
        painted[rows, columns] = self.values[near][owner]
        return painted


@dataclass(frozen=True, eq=False)
class Coarse:
    """A class map on a coarser or finer lattice, seen from level 0: the value under each pixel's centre."""

    array: NDArray[np.integer]
    """(H, W) on the lattice of the prediction."""
    scale: float
    """Pixels of the lattice per level-0 pixel."""

    def paint(self, region: Region) -> NDArray[np.int64]:
        """See ``Areas``."""
        rows = self._places(region.y, region.y1, self.array.shape[0])
        columns = self._places(region.x, region.x1, self.array.shape[1])
        return self.array[np.ix_(rows, columns)].astype(np.int64)

    def _places(self, first: int, last: int, length: int) -> NDArray[np.int64]:
        places = np.floor((np.arange(first, last) + 0.5) * self.scale).astype(np.int64)
        return np.where(places < length, places, length - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a model found on one image; what its kind of prediction does not hold is None."""

    labels: tuple[Label, ...]
    instances: Areas | None = None
    centers: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """As in ``Truth``."""
    classes: Areas | None = None
    """Label index + 1 of each pixel; 0 is nothing."""
    everywhere: bool = False
    """Whether every pixel gets a class, as in score maps."""


def sink_for(predictor: Predictor) -> FeatureList | ClassMap:
    """What collects a predictor's results."""
    return ClassMap() if predictor.produces is ScoreMap else FeatureList()


def found_by(predictor: Predictor, sink: FeatureList | ClassMap) -> Found:
    """The collected results of a run, as they are compared."""
    labels = predictor.labels
    if isinstance(sink, ClassMap):
        scale = sink.context.slide_mpp / sink.context.mpp
        return Found(labels, classes=Coarse(sink.classes, scale), everywhere=True)
    shapes, index = sink.geometries, sink.labels
    points = centroids(shapes)
    centers = {label.name: points[index == k] for k, label in enumerate(labels)} | {"": points}
    if predictor.produces is Points:
        return Found(labels, centers=centers)
    assert predictor.produces is Objects
    return Found(labels, Shapes.numbered(shapes), centers, Shapes(shapes, index + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The figures of one image, or, added up, of many."""

    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    """Metric -> its two sums."""
    confusion: NDArray[np.int64] | None = None
    """(K, K) pixels by true and found class."""
    class_names: tuple[str, ...] = ()
    """(K,)"""

    def __add__(self, other: Scores) -> Scores:
        ratios = dict(self.ratios)
        for name, ratio in other.ratios.items():
            ratios[name] = ratios[name] + ratio if name in ratios else ratio
        if self.confusion is None or other.confusion is None:
            known = other if self.confusion is None else self
            return Scores(ratios, known.confusion, known.class_names)
        return Scores(ratios, self.confusion + other.confusion, self.class_names)

    def values(self) -> dict[str, float]:
        """Metric -> value; NaN where it is not defined."""
        found = {name: ratio.value for name, ratio in self.ratios.items()}
        if self.confusion is None:
            return found
        found["miou"] = mean_iou(self.confusion)
        found["fwiou"] = frequency_weighted_iou(self.confusion)
        found["pixel_accuracy"] = pixel_accuracy(self.confusion)
        for name, iou, share in zip(
            self.class_names, class_iou(self.confusion), class_dice(self.confusion), strict=True
        ):
            found |= {f"iou[{name}]": float(iou), f"dice[{name}]": float(share)}
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One image's figures, and beside them those of a model that does nothing."""

    scores: Scores
    trivial: Scores
    """Of finding nothing; of calling everything foreground where that is what a lazy model would do (Dice)."""
    counts: tuple[int, int] | None
    """True and found objects, where both are known."""
    classes: frozenset[str] = frozenset()
    """Classes of the true objects that the model knows."""


def not_computable(truth: Truth, predictor: Predictor) -> dict[str, str]:
    """Group of metrics -> why truth and prediction do not allow it; known before the model runs.

    Raises:
        AnnotationError: code not_comparable where no metric at all can be computed.
    """
    reasons = {
        POINTS: "the model gives no objects or points"
        if predictor.produces is ScoreMap
        else "the truth holds no objects or points"
        if not truth.centers
        else "",
        OUTLINES: "the model gives no outlines of objects"
        if predictor.produces is not Objects
        else "the truth holds no outlines"
        if truth.instances is None
        else "",
        CLASSES: _why_no_classes(truth, predictor),
    }
    missing = {name: reason for name, reason in reasons.items() if reason}
    if len(missing) == len(reasons):
        raise AnnotationError(
            f"nothing can be computed for {predictor.name!r} against {truth.path.name} ({truth.what}): "
            + "; ".join(f"{name}: {reason}" for name, reason in missing.items()),
            code="not_comparable",
            remedy="give truth of the kind that the model predicts: for score maps a class mask <image>_mask.png, or "
            "outlines whose classes are named as the model's labels",
        )
    return missing


def _why_no_classes(truth: Truth, predictor: Predictor) -> str:
    names = [label.name for label in predictor.labels]
    if predictor.produces is Points:
        return "the model gives points"
    if truth.classes is None:
        return "the truth holds no classes"
    if predictor.produces is Objects and truth.centers and truth.instances is None:
        return "the truth's objects are points, and the areas beside them none"
    if truth.class_names and not set(truth.class_names) & set(names):
        return f"the truth's classes ({', '.join(truth.class_names)}) are none of the model's ({', '.join(names)})"
    return ""


def compare(truth: Truth, found: Found, plane: Region, settings: Settings, missing: Collection[str] = ()) -> Comparison:
    """Score one image.

    Args:
        truth, found: of the same slide.
        plane: the whole slide on the lattice of level 0.
        settings: radius and class names.
        missing: groups of metrics to leave out, from ``not_computable``.

    Raises:
        AnnotationError: a class mask holds a value that means nothing.
        ConfigError: ``settings`` name a class that the model does not have.
    """
    parts: list[tuple[Scores, Scores]] = []
    if OUTLINES not in missing:
        assert truth.instances is not None
        assert found.instances is not None
        parts.append(_instances(truth.instances, found.instances, plane))
    if POINTS not in missing:
        parts.append(_detection(truth, found, plane.mpp, settings.radius_um))
    if CLASSES not in missing:
        parts.append((_classes(truth, found, plane, settings), Scores()))
    scores, trivial = (sum(column, Scores()) for column in zip(*parts, strict=True))
    if POINTS in missing:
        return Comparison(scores, trivial, None)
    counts = len(truth.centers[""]), len(found.centers[""])
    return Comparison(scores, trivial, counts, frozenset(truth.centers) & frozenset(found.centers) - {""})


def of_classes(comparison: Comparison, known: Collection[str]) -> Comparison:
    """Without the detection figures of classes that no image's truth has; of no class where there are not several."""
    kept = {f"{OF_CLASS}{name}]" for name in known} if len(known) > 1 else set()

    def chosen(scores: Scores) -> Scores:
        ratios = {name: one for name, one in scores.ratios.items() if not name.startswith(OF_CLASS) or name in kept}
        return replace(scores, ratios=ratios)

    return replace(comparison, scores=chosen(comparison.scores), trivial=chosen(comparison.trivial))


def _detection(truth: Truth, found: Found, mpp: float, radius_um: float) -> tuple[Scores, Scores]:
    """F1 whatever the class, and of each class of the model; and counts.

    A class that is not in this image may be in others: what was found of it here is wrong. Nothing is said of classes
    where the true objects have none.
    """
    parted = len(truth.centers) > 1 or not len(truth.centers[""])
    nothing = np.zeros((0, 2))
    ratios: dict[str, Ratio] = {}
    trivial: dict[str, Ratio] = {}
    for name in ["", *(name for name in found.centers if name and parted)]:
        true = truth.centers.get(name, nothing)
        match = match_points(true * mpp, found.centers[name] * mpp, radius=radius_um)
        metric = f"{OF_CLASS}{name}]" if name else "detection_f1"
        ratios |= {metric: match.f1}
        trivial |= {metric: Ratio.f1(0, match.truth, 0)}
        if not name:
            ratios |= {"detection_precision": match.precision, "detection_recall": match.recall}
            ratios |= {"localisation_um": Ratio(float(match.distances.sum()), len(match.distances), np.nan)}
            ratios |= {"count_mae": absolute_error(match.truth, match.found)}
    return Scores(ratios), Scores(trivial)


def _instances(truth: Areas, found: Areas, plane: Region) -> tuple[Scores, Scores]:
    table = overlaps_of_blocks((truth.paint(region), found.paint(region)) for region in blocks(plane, BLOCK))
    ratios = object_scores(table, IOU)
    ratios |= {"aji": aji(table), "aji_plus": aji_plus(table), "dice": dice(table), "dice2": ensemble_dice(table)}
    size, covered = len(table.truth_sizes), float(table.truth_sizes.sum())
    nothing = {name: Ratio(0.0, size) for name in ("object_f1", "object_recall", "dq", "pq")}
    nothing |= {name: Ratio(0.0, covered) for name in ("aji", "aji_plus", "dice2")}
    nothing["dice"] = Ratio(2 * covered, covered + plane.width * plane.height)
    return Scores(ratios), Scores(nothing)


def _classes(truth: Truth, found: Found, plane: Region, settings: Settings) -> Scores:
    """The confusion matrix over "nothing" and the model's labels; a background label takes the place of nothing."""
    assert truth.classes is not None
    assert found.classes is not None
    background = next((k for k, label in enumerate(found.labels, 1) if label.background), 0)
    names = [NOTHING, *(label.name for label in found.labels)]
    meaning = _polygon_meaning(truth, found, background) if truth.class_names else _mask_meaning(settings, names)
    total = np.zeros((len(names), len(names)), np.int64)
    for region in blocks(plane, BLOCK):
        true = _translated(truth.classes.paint(region), meaning, background, truth, names)
        said = found.classes.paint(region)
        total += confusion_matrix(true, np.where(said == 0, background, said), len(names), ignore=IGNORE)
    kept = slice(1, None) if background else slice(None)
    return Scores({}, total[kept, kept], tuple(names[kept]))


def _mask_meaning(settings: Settings, names: Sequence[str]) -> dict[int, int]:
    """Mask value -> class number."""
    meaning = {k: k for k in range(len(names))}
    for value, name in settings.mask_classes.items():
        if name != "ignore" and name not in names:
            raise ConfigError(f"the model has no class {name!r}; the classes are: ignore, {', '.join(names)}")
        meaning[value] = IGNORE if name == "ignore" else names.index(name)
    return meaning


def _polygon_meaning(truth: Truth, found: Found, background: int) -> dict[int, int]:
    """Number of a polygon's class -> class number; classes that the model does not know are left out.

    What no polygon covers is background for a model of objects, and for score maps where the model has such a class and
    nobody drew it; else it is not annotated.
    """
    numbers = {label.name: k for k, label in enumerate(found.labels, 1)}
    drawn = background and found.labels[background - 1].name in truth.class_names
    outside = IGNORE if found.everywhere and (not background or drawn) else background
    return {0: outside} | {k: numbers.get(name, IGNORE) for k, name in enumerate(truth.class_names, 1)}


def _translated(
    values: NDArray[np.int64], meaning: Mapping[int, int], background: int, truth: Truth, names: Sequence[str]
) -> NDArray[np.int64]:
    present, index = np.unique(values, return_inverse=True)
    unknown = [int(value) for value in present if int(value) not in meaning]
    if unknown:
        raise AnnotationError(
            f"{truth.path.name} holds the value {unknown[0]}, and the model's classes are "
            f"{', '.join(f'{k} {name}' for k, name in enumerate(names))}",
            remedy=f"say what it means with --mask-class {unknown[0]}=NAME or --mask-class {unknown[0]}=ignore",
        )
    numbers = np.array([meaning[int(value)] for value in present], np.int64)
    numbers[numbers == 0] = background
    return numbers[index].reshape(values.shape)
