"""Files made to break readers: each is refused in words, or read for what it says."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from wsikit.annotations import read_annotations
from wsikit.errors import AnnotationError

HUGE = "1" + "0" * 400
DIGITS = "9" * 5000
SQUARE = "[[[0,0],[10,0],[10,10],[0,10],[0,0]]]"


def feature(coordinates: str = SQUARE, properties: str = "{}") -> str:
    return f'{{"type":"Feature","geometry":{{"type":"Polygon","coordinates":{coordinates}}},"properties":{properties}}}'


def element(**facts: object) -> str:
    return json.dumps({"elements": [{"center": [5, 5, 0], "width": 4, "height": 2, **facts}]})


def asap(order: str = "0", color: str = "#fff") -> str:
    corners = [(order, 0, 0), ("1", 10, 0), ("2", 10, 10)]
    points = "".join(f'<Coordinate Order="{o}" X="{x}" Y="{y}"/>' for o, x, y in corners)
    inner = f"<Coordinates>{points}</Coordinates>"
    drawn = f'<Annotation Type="Polygon" Color="{color}">{inner}</Annotation>'
    return f"<ASAP_Annotations><Annotations>{drawn}</Annotations></ASAP_Annotations>"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("number.geojson", feature(f"[[[0,0],[{HUGE},0],[10,10]]]", '{"measurements":{"a":NaN}}')),
        ("measurement.geojson", feature(properties=f'{{"measurements":{{"a":NaN,"b":{HUGE}}}}}')),
        ("surrogate.geojson", feature(properties='{"name":"\\ud800","measurements":{"a":NaN}}')),
        ("far.geojson", feature("[[[0,0],[1e300,0],[1e300,1e300]]]")),
        ("nested.geojson", feature("[" * 1015 + "0" + "]" * 1015)),
        ("rotation.json", element(type="rectangle", rotation="nan")),
        ("ellipse.json", element(type="ellipse", rotation="inf")),
        ("color.json", element(type="rectangle", lineColor=f"rgb({DIGITS},0,0)")),
        ("color.xml", asap(color=f"rgb({DIGITS},0,0)")),
        ("twice.csv", "x,y,area,area\n1,2,3,4\n"),
    ],
)
def test_what_no_file_should_hold_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(AnnotationError, match=name.partition(".")[0]):
        read_annotations(tmp_path / name)


@pytest.mark.parametrize(("name", "text"), [("a.geojson", feature()), ("a.json", element(type="rectangle"))])
def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(codecs.BOM_UTF8 + text.encode())
    assert len(read_annotations(tmp_path / name)) == 1


def test_bare_nan_of_old_qupath_is_what_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text(feature(properties='{"measurements":{"a":NaN,"b":2,"c":-Infinity}}'))
    (item,) = read_annotations(tmp_path / "a.geojson").items()
    assert item.measurements == {"b": 2.0}


def test_an_order_of_many_digits_is_still_an_order(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(asap(order=DIGITS))
    (item,) = read_annotations(tmp_path / "a.xml").items()
    assert list(item.geometry.exterior.coords)[:3] == [(10, 0), (10, 10), (0, 0)]


def test_a_column_of_names_that_qupath_gives_moves_only_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,Centroid X µm,Centroid Y µm\n1,2,3,4\n", "utf-8")
    (item,) = read_annotations(tmp_path / "a.csv", bounds_offset=(100, 50)).items()
    assert (item.geometry.x, item.geometry.y) == (1, 2)
