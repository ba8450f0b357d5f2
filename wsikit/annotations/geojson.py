"""QuPath GeoJSON, every form of it that QuPath reads: collections, features, arrays, bare geometries, gzipped or not.

Object types and their older names, as ids too (0.2); classes as text, object, list of names or chain of parents (before
0.4); measurements as object or list, nuclei beside the geometry, collections of geometries and empty ones, children
inside their parents, NaN. QuPath crops slides to their bounds: the offset is added back.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import math
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import orjson
import shapely
from isal import igzip

from wsikit.annotations.annotations import KINDS, Annotations, Color, Item, Placement, Written, gather
from wsikit.annotations.geojson_text import DERIVED, GZIP_LEVEL, NAMESPACE, feature_texts
from wsikit.annotations.shapes import dots, ellipse, line, polygon
from wsikit.errors import AnnotationError
from wsikit.features import FeatureKind, Features

GEOMETRIES: dict[str, Callable[[Any, str], shapely.Geometry]] = {
    "Point": lambda value, where: dots([value], where),
    "MultiPoint": lambda value, where: shapely.MultiPoint(shapely.get_coordinates(dots(value, where))),
    "LineString": line,
    "MultiLineString": lambda value, where: shapely.MultiLineString([line(part, where) for part in value]),
    "Polygon": polygon,
    "MultiPolygon": lambda value, where: shapely.MultiPolygon([polygon(part, where) for part in value]),
}
"""GeoJSON type -> what makes a geometry of its coordinates."""
COLLECTION = "GeometryCollection"
TYPES = (*GEOMETRIES, COLLECTION)
EMPTY: tuple[list[Any], ...] = ([], [[]], [[[]]])
"""Coordinates of nothing: QuPath writes an empty MultiPoint where points were to be clicked and were not."""
MULTI: tuple[Callable[[Any], shapely.Geometry], ...] = (
    shapely.MultiPoint,
    shapely.MultiLineString,
    shapely.MultiPolygon,
)
"""What holds several geometries of dimension 0, 1 and 2."""
OBJECT_TYPES: dict[str, str] = {kind: kind for kind in (*KINDS, "root")} | {"tma_core": "tmaCore"}
"""Name in files -> ours; what QuPath reads and wsikit has no use for is root."""
OBJECT_IDS = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
    "PathRootObject": "root",
}
"""QuPath 0.2 wrote the object type as the feature's id."""


class QuPathGeoJSON:
    """``.geojson`` or ``.json``, gzipped where ``.gz`` follows."""

    suffixes: ClassVar[tuple[str, ...]] = (".geojson", ".geojson.gz", ".json", ".json.gz")

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether the first bytes of a file look like this format."""
        return head[:2] == b"\x1f\x8b" or b'"elements"' not in head

    def read(self, path: Path, placement: Placement) -> Annotations:
        """Read a file. Raises AnnotationError, naming the feature, for what QuPath would not read either."""
        reading = _Reading(path.name)
        items = list(reading.items(load_json(path), path.name))
        notes = [f"{n} x {what}" for what, n in reading.notes.items() if n]
        return gather(items, reading.colors, notes).moved(*placement.bounds_offset)

    def write(self, annotations: Annotations, placement: Placement, path: Path) -> Written:
        """One FeatureCollection, coordinates on QuPath's grid of 0.01 px; areas that cross themselves are mended.

        Raises PredictionError for measurements that are infinite.
        """
        left_out: Counter[str] = Counter()
        seen: set[str] = set()
        texts: list[bytes] = []
        for features in annotations.features:
            whole = _with_ids(_single_parts(features, left_out), seen)
            part, mended = feature_texts(
                whole, annotations.labels, slide_id=path.name, offset=placement.bounds_offset, digits=None
            )
            left_out["outlines that cross themselves: mended"] += mended
            left_out["objects with nothing left on the grid of 0.01 px: left out"] += len(whole) - len(part)
            texts += part
        data = b'{"type":"FeatureCollection","features":[\n' + b",\n".join(texts) + b"\n]}\n"
        # no time in the header: the same bytes every time
        data = igzip.compress(data, GZIP_LEVEL, mtime=0) if path.name.lower().endswith(".gz") else data
        return Written(data, tuple(f"{n} x {what}" for what, n in left_out.items() if n))


def _single_parts(features: Features, left_out: Counter[str]) -> Features:
    """Detections, cells and tiles with several parts become several: QuPath takes one part each."""
    if features.kind == "annotation":
        return features
    parts, owner = shapely.get_parts(features.geometries, return_index=True)
    if len(parts) == len(features):
        return features
    several = int((np.bincount(owner, minlength=len(features)) > 1).sum())
    left_out[f"{features.kind} with several parts: one {features.kind} each now"] += several
    return replace(features[owner], geometries=parts)


def _with_ids(features: Features, seen: set[str]) -> Features:
    """Every feature with an id of its own: kept where it has one that no other has, else made of kind, place in the
    file and geometry."""
    ids = []
    shapes = shapely.to_wkb(features.geometries, byte_order=1).tolist()
    for row, (own, shape) in enumerate(zip(features.ids or repeat(""), shapes, strict=False)):
        digest = hashlib.sha256(shape).hexdigest()
        ids.append(own if own and own not in seen else str(uuid.uuid5(NAMESPACE, f"{features.kind} {row} {digest}")))
        seen.add(ids[-1])
    return replace(features, ids=tuple(ids))


def load_json(path: Path) -> Any:
    """What a JSON file holds, gzipped or not. Raises AnnotationError where it cannot be read."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise AnnotationError(f"{path} cannot be read: {error}") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if b"NaN" not in data and b"Infinity" not in data:
            raise AnnotationError(f"{path.name} is not JSON: {error}") from error
    try:
        # QuPath wrote bare NaN until 0.4; only this parser reads it. The other one refuses what no file can hold again:
        # endless integers, halves of surrogate pairs
        return orjson.loads(orjson.dumps(json.loads(data)))
    except (ValueError, TypeError, RecursionError) as error:
        raise AnnotationError(f"{path.name} is not JSON: {error}") from error


