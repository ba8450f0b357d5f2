"""The QuPath checker accepts what QuPath reads and names every pitfall that it is shown."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.qupath import assert_qupath, check_geojson

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
BOW_TIE = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
LARGER = [[-1, -1], [11, -1], [11, 11], [-1, 11], [-1, -1]]
OUTSIDE = [[20, 20], [24, 20], [24, 24], [20, 24], [20, 20]]
COLLAPSED = [[0, 0], [10, 0], [10, 0.001], [0, 0.001], [0, 0]]


def example() -> dict[str, Any]:
    """One of each object type, with holes, a derived class, a nucleus and a point."""

    def feature(n: int, geometry: Any, properties: Any, **more: Any) -> dict[str, Any]:
        identity = f"6f0c1f0e-6a35-4d0e-8a51-0a1c7b8f{n:04d}"
        return {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties, **more}

    holed = [[[100, 100], [900, 100], [900, 700], [100, 700], [100, 100]],
             [[300, 300], [300, 400], [400, 400], [400, 300], [300, 300]]]  # fmt: skip
    tumor = {"name": "Tumor", "color": [200, 0, 0]}
    lymphocyte = {"name": "Lymphocyte", "color": [60, 140, 220]}
    blast = {"names": ["Blast", "Positive"], "color": [180, 60, 200]}
    annotation = {"objectType": "annotation", "name": "region 1", "isLocked": True, "classification": tumor}
    detection = {"objectType": "detection", "classification": lymphocyte, "measurements": {"Probability": 0.93}}
    cell = {"objectType": "cell", "classification": blast, "measurements": {"Nucleus: Area": 224.0}}
    small = _polygon([[120, 130], [131, 128], [134, 140], [121, 142], [120, 130]])
    outline = _polygon([[200, 200], [230, 200], [230, 232], [200, 232], [200, 200]])
    nucleus = _polygon([[208, 208], [222, 208], [222, 224], [208, 224], [208, 208]])
    return {
        "type": "FeatureCollection",
        "features": [
            feature(1, _polygon(*holed), annotation | {"measurements": {"Area um^2": 118750.0}}),
            feature(2, small, detection),
            feature(3, outline, cell, nucleusGeometry=nucleus),
            feature(4, _polygon(SQUARE), {"objectType": "tile", "measurements": {"attention": 0.07}}),
            feature(5, {"type": "Point", "coordinates": [126, 135.5]}, {"objectType": "detection"}),
            feature(6, {"type": "MultiPolygon", "coordinates": [[SQUARE], [OUTSIDE]]}, {"objectType": "annotation"}),
        ],
    }


def packed(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def test_the_example_of_every_object_type_is_accepted() -> None:
    assert check_geojson(packed(example())) == []


def test_a_gzipped_file_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(packed(example())))
    assert_qupath(path)


def test_an_empty_collection_is_accepted() -> None:
    assert check_geojson(b'{"type":"FeatureCollection","features":[\n\n]}\n') == []


Change = Callable[[dict[str, Any]], Any]


def _of(index: int, *path: str, value: Any) -> Change:
    """Set a member of one feature."""

    def change(document: dict[str, Any]) -> None:
        target = document["features"][index]
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


def _without(index: int, *path: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        target = document["features"][index]
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]

    return change


def _moved(index: int, key: str) -> Change:
    """A property at the level of the feature, where nobody looks."""

    def change(document: dict[str, Any]) -> None:
        feature = document["features"][index]
        feature[key] = feature["properties"].pop(key)

    return change


def _nucleus_as_property(document: dict[str, Any]) -> None:
    cell = document["features"][2]
    cell["properties"]["nucleusGeometry"] = cell.pop("nucleusGeometry")


def _polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


PITFALLS: list[tuple[str, Change, str]] = [
    ("objectType at feature level", _moved(1, "objectType"), "'objectType' is not read here"),
    ("objectType missing", _without(1, "properties", "objectType"), "objectType must be"),
    ("objectType unknown", _of(1, "properties", "objectType", value="nucleus"), "objectType must be"),
    ("the alias object_type", _of(1, "properties", "object_type", value="detection"), "'object_type' is not read"),
    ("name at feature level", _moved(0, "name"), "'name' is not read here"),
    ("probability outside measurements", _of(1, "properties", "probability", value=0.5), "'probability' is not read"),
    ("id a counter", _of(1, "id", value="object_12"), "is not a UUID"),
    ("id a number", _of(1, "id", value=12), "is not a UUID"),
    ("id missing", _without(1, "id"), "is not a UUID"),
    ("id twice", _of(1, "id", value="6f0c1f0e-6a35-4d0e-8a51-0a1c7b8f0001"), "earlier feature"),
    ("id null", _of(1, "id", value=None), "is null"),
    ("properties null", _of(1, "properties", value=None), "properties is null"),
    ("geometry null", _of(1, "geometry", value=None), "geometry is null"),
    ("measurement null", _of(1, "properties", "measurements", "p", value=None), "is null"),
    ("classification without colour", _without(0, "properties", "classification", "color"), "has no color"),
    ("colour as text", _of(0, "properties", "classification", "color", value="#c80000"), "3 or 4 integers"),
    ("colour as fractions", _of(0, "properties", "classification", "color", value=[0.8, 0.0, 0.0]), "3 or 4 integers"),
    ("colour beyond 255", _of(0, "properties", "classification", "color", value=[256, 0, 0]), "3 or 4 integers"),
    ("packed colour", _of(0, "properties", "classification", "colorRGB", value=-3670016), "'colorRGB' is not read"),
    ("classification without name", _without(0, "properties", "classification", "name"), "needs a name"),
    ("object colour of 4", _of(0, "properties", "color", value=[1, 2, 3, 4]), "must be 3 integers"),
    ("isLocked as text", _of(0, "properties", "isLocked", value="true"), "isLocked must be"),
    ("name a number", _of(0, "properties", "name", value=3), "name must be a string"),
    ("metadata of numbers", _of(0, "properties", "metadata", value={"a": 1}), "object of strings"),
    ("measurement a string", _of(1, "properties", "measurements", "p", value="NaN"), "must be a finite number"),
    ("measurement a truth value", _of(1, "properties", "measurements", "p", value=True), "must be a finite number"),
    ("measurements as a list", _of(1, "properties", "measurements", value=[{"name": "p", "value": 1}]), "an object"),
    ("GeometryCollection", _of(0, "geometry", value={"type": "GeometryCollection", "geometries": []}), "Collection"),
    ("unknown geometry", _of(0, "geometry", value={"type": "Circle", "coordinates": [1, 2]}), "type must be one of"),
    ("self-intersection", _of(1, "geometry", value=_polygon(BOW_TIE)), "Self-intersection"),
    ("invalid only after rounding", _of(1, "geometry", value=_polygon(COLLAPSED)), "is invalid at 0.01 px"),
    ("open ring", _of(1, "geometry", value=_polygon(SQUARE[:-1])), "end where it starts"),
    ("ring of 3 positions", _of(1, "geometry", value=_polygon([[0, 0], [1, 0], [0, 0]])), "4 positions"),
    ("hole outside the shell", _of(1, "geometry", value=_polygon(SQUARE, OUTSIDE)), "outside its shell"),
    ("hole instead of shell", _of(1, "geometry", value=_polygon(SQUARE, LARGER)), "outside its shell"),
    ("MultiPolygon detection", _of(5, "properties", "objectType", value="detection"), "must be one part"),
    ("empty coordinates", _of(1, "geometry", value=_polygon()), "coordinates must hold"),
    ("nested too little", _of(1, "geometry", value={"type": "Polygon", "coordinates": SQUARE}), "must hold [x, y]"),
    ("coordinates as text", _of(4, "geometry", "coordinates", value=["126", "135"]), "coordinates must hold"),
    ("three dimensions", _of(4, "geometry", "coordinates", value=[126, 135, 0]), "coordinates must hold"),
    ("too many decimals", _of(4, "geometry", "coordinates", value=[126.123, 135]), "more than 2 decimals"),
    ("nucleus as a property", _nucleus_as_property, "'nucleusGeometry' is not read here"),
    ("nucleus of a detection", _of(1, "nucleusGeometry", value=_polygon(SQUARE)), "belongs to a cell only"),
    ("invalid nucleus", _of(2, "nucleusGeometry", value=_polygon(BOW_TIE)), "nucleusGeometry is invalid"),
    ("crs", lambda d: d.update(crs={"type": "name", "properties": {"name": "EPSG:3857"}}), "crs"),
    ("features missing", lambda d: d.pop("features"), "features must be a list"),
    ("not a collection", lambda d: d.update(type="Feature"), "type FeatureCollection"),
    ("feature without type", _without(0, "type"), "of type Feature"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [p[1:] for p in PITFALLS], ids=[p[0] for p in PITFALLS])
def test_every_pitfall_is_named(change: Change, message: str) -> None:
    document = copy.deepcopy(example())
    change(document)
    assert any(message in violation for violation in check_geojson(packed(document)))


def _raw(before: str, after: str) -> bytes:
    text = packed(example()).decode()
    assert before in text
    return text.replace(before, after, 1).encode()


TEXT_PITFALLS: list[tuple[str, bytes, str]] = [
    ("NaN token", _raw("0.93", "NaN"), "the token NaN"),
    ("Infinity token", _raw("0.93", "-Infinity"), "the token -Infinity"),
    ("number that overflows", _raw("0.93", "1e999"), "must be a finite number"),
    ("duplicate key", _raw('"isLocked":true', '"isLocked":true,"isLocked":false'), "duplicate key"),
    ("pretty-printed", json.dumps(example(), indent=2).encode(), "pretty-printed"),
    ("top-level list", packed(example()["features"]), "type FeatureCollection"),
    ("one feature per line", b"\n".join(packed(f) for f in example()["features"]), "not JSON"),
    ("cut off", packed(example())[:-20], "not JSON"),
    ("Latin-1", _raw("region 1", "région 1").decode().encode("latin-1"), "not UTF-8"),
    ("gzip cut off", gzip.compress(packed(example()))[:-12], "gzip stream is damaged"),
]


@pytest.mark.parametrize(("data", "message"), [p[1:] for p in TEXT_PITFALLS], ids=[p[0] for p in TEXT_PITFALLS])
def test_text_that_is_not_what_qupath_parses_is_named(data: bytes, message: str) -> None:
    assert any(message in violation for violation in check_geojson(data))


def test_a_suffix_that_qupath_does_not_open_is_named(tmp_path: Path) -> None:
    path = tmp_path / "objects.txt"
    path.write_bytes(packed(example()))
    assert "file name" in check_geojson(path)[0]


def test_assert_qupath_fails_with_the_violation() -> None:
    with pytest.raises(AssertionError, match="FeatureCollection"):
        assert_qupath(b"[]")
