"""What experts say of an image: found beside it by its name, and brought into the frame of the slide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.annotations import Annotations, read_annotations
from wsikit.annotations.instances import read_image
from wsikit.errors import AnnotationError
from wsikit.geometry import Region
from wsikit.pipeline.inputs import SlideEntry, find_slides, stem
from wsikit.slides import Slide

LABELS, MASK = "instance labels", "class mask"
CONVENTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (LABELS, "_labels", (".png", ".tif", ".tiff")),
    (MASK, "_mask", (".png", ".tif", ".tiff")),
    ("QuPath or DSA objects", "", (".geojson", ".geojson.gz", ".json")),
    ("Aperio ImageScope or ASAP regions", "", (".xml",)),
    ("points", "_points", (".csv",)),
    ("points", "", (".csv",)),
)
"""What, what follows the image's stem, and suffixes: the truth of ``case-1.png`` may lie in ``case-1_labels.png``."""


class Areas(Protocol):
    """Something with a whole number at every pixel of level 0; 0 is nothing."""

    def paint(self, region: Region) -> NDArray[np.int64]:
        """(h, w) values of a region on the lattice of level 0, within the slide."""
        ...


@dataclass(frozen=True, eq=False)
class Raster:
    """An image as it is stored."""

    array: NDArray[np.integer]
    """(H, W) of level 0."""

    def paint(self, region: Region) -> NDArray[np.int64]:
        """See ``Areas``."""
        return self.array[region.y : region.y1, region.x : region.x1].astype(np.int64)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Areas of an annotation file; where they overlap the smaller has the pixel."""

    annotations: Annotations
    slide: Slide
    names: tuple[str, ...] = ()
    """Classes, whose places from 1 are painted; objects by their number where there are none."""

    def paint(self, region: Region) -> NDArray[np.int64]:
        """See ``Areas``."""
        if self.names:
            return self.annotations.class_mask(region, self.slide, self.names).astype(np.int64)
        return self.annotations.instance_mask(region, self.slide)[0].astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is known of one image; what the file does not hold is None."""

    path: Path
    what: str
    """As in ``CONVENTIONS``."""
    instances: Areas | None = None
    """Every object with a number of its own."""
    centers: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Class name -> (N, 2) points, or centroids of the objects, in level-0 pixels; "" holds all of them, whatever their
    class. Empty where the truth has no objects."""
    classes: Areas | None = None
    """The class of each pixel: the value is that of the mask, or the place in ``class_names`` from 1."""
    class_names: tuple[str, ...] = ()
    """Names of the classes of polygons; a mask has none, its values are the places in the model's labels from 1."""
    notes: tuple[str, ...] = ()
    """What of the file was left out or changed, as in ``Annotations.notes``."""

    @property
    def count(self) -> int | None:
        """How many objects there are."""
        return len(self.centers[""]) if self.centers else None


@dataclass(frozen=True, slots=True)
class Pair:
    """An image, and the files beside it that say what is in it."""

    entry: SlideEntry
    truth: tuple[Path, ...]


def conventions() -> str:
    """The names under which truth is looked for, for messages."""
    return "; ".join(f"<image>{extra}{'|'.join(suffixes)} ({what})" for what, extra, suffixes in CONVENTIONS)


def find_pairs(folder: str | Path, out: Path | None = None) -> list[Pair]:
    """All images that ``folder`` names, with the truth beside them; files that are truth are no images.

    Args:
        folder: as in ``find_slides``: a folder, searched recursively, a pattern, one file or a manifest.
        out: an output folder, which is no input.

    Raises:
        ConfigError: no image there.
        AnnotationError: code no_truth where no image has any; the message lists the conventions.
    """
    entries = [entry for entry in find_slides(folder, out) if entry.part_of is None]
    beside = {entry.path: _candidates(entry.path) for entry in entries}
    truth = {path for paths in beside.values() for path in paths}
    pairs = [Pair(entry, beside[entry.path]) for entry in entries if entry.path not in truth]
    if not any(pair.truth for pair in pairs):
        raise AnnotationError(
            f"none of the {len(pairs)} images of {folder} has its truth beside it",
            code="no_truth",
            remedy=f"name it after its image: {conventions()}",
        )
    return pairs


def _candidates(image: Path) -> tuple[Path, ...]:
    name = stem(image)
    paths = (image.with_name(name + extra + suffix) for _, extra, suffixes in CONVENTIONS for suffix in suffixes)
    return tuple(path for path in paths if path != image and path.is_file())