class _Reading:
    """One file being read: the colours of classes met so far, and what there is to say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.colors: dict[str, Color] = {}
        self.notes: Counter[str] = Counter()

    def items(self, document: Any, where: str) -> Iterator[Item]:
        """The objects of a document, children after their parents."""
        pending = [(document, where)]
        while pending:
            value, where = pending.pop()
            if isinstance(value, list):
                pending += [(item, f"{self.name}, item {i}") for i, item in enumerate(value)][::-1]
                continue
            if not isinstance(value, dict):
                raise AnnotationError(f"{where}: expected a GeoJSON object, got {type(value).__name__}")
            kind = value.get("type")
            if kind == "FeatureCollection":
                features = value.get("features")
                if not isinstance(features, list):
                    raise AnnotationError(f"{where}: features must be a list, got {type(features).__name__}")
                pending += [(item, f"{self.name}, feature {i}") for i, item in enumerate(features)][::-1]
            elif kind == "Feature":
                children = self._children(value, where)
                pending += [(item, f"{where}, child {i}") for i, item in enumerate(children)][::-1]
                item = self._item(value, where)
                if item is not None:
                    yield item
            elif kind in TYPES:
                shape = self._geometry(value, where)
                if shape is not None:
                    yield Item("annotation", shape)
            else:
                raise AnnotationError(
                    f"{where}: type must be FeatureCollection, Feature or one of {', '.join(TYPES)}, got {kind!r}"
                )

    def _children(self, feature: dict[str, Any], where: str) -> list[Any]:
        properties = feature.get("properties") or {}
        children = properties.get("childObjects", properties.get("children")) or [] if _is_map(properties) else []
        if not isinstance(children, list):
            raise AnnotationError(f"{where}: childObjects must be a list, got {type(children).__name__}")
        if children:
            self.notes["objects inside a parent: read, the tie to the parent left out"] += len(children)
        return children

    def _item(self, feature: dict[str, Any], where: str) -> Item | None:
        properties = feature.get("properties")
        properties = {} if properties is None else _mapping(properties, f"{where}: properties")
        kind = self._kind(properties, feature.get("id"))
        shape = None if kind == "root" else self._geometry(feature.get("geometry"), where)
        if shape is None:
            return None
        for key in ("metadata", "isMissing"):
            self.notes[f"{key} of an object: left out"] += bool(properties.get(key))
        nucleus = feature.get("nucleusGeometry") if kind == "cell" else None
        return Item(
            kind=cast("FeatureKind", kind),
            geometry=shape,
            label=self._label(properties.get("classification"), f"{where}: classification"),
            name=str(properties.get("name") or ""),
            color=_color(properties.get("color"), f"{where}: color"),
            locked=properties.get("isLocked") is True,
            measurements=measurements(properties.get("measurements"), f"{where}: measurements"),
            nucleus=None if nucleus is None else self._nucleus(nucleus, f"{where}, nucleus"),
            id=_identity(feature.get("id")),
        )

    def _kind(self, properties: Mapping[str, Any], identity: Any) -> str:
        given = properties.get("objectType", properties.get("object_type", properties.get("type")))
        if given is None:
            return OBJECT_IDS.get(str(identity), "annotation")
        if isinstance(given, str) and given in OBJECT_TYPES:
            return OBJECT_TYPES[given]
        self.notes[f"object type {given!r}, unknown to QuPath: taken for an annotation"] += 1
        return "annotation"

    def _geometry(self, value: Any, where: str, what: str = "features") -> shapely.Geometry | None:
        """The geometry, None for one of nothing or of several dimensions, which a note says of ``what``."""
        members = [] if value is None else _members(value, where)
        found = [shape for member in members if (shape := self._simple(member, where)) is not None]
        if len(found) == 1:
            return found[0]
        dimensions = {int(shapely.get_dimensions(shape)) for shape in found}
        if len(dimensions) == 1:
            return MULTI[dimensions.pop()](shapely.get_parts(found).tolist())
        which = "of points, lines and areas at once" if found else "without a geometry"
        self.notes[f"{what} {which}: left out"] += 1
        return None

    def _simple(self, value: dict[str, Any], where: str) -> shapely.Geometry | None:
        """The geometry of some coordinates, None where they are of nothing."""
        make = GEOMETRIES.get(str(value.get("type")))
        if make is None:
            raise AnnotationError(f"{where}: a geometry must be one of {', '.join(TYPES)}, got {value.get('type')!r}")
        given = value.get("coordinates")
        if not isinstance(given, list):
            raise AnnotationError(f"{where}: coordinates must be a list, got {given!r}")
        if given in EMPTY:
            return None
        plane = value.get("plane")
        if isinstance(plane, dict) and (plane.get("z") or plane.get("t")):
            self.notes["objects on another plane than z=0, t=0: the plane is left out"] += 1
        try:
            shape = make(given, where)
        except TypeError as error:
            raise AnnotationError(f"{where}: wrong nesting of the coordinates of a {value['type']}") from error
        if value.get("isEllipse") is True:
            self.notes["ellipses: now polygons"] += 1
            return ellipse(shape.bounds, where)
        return shape

    def _nucleus(self, value: Any, where: str) -> shapely.Polygon | None:
        shape = self._geometry(value, where, "nuclei")
        if isinstance(shape, shapely.Polygon):
            return shape
        self.notes["nuclei that are no single polygon: left out"] += shape is not None
        return None

    def _label(self, value: Any, where: str) -> str | None:
        if value is None or value == "":
            return None
        if isinstance(value, str):
            return value
        # names that are null are as if they were not there
        value = {key: part for key, part in _mapping(value, where).items() if key != "names" or part is not None}
        names = value["names"] if "names" in value else _derived(value, where)
        if names is None:
            return None
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
            raise AnnotationError(f"{where} needs a name or a list of names, got {value!r}")
        label = DERIVED.join(names)
        color = _color(value.get("color", value.get("colorRGB")), f"{where}: color")
        if color is not None and self.colors.setdefault(label, color) != color:
            self.notes[f"class {label!r} has several colours: the first is kept"] = 1
        return label


def _members(value: Any, where: str) -> list[dict[str, Any]]:
    """A geometry, or those in a collection of any depth, in order."""
    found, pending = [], [value]
    while pending:
        one = _mapping(pending.pop(), f"{where}: geometry")
        if one.get("type") != COLLECTION:
            found.append(one)
            continue
        within = one.get("geometries")
        if not isinstance(within, list):
            raise AnnotationError(f"{where}: geometries must be a list, got {type(within).__name__}")
        pending += within[::-1]
    return found


def _derived(value: dict[str, Any], where: str) -> list[Any] | None:
    """Names of a class and those that it is derived from, the outermost first; None for QuPath's class of nothing."""
    names = []
    while value:
        names.append(value.get("name", ""))
        value = _mapping(value.get("parentClass") or {}, f"{where}: parentClass")
    return [name for name in names[::-1] if name is not None] or None


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AnnotationError(f"{where} must be an object, got {type(value).__name__}")
    return value


def _color(value: Any, where: str) -> Color | None:
    """RGB of a list of 3 or 4 (alpha is left out), or of QuPath's packed integer."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if type(value) is int:
        return value >> 16 & 255, value >> 8 & 255, value & 255
    if isinstance(value, list) and len(value) in (3, 4) and all(type(v) is int and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    raise AnnotationError(f"{where} must be 3 or 4 integers from 0 to 255, or one packed integer, got {value!r}")


def measurements(value: Any, where: str) -> dict[str, float]:
    """name -> finite value, of an object or a list of names and values; NaN and infinity are what was not measured."""
    if not value:
        return {}
    if isinstance(value, list):
        value = {str(item.get("name")): item.get("value") for item in value if isinstance(item, dict)}
    found = {}
    for name, number in _mapping(value, where).items():
        try:
            measured = math.nan if number is None else float(number)
        except (TypeError, ValueError) as error:
            raise AnnotationError(f"{where}: {name!r} must be a number, got {number!r}") from error
        if math.isfinite(measured):
            found[str(name)] = measured
    return found


def _identity(value: Any) -> str:
    """The id where it is a UUID; QuPath drops others too."""
    try:
        return str(uuid.UUID(value)) if isinstance(value, str) else ""
    except ValueError:
        return ""
