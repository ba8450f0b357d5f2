"""Features as GeoJSON texts: coordinates on QuPath's grid of 0.01 px, kept valid; ids, properties, measurements.

Whole columns at a time: formatting a chunk of numbers in one call is several times as fast as feature by feature.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from wsikit.errors import PredictionError
from wsikit.features import Features
from wsikit.predictions import Label

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "wsikit/features")
"""Namespace of feature ids: ``uuid5(NAMESPACE, "slide_id\\nkind\\nlabel name\\ncoordinates as written")``."""

GZIP_LEVEL = 4
"""Almost twice as fast as 5 on coordinates, for 4 % more bytes."""
DECIMALS = 2
"""Decimals of coordinates: QuPath itself writes two, and since 0.6 reduces what it reads to 0.01 px."""
SIGNIFICANT = 6
"""Significant digits of measurements: more than any of them carries."""

DERIVED = ": "
"""Between the names of a derived class, as QuPath shows it: ``Tumor: Positive``."""

_POINT, _LINE, _POLYGON, _MULTIPOINT, _MULTILINE, _MULTIPOLYGON = 0, 1, 3, 4, 5, 6
_TYPE_NAMES = {
    _POINT: b"Point",
    _LINE: b"LineString",
    _POLYGON: b"Polygon",
    _MULTIPOINT: b"MultiPoint",
    _MULTILINE: b"MultiLineString",
    _MULTIPOLYGON: b"MultiPolygon",
}

Geometries = NDArray[np.object_]


def feature_texts(
    features: Features,
    labels: Sequence[Label],
    *,
    slide_id: str,
    offset: tuple[int, int],
    digits: int | None = SIGNIFICANT,
) -> tuple[list[bytes], int]:
    """Features as JSON texts, those of which nothing is left on the grid left out, and how many outlines were mended.

    Args:
        features: in level-0 pixels of the full plane.
        labels: the classes that they index into.
        slide_id: names the slide in the ids of features that have none.
        offset: (x, y) in level-0 pixels that coordinates are reduced by.
        digits: significant digits of measurements; None keeps all.

    Raises PredictionError for geometries or measurements that GeoJSON cannot hold.
    """
    single = features.kind != "annotation"
    geometries, repaired = snapped(features.geometries, offset, single=single)
    kept = ~shapely.is_missing(geometries)
    coordinates = _coordinate_texts(geometries)
    shapes = _geometry_texts(geometries, coordinates)
    ids = _ids(features, labels, slide_id, coordinates)
    nuclei = _nucleus_texts(features, offset)
    properties = _property_texts(features, labels, digits)
    texts = [
        b'{"type":"Feature","id":"%b","geometry":%b%b,"properties":%b}' % (ids[i], shapes[i], nuclei[i], properties[i])
        for i in np.flatnonzero(kept).tolist()
    ]
    return texts, int((repaired & kept).sum())


def snapped(
    geometries: Geometries, offset: tuple[float, float], *, single: bool
) -> tuple[Geometries, NDArray[np.bool_]]:
    """Move by -``offset``, round to 0.01 px and keep valid.

    Args:
        geometries: (N,) Points, lines, Polygons or several of one of these; None and empty ones come back as None.
        offset: (x, y) in pixels of the geometries' frame, taken off.
        single: keep only the largest part of what has several.

    Returns:
        (N,) geometries, each valid or None where nothing is left, and (N,) whether it was mended.

    Raises:
        PredictionError: another kind of geometry, or coordinates that are not finite.
    """
    result = np.full(len(geometries), None, object)
    mended = np.zeros(len(geometries), bool)
    present = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    types = shapely.get_type_id(geometries)
    unknown = present & ~np.isin(types, list(_TYPE_NAMES))
    if unknown.any():
        found = geometries[unknown][0].geom_type
        raise PredictionError(f"features are points, lines, Polygons or several of one of these, got {found}")
    for kind in _TYPE_NAMES:
        chosen = np.flatnonzero(present & (types == kind))
        if len(chosen):
            result[chosen] = _rounded(geometries[chosen], offset)
    bad = present & (~shapely.is_valid(result) | (single & (types == _MULTIPOLYGON)))
    for i in np.flatnonzero(bad).tolist():
        result[i] = _mended(shapely.transform(geometries[i], lambda xy: xy - offset), single)
        mended[i] = shapely.get_num_geometries(geometries[i]) > 1 or types[i] == _POLYGON
    return result, mended


def _rounded(geometries: Geometries, offset: tuple[float, float]) -> Geometries:
    kind, xy, offsets = shapely.to_ragged_array(geometries, include_z=False)
    if not np.isfinite(xy).all():
        raise PredictionError("feature coordinates must be finite, got NaN or infinity")
    # adding 0.0 turns -0.0 into 0.0
    rounded: Geometries = shapely.from_ragged_array(kind, np.round(xy - offset, DECIMALS) + 0.0, offsets)
    return rounded


def _mended(geometry: Any, single: bool) -> Any:
    """The polygonal part of an outline on the grid of 0.01 px: its largest Polygon where ``single``; None if empty."""
    valid = geometry if shapely.is_valid(geometry) else shapely.make_valid(geometry)
    # GEOS divides by lengths that are zero where an outline collapses, and copes with it
    with np.errstate(divide="ignore", invalid="ignore"):
        on_grid = shapely.set_precision(valid, 10.0**-DECIMALS)
    # twice: a GeometryCollection may hold MultiPolygons
    parts = shapely.get_parts(shapely.get_parts(on_grid))
    parts = parts[(shapely.get_type_id(parts) == _POLYGON) & ~shapely.is_empty(parts)]
    if len(parts) == 0:
        return None
    parts = _rounded(parts, (0.0, 0.0))  # on the grid already, but for -0.0
    parts = parts[shapely.is_valid(parts)]
    if single or len(parts) < 2:
        return parts[np.argmax(shapely.area(parts))] if len(parts) else None
    whole = shapely.multipolygons(parts)
    return whole if shapely.is_valid(whole) else parts[np.argmax(shapely.area(parts))]


def _coordinate_texts(geometries: Geometries) -> list[bytes]:
    """(N,) the "coordinates" of each geometry; empty where it is None."""
    types = shapely.get_type_id(geometries)
    texts = [b""] * len(geometries)
    for kind, write in _COORDINATES.items():
        chosen = np.flatnonzero(types == kind)
        if len(chosen):
            for i, text in zip(chosen.tolist(), write(geometries[chosen]), strict=True):
                texts[i] = text
    return texts


def _pairs(xy: NDArray[np.float64]) -> tuple[bytes, list[int]]:
    """Coordinates as one text "[[x,y],[x,y],..." and where in it the comma (or bracket) after each pair stands.

    One call for all of them: orjson spends more on entering a small array than on formatting its numbers.
    """
    text = orjson.dumps(np.ascontiguousarray(xy), option=orjson.OPT_SERIALIZE_NUMPY)
    closing = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("]")) + 1
    return text, [0, *closing[:-1].tolist()]


def _point_texts(points: Geometries) -> list[bytes]:
    text, ends = _pairs(shapely.get_coordinates(points))
    return [text[start + 1 : stop] for start, stop in pairwise(ends)]


def _sequence_texts(geometries: Geometries) -> list[bytes]:
    """Lines and MultiPoints: one list of pairs each."""
    _, xy, (offsets,) = shapely.to_ragged_array(geometries, include_z=False)
    text, ends = _pairs(xy)
    return [b"[%b]" % text[ends[a] + 1 : ends[b]] for a, b in pairwise(offsets.tolist())]


def _polygon_texts(polygons: Geometries) -> list[bytes]:
    """Polygons and MultiLineStrings: a list of lists of pairs each."""
    _, xy, (ring_starts, polygon_starts) = shapely.to_ragged_array(polygons, include_z=False)
    text, ends = _pairs(xy)
    starts = ring_starts.tolist()
    rings = [b"[%b]" % text[ends[a] + 1 : ends[b]] for a, b in pairwise(starts)]
    bounds = polygon_starts.tolist()
    return [b"[%b]" % b",".join(rings[a:b]) for a, b in pairwise(bounds)]


def _multipolygon_texts(multipolygons: Geometries) -> list[bytes]:
    parts = _polygon_texts(shapely.get_parts(multipolygons))
    bounds = [0, *np.cumsum(shapely.get_num_geometries(multipolygons)).tolist()]
    return [b"[%b]" % b",".join(parts[a:b]) for a, b in pairwise(bounds)]


_COORDINATES: Mapping[int, Callable[[Geometries], list[bytes]]] = {
    _POINT: _point_texts,
    _LINE: _sequence_texts,
    _POLYGON: _polygon_texts,
    _MULTIPOINT: _sequence_texts,
    _MULTILINE: _polygon_texts,
    _MULTIPOLYGON: _multipolygon_texts,
}


def _geometry_texts(geometries: Geometries, coordinates: list[bytes]) -> list[bytes]:
    kinds = shapely.get_type_id(geometries).tolist()
    return [
        b'{"type":"%b","coordinates":%b}' % (_TYPE_NAMES[kind], text) if text else b""
        for kind, text in zip(kinds, coordinates, strict=True)
    ]


def _nucleus_texts(features: Features, offset: tuple[int, int]) -> list[bytes]:
    """(N,) the member ``nucleusGeometry`` with its leading comma; empty where there is no nucleus."""
    if features.nuclei is None:
        return [b""] * len(features)
    nuclei, _ = snapped(features.nuclei, offset, single=True)
    texts = _geometry_texts(nuclei, _coordinate_texts(nuclei))
    return [b',"nucleusGeometry":' + text if text else b"" for text in texts]


def _ids(features: Features, labels: Sequence[Label], slide_id: str, coordinates: list[bytes]) -> list[bytes]:
    """(N,) the features' own ids, else uuid5 texts; ``uuid.uuid5`` itself, one by one, takes five times as long."""
    made = _derived_ids(features, labels, slide_id, coordinates)
    return made if features.ids is None else [own.encode() or new for own, new in zip(features.ids, made, strict=True)]


