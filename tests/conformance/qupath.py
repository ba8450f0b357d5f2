"""What QuPath 0.4 to 0.7 asks of a GeoJSON file, as a checker: every way of breaking it gets a sentence.

Stricter than QuPath where its leniency loses something in silence (a dropped id, an annotation that was a nucleus, a
measurement outside ``measurements``). Use ``assert_qupath(path)`` on any GeoJSON that a test writes.
"""

from __future__ import annotations

import gzip
import json
import math
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import shapely
from shapely.geometry import shape

OBJECT_TYPES = {"annotation", "detection", "cell", "tile", "tmaCore"}
FEATURE_KEYS = {"type", "id", "geometry", "nucleusGeometry", "properties"}
PROPERTY_KEYS = {"objectType", "classification", "name", "color", "isLocked", "isMissing", "metadata", "measurements"}
GEOMETRY_KEYS = {"type", "coordinates", "plane", "isEllipse"}
DEPTHS = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2, "MultiPolygon": 3}
"""How many lists a position is nested in."""
WHITESPACE_SHARE = 0.15
"""More white space than this is indentation; ``", "`` after every number stays below."""


class _Refused(ValueError):
    """The text is not JSON that QuPath can read at all."""


def assert_qupath(source: str | Path | bytes) -> None:
    """Fail with the list of violations unless QuPath reads the file and loses nothing."""
    found = check_geojson(source)
    assert not found, f"{len(found)} violation(s) of what QuPath reads, the first: " + "; ".join(found[:5])


def check_geojson(source: str | Path | bytes) -> list[str]:
    """The violations of a file (its name is checked too) or of its bytes, gzipped or not; empty when it conforms."""
    found = [] if isinstance(source, bytes) else _name(Path(source))
    try:
        text = _text(source if isinstance(source, bytes) else Path(source).read_bytes())
        document = json.loads(text, parse_constant=_not_a_number, object_pairs_hook=_no_duplicates)
    except _Refused as error:
        return [*found, str(error)]
    except json.JSONDecodeError as error:
        return [*found, f"not JSON: {error}"]
    found += _compact(text)
    found += list(_nulls(document, "$"))
    found += list(_collection(document))
    return found or list(_second_reader(text))


def _name(path: Path) -> list[str]:
    if path.name.endswith((".geojson", ".json", ".geojson.gz", ".json.gz")):
        return []
    return [f"file name {path.name!r}: QuPath goes by .geojson, .json and these with .gz"]


