"""``wsikit convert`` as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import shapely

from wsikit.annotations import read_annotations, write_annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.cli.main import app


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wsikit", "convert", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            app()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    items = [
        Item("annotation", shapely.box(0, 0, 90, 90).difference(shapely.box(10, 10, 20, 20)), "Tumor"),
        Item("annotation", shapely.box(100, 0, 150, 50)),
        Item("detection", shapely.Point(5, 5), "Lymphocyte", "", None, False, {"Score": 0.5}),
    ]
    write_annotations(tmp_path / "case.geojson", gather(items))
    return tmp_path / "case.geojson"


def test_counts_and_what_is_left_out_are_printed(convert: Any, drawn: Path, tmp_path: Path) -> None:
    code, out, _ = convert(drawn, tmp_path / "case.xml", "--to", "asap")
    assert code == 0
    assert "3 objects" in out
    assert "annotation: 1 Tumor, 1 without class" in out
    assert "detection: 1 Lymphocyte" in out
    assert "changed or left out: 1 x objects with measurements" in out
    assert len(read_annotations(tmp_path / "case.xml")) == 3


def test_strict_writes_nothing(convert: Any, drawn: Path, tmp_path: Path) -> None:
    code, _, err = convert(drawn, tmp_path / "case.xml", "--to", "asap", "--strict")
    assert code == 2
    assert "measurements" in err
    assert not (tmp_path / "case.xml").exists()


def test_a_suffix_of_two_formats_needs_a_name(convert: Any, drawn: Path, tmp_path: Path) -> None:
    code, _, err = convert(drawn, tmp_path / "case.xml")
    assert code == 2
    assert "aperio and asap" in err


@pytest.mark.parametrize("words", [["--to", "aperio"], ["--to", "nothing"], ["--from", "asap"]])
def test_wrong_formats_are_refused(convert: Any, drawn: Path, tmp_path: Path, words: list[str]) -> None:
    code, _, err = convert(drawn, tmp_path / "new.geojson.gz", *words)
    assert code == 2
    assert "wsikit:" in err
    assert not (tmp_path / "new.geojson.gz").exists()


def test_a_file_is_not_converted_into_itself(convert: Any, drawn: Path) -> None:
    before = drawn.read_bytes()
    assert convert(drawn, drawn)[0] == 2
    assert drawn.read_bytes() == before


def test_a_folder_gives_a_folder_and_a_broken_file_costs_only_itself(convert: Any, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.geojson").write_text("{")
    (tmp_path / "notes.txt").write_text("not an annotation")
    code, out, _ = convert(tmp_path, tmp_path / "new", "--to", "dsa")
    assert code == 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["case.json"]
    assert "broken.geojson: failed (bad_annotations)" in out


def test_two_files_of_one_title_are_refused(convert: Any, drawn: Path, tmp_path: Path) -> None:
    convert(drawn, tmp_path / "case.xml", "--to", "asap")
    code, _, err = convert(tmp_path, tmp_path / "new", "--to", "dsa")
    assert code == 2
    assert "same file case.json" in err
    assert not (tmp_path / "new").exists()


def test_the_slide_gives_offset_size_and_resolution(convert: Any, drawn: Path, cmu: Path, tmp_path: Path) -> None:
    assert convert(drawn, tmp_path / "labels.tif", "--slide", cmu)[0] == 0
    code, out, _ = convert(tmp_path / "labels.tif", tmp_path / "back.geojson", "--slide", cmu)
    assert code == 0
    assert "2 objects" in out
    assert read_annotations(tmp_path / "back.geojson").features[0].geometries[0].area == pytest.approx(8000, abs=4)
    code, _, err = convert(tmp_path / "labels.tif", tmp_path / "b.geojson", "--slide", cmu, "--downsample", "2")
    assert code == 2
    assert "2220x2967" in err


def test_slides_of_a_folder_are_found_by_name(convert: Any, drawn: Path, cmu: Path, tmp_path: Path) -> None:
    code, out, _ = convert(tmp_path, tmp_path / "new", "--to", "aperio", "--slide", cmu.parent)
    assert code == 3
    assert "one slide called 'case', it holds 0" in out
    drawn.rename(tmp_path / f"{cmu.stem}.geojson")
    assert convert(tmp_path, tmp_path / "new", "--to", "aperio", "--slide", cmu.parent)[0] == 0
    assert 'MicronsPerPixel="0.499' in (tmp_path / "new" / f"{cmu.stem}.xml").read_text()


def test_geojson_of_one_slide_keeps_its_ids(convert: Any, drawn: Path, tmp_path: Path) -> None:
    assert convert(drawn, tmp_path / "again.geojson")[0] == 0
    ids = [
        [feature["id"] for feature in json.loads(path.read_bytes())["features"]]
        for path in (drawn, tmp_path / "again.geojson")
    ]
    assert ids[0] == ids[1]


def test_points_go_round_by_every_format(convert: Any, tmp_path: Path) -> None:
    """GeoJSON, table, dots and back, to the pixel."""
    points = [(3.5, 4.5), (10.5, 2.5), (0.5, 7.5)]
    source = tmp_path / "case.geojson"
    write_annotations(source, gather([Item("detection", shapely.Point(xy)) for xy in points]))
    for name in ("case.csv", "case_points.png", "again.csv", "again_label_point.png", "again.geojson"):
        code, out, _ = convert(source, tmp_path / name)
        assert code == 0
        assert "left out" not in out
        source = tmp_path / name
    found = [(item.geometry.x, item.geometry.y) for item in read_annotations(source).items()]
    assert sorted(found) == sorted(points)


def test_labels_become_points_and_points_no_labels(convert: Any, tmp_path: Path) -> None:
    areas = [shapely.box(1, 1, 6, 6), shapely.box(8, 2, 13, 7)]
    write_annotations(tmp_path / "labels.png", gather([Item("detection", area) for area in areas]))
    code, out, _ = convert(tmp_path / "labels.png", tmp_path / "case_dots.png")
    assert (code, "2 x areas: a pixel inside each" in out) == (0, True)
    found = read_annotations(tmp_path / "case_dots.png")
    assert [(item.geometry.x, item.geometry.y) for item in found.items()] == [(3.5, 3.5), (10.5, 4.5)]
    code, _, err = convert(tmp_path / "case_dots.png", tmp_path / "new.png")
    assert code == 2
    assert "none of 2 objects is an area" in err
    assert not (tmp_path / "new.png").exists()


def test_a_folder_of_dots_is_taken_where_it_is_named(convert: Any, tmp_path: Path) -> None:
    (tmp_path / "clicked").mkdir()
    write_annotations(tmp_path / "clicked" / "case.geojson", gather([Item("detection", shapely.Point(2, 3))]))
    assert convert(tmp_path / "clicked", tmp_path / "dots", "--to", "dots")[0] == 0
    assert [path.name for path in (tmp_path / "dots").iterdir()] == ["case_label_point.png"]
    assert convert(tmp_path / "dots", tmp_path / "tables", "--from", "dots", "--to", "csv")[0] == 0
    assert (tmp_path / "tables" / "case.csv").read_text().splitlines()[1] == "2.5,3.5,,"
