"""QuPath GeoJSON in: every form that QuPath reads, older ones too, and files that are broken."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from tests.conformance.qupath import assert_qupath
from wsikit.annotations import Annotations, read_annotations, write_annotations
from wsikit.annotations.annotations import default_color
from wsikit.errors import AnnotationError

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [8, 0], [8, 8], [0, 8], [0, 0]]]}
UUID = "6f0c1f0e-6a35-4d0e-8a51-0a1c7b8f0001"


def feature(geometry: Any = None, /, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry or SQUARE, "properties": properties}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def of(document: Any, **frame: Any) -> Annotations:
        path = tmp_path / "a.geojson"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return read_annotations(path, **frame)

    return of


@pytest.mark.parametrize(
    "document",
    [
        SQUARE,
        feature(),
        [feature()],
        [SQUARE],
        {"type": "FeatureCollection", "features": [feature()]},
        [{"type": "FeatureCollection", "features": [feature()]}],
    ],
)
def test_every_top_level_that_qupath_reads(read: Any, document: Any) -> None:
    (found,) = read(document).features
    assert found.kind == "annotation"
    assert found.geometries[0].equals(shapely.box(0, 0, 8, 8))


def test_gzip_goes_by_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps([feature()]).encode()))
    assert len(read_annotations(path)) == 1


@pytest.mark.parametrize("key", ["objectType", "object_type", "type"])
@pytest.mark.parametrize("kind", ["annotation", "detection", "cell", "tile", "tmaCore"])
def test_object_types_by_their_names_of_all_versions(read: Any, key: str, kind: str) -> None:
    assert read(feature(**{key: kind})).features[0].kind == kind


@pytest.mark.parametrize(
    ("identity", "kind"),
    [
        ("PathAnnotationObject", "annotation"),
        ("PathDetectionObject", "detection"),
        ("PathCellObject", "cell"),
        ("PathTileObject", "tile"),
        ("TMACoreObject", "tmaCore"),
    ],
)
def test_object_types_as_ids_of_old_versions(read: Any, identity: str, kind: str) -> None:
    found = read([{**feature(), "id": identity}, {**feature(), "id": "PathRootObject"}])
    assert (found.counts(), found.notes) == ({kind: {"": 1}}, ())
    assert read({**feature(objectType="tile"), "id": identity}).features[0].kind == "tile"


def test_cores_by_their_other_name(read: Any) -> None:
    found = read(feature(objectType="tma_core"))
    assert (found.counts(), found.notes) == ({"tmaCore": {"": 1}}, ())


def test_what_qupath_does_not_know_is_said(read: Any) -> None:
    found = read([feature(objectType="nucleus"), feature(objectType="root"), feature()])
    assert found.counts() == {"annotation": {"": 2}}
    assert "'nucleus'" in found.notes[0]


@pytest.mark.parametrize(
    ("classification", "name", "color"),
    [
        ("Tumor", "Tumor", (200, 0, 0)),
        ("Odd one", "Odd one", default_color("Odd one")),
        ({"name": "Tumor", "color": [1, 2, 3]}, "Tumor", (1, 2, 3)),
        ({"name": "Tumor", "color": [1, 2, 3, 128]}, "Tumor", (1, 2, 3)),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor", (200, 0, 0)),
        ({"names": ["Blast", "Positive"], "color": [180, 60, 200]}, "Blast: Positive", (180, 60, 200)),
        ({"names": None, "name": "Tumor"}, "Tumor", (200, 0, 0)),
        ({"parentClass": {"name": "A"}, "name": "B", "colorRGB": -16776961}, "A: B", (0, 0, 255)),
        (
            {"parentClass": {"parentClass": {"name": "A"}, "name": "B"}, "name": "C"},
            "A: B: C",
            default_color("A: B: C"),
        ),
        ({"parentClass": {}, "name": "Tumor"}, "Tumor", (200, 0, 0)),
        ({"parentClass": None, "name": "Tumor"}, "Tumor", (200, 0, 0)),
    ],
)
def test_classes_in_all_their_forms(read: Any, classification: Any, name: str, color: Any) -> None:
    found = read(feature(classification=classification))
    assert [(label.name, label.color) for label in found.labels] == [(name, color)]


@pytest.mark.parametrize(
    "classification", [None, "", {}, {"name": None}, {"names": None}, {"name": None, "colorRGB": -1}]
)
def test_classes_of_nothing_are_no_class(read: Any, classification: Any) -> None:
    assert read(feature(classification=classification)).counts() == {"annotation": {"": 1}}


@pytest.mark.parametrize(
    "measured", [{"Area": 2.5, "x": None}, [{"name": "Area", "value": 2.5}, {"name": "x", "value": "NaN"}]]
)
def test_measurements_as_object_and_as_list(read: Any, measured: Any) -> None:
    (found,) = read([feature(measurements=measured), feature()]).features
    assert list(found.measurements) == ["Area"]
    np.testing.assert_array_equal(found.measurements["Area"], [2.5, np.nan])


def test_bare_nan_of_older_versions_is_not_measured(read: Any) -> None:
    text = json.dumps(feature(measurements={"Area": 1.0, "Mean": float("nan")}))
    assert "NaN" in text
    assert list(read(text).features[0].measurements) == ["Area"]


def test_names_locks_colours_and_ids_are_kept(read: Any) -> None:
    one = {**feature(name="région 1", isLocked=True, color=[5, 6, 7]), "id": UUID}
    two = {**feature(color=-16776961), "id": "object_12"}
    (found,) = read([one, two]).features
    assert found.names == ("région 1", "")
    assert found.ids == (UUID, "")
    assert found.locked is not None
    assert found.locked.tolist() == [True, False]
    assert found.colors is not None
    assert found.colors.tolist() == [[5, 6, 7], [0, 0, 255]]


def test_nuclei_are_taken_of_cells_only(read: Any) -> None:
    nucleus = {"type": "Polygon", "coordinates": [[[2, 2], [5, 2], [5, 5], [2, 2]]]}
    cell = {**feature(objectType="cell"), "nucleusGeometry": nucleus}
    found = read([cell, {**feature(), "nucleusGeometry": nucleus}], bounds_offset=(100, 50))
    by_kind = {features.kind: features for features in found.features}
    assert by_kind["cell"].nuclei is not None
    assert by_kind["cell"].nuclei[0].bounds == (102, 52, 105, 55)
    assert by_kind["annotation"].nuclei is None


def test_children_are_read_and_the_tie_is_said_to_be_lost(read: Any) -> None:
    child = feature(objectType="detection", childObjects=[feature(objectType="detection")])
    found = read(feature(childObjects=[child]))
    assert found.counts() == {"annotation": {"": 1}, "detection": {"": 2}}
    assert found.notes == ("2 x objects inside a parent: read, the tie to the parent left out",)


def test_ellipses_are_rebuilt_from_their_box(read: Any) -> None:
    found = read(feature({**SQUARE, "isEllipse": True}))
    shape = found.features[0].geometries[0]
    assert shape.bounds == pytest.approx((0, 0, 8, 8))
    assert shape.area == pytest.approx(np.pi * 16, rel=1e-3)
    assert found.notes


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
        {"type": "MultiLineString", "coordinates": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]},
        {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"], [[[20, 20], [30, 20], [30, 30], [20, 20]]]]},
        {"type": "Point", "coordinates": [1, 2, 0]},
    ],
)
def test_every_geometry_that_qupath_writes(read: Any, geometry: Any) -> None:
    (shape,) = read(feature(geometry)).features[0].geometries
    assert shape.equals(shapely.force_2d(shapely.geometry.shape(geometry)))


NOTHING = {"type": "MultiPoint", "coordinates": []}
"""What QuPath writes for points that were to be clicked and were not."""


@pytest.mark.parametrize(
    "geometry",
    [
        NOTHING,
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[]]},
        {"type": "MultiPolygon", "coordinates": [[[]]]},
        {"type": "GeometryCollection", "geometries": []},
        {"type": "GeometryCollection", "geometries": [NOTHING]},
    ],
)
def test_geometries_of_nothing_cost_only_themselves(read: Any, geometry: Any) -> None:
    found = read([feature(), feature(geometry), geometry, {"type": "Feature", "geometry": None}])
    assert (found.counts(), found.notes) == (
        {"annotation": {"": 1}},
        ("3 x features without a geometry: left out",),
    )


def test_a_cell_whose_nucleus_is_nothing_stays(read: Any) -> None:
    found = read({**feature(objectType="cell"), "nucleusGeometry": {"type": "Polygon", "coordinates": []}})
    assert (found.counts(), found.features[0].nuclei) == ({"cell": {"": 1}}, None)
    assert found.notes == ("1 x nuclei without a geometry: left out",)


@pytest.mark.parametrize(
    ("members", "same"),
    [
        ([SQUARE], SQUARE),
        ([SQUARE, NOTHING], SQUARE),
        (
            [SQUARE, {"type": "Polygon", "coordinates": [[[20, 20], [30, 20], [30, 30], [20, 20]]]}],
            {
                "type": "MultiPolygon",
                "coordinates": [SQUARE["coordinates"], [[[20, 20], [30, 20], [30, 30], [20, 20]]]],
            },
        ),
        (
            [
                {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
                {"type": "LineString", "coordinates": [[5, 6], [7, 8]]},
            ],
            {"type": "MultiLineString", "coordinates": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]},
        ),
        (
            [
                {"type": "Point", "coordinates": [1, 2]},
                {"type": "GeometryCollection", "geometries": [{"type": "MultiPoint", "coordinates": [[3, 4], [5, 6]]}]},
            ],
            {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4], [5, 6]]},
        ),
    ],
)
def test_collections_of_one_dimension_are_one_geometry(read: Any, members: Any, same: Any) -> None:
    whole = {"type": "GeometryCollection", "geometries": members}
    found = read([feature(whole), whole])
    assert [shape.equals(shapely.geometry.shape(same)) for shape in found.features[0].geometries] == [True, True]
    assert found.notes == ()


def test_collections_of_several_dimensions_are_left_out_and_said(read: Any) -> None:
    mixed = {"type": "GeometryCollection", "geometries": [SQUARE, {"type": "Point", "coordinates": [1, 2]}]}
    found = read([feature(mixed), feature()])
    assert len(found) == 1
    assert found.notes == ("1 x features of points, lines and areas at once: left out",)


def test_planes_metadata_and_missing_cores_are_said_to_be_lost(read: Any) -> None:
    found = read(feature({**SQUARE, "plane": {"c": -1, "z": 3, "t": 0}}, metadata={"a": "b"}, isMissing=True))
    assert len(found.notes) == 3


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("", "not JSON"),
        ('{"type": "Feature"', "not JSON"),
        ("12", "expected a GeoJSON object"),
        ("[null]", "item 0"),
        ({"type": "FeatureCollection"}, "features must be a list"),
        ({"type": "FeatureCollection", "features": [feature(), {"type": "Fture"}]}, "feature 1.*'Fture'"),
        (feature({"type": "GeometryCollection"}), "geometries must be a list"),
        (feature({"type": "GeometryCollection", "geometries": [3]}), "geometry must be an object"),
        (feature({"type": "GeometryCollection", "geometries": [{"type": "Circle"}]}), "'Circle'"),
        (feature({"type": "Polygon"}), "coordinates must be a list"),
        (feature({"type": "Polygon", "coordinates": [[], []]}), "lists of numbers"),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}), "at least 3 corners"),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0], [1, 1], [0, 0]]]}), "at least 3 corners"),
        (feature({"type": "Polygon", "coordinates": [["a", "b"]]}), "lists of numbers"),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, "x"]]]}), "lists of numbers"),
        (feature({"type": "Polygon", "coordinates": [3]}), "lists of numbers"),
        (feature({"type": "MultiPolygon", "coordinates": [3]}), "wrong nesting"),
        (feature({"type": "Point", "coordinates": [[1, 2]]}), "lists of numbers"),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [8, 0], [8, float("nan")]]]}), "finite"),
        (feature({"type": "Point", "coordinates": [1, float("inf")]}), "finite"),
        (feature(classification={"color": [1, 2, 3]}), "needs a name"),
        (feature(classification=7), "classification must be an object"),
        (feature(classification=["Tumor"]), "classification must be an object"),
        (feature(classification={"name": "a", "parentClass": 7}), "parentClass must be an object"),
        (feature(classification={"name": "a", "parentClass": {"color": 1}}), "needs a name"),
        (feature(classification={"name": "a", "color": [1, 2, 300]}), "integers from 0 to 255"),
        (feature(measurements={"a": "many"}), "'a' must be a number"),
        (feature(measurements=3), "must be an object"),
        ({"type": "Feature", "geometry": SQUARE, "properties": []}, "properties must be an object"),
        (feature(childObjects={}) | {"properties": {"childObjects": "x"}}, "childObjects must be a list"),
    ],
)
def test_broken_files_are_errors_that_say_where(read: Any, document: Any, says: str) -> None:
    with pytest.raises(AnnotationError, match=says) as caught:
        read(document)
    assert "a.geojson" in str(caught.value)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"type":"Feature","geometry":null,"properties":{"childObjects":['])
@pytest.mark.parametrize("after", ["", "NaN"])
def test_endless_nesting_is_an_error(read: Any, opening: str, after: str) -> None:
    with pytest.raises(AnnotationError, match=r"a\.geojson"):
        read(opening * 200_000 + after)


def test_a_different_measurement_for_every_object_is_refused(read: Any) -> None:
    with pytest.raises(AnnotationError, match="4096 different measurements"):
        read([feature(measurements={f"m{i}": 1}) for i in range(4100)])


def test_unknown_classes_list_those_of_the_file(read: Any) -> None:
    found = read([feature(classification="Tumor"), feature(classification="Stroma"), feature()])
    with pytest.raises(AnnotationError, match=r"'Tumour'.*'Tumor', 'Stroma'"):
        found.polygons(["Tumour"])
    assert len(found.polygons(["Tumor"])) == 1
    assert len(found.polygons()) == 3


def test_a_ring_that_crosses_itself_is_an_error_or_mended_and_never_taken_as_it_is(read: Any) -> None:
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 6], [0, 0]]]}
    found = read([feature(), feature(bow)])
    with pytest.raises(AnnotationError, match=r"annotation 2.*Self-intersection"):
        found.polygons()
    mended = found.polygons(invalid="mend")
    assert len(mended) == 3
    assert shapely.is_valid(mended).all()
    assert len(found.polygons(invalid="largest")) == 2


def test_twins_and_features_of_one_id_get_ids_of_their_own(read: Any, tmp_path: Path) -> None:
    found = read([{**feature(), "id": UUID}, {**feature(), "id": UUID}, feature(), feature()])
    write_annotations(tmp_path / "b.geojson", found)
    assert_qupath(tmp_path / "b.geojson")
    ids = [each["id"] for each in json.loads((tmp_path / "b.geojson").read_bytes())["features"]]
    assert ids[0] == UUID
    assert len(set(ids)) == 4