def _derived_ids(features: Features, labels: Sequence[Label], slide_id: str, coordinates: list[bytes]) -> list[bytes]:
    names = [*(label.name for label in labels), ""]  # label -1 is the last
    heads = [NAMESPACE.bytes + f"{slide_id}\n{features.kind}\n{name}\n".encode() for name in names]
    rows = zip(features.labels.tolist(), coordinates, strict=True)
    digests = [hashlib.sha1(heads[k] + text).digest() for k, text in rows]
    octets = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 20)[:, :16].copy()
    # RFC 9562: version 5 in the seventh octet, the variant in the ninth
    octets[:, 6] = octets[:, 6] & 0x0F | 0x50
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    digits = octets.tobytes().hex()
    ids = (digits[i : i + 32] for i in range(0, len(digits), 32))
    return [f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}".encode() for d in ids]


def _property_texts(features: Features, labels: Sequence[Label], digits: int | None) -> list[bytes]:
    heads = [_property_head(features, label) for label in (*labels, None)]
    rows = zip(features.labels.tolist(), _own_texts(features), _measurement_texts(features, digits), strict=True)
    return [b"{%b%b%b}" % (heads[label], own, measured) for label, own, measured in rows]


def _property_head(features: Features, label: Label | None) -> bytes:
    head: dict[str, Any] = {"objectType": features.kind}
    if label is not None:
        names = label.name.split(DERIVED)
        name = {"names": names} if len(names) > 1 and all(names) else {"name": label.name}
        head["classification"] = {**name, "color": list(label.color)}
    return orjson.dumps(head)[1:-1]