def _text(data: bytes) -> str:
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise _Refused(f"the gzip stream is damaged: {error}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Refused(f"not UTF-8: {error}") from error


def _not_a_number(token: str) -> Any:
    raise _Refused(f"the token {token} is not JSON; leave the key out")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(keys) != len(set(keys)):
        raise _Refused(f"duplicate key in an object with the keys {keys}")
    return dict(pairs)


def _compact(text: str) -> list[str]:
    share = 1 - len(text.translate({ord(c): None for c in " \t\r\n"})) / max(1, len(text))
    return [f"pretty-printed: {share:.0%} of the text is white space"] if share > WHITESPACE_SHARE else []


def _nulls(value: Any, where: str) -> Iterator[str]:
    if value is None:
        yield f"{where} is null; QuPath throws, leave the key out"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _nulls(item, f"{where}.{key}")
    elif isinstance(value, list) and not all(type(item) is float for item in value):
        for i, item in enumerate(value):
            yield from _nulls(item, f"{where}[{i}]")


def _collection(document: Any) -> Iterator[str]:
    if not isinstance(document, dict) or document.get("type") != "FeatureCollection":
        yield "the top level must be an object of type FeatureCollection"
        return
    if "crs" in document:
        yield "a crs member makes map readers reproject; write none"
    yield from _unknown(document, {"type", "features", "crs"}, "$")
    if not isinstance(document.get("features"), list):
        yield "features must be a list"
        return
    seen: set[str] = set()
    for i, feature in enumerate(document["features"]):
        yield from _feature(feature, f"feature {i}", seen)


def _unknown(value: dict[str, Any], allowed: set[str], where: str) -> Iterator[str]:
    for key in sorted(set(value) - allowed):
        yield f"{where}: the key {key!r} is not read here; allowed are {', '.join(sorted(allowed))}"


def _feature(feature: Any, where: str, seen: set[str]) -> Iterator[str]:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        yield f"{where} must be an object of type Feature"
        return
    yield from _unknown(feature, FEATURE_KEYS, where)
    yield from _identity(feature.get("id"), where, seen)
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        yield f"{where}: properties must be an object"
        return
    kind = properties.get("objectType")
    yield from _properties(properties, f"{where} properties")
    yield from _geometry(feature.get("geometry"), f"{where} geometry", kind)
    if "nucleusGeometry" in feature:
        if kind != "cell":
            yield f"{where}: nucleusGeometry belongs to a cell only, this is a {kind}"
        yield from _geometry(feature["nucleusGeometry"], f"{where} nucleusGeometry", kind)


def _identity(value: Any, where: str, seen: set[str]) -> Iterator[str]:
    try:
        good = isinstance(value, str) and str(uuid.UUID(value)) == value.lower()
    except ValueError:
        good = False
    if not good:
        yield f"{where}: id {value!r} is not a UUID; QuPath drops it in silence"
    elif value in seen:
        yield f"{where}: id {value} was given to an earlier feature"
    seen.add(str(value))


def _properties(properties: dict[str, Any], where: str) -> Iterator[str]:
    yield from _unknown(properties, PROPERTY_KEYS, where)
    if properties.get("objectType") not in OBJECT_TYPES:
        given = properties.get("objectType", "nothing")
        yield f"{where}: objectType must be one of {sorted(OBJECT_TYPES)}, got {given!r} (read as annotation)"
    if "classification" in properties:
        yield from _classification(properties["classification"], f"{where} classification")
    if "color" in properties and not _is_color(properties["color"], (3,)):
        yield f"{where}: color must be 3 integers from 0 to 255, got {properties['color']!r}"
    for key in ("isLocked", "isMissing"):
        if not isinstance(properties.get(key, True), bool):
            yield f"{where}: {key} must be true or false"
    if not isinstance(properties.get("name", ""), str):
        yield f"{where}: name must be a string"
    if not all(isinstance(v, str) for v in _items(properties.get("metadata", {}))):
        yield f"{where}: metadata must be an object of strings"
    yield from _measurements(properties.get("measurements", {}), f"{where} measurements")


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [value, None]


def _classification(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, str) and value:
        return
    if not isinstance(value, dict):
        yield f"{where} must be a name or an object, got {value!r}"
        return
    yield from _unknown(value, {"name", "names", "color"}, where)
    names = value.get("names", [value.get("name")])
    if not (isinstance(names, list) and names and all(isinstance(n, str) and n for n in names)):
        yield f"{where} needs a name or names"
    if "color" not in value:
        yield f"{where} has no color: QuPath refuses the whole file"
    elif not _is_color(value["color"], (3, 4)):
        yield f"{where}: color must be 3 or 4 integers from 0 to 255, got {value['color']!r}"


def _is_color(value: Any, lengths: tuple[int, ...]) -> bool:
    return isinstance(value, list) and len(value) in lengths and all(type(v) is int and 0 <= v <= 255 for v in value)


def _measurements(value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} must be an object of numbers, got {type(value).__name__}"
        return
    for key, number in value.items():
        if type(number) not in (int, float) or not math.isfinite(number):
            yield f"{where}: {key!r} must be a finite number, got {number!r}"


def _geometry(value: Any, where: str, kind: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} must be an object, got {value!r}"
        return
    geometry_type = value.get("type")
    if geometry_type == "GeometryCollection":
        yield f"{where} is a GeometryCollection, which QuPath cannot parse"
        return
    if geometry_type not in DEPTHS:
        yield f"{where}: type must be one of {', '.join(DEPTHS)}, got {geometry_type!r}"
        return
    if geometry_type.startswith("Multi") and kind != "annotation":
        yield f"{where}: a {kind} must be one part, got a {geometry_type}"
    yield from _unknown(value, GEOMETRY_KEYS, where)
    positions = list(_positions(value.get("coordinates"), DEPTHS[geometry_type]))
    broken = [p for p in positions if not _is_position(p)]
    if broken or not positions:
        yield f"{where}: coordinates must hold [x, y] of finite numbers, got {broken[:1]!r}"
        return
    if any(round(v, 2) != v for p in positions for v in p):
        yield f"{where}: coordinates with more than 2 decimals, QuPath reduces them to 0.01 px"
    yield from _shape(value, where)


def _positions(value: Any, depth: int) -> Iterator[Any]:
    """What stands where positions should, ``depth`` lists down; None where the nesting ends early."""
    if depth == 0:
        yield value
    elif isinstance(value, list) and value:
        for item in value:
            yield from _positions(item, depth - 1)
    else:
        yield None


def _is_position(value: Any) -> bool:
    finite = isinstance(value, list) and all(type(v) in (int, float) and math.isfinite(v) for v in value)
    return finite and len(value) == 2


def _shape(value: dict[str, Any], where: str) -> Iterator[str]:
    depth = DEPTHS[value["type"]]
    polygons = [value["coordinates"]] if depth == 2 else value["coordinates"]
    if value["type"] in ("Polygon", "MultiPolygon"):
        rings = [ring for polygon in polygons for ring in polygon]
        if any(len(ring) < 4 or ring[0] != ring[-1] for ring in rings):
            yield f"{where}: a ring must have 4 positions or more and end where it starts"
            return
        if any(_stray_hole(polygon) for polygon in polygons):
            yield f"{where}: a hole lies outside its shell"
    rounded = shapely.transform(shape(value), lambda xy: np.round(xy, 2))
    if not shapely.is_valid(rounded):
        yield f"{where} is invalid at 0.01 px, QuPath rejects the file: {shapely.is_valid_reason(rounded)}"


def _stray_hole(rings: list[Any]) -> bool:
    shell, *holes = (shapely.make_valid(shapely.Polygon(ring)) for ring in rings)
    return not all(shapely.covers(shell, hole) for hole in holes)


def _second_reader(text: str) -> Iterator[str]:
    document = geojson.loads(text)
    if not document.is_valid:
        yield f"the geojson package finds it invalid: {document.errors()}"