def read_truth(paths: Sequence[Path], slide: Slide) -> Truth:
    """Read the truth of a slide.

    Raises:
        AnnotationError: no_truth for no file, ambiguous_truth for several, wrong_shape for an image of another size
            than level 0, or the file cannot be read.
    """
    if not paths:
        raise AnnotationError(f"{slide.path.name} has no truth beside it", code="no_truth")
    if len(paths) > 1:
        raise AnnotationError(
            f"{slide.path.name} has more than one truth: {', '.join(path.name for path in paths)}",
            code="ambiguous_truth",
            remedy="keep one of them beside the image",
        )
    path = paths[0]
    name = path.name.lower()
    what, extra, _ = next(row for row in CONVENTIONS if name.endswith(tuple(row[1] + suffix for suffix in row[2])))
    if extra == "_labels":
        return _of_labels(path, _image(path, slide))
    if extra == "_mask":
        return Truth(path, what, classes=Raster(_image(path, slide)))
    annotations = read_annotations(path, bounds_offset=slide.bounds_offset, mpp=slide.mpp)
    return _of_annotations(path, what, annotations, slide, outlines=name.endswith(".xml"))


def _image(path: Path, slide: Slide) -> NDArray[np.int64]:
    """The values of a label image or mask, which is as large as level 0."""
    values = read_image(path)
    if values.shape != (slide.height, slide.width):
        raise AnnotationError(
            f"{path.name} is {values.shape[1]}x{values.shape[0]} px, its image {slide.path.name} is "
            f"{slide.width}x{slide.height}",
            code="wrong_shape",
            remedy="truth must have the size of the image at its finest level",
        )
    return values


def _of_labels(path: Path, labels: NDArray[np.integer]) -> Truth:
    rows, columns = np.nonzero(labels)
    _, number = np.unique(labels[rows, columns], return_inverse=True)
    size = np.bincount(number)[:, None]
    sums = np.stack([np.bincount(number, columns, len(size)), np.bincount(number, rows, len(size))], axis=1)
    return Truth(path, LABELS, Raster(labels), {"": sums / np.maximum(size, 1) + 0.5})


def _of_annotations(path: Path, what: str, annotations: Annotations, slide: Slide, *, outlines: bool) -> Truth:
    """Detections and cells are the objects where there are any, else annotations; a cell is its nucleus, if it has one.

    Annotations that are points count where there are any, and areas beside them are no objects: a region of interest is
    no nucleus. Their classes are those of pixels all the same, for models of areas. Of detections and cells, and with
    ``outlines``, areas count where there are any, as in ``train points``.
    """
    annotations = annotations.by_nucleus()
    kinds = {features.kind for features in annotations.features}
    found = bool(kinds & {"detection", "cell"})
    wanted = {"detection", "cell"} if found else {"annotation"}
    kept = replace(annotations, features=tuple(f for f in annotations.features if f.kind in wanted))
    names = tuple(label.name for label in kept.labels)
    areas = {"": kept.polygons(invalid="largest")} | {name: kept.polygons((name,), invalid="largest") for name in names}
    points = {"": _points(kept)} | {name: _points(kept, name) for name in names}
    clicked = not len(areas[""]) or (len(points[""]) > 0 and not found and not outlines)
    left = {
        f"objects that are no {'detections or cells' if found else 'annotations'}": len(annotations) - len(kept),
        "areas beside points": len(areas[""]) if clicked else 0,
        "points beside areas": 0 if clicked else len(points[""]),
        "lines": sum(int((shapely.get_dimensions(f.geometries) == 1).sum()) for f in kept.features),
    }
    notes = (*annotations.notes, *(f"{n} x {kind}: not taken for objects" for kind, n in left.items() if n))
    if clicked:
        drawn = tuple(name for name in names if len(areas[name]))
        return Truth(path, what, None, points, Drawn(kept, slide, drawn) if drawn else None, drawn, notes)
    classes = Drawn(kept, slide, names) if names else None
    middles = {name: centroids(areas[name]) for name in areas}
    return Truth(path, what, Drawn(kept, slide), middles, classes, names, notes)


def centroids(shapes: Iterable[shapely.Geometry]) -> NDArray[np.float64]:
    """(N, 2) centroids of geometries, in their frame."""
    found: NDArray[np.float64] = shapely.get_coordinates(shapely.centroid(np.asarray(shapes, object)))
    return found


def _points(annotations: Annotations, name: str | None = None) -> NDArray[np.float64]:
    """(N, 2) of all points of a class, or of all points."""
    parts = [np.zeros((0, 2))]
    for features in annotations.features:
        wanted = shapely.get_dimensions(features.geometries) == 0
        if name is not None:
            wanted &= np.isin(features.labels, annotations.chosen((name,)))
        parts.append(shapely.get_coordinates(features.geometries[wanted]))
    return np.concatenate(parts)
