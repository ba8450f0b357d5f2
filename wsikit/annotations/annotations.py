"""What an annotation file holds, whatever its format; and how its coordinates lie on a slide."""

from __future__ import annotations

import colorsys
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.errors import AnnotationError
from wsikit.features import FeatureKind, Features
from wsikit.geometry import HasMpp, Region
from wsikit.limits import Area
from wsikit.predictions import Label

KINDS: tuple[FeatureKind, ...] = ("annotation", "detection", "cell", "tile", "tmaCore")
assert set(KINDS) == set(get_args(FeatureKind))
MAX_MEASUREMENTS = 4096
"""Most different measurement names of a file: each is a column over all objects."""
NO_COLOR = (-1, -1, -1)
IGNORE = 255
"""Value of pixels that a loss must leave out."""
QUPATH_COLORS: Mapping[str, tuple[int, int, int]] = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
    "Region*": (0, 0, 180),
    "Ignore*": (180, 180, 180),
    "Positive": (200, 50, 50),
    "Negative": (90, 90, 180),
}
"""Colours that QuPath gives its own classes (PathClass.java)."""
Color = tuple[int, int, int]
Invalid = Literal["error", "mend", "largest"]


def default_color(name: str) -> Color:
    """The colour of a class whose file gives none: QuPath's own for its classes, else a strong one made of the name."""
    if name in QUPATH_COLORS:
        return QUPATH_COLORS[name]
    hue = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[0] / 256
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.75, 0.85))
    return red, green, blue


@dataclass(frozen=True, slots=True)
class Placement:
    """How the coordinates of a file lie on its slide. What a format does not need it does not look at."""

    bounds_offset: tuple[int, int] = (0, 0)
    """(x, y) in level-0 pixels that QuPath has taken off; added back when QuPath's formats are read."""
    mpp: float | None = None
    """Micrometres per level-0 pixel of the slide, for files in micrometres."""
    size: tuple[int, int] | None = None
    """(width, height) of the slide in level-0 pixels, for images that must cover it."""
    downsample: float = 1.0
    """Level-0 pixels per pixel of a label image."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is ready to be written."""

    data: bytes
    left_out: tuple[str, ...]
    """What the format cannot hold of the annotations, a sentence each."""


