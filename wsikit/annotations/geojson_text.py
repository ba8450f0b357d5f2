"""Features as GeoJSON texts: coordinates on QuPath's grid of 0.01 px, kept valid; ids, properties, measurements.

Whole columns at a time: formatting a chunk of numbers in one call is several times as fast as feature by feature.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import compress, pairwise
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

GZIP_LEVEL = 2
"""Of ISA-L, 0 to 3: on coordinates as few bytes as zlib's level 4 in a seventh of its time. ISA-L has code for each
kind of processor, which may compress the same text to other bytes."""
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
    geometries, repaired = snapped(features.geometries, offset, single=features.kind != "annotation")
    kept = ~shapely.is_missing(geometries)
    coordinates = _coordinate_texts(geometries)
    columns = (
        _ids(features, labels, slide_id, coordinates),
        _geometry_texts(geometries, coordinates),
        _nucleus_texts(features, offset),
        *_property_texts(features, labels, digits),
    )
    # the one copy of a feature's text: joining what was joined before costs as much as formatting its numbers
    rows = compress(zip(*columns, strict=True), kept.tolist())
    texts = [b'{"type":"Feature","id":"%b","geometry":%b%b,"properties":{%b%b%b}}' % row for row in rows]
    return texts, int((repaired & kept).sum())


def identified(
    features: Features, labels: Sequence[Label], *, slide_id: str, offset: tuple[int, int]
) -> tuple[Geometries, list[bytes]]:
    """(N,) geometries and (N,) ids as ``feature_texts`` writes them, for formats that are no text.

    Geometries are reduced by ``offset``; None where nothing is left.
    """
    geometries, _ = snapped(features.geometries, offset, single=features.kind != "annotation")
    return geometries, _ids(features, labels, slide_id, _coordinate_texts(geometries))


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
    valid = np.zeros(len(geometries), bool)
    present = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    types = shapely.get_type_id(geometries)
    unknown = present & ~np.isin(types, list(_TYPE_NAMES))
    if unknown.any():
        found = geometries[unknown][0].geom_type
        raise PredictionError(f"features are points, lines, Polygons or several of one of these, got {found}")
    for kind in _TYPE_NAMES:
        chosen = np.flatnonzero(present & (types == kind))
        if len(chosen):
            result[chosen], valid[chosen] = _rounded(geometries[chosen], offset)
    bad = present & (~valid | (single & (types == _MULTIPOLYGON)))
    for i in np.flatnonzero(bad).tolist():
        result[i] = _mended(shapely.transform(geometries[i], lambda xy: xy - offset), single)
        mended[i] = shapely.get_num_geometries(geometries[i]) > 1 or types[i] == _POLYGON
    return result, mended


def _rounded(geometries: Geometries, offset: tuple[float, float]) -> tuple[Geometries, NDArray[np.bool_]]:
    """(N,) of one kind on the grid, and (N,) whether each is valid there."""
    kind, xy, offsets = _ragged(geometries)
    if not np.isfinite(xy).all():
        raise PredictionError("feature coordinates must be finite, got NaN or infinity")
    # adding 0.0 turns -0.0 into 0.0
    xy = np.round(xy - offset, DECIMALS) + 0.0
    rounded: Geometries = shapely.from_ragged_array(kind, xy, offsets)
    valid = np.zeros(len(rounded), bool)
    if kind == shapely.GeometryType.POLYGON and len(offsets[0]) == len(offsets[1]):  # without holes
        valid = star_shaped(xy, offsets[0])
    valid[~valid] = shapely.is_valid(rounded[~valid])
    return rounded, valid


def _ragged(geometries: Geometries) -> tuple[shapely.GeometryType, NDArray[np.float64], tuple[NDArray[np.int64], ...]]:
    """``shapely.to_ragged_array`` in two dimensions; it makes a geometry of every ring, needless without holes."""
    if shapely.get_type_id(geometries[0]) != _POLYGON or shapely.get_num_interior_rings(geometries).any():
        kind, xy, offsets = shapely.to_ragged_array(geometries, include_z=False)
        return kind, xy, offsets
    starts = np.append(0, np.cumsum(shapely.get_num_coordinates(geometries)))
    return shapely.GeometryType.POLYGON, shapely.get_coordinates(geometries), (starts, np.arange(len(starts)))


def star_shaped(xy: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) of which closed rings the mean corner sees every side, which makes them valid; of most nuclei it does.

    Seen from there each side turns the same way, and all of them together once around: no two can cross. A ring that
    fails may still be valid: GEOS knows, and takes nine times as long.

    Args:
        xy: (M, 2) corners of all rings, the first of each repeated as its last.
        starts: (N + 1,) where in ``xy`` each ring begins, and M.
    """
    if len(starts) < 2:
        return np.zeros(0, bool)
    first, last = starts[:-1], starts[1:] - 1
    counts = np.diff(starts)
    x, y = (v - np.repeat(np.add.reduceat(v, first) / counts, counts) for v in xy.T)
    # between a ring's last corner and the next ring's first there is no side: repeat the side before
    turn = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0.0)
    turn[last] = turn[last - 1]
    # a hundred times what cancellation can add to either product
    rounding = 1e-14 * np.abs(xy).max() * max(np.abs(x).max(), np.abs(y).max())
    one_way = (np.minimum.reduceat(turn, first) > rounding) | (np.maximum.reduceat(turn, first) < -rounding)
    above = y >= 0
    rises = np.append(above[1:] & ~above[:-1], False)
    rises[last] = False
    once = np.add.reduceat(rises, first, dtype=np.int64) == 1
    seen: NDArray[np.bool_] = one_way & once
    return seen


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
    parts, valid = _rounded(parts, (0.0, 0.0))  # on the grid already, but for -0.0
    parts = parts[valid]
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


