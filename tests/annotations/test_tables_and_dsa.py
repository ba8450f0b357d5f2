"""Tables of points and annotations of the Digital Slide Archive as other programs write them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import shapely

from wsikit.annotations import Annotations, read_annotations, write_annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.errors import AnnotationError


@pytest.fixture
def table(tmp_path: Path) -> Any:
    def of(text: str, name: str = "a.csv", **frame: Any) -> Annotations:
        (tmp_path / name).write_bytes(text.encode("utf-8"))
        return read_annotations(tmp_path / name, **frame)

    return of


@pytest.fixture
def dsa(tmp_path: Path) -> Any:
    def of(*elements: Any) -> Annotations:
        (tmp_path / "a.json").write_text(json.dumps({"name": "a", "elements": elements}))
        return read_annotations(tmp_path / "a.json")

    return of


def first(annotations: Annotations) -> tuple[float, float]:
    point = annotations.features[0].geometries[0]
    return point.x, point.y


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n3,4\n",
        "\ufeffX, Y\r\n3,4\r\n",
        "cx;cy\n3;4\n",
        "id,centroid_x,centroid_y,note\n1,3,4,hm\n",
        "\n\nx,y\n\n3.0,4.0\n\n",
    ],
)
def test_headers_of_other_tools(table: Any, text: str) -> None:
    assert first(table(text)) == (3, 4)


def test_classes_scores_and_further_numbers(table: Any) -> None:
    found = table("x,y,label,prob,area,note\n1,2,Mitosis,0.5,30,a\n3,4,,,,b\n")
    assert found.counts() == {"detection": {"Mitosis": 1, "": 1}}
    measured = found.features[0].measurements
    assert {name: [v for v in values if not math.isnan(v)] for name, values in measured.items()} == {
        "Score": [0.5],
        "area": [30.0],
    }
    assert found.notes == ("2 x column 'note' is not of numbers: left out",)


def test_micrometres_need_the_resolution(table: Any) -> None:
    text = "x_um,y_um\n3,4\n"
    assert first(table(text, mpp=0.25)) == (12, 16)
    with pytest.raises(AnnotationError, match="not known") as caught:
        table(text)
    assert "--slide" in caught.value.remedy


def test_tables_of_qupath_count_from_the_bounds_and_others_do_not(table: Any) -> None:
    qupath = "Image\tClassification\tCentroid X µm\tCentroid Y µm\na\tTumor\t3\t4\n"
    assert first(table(qupath, "a.tsv", mpp=0.25, bounds_offset=(100, 50))) == (112, 66)
    assert first(table("x,y\n3,4\n", bounds_offset=(100, 50))) == (3, 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "it has a, b"),
        ("x_um,y\n1,2\n", "no columns for coordinates"),
        ("x,y\n1,two\n", "line 2: expected a number, got 'two'"),
        ("x,y\n1,2\n3\n", "line 3: x and y must be finite"),
        ("x,y\n1,nan\n", "line 2: x and y must be finite"),
        ("x,y,score\n1,2,high\n", "line 2: expected a number"),
        ('x,y\n"1,2\n', "line 2"),
    ],
)
def test_broken_tables_are_errors_that_name_the_line(table: Any, text: str, says: str) -> None:
    with pytest.raises(AnnotationError, match=says):
        table(text)


def test_dsa_shapes(dsa: Any) -> None:
    found = dsa(
        {"type": "point", "center": [1, 2, 0]},
        {"type": "rectangle", "center": [50, 50, 0], "width": 40, "height": 10, "rotation": math.pi / 2},
        {"type": "rectangle", "center": [0, 0, 0], "width": 40, "height": 10, "rotation": math.pi / 6},
        {"type": "circle", "center": [10, 20, 0], "radius": 5},
        {"type": "ellipse", "center": [10, 20, 0], "width": 8, "height": 4},
        {"type": "polyline", "points": [[0, 0, 0], [9, 0, 0], [9, 9, 0]], "closed": True},
        {"type": "polyline", "points": [[0, 0, 0], [9, 0, 0], [9, 9, 0]]},
        {"type": "arrow", "points": [[0, 0, 0], [9, 0, 0]]},
        {"type": "heatmap", "points": []},
    )
    point, upright, turned, circle, oval, area, line, arrow = found.features[0].geometries
    assert point.equals(shapely.Point(1, 2))
    assert upright.bounds == pytest.approx((45, 30, 55, 70))
    # the right end of the long side has gone down, on a screen where y runs down
    assert shapely.contains_xy(turned, 19 * math.cos(math.pi / 6), 19 * math.sin(math.pi / 6))
    assert circle.bounds == pytest.approx((5, 15, 15, 25))
    assert oval.bounds == pytest.approx((6, 18, 14, 22))
    assert (area.geom_type, line.geom_type, arrow.geom_type) == ("Polygon", "LineString", "LineString")
    assert found.notes == ("1 x elements of type 'heatmap': left out",)


def test_dsa_classes_are_groups_else_labels(dsa: Any) -> None:
    point = {"type": "point", "center": [1, 2, 0], "lineColor": "rgb(255, 0, 0)", "fillColor": "rgba(0,0,0,0)"}
    found = dsa(
        {**point, "group": "Tumor", "label": {"value": "core 3"}},
        {**point, "label": {"value": "Stroma"}, "lineColor": "#0f0"},
        point,
    )
    assert [(label.name, label.color) for label in found.labels] == [("Tumor", (255, 0, 0)), ("Stroma", (0, 255, 0))]
    assert found.features[0].labels.tolist() == [0, 1, -1]
    assert found.features[0].names == ("core 3", "", "")


def test_dsa_records_and_lists_of_them(tmp_path: Path) -> None:
    inner = {"name": "a", "elements": [{"type": "point", "center": [1, 2, 0]}]}
    record = {"_id": "0" * 24, "itemId": "1" * 24, "annotation": inner}
    for document in (record, [record, record]):
        (tmp_path / "a.json").write_text(json.dumps(document))
        assert len(read_annotations(tmp_path / "a.json")) == (2 if isinstance(document, list) else 1)


def test_dsa_elements_hold_to_the_schema(tmp_path: Path) -> None:
    """Keys and forms of girder_large_image_annotation's schema, which refuses all others."""
    ring = shapely.box(0, 0, 50, 50).difference(shapely.box(10, 10, 20, 20))
    drawn = gather(
        [
            Item("detection", ring, "Tumor", "a", (1, 2, 3), True, {"m": 0.5}),
            Item("annotation", shapely.Point(1, 2)),
            Item("annotation", shapely.LineString([(0, 0), (5, 5)]), None, "scale"),
        ]
    )
    write_annotations(tmp_path / "a.json", drawn, format="dsa")
    document = json.loads((tmp_path / "a.json").read_bytes())
    assert set(document) == {"name", "elements"}
    common = {"type", "user", "label", "group", "lineColor", "fillColor"}
    allowed = {"point": common | {"center"}, "polyline": common | {"points", "closed", "holes"}}
    for element in document["elements"]:
        assert set(element) <= allowed[element["type"]]
        positions = [element["center"]] if element["type"] == "point" else element["points"]
        holes = [position for hole in element.get("holes", []) for position in hole]
        assert all(len(position) == 3 for position in [*positions, *holes])
        assert set(element.get("label", {"value": ""})) == {"value"}


@pytest.mark.parametrize(
    ("element", "says"),
    [
        (3, "element 0 must be an object"),
        ({"type": "point"}, "a point needs 'center'"),
        ({"type": "point", "center": [1, "b", 0]}, "lists of numbers"),
        ({"type": "circle", "center": [1, 2, 0], "radius": "wide"}, "wrong type"),
        ({"type": "circle", "center": [1, 2, 0], "radius": 0}, "width and a height"),
        ({"type": "polyline", "points": [[0, 0, 0]], "closed": True}, "3 corners"),
        ({"type": "point", "center": [1, 2, 0], "lineColor": "nice"}, "colour"),
    ],
)
def test_broken_dsa_elements_are_errors_that_name_them(dsa: Any, element: Any, says: str) -> None:
    with pytest.raises(AnnotationError, match=says) as caught:
        dsa(element)
    assert "a.json, element 0" in str(caught.value)