def _own_texts(features: Features) -> list[bytes]:
    """(N,) the members ``isLocked``, ``name`` and ``color``, each with its leading comma."""
    count = len(features)
    locked = features.locked if features.locked is not None else np.full(count, features.kind == "annotation")
    names = features.names or [""] * count
    colors: list[list[int]] = [[-1]] * count if features.colors is None else features.colors.tolist()
    return [
        (b',"isLocked":true' if lock else b"")
        + (b',"name":' + orjson.dumps(name) if name else b"")
        + (b',"color":' + orjson.dumps(color) if color[0] >= 0 else b"")
        for lock, name, color in zip(locked.tolist(), names, colors, strict=True)
    ]


def _measurement_texts(features: Features, digits: int | None) -> list[bytes]:
    """(N,) the member ``measurements`` with its leading comma, NaN left out; empty where nothing was measured."""
    if not features.measurements:
        return [b""] * len(features)
    columns = [_column_texts(name, values, digits) for name, values in features.measurements.items()]
    rows = (b",".join(filter(None, row)) for row in zip(*columns, strict=True))
    return [b',"measurements":{%b}' % row if row else b"" for row in rows]


def _column_texts(name: str, values: NDArray[np.float64], digits: int | None) -> list[bytes]:
    if np.isinf(values).any():
        raise PredictionError(f"measurement {name!r} holds infinity; give NaN for what was not measured")
    key = orjson.dumps(name) + b":"
    rounded = values if digits is None else _significant(values, digits)
    numbers = orjson.dumps(rounded, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    return [b"" if number == b"null" else key + number for number in numbers]


def _significant(values: NDArray[np.float64], digits: int = SIGNIFICANT) -> NDArray[np.float64]:
    """Rounded to significant digits, whole numbers kept whole. n / 10**k is the nearest double, and so short, for
    k up to 22."""
    size = np.abs(np.where(np.isfinite(values) & (values != 0), values, 1.0))
    scale = 10.0 ** np.clip(digits - 1 - np.floor(np.log10(size)), 0, 22)
    rounded: NDArray[np.float64] = np.round(values * scale) / scale + 0.0
    return rounded