def _pairs(xy: NDArray[np.float64]) -> tuple[bytes, NDArray[np.int64]]:
    """Coordinates as one text "[[x,y],[x,y],..." and where in it the comma (or bracket) after each pair stands.

    One call for all of them: orjson spends more on entering a small array than on formatting its numbers.
    """
    text = orjson.dumps(np.ascontiguousarray(xy), option=orjson.OPT_SERIALIZE_NUMPY)
    closing = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("]")) + 1
    closing[1:] = closing[:-1]
    closing[:1] = 0
    return text, closing


def _point_texts(points: Geometries) -> list[bytes]:
    text, ends = _pairs(shapely.get_coordinates(points))
    return [text[start + 1 : stop] for start, stop in pairwise(ends.tolist())]


def _sequence_texts(geometries: Geometries) -> list[bytes]:
    """Lines and MultiPoints: one list of pairs each."""
    _, xy, (offsets,) = shapely.to_ragged_array(geometries, include_z=False)
    text, ends = _pairs(xy)
    return [b"[%b]" % text[a + 1 : b] for a, b in pairwise(ends[offsets].tolist())]


def _polygon_texts(polygons: Geometries) -> list[bytes]:
    """Polygons and MultiLineStrings: a list of lists of pairs each."""
    _, xy, (ring_starts, polygon_starts) = _ragged(polygons)
    text, ends = _pairs(xy)
    starts = pairwise(ends[ring_starts].tolist())
    if len(ring_starts) == len(polygon_starts):  # without holes
        return [b"[[%b]]" % text[a + 1 : b] for a, b in starts]
    rings = [b"[%b]" % text[a + 1 : b] for a, b in starts]
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
    digits = np.frombuffer(octets.tobytes().hex().encode(), np.uint8).reshape(-1, 32)
    dashed = np.insert(digits, (8, 12, 16, 20), ord("-"), axis=1)
    # a view as bytes would lose nothing: the last character is a digit, never NUL
    ids: list[bytes] = dashed.view("S36").ravel().tolist()
    return ids


def _property_texts(
    features: Features, labels: Sequence[Label], digits: int | None
) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """(N,) each of what makes up the properties: what the class says, what the object says, measurements."""
    heads = [_property_head(features, label) for label in (*labels, None)]
    return [heads[k] for k in features.labels.tolist()], _own_texts(features), _measurement_texts(features, digits)


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
    if features.names is None and features.colors is None and not locked.any():
        return [b""] * count
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
    keys = [orjson.dumps(name) + b":" for name in features.measurements]
    columns = [_number_texts(name, values, digits) for name, values in features.measurements.items()]
    every = b',"measurements":{%b}' % b",".join(key.replace(b"%", b"%%") + b"%b" for key in keys)
    if not any(np.isnan(values).any() for values in features.measurements.values()):
        return [every % row for row in zip(*columns, strict=True)]
    rows = zip(*columns, strict=True)
    named = ([key + n for key, n in zip(keys, row, strict=True) if n != b"null"] for row in rows)
    return [b',"measurements":{%b}' % b",".join(row) if row else b"" for row in named]


def _number_texts(name: str, values: NDArray[np.float64], digits: int | None) -> list[bytes]:
    """(N,) numbers as texts, ``null`` for NaN."""
    if np.isinf(values).any():
        raise PredictionError(f"measurement {name!r} holds infinity; give NaN for what was not measured")
    rounded = values if digits is None else _significant(values, digits)
    return orjson.dumps(rounded, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",") if len(values) else []


def _significant(values: NDArray[np.float64], digits: int = SIGNIFICANT) -> NDArray[np.float64]:
    """Rounded to significant digits, whole numbers kept whole. n / 10**k is the nearest double, and so short, for
    k up to 22."""
    size = np.abs(np.where(np.isfinite(values) & (values != 0), values, 1.0))
    scale = 10.0 ** np.clip(digits - 1 - np.floor(np.log10(size)), 0, 22)
    rounded: NDArray[np.float64] = np.round(values * scale) / scale + 0.0
    return rounded