@dataclass(slots=True)
class Item:
    """One object of a file, as readers collect them."""

    kind: FeatureKind
    geometry: shapely.Geometry
    label: str | None = None
    """Class name, or None for no class."""
    name: str = ""
    color: Color | None = None
    """The object's own colour."""
    locked: bool = False
    measurements: Mapping[str, float] = field(default_factory=dict)
    nucleus: shapely.Polygon | None = None
    id: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """Annotations of one slide; (x, y) in level-0 pixels of the full plane, pixel-corner convention."""

    labels: tuple[Label, ...]
    """The classes that occur, with colours, in the order in which the file has them."""
    features: tuple[Features, ...]
    """One per object type that occurs, in file order; labels are indices into ``labels``, -1 for no class. Rings are as
    the file has them: one that crosses itself is still there, and is an error where an area is asked for."""
    notes: tuple[str, ...] = ()
    """What was left out or changed in reading, a sentence each."""

    def __len__(self) -> int:
        return sum(map(len, self.features))

    def counts(self) -> dict[FeatureKind, dict[str, int]]:
        """Object type -> class name -> objects; the empty name is no class."""
        names = [*(label.name for label in self.labels), ""]
        return {f.kind: dict(Counter(names[k] for k in f.labels.tolist())) for f in self.features}

    def items(self) -> Iterator[Item]:
        """The objects one by one, by object type."""
        names = [*(label.name for label in self.labels), None]
        for features in self.features:
            columns = [(name, values.tolist()) for name, values in features.measurements.items()]
            for i, (shape, k) in enumerate(zip(features.geometries, features.labels.tolist(), strict=True)):
                yield Item(
                    features.kind,
                    shape,
                    names[k],
                    features.names[i] if features.names else "",
                    _color_at(features, i),
                    features.kind == "annotation" if features.locked is None else bool(features.locked[i]),
                    {name: values[i] for name, values in columns if not math.isnan(values[i])},
                    None if features.nuclei is None else features.nuclei[i],
                    features.ids[i] if features.ids else "",
                )

    def moved(self, x: float, y: float) -> Annotations:
        """The same, (x, y) further right and down."""
        if not (x or y):
            return self

        def move(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
            moved: NDArray[np.object_] = shapely.transform(shapes, lambda xy: xy + np.array([x, y]))
            return moved

        features = tuple(
            replace(f, geometries=move(f.geometries), nuclei=None if f.nuclei is None else move(f.nuclei))
            for f in self.features
        )
        return replace(self, features=features)

    def by_nucleus(self) -> Annotations:
        """The same with the nuclei of cells in place of their boundaries, which may be nuclei that were only expanded.

        A cell without a nucleus keeps its boundary; notes say how many there are of both.
        """
        features, counts = [], Counter[str]()
        for one in self.features:
            if one.kind == "cell":
                nuclei = np.full(len(one), None, object) if one.nuclei is None else one.nuclei
                has = shapely.is_geometry(nuclei)
                counts["cells: their nucleus is taken, not their boundary"] += int(has.sum())
                counts["cells without a nucleus: their boundary is taken"] += int((~has).sum())
                one = replace(one, geometries=np.where(has, nuclei, one.geometries), nuclei=None)
            features.append(one)
        notes = (f"{n} x {what}" for what, n in counts.items() if n)
        return replace(self, features=tuple(features), notes=(*self.notes, *notes))

    def chosen(self, classes: Sequence[str] = ()) -> NDArray[np.intp]:
        """Indices of the labels of some classes, or of all and -1 (no class) where none is named.

        Raises AnnotationError (code unknown_class), listing the file's classes, for one that it does not have.
        """
        names = [label.name for label in self.labels]
        for name in classes:
            if name not in names:
                found = ", ".join(map(repr, names)) or "none"
                raise AnnotationError(
                    f"no annotation has the class {name!r}; the classes of the file are: {found}",
                    code="unknown_class",
                    remedy="give one of these, or none to take every annotation",
                )
        return np.array([names.index(name) for name in classes] if classes else [-1, *range(len(names))], np.intp)

    def polygons(self, classes: Sequence[str] = (), *, invalid: Invalid = "error") -> NDArray[np.object_]:
        """(M,) shapely Polygons of all areas, holes kept; a MultiPolygon gives each of its parts.

        Args:
            classes: only of these classes; all where none is given, those without a class too.
            invalid: what to do with rings that cross or touch themselves. "error", since which area was meant is a
                guess; "mend" takes what they enclose by the even-odd rule (shapely's ``make_valid``), which may be
                several Polygons; "largest" takes of every object the largest of these: one Polygon per object, for
                ground truth of nuclei, where a quarter of hand-drawn outlines touch themselves.

        Raises:
            AnnotationError: unknown_class, or invalid_geometry, naming the object and where it crosses itself.
        """
        chosen = self.chosen(classes)
        parts = [np.zeros(0, object)]
        for features in self.features:
            rows = _rows_of_areas(features, chosen)
            bad = ~shapely.is_valid(features.geometries[rows])
            if bad.any() and invalid == "error":
                raise self._invalid(features, int(rows[bad][0]))
            shapes = features.geometries[rows]
            shapes[bad] = shapely.make_valid(shapes[bad])
            parts.append(_areas(shapes, largest=invalid == "largest"))
        return np.concatenate(parts)

    def areas(self, classes: Sequence[str] = ()) -> tuple[Area, ...]:
        """The same areas object by object, each with its name and class. Raises as ``polygons`` does."""
        self.polygons(classes)
        chosen = self.chosen(classes)
        names = [*(label.name for label in self.labels), ""]
        return tuple(
            Area(
                shapely.union_all(_areas(features.geometries[row : row + 1], largest=False)),
                features.names[row] if features.names else "",
                names[features.labels[row]],
            )
            for features in self.features
            for row in _rows_of_areas(features, chosen).tolist()
        )

    def class_mask(
        self,
        region: Region,
        slide: HasMpp,
        classes: Sequence[str],
        *,
        unlabelled: int = 0,
        ignore: Sequence[str] = (),
    ) -> NDArray[np.uint8]:
        """(region.height, region.width) the class of each pixel's centre: 1, 2, ... in the order of ``classes``.

        Where areas overlap the smaller one has the pixel; objects of other classes are not looked at.

        Args:
            region: on any lattice of the slide.
            slide: says how level-0 pixels lie on that lattice.
            classes: at least one, at most 254.
            unlabelled: value of pixels in none of them: 0 where everything else is background, ``IGNORE`` (255) where
                the annotations do not cover all of the slide.
            ignore: classes whose pixels become ``IGNORE``, on top of all others.

        Raises AnnotationError: unknown_class, or values that do not fit.
        """
        from wsikit.annotations.masks import class_mask

        return class_mask(self, region, slide, classes, unlabelled=unlabelled, ignore=ignore)

    def instance_mask(
        self, region: Region, slide: HasMpp, classes: Sequence[str] = ()
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The object that each pixel's centre lies in, and the objects' classes.

        Returns:
            mask: (region.height, region.width) 0, or k for the k-th area of these classes (all if none is given) in
                the order of ``features``: an object has one number in all regions of a slide.
            labels: (N,) index into ``labels`` of object k at k - 1; -1 for no class.
        """
        from wsikit.annotations.masks import instance_mask

        return instance_mask(self, region, slide, classes)

    def class_shares(
        self, region: Region, slide: HasMpp, classes: Sequence[str], *, ignore: Sequence[str] = ()
    ) -> NDArray[np.float64]:
        """(K,) share in [0, 1] of a region that is of each class, of what is not ignored; NaN where all is.

        Counted in the pixels of ``class_mask``: a patch's label is the class with the largest share, if that is enough.
        """
        from wsikit.annotations.masks import class_shares

        return class_shares(self, region, slide, classes, ignore=ignore)

    def _invalid(self, features: Features, row: int) -> AnnotationError:
        shape = features.geometries[row]
        x0, y0, x1, y1 = shape.bounds
        name = features.names[row] if features.names else ""
        title = f"{features.kind} {row + 1}" + (f" ({name!r})" if name else "")
        label = f" of class {self.labels[features.labels[row]].name!r}" if features.labels[row] >= 0 else ""
        return AnnotationError(
            f"{title}{label} is not one area: {shapely.is_valid_reason(shape)}; it lies at "
            f"x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f} (level-0 pixels of the full plane)",
            code="invalid_geometry",
            remedy="redraw it so that its outline does not cross itself; or mend the file with `wsikit convert IN "
            "OUT.geojson`, which takes what the outline encloses, and look at the result",
        )


def _color_at(features: Features, row: int) -> Color | None:
    if features.colors is None or features.colors[row, 0] < 0:
        return None
    red, green, blue = features.colors[row].tolist()
    return red, green, blue


def _rows_of_areas(features: Features, labels: NDArray[np.intp]) -> NDArray[np.intp]:
    """Which objects of some labels enclose anything."""
    wanted = np.isin(features.labels, labels) & (shapely.get_dimensions(features.geometries) == 2)
    return np.flatnonzero(wanted & ~shapely.is_empty(features.geometries))


def _areas(shapes: NDArray[np.object_], *, largest: bool) -> NDArray[np.object_]:
    """The Polygons in any geometries, or the largest in each."""
    parts, owner = shapely.get_parts(shapes, return_index=True)
    parts, again = shapely.get_parts(parts, return_index=True)  # a GeometryCollection may hold MultiPolygons
    owner, area = owner[again], shapely.area(parts)
    kept = area > 0
    if largest:
        order = np.lexsort((-area, owner))
        first = np.append(True, np.diff(owner[order]) > 0)[: len(order)]
        kept &= np.isin(np.arange(len(parts)), order[first])
    chosen: NDArray[np.object_] = parts[kept]
    return chosen


def summed(notes: Mapping[str, Iterable[str]]) -> list[str]:
    """What readers said of many files, each sentence once: numbers before " x " added up, the first file named.

    Args:
        notes: name of a file -> its notes.
    """
    counts: Counter[str] = Counter()
    names: dict[str, list[str]] = {}
    for name, said in notes.items():
        for note in said:
            number, times, what = note.partition(" x ")
            counted = bool(times) and number.isdecimal()
            counts[what if counted else note] += int(number) if counted else 1
            names.setdefault(what if counted else note, []).append(name)
    more = {what: f" and {len(files) - 1} more" if len(files) > 1 else "" for what, files in names.items()}
    return [f"{count} x {what} (in {names[what][0]}{more[what]})" for what, count in counts.items()]


def gather(items: Iterable[Item], colors: Mapping[str, Color] | None = None, notes: Iterable[str] = ()) -> Annotations:
    """Annotations of a file's objects.

    Args:
        items: in file order.
        colors: class name -> RGB, in the order that labels get; classes that no object has are left out. Those not in
            it come after these, in file order, with their default colour.
        notes: what the reader has to say.

    Raises AnnotationError for more measurement names than any file needs.
    """
    rows = list(items)
    used = dict.fromkeys(item.label for item in rows if item.label is not None)
    known = {name: color for name, color in (colors or {}).items() if name in used}
    known |= {name: default_color(name) for name in used if name not in known}
    index = {name: k for k, name in enumerate(known)}
    labels = tuple(Label(name, color) for name, color in known.items())
    groups = [(kind, [item for item in rows if item.kind == kind]) for kind in KINDS]
    return Annotations(labels, tuple(_features(kind, group, index) for kind, group in groups if group), tuple(notes))


def _features(kind: FeatureKind, items: list[Item], index: Mapping[str, int]) -> Features:
    count = len(items)
    geometries = np.empty(count, object)
    geometries[:] = [item.geometry for item in items]
    labels = np.array([-1 if item.label is None else index[item.label] for item in items], np.int64)
    nuclei = None
    if any(item.nucleus is not None for item in items):
        nuclei = np.empty(count, object)
        nuclei[:] = [item.nucleus for item in items]
    named, known, colored = (any(getattr(item, key) for item in items) for key in ("name", "id", "color"))
    return Features(
        kind,
        geometries,
        labels,
        _columns(items),
        nuclei,
        tuple(item.name for item in items) if named else None,
        tuple(item.id for item in items) if known else None,
        np.array([item.locked for item in items], np.bool_),
        np.array([item.color or NO_COLOR for item in items], np.int16) if colored else None,
    )


def _columns(items: list[Item]) -> dict[str, NDArray[np.float64]]:
    columns: dict[str, NDArray[np.float64]] = {}
    for row, item in enumerate(items):
        for name, value in item.measurements.items():
            column = columns.get(name)
            if column is None:
                if len(columns) == MAX_MEASUREMENTS:
                    raise AnnotationError(f"the objects have more than {MAX_MEASUREMENTS} different measurements")
                column = columns[name] = np.full(len(items), np.nan)
            column[row] = value
    return columns
